"""Periodic grids for pictures of any number of axes: transforms, kernels with their origin.

`fourier` is for pictures (..., H, W); here the last `len(shape)` axes are space, be it one or three.
"""

from __future__ import annotations

import math

from .._arrays import Array, array_module, fft_module
from ..fourier import fast_size, irfft2, rfft2

Shape = tuple[int, ...]


def rfft(x: Array, ndim: int) -> Array:
    """Real transform over the last `ndim` axes, unscaled."""
    if ndim == 2:
        return rfft2(x)
    return fft_module(array_module(x)).rfftn(x, axes=tuple(range(-ndim, 0)))


def irfft(spectrum: Array, shape: Shape) -> Array:
    """Inverse of `rfft` times the number of pixels; `spectrum` may be overwritten."""
    if len(shape) == 2:
        return irfft2(spectrum, (shape[0], shape[1]), overwrite=True)
    fft = fft_module(array_module(spectrum))
    return fft.irfftn(spectrum, s=shape, axes=tuple(range(-len(shape), 0)), norm="forward")


def place(kernel: Array, shape: Shape, origin: Shape) -> Array:
    """`kernel` (..., *sides) among zeros on a periodic grid (..., *shape), its pixel `origin` at index 0."""
    ndim = len(shape)
    grid = array_module(kernel).zeros((*kernel.shape[:-ndim], *shape), dtype=kernel.dtype)
    grid[(..., *map(slice, kernel.shape[-ndim:]))] = kernel
    return array_module(kernel).roll(grid, tuple(-o for o in origin), tuple(range(-ndim, 0)))


def with_odd_sides(kernel: Array) -> Array:
    """`kernel` (..., kh, kw), even sides one longer by zeros at the end: its pixel (kh // 2, kw // 2) is the middle."""
    missing = [(0, 1 - side % 2) for side in kernel.shape[-2:]]
    return array_module(kernel).pad(kernel, [(0, 0)] * (kernel.ndim - 2) + missing)


def fast_shape(shape: Shape) -> Shape:
    return tuple(map(fast_size, shape))


def sum_over(x: Array, ndim: int) -> Array:
    """The sum over the last `ndim` axes, which stay with length 1.

    On NumPy, the sum of one picture does not depend on the batch around it.
    """
    lead = x.shape[:-ndim]
    flat = x.reshape(*lead, math.prod(x.shape[-ndim:]))  # a shape without -1: no axis is too many for an empty batch
    return flat.sum(axis=-1).reshape(*lead, *(1,) * ndim)
