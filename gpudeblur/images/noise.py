"""The noise of an image: its standard deviation, measured, and images divided by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, choose_module, constant, goes_to_cuda, move, sum_pixels, to_host
from ..numerics.fourier import fast_size, psf_to_otf, rfft2
from ..numerics.spectra import gradient_spectrum
from . import checks
from .kernels import pad_to_odd
from .planes import to_planes


def estimate_noise(
    image: Array, kernel: Array | None = None, *, channel_axis: int | None = None, device: str | None = None
) -> Any:
    """Standard deviation of the white noise in a picture.

    Parameters
    ----------
    image : (..., H, W), or (..., H, W, C) with ``channel_axis=-1``; see `deblur`.
    kernel : (kh, kw), or one a picture, (..., kh, kw), optional
        The blur kernel, if known: the noise is measured at the frequencies that it takes from the picture
        (`noise.noise_sigma_under`). Else it is what the finest diagonal differences hold, fine texture included
        (`noise.noise_sigma`).
    device : see `deblur`.

    Returns
    -------
    float or NumPy array
        In the unit of a float picture, as a fraction of the full range of an integer one: a number, or one for each
        picture of a stack, (...), and each channel, (..., C).

    Raises
    ------
    TypeError, ValueError
        The picture or the kernel breaks a rule, which the message names.
    """
    checks.check_picture(image, channel_axis=channel_axis)
    xp = choose_module(image, device)
    planes = to_planes(move(image, xp), channel_axis=channel_axis, dtype="float64")
    if kernel is None:
        sigma = noise_sigma(planes)
    else:
        checks.check_kernel(kernel, odd=False)
        array_module(image, kernel)
        checks.check_kernel_fits(kernel, image, channel_axis=channel_axis, both=False)
        weights = pad_to_odd(move(kernel, xp).astype("float64"))
        weights = weights / weights.sum(axis=(-2, -1), keepdims=True)
        sigma = noise_sigma_under(planes, weights if channel_axis is None else weights[..., None, :, :])
    found = to_host(xp.asarray(sigma))
    return float(found) if found.ndim == 0 else found


# Up to this standard deviation the weights hold as they are.
QUIET = 0.0063
# Of a Gaussian: its median absolute value, in standard deviations.
MEDIAN = 0.6745
# Of the frequencies, those where the blur leaves least of a photograph: there the noise is measured.
QUIETEST = 0.03


def noise_sigma(picture: Array) -> Array:
    """Standard deviation of the white noise in pictures (..., H, W), in their unit, (...).

    The median of the diagonal Haar coefficients (Donoho & Johnstone 1994): a blurred picture itself has next to none.
    Fine texture that is not blurred counts as noise. 0 for a picture of one row or column.
    """
    xp = array_module(picture)
    if min(picture.shape[-2:]) < 2:
        return xp.zeros(picture.shape[:-2], dtype=picture.dtype)
    columns = picture[..., 1:] - picture[..., :-1]
    diagonal = abs(columns[..., 1:, :] - columns[..., :-1, :]) * (0.5 / MEDIAN)
    return median(diagonal.reshape(*picture.shape[:-2], -1))


def noise_sigma_under(picture: Array, kernel: Array) -> Array:
    """Standard deviation of the white noise in pictures (..., H, W) of which the blur kernel is known, (...).

    The median periodogram over the 3 % of the frequencies where |F k|^2 / |F D|^2 is least: where the kernel has its
    zeros, a photograph, whose spectrum falls like 1 / |F D|, leaves nothing but noise. A Hann window keeps the border's
    jump out of them. On photographs with noise of 0.0025 to 0.05 it is within 10 %, where `noise_sigma` takes what
    the blur left of fine texture for up to twice the noise. What a wrong kernel cannot explain counts as noise too.

    Parameters
    ----------
    picture : (..., H, W) float.
    kernel : (..., kh, kw), odd sides, sum 1.
    """
    xp, (h, w) = array_module(picture, kernel), picture.shape[-2:]
    grid = (fast_size(max(h, kernel.shape[-2])), fast_size(max(w, kernel.shape[-1], 4)))
    room: Any = xp.zeros((*picture.shape[:-2], *grid), dtype=picture.dtype)
    room[..., :h, :w] = picture - sum_pixels(picture)[..., None, None] / (h * w)
    room[..., :h, :w] *= constant(xp, _hann_window, h, w, picture.dtype)
    power = abs(rfft2(room, overwrite=True)) ** 2
    signal = abs(psf_to_otf(kernel, grid)) ** 2
    signal /= constant(xp, _photograph, grid, picture.dtype)
    # Without the first and the last column, whose frequencies are there twice.
    power, signal = (s[..., 1:-1].reshape(*s.shape[:-2], -1) for s in (power, signal))
    # Of an exponential distribution: its median is ln 2 of its mean.
    return xp.sqrt(_median_of_quietest(power, signal) / float(np.log(2)))


def _hann_window(h: int, w: int, dtype: Any) -> np.ndarray:
    """Of energy 1."""
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (h, w)))
    return (window / np.sqrt((window**2).sum())).astype(dtype)


def _photograph(grid: tuple[int, int], dtype: Any) -> np.ndarray:
    """|F D|^2, by which the power of a photograph falls, and 1e-9 where it is 0."""
    return np.maximum(gradient_spectrum(grid, np.dtype("float64")), 1e-9).astype(dtype)


def noise_scale(picture: Array) -> Array:
    """The noise of pictures (..., H, W) in units of 0.0063, at least 1, (...)."""
    xp = array_module(picture)
    return xp.maximum(noise_sigma(picture) / QUIET, 1).astype(picture.dtype)


def divide_by_noise(picture: Array, loud: Array) -> Array:
    """Pictures (..., H, W) divided by their `noise_scale` (...): every lambda counts as times its square then.

    Noise of sigma needs a weight that grows with sigma^2. As |x * k - B|^2 + lambda |grad x|_0 knows no unit, dividing
    the picture by s is the same as a lambda s^2 times as large, and lets a stack of pictures share one continuation.
    """
    return picture / loud[..., None, None]


def median(values: Array) -> Array:
    """`numpy.median` of `values` (..., size) over the last axis, (...).

    CUDA kernel: select.cu, since CuPy's sorts wait for the device.
    """
    if not goes_to_cuda(values):
        return array_module(values).median(values, axis=-1)
    return _median_of_smallest(values, values.shape[-1])


def _median_of_smallest(values: Array, count: int) -> Array:
    """The median of the `count` smallest of float32 `values` (..., size) on a device, (...); NaN where any is NaN."""
    from ..numerics import cuda

    lower = cuda.select(values, (count - 1) // 2)
    return lower if count % 2 else (lower + cuda.select(values, count // 2)) / 2


def _median_of_quietest(power: Array, signal: Array) -> Array:
    """The median of `power` (..., size) over the QUIETEST of its places, those where `signal` is least, (...)."""
    xp = array_module(power, signal)
    count = max(1, round(QUIETEST * signal.shape[-1]))
    if goes_to_cuda(power, signal):
        from ..numerics import cuda

        # Of equal signals all places count, not some.
        bound = cuda.select(signal, count - 1)[..., None]
        return _median_of_smallest(xp.where(signal > bound, float("inf"), power), count)
    quiet = xp.argpartition(signal, count - 1, axis=-1)[..., :count]
    return xp.median(xp.take_along_axis(power, xp.broadcast_to(quiet, (*power.shape[:-1], count)), axis=-1), axis=-1)
