"""Periodic grids for pictures of any number of axes: transforms, kernels with their origin.

`fourier` is for pictures (..., H, W); here the last `len(shape)` axes are space, be it one or three.
"""

from __future__ import annotations

from ..numerics.arrays import Array, array_module


def with_odd_sides(kernel: Array) -> Array:
    """`kernel` (..., kh, kw), even sides one longer by zeros at the end: its pixel (kh // 2, kw // 2) is the middle."""
    missing = [(0, 1 - side % 2) for side in kernel.shape[-2:]]
    return array_module(kernel).pad(kernel, [(0, 0)] * (kernel.ndim - 2) + missing)
