"""Transforms, kernels as transfer functions, and sizes at which FFTs are fast."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import scipy.fft

from .arrays import Array, array_module, fft_module, goes_to_cuda

AXES = (-2, -1)


def fast_size(size: int) -> int:
    """The next even 7-smooth size: fast on scipy.fft and cuFFT alike, and without a ragged last column in rfft2."""
    while True:
        rest = size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and size % 2 == 0:
            return size
        size += 1


def rfft2(x: Array, *, overwrite: bool = False, out: Array | None = None) -> Array:
    """Real transform over the last two axes, unscaled; the inverse `irfft2` is unscaled too.

    `out`, where a CuPy caller has one, is where the result goes; scipy.fft knows no such thing.
    """
    if array_module(x) is np:
        return scipy.fft.rfft2(x, axes=AXES, overwrite_x=overwrite)
    from . import device

    return device.rfft2(x, out)


def irfft2(x: Array, shape: tuple[int, int], *, overwrite: bool = False, out: Array | None = None) -> Array:
    """Inverse of `rfft2` times H W: whoever fills the spectrum folds the factor 1 / (H W) into it.

    With `overwrite`, what is in `x` afterwards is undefined; cuFFT would have to be given a copy otherwise.
    """
    if array_module(x) is np:
        return scipy.fft.irfft2(x, s=shape, axes=AXES, norm="forward", overwrite_x=overwrite)
    from . import device

    return device.irfft2(x if overwrite else x.copy(), shape, out)


def rfft(x: Array) -> Array:
    """Real transform over the last axis, unscaled."""
    if array_module(x) is np:
        return np.fft.rfft(x)
    from . import device

    return device.rfft(x)


def irfft(x: Array, length: int) -> Array:
    """Inverse of `rfft`, for lines of `length`; what is in `x` afterwards is undefined."""
    if array_module(x) is np:
        return np.fft.irfft(x, n=length)
    from . import device

    lines = device.irfft(x, length)
    lines *= 1 / length
    return lines


def psf_to_otf(
    kernel: Array, shape: tuple[int, int], *, out: Array | None = None, scratch: Array | None = None
) -> Array:
    """Transfer function of a blur kernel: `rfft2(conv(x, kernel)) = otf * rfft2(x)` on a periodic grid.

    Parameters
    ----------
    kernel : (..., kh, kw), odd sides; its middle pixel is the origin.
    shape : (H, W) of the grid, at least (kh, kw).
    out, scratch : like the result, and the real grid before its transform; see `filters`.

    Returns
    -------
    (..., H, W // 2 + 1) complex.
    """
    return rfft2(kernel_to_grid(kernel, shape, out=scratch), overwrite=True, out=out)


def kernel_to_grid(kernel: Array, shape: tuple[int, int], *, out: Array | None = None) -> Array:
    """`kernel` (..., kh, kw) among zeros on a periodic grid (..., H, W), its middle pixel at (0, 0)."""
    if goes_to_cuda(kernel):
        from . import cuda

        return cuda.kernel_to_grid(kernel, shape, out=out)
    kh, kw = kernel.shape[-2:]
    y, x = kh // 2, kw // 2
    grid = array_module(kernel).zeros((*kernel.shape[:-2], *shape), dtype=kernel.dtype)
    for to_row, from_row in ((slice(kh - y), slice(y, kh)), (slice(shape[0] - y, shape[0]), slice(y))):
        for to_column, from_column in ((slice(kw - x), slice(x, kw)), (slice(shape[1] - x, shape[1]), slice(x))):
            grid[..., to_row, to_column] = kernel[..., from_row, from_column]
    return grid


def otf_to_psf(otf: Array, shape: tuple[int, int], size: tuple[int, int]) -> Array:
    """The middle `size` = (kh, kw) pixels of the kernel whose transfer function on a `shape` grid is `otf`."""
    xp = array_module(otf)
    grid = irfft2(otf, shape) / (shape[0] * shape[1])
    kh, kw = size
    return xp.roll(grid, (kh // 2, kw // 2), AXES)[..., :kh, :kw]


def difference_spectrum(length: int, count: int, dtype: Any) -> np.ndarray:
    """|F d|^2 = 4 sin^2(pi i / length) of the periodic forward difference d, the first `count` frequencies i."""
    return (4 * np.sin(np.pi * np.arange(count) / length) ** 2).astype(dtype)


@functools.lru_cache(maxsize=16)
def gradient_spectrum(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """|F(d/dx)|^2 + |F(d/dy)|^2 of periodic forward differences: (H, W // 2 + 1), on the host, not to be written to."""
    h, w = shape
    rows, columns = difference_spectrum(h, h, np.float64), difference_spectrum(w, w // 2 + 1, np.float64)
    spectrum = (rows[:, None] + columns).astype(dtype)
    spectrum.flags.writeable = False
    return spectrum


Shape = tuple[int, ...]


def rfftn(x: Array, ndim: int) -> Array:
    """Real transform over the last `ndim` axes, unscaled."""
    if ndim == 2:
        return rfft2(x)
    return fft_module(array_module(x)).rfftn(x, axes=tuple(range(-ndim, 0)))


def irfftn(spectrum: Array, shape: Shape) -> Array:
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


def fast_shape(shape: Shape) -> Shape:
    return tuple(map(fast_size, shape))


def sum_last_axes(x: Array, ndim: int) -> Array:
    """The sum over the last `ndim` axes, which stay with length 1.

    On NumPy, the sum of one picture does not depend on the batch around it.
    """
    lead = x.shape[:-ndim]
    flat = x.reshape(*lead, math.prod(x.shape[-ndim:]))  # a shape without -1: no axis is too many for an empty batch
    return flat.sum(axis=-1).reshape(*lead, *(1,) * ndim)
