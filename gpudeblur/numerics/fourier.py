"""Real Fourier transforms, transfer functions of blur kernels, and grid sizes at which FFTs are fast."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .arrays import Array, array_module, fft_module, goes_to_cuda

AXES = (-2, -1)
Shape = tuple[int, ...]


def fast_size(size: int) -> int:
    """The next even size without prime factors above 7: fast in scipy.fft and cuFFT."""
    while True:
        cofactor = size
        for prime in (2, 3, 5, 7):
            while cofactor % prime == 0:
                cofactor //= prime
        if cofactor == 1 and size % 2 == 0:
            return size
        size += 1


def fast_shape(shape: Shape) -> Shape:
    """`fast_size` of each side."""
    return tuple(map(fast_size, shape))


def rfft2(x: Array, *, overwrite: bool = False, out: Array | None = None) -> Array:
    """Real transform over the last two axes, unscaled; the inverse `irfft2` is unscaled too.

    On a GPU the result goes to `out`, if it is given; the NumPy path ignores it.
    """
    if array_module(x) is np:
        return fft_module(np).rfft2(x, axes=AXES, overwrite_x=overwrite)
    from . import device

    return device.rfft2(x, out)


def irfft2(x: Array, shape: tuple[int, int], *, overwrite: bool = False, out: Array | None = None) -> Array:
    """Inverse of `rfft2` times H W: the caller folds the factor 1 / (H W) into the spectrum.

    With `overwrite`, the contents of `x` are undefined afterwards; without it, cuFFT works on a copy.
    """
    if array_module(x) is np:
        return fft_module(np).irfft2(x, s=shape, axes=AXES, norm="forward", overwrite_x=overwrite)
    from . import device

    return device.irfft2(x if overwrite else x.copy(), shape, out)


def rfft(x: Array) -> Array:
    """Real transform over the last axis, unscaled."""
    if array_module(x) is np:
        return np.fft.rfft(x)
    from . import device

    return device.rfft(x)


def irfft(x: Array, length: int) -> Array:
    """Inverse of `rfft` for lines of `length`; the contents of `x` are undefined afterwards."""
    if array_module(x) is np:
        return np.fft.irfft(x, n=length)
    from . import device

    lines = device.irfft(x, length)
    lines *= 1 / length
    return lines


def rfftn(x: Array, ndim: int) -> Array:
    """Real transform over the last `ndim` axes, unscaled."""
    if ndim == 2:
        return rfft2(x)
    return fft_module(array_module(x)).rfftn(x, axes=tuple(range(-ndim, 0)))


def irfftn(spectrum: Array, shape: Shape) -> Array:
    """Inverse of `rfftn` times the number of pixels; `spectrum` may be overwritten."""
    if len(shape) == 2:
        return irfft2(spectrum, (shape[0], shape[1]), overwrite=True)
    fft = fft_module(array_module(spectrum))
    return fft.irfftn(spectrum, s=shape, axes=tuple(range(-len(shape), 0)), norm="forward")


def psf_to_otf(
    kernel: Array, shape: tuple[int, int], *, out: Array | None = None, scratch: Array | None = None
) -> Array:
    """Transfer function of a blur kernel: `rfft2(conv(x, kernel)) = otf * rfft2(x)` on a periodic grid.

    Parameters
    ----------
    kernel : (..., kh, kw), odd sides; its middle pixel is the origin.
    shape : (H, W) of the grid, at least (kh, kw).
    out, scratch : buffers of the CUDA path for the result and for the grid before its transform; see `filters`.

    Returns
    -------
    (..., H, W // 2 + 1) complex.
    """
    return rfft2(kernel_to_grid(kernel, shape, out=scratch), overwrite=True, out=out)


def kernel_to_grid(kernel: Array, shape: Shape, *, origin: Shape | None = None, out: Array | None = None) -> Array:
    """A kernel on a periodic grid of zeros, its origin at index 0. CUDA kernel: kernel_to_grid.cu.

    Parameters
    ----------
    kernel : (..., *sides), no side longer than that of the grid.
    shape : the grid's sides.
    origin : the pixel of the kernel that comes to index 0; by default the middle one, side // 2.
    out : buffer of the CUDA path (two axes, the middle as origin), which the others ignore.

    Returns
    -------
    (..., *shape).
    """
    if origin is None and len(shape) == 2 and goes_to_cuda(kernel):
        from . import cuda

        return cuda.kernel_to_grid(kernel, (shape[0], shape[1]), out=out)
    lead, sides = kernel.shape[: -len(shape)], kernel.shape[-len(shape) :]
    grid = array_module(kernel).zeros((*lead, *shape), dtype=kernel.dtype)
    corners = []  # on each axis, (to, from) of the part from the origin on and of the part before it
    for side, length, start in zip(sides, shape, origin or [side // 2 for side in sides], strict=True):
        corners.append([(slice(side - start), slice(start, side)), (slice(length - start, length), slice(start))])
    for corner in itertools.product(*corners):
        to, source = zip(*corner, strict=True)
        grid[(..., *to)] = kernel[(..., *source)]
    return grid


def sum_last_axes(x: Array, ndim: int) -> Array:
    """The sum over the last `ndim` axes, which stay with length 1. On NumPy a batch equals a loop bit for bit."""
    lead = x.shape[:-ndim]
    flat = x.reshape(*lead, math.prod(x.shape[-ndim:]))  # without -1, which an empty batch does not allow
    return flat.sum(axis=-1).reshape(*lead, *(1,) * ndim)
