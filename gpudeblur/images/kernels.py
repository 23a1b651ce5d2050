"""Blur kernels that users pass: odd sides, their sum, their size."""

from __future__ import annotations

import math

import numpy as np

from ..numerics.arrays import Array, array_module, to_host


def pad_to_odd(kernel: Array) -> Array:
    """`kernel` (..., kh, kw) with a zero line after each even side, so that pixel (kh // 2, kw // 2) is the middle."""
    margins = [(0, 1 - side % 2) for side in kernel.shape[-2:]]
    return array_module(kernel).pad(kernel, [(0, 0)] * (kernel.ndim - 2) + margins)


def prepare_kernel(kernel: Array) -> Array:
    """`kernel` (..., kh, kw) with odd sides (`pad_to_odd`) and sum 1, float64."""
    kernel = pad_to_odd(kernel.astype(np.float64))
    return kernel / kernel.sum(axis=(-2, -1), keepdims=True)


def kernel_sum(kernel: Array, ndim: int) -> Array:
    """The sum over the last `ndim` axes; exactly 0 if it is 0 within rounding, so that nothing is divided by it."""
    axes = tuple(range(-ndim, 0))
    total, mass = kernel.sum(axis=axes), abs(kernel).sum(axis=axes)
    rounding = math.prod(kernel.shape[-ndim:]) * float(np.finfo(kernel.dtype).eps) * mass
    return array_module(kernel).where(abs(total) <= rounding, 0, total)


def fit_size(kernel: Array, size: tuple[int, int]) -> Array:
    """`kernel` (..., kh, kw) cropped or zero-padded about its middle to `size`."""
    xp = array_module(kernel)
    kh, kw = kernel.shape[-2:]
    h, w = size
    out = xp.zeros((*kernel.shape[:-2], h, w), dtype=kernel.dtype)
    ih, iw = min(h, kh) // 2, min(w, kw) // 2
    out[..., h // 2 - ih : h // 2 + ih + 1, w // 2 - iw : w // 2 + iw + 1] = kernel[
        ..., kh // 2 - ih : kh // 2 + ih + 1, kw // 2 - iw : kw // 2 + iw + 1
    ]
    return out


def support_sides(kernels: Array) -> tuple[int, int]:
    """Odd sides (h, w) of the smallest window about the middle that holds all of `kernels` (..., kh, kw), odd sides."""
    flat = kernels.reshape(-1, *kernels.shape[-2:])
    sides = []
    for axis in (2, 1):
        used = np.flatnonzero(to_host((flat != 0).any(axis=(0, axis))))  # waits for a device
        middle = flat.shape[3 - axis] // 2
        sides.append(2 * int(abs(used - middle).max(initial=0)) + 1)
    return sides[0], sides[1]
