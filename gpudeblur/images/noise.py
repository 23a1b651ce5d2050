"""Estimates of an image's white noise, and the scaling of images by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, choose_module, constant, goes_to_cuda, move, sum_pixels, to_host
from ..numerics.fourier import fast_size, psf_to_otf, rfft2
from ..numerics.inpainting import inpaint
from ..numerics.interchange import any_library
from ..numerics.spectra import gradient_spectrum
from ..numerics.varying_blur import mean_power
from . import checks
from .kernel_field import KernelField
from .kernels import prepare_kernel
from .known_kernel import known_kernel
from .masks import NAN_ADVICE, check_enough, hide_invalid, valid_pixels, valid_planes, without_mask
from .planes import to_planes
from .white import check_white, white_level


@any_library
def estimate_noise(
    image: Array,
    kernel: Array | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    white: float | str | None = None,
    floor: float | str | None = None,
    mask: Array | str | None = None,
) -> Any:
    """Standard deviation of the white noise in a picture.

    Parameters
    ----------
    image : (..., H, W), or (..., H, W, C) with ``channel_axis=-1``; see `deblur`.
    kernel : (kh, kw), or one a picture, (..., kh, kw), optional
        The blur kernel, if known: the noise is measured at the frequencies that the blur suppresses
        (`noise.noise_sigma_under`). Otherwise it is measured in the finest diagonal differences, to which fine texture
        contributes too (`noise.noise_sigma`).
    device, white : see `deblur`.
    floor : see `deconvolve`.
    mask : bool array, (H, W) or (..., H, W), or "nan", optional
        True where the image is valid, see `deconvolve`; a `numpy.ma.MaskedArray` brings its own. Without a kernel, the
        differences between valid pixels alone are measured. With one, the noise is that of the whole image with the
        other pixels interpolated, over the fraction that is valid.

    Returns
    -------
    float, or an array: of NumPy for images of NumPy and CuPy, else of the image's library
        As a fraction of full scale, which is 1 for floats unless `white` is given: a number, or one for each image of a
        stack, (...), and each channel, (..., C).

    Raises
    ------
    TypeError, ValueError
        The image, the kernel or the mask is invalid, or too few pixels are valid; the message says why.
    """
    white = check_white(white)
    original, image = image, without_mask(image)
    has_mask = mask is not None or image is not original
    checks.check_picture(image, channel_axis=channel_axis, nan_advice=None if has_mask else NAN_ADVICE)
    xp = choose_module(image, device)
    valid = valid_pixels(original, mask, channel_axis=channel_axis)
    image = hide_invalid(image, valid)
    white = white_level(image, white, channel_axis=channel_axis, adaptive=False, unit_free=True)
    planes = to_planes(move(image, xp), channel_axis=channel_axis, dtype="float64", white=white)
    checks.check_range(planes, None)
    if valid is not None:
        valid = valid_planes(valid, xp, channel_axis)
        planes = inpaint(planes, valid)
    if kernel is None:
        if valid is not None:
            _check_squares(valid)
        sigma = noise_sigma(planes, valid)
    else:
        kernel = known_kernel(kernel, floor=floor)
        array_module(image, kernel)
        checks.check_kernel_fits(kernel, image, channel_axis=channel_axis, both=False)
        if valid is not None:
            check_enough(valid, kernel.shape[-2:])
        kernel = prepare_kernel(move(kernel, xp))
        sigma = noise_sigma_under(planes, kernel if channel_axis is None else kernel[..., None, :, :], valid)
    result = to_host(xp.asarray(sigma))
    return float(result) if result.ndim == 0 else result


# Up to this noise the default weights need no scaling.
REFERENCE_SIGMA = 0.0063
# The median of |x| / sigma for a Gaussian x, and the median / mean of an exponential distribution.
GAUSSIAN_MEDIAN, EXPONENTIAL_MEDIAN = 0.6745, float(np.log(2))
# The fraction of frequencies, those where the blurred signal is weakest, at which the noise is measured.
NOISE_FREQUENCIES = 0.03


def noise_sigma(image: Array, mask: Array | None = None) -> Array:
    """Standard deviation of the white noise in images (..., H, W), in their unit, (...).

    The median of the diagonal Haar coefficients ([Donoho1994]), which are almost zero in a blurred image without noise.
    Fine texture that is not blurred counts as noise. 0 for an image of one row or column. Only coefficients of four
    pixels in `mask` (..., H, W), bool, count, if there are any. With a mask, this waits for a device.
    """
    xp = array_module(image)
    if min(image.shape[-2:]) < 2:
        return xp.zeros(image.shape[:-2], dtype=image.dtype)
    columns = image[..., 1:] - image[..., :-1]
    diagonal = abs(columns[..., 1:, :] - columns[..., :-1, :]) * (0.5 / GAUSSIAN_MEDIAN)
    sigma = median(diagonal.reshape(*image.shape[:-2], -1))
    if mask is not None:
        valid = _squares(mask)
        sigma, counts = xp.asarray(sigma), to_host(xp.asarray(valid.sum(axis=(-2, -1))))
        for index in map(tuple, np.argwhere((counts > 0) & (counts < valid.shape[-2] * valid.shape[-1]))):
            sigma[index] = median(diagonal[index][valid[index]])
    return sigma


def _squares(mask: Array) -> Array:
    """Where `mask` (..., H, W) is True at all of 2 x 2 pixels, (..., H - 1, W - 1)."""
    rows = mask[..., 1:] & mask[..., :-1]
    return rows[..., 1:, :] & rows[..., :-1, :]


def _check_squares(mask: Array) -> None:
    """Raise if a plane of `mask` (..., H, W) has no 2 x 2 valid pixels, unless it is a single row or column."""
    if min(mask.shape[-2:]) < 2:
        return
    empty = ~_squares(mask).any(axis=(-2, -1))
    if bool(empty.any()):  # here CuPy must wait
        which = "" if empty.ndim == 0 else f" in {int(empty.sum())} of {empty.size} planes"
        raise ValueError(
            f"mask must have 2 x 2 valid pixels side by side to measure the noise without a kernel, got none{which}; "
            "give the kernel, or take a part with more valid pixels"
        )


def noise_sigma_under(image: Array, kernel: Array | KernelField, mask: Array | None = None) -> Array:
    """Standard deviation of the white noise in images (..., H, W) with a known blur kernel, (...).

    The median periodogram over the 3 % of the frequencies where |F k|^2 / |F D|^2 is smallest. The spectrum of a
    photograph falls like 1 / |F D|, so that near the zeros of the kernel only noise is left. A Hann window suppresses
    the jump at the border. On photographs with noise of 0.0025 to 0.05 the result is within 10 %, where `noise_sigma`
    gives up to twice the noise because of the remaining fine texture. The error of a wrong kernel counts as noise too.

    Parameters
    ----------
    image : (..., H, W) float.
    kernel : (..., kh, kw), odd sides, sum 1; or a field, with its mean power as |F k|^2.
    mask : (..., H, W) bool, where the image is valid. Elsewhere it must be smooth (`inpaint`), as if without noise.
    """
    kernels = kernel.kernels if isinstance(kernel, KernelField) else kernel
    xp, (h, w) = array_module(image, kernels), image.shape[-2:]
    grid = (fast_size(max(h, kernels.shape[-2])), fast_size(max(w, kernels.shape[-1], 4)))
    padded: Any = xp.zeros((*image.shape[:-2], *grid), dtype=image.dtype)
    padded[..., :h, :w] = image - sum_pixels(image)[..., None, None] / (h * w)
    padded[..., :h, :w] *= constant(xp, _hann_window, h, w, image.dtype)
    power = abs(rfft2(padded, overwrite=True)) ** 2
    if isinstance(kernel, KernelField):
        signal = mean_power(kernels.astype(image.dtype, copy=False), kernel.positions, (h, w), grid)
    else:
        signal = abs(psf_to_otf(kernel, grid)) ** 2
    signal /= constant(xp, _inverse_signal, grid, image.dtype)
    # Without the first and the last column, whose frequencies occur twice.
    power, signal = (spectrum[..., 1:-1].reshape(*spectrum.shape[:-2], -1) for spectrum in (power, signal))
    variance = _median_at_weakest(power, signal) / EXPONENTIAL_MEDIAN
    if mask is not None:
        variance = variance / _valid_energy(mask, image.dtype)
    return xp.sqrt(variance)


def _valid_energy(mask: Array, dtype: Any) -> Array:
    """The fraction of the energy of `_hann_window` at the valid pixels of `mask` (..., H, W), (...); never 0."""
    xp, (h, w) = array_module(mask), mask.shape[-2:]
    energy = constant(xp, _hann_window, h, w, dtype) ** 2
    everywhere = sum_pixels(xp.broadcast_to(energy, mask.shape) * xp.ones_like(mask))
    return xp.maximum(sum_pixels(energy * mask) / everywhere, float(np.finfo(dtype).eps))


def _hann_window(h: int, w: int, dtype: Any) -> np.ndarray:
    """The 2-D Hann window with energy 1."""
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (h, w)))
    return (window / np.sqrt((window**2).sum())).astype(dtype)


def _inverse_signal(grid: tuple[int, int], dtype: Any) -> np.ndarray:
    """|F D|^2, at least 1e-9: the inverse of the power spectrum of a photograph."""
    return np.maximum(gradient_spectrum(grid, np.dtype("float64")), 1e-9).astype(dtype)


def noise_scale(image: Array, mask: Array | None = None) -> Array:
    """The noise of images (..., H, W) in units of REFERENCE_SIGMA, at least 1, (...); `mask` as in `noise_sigma`."""
    xp = array_module(image)
    return xp.maximum(noise_sigma(image, mask) / REFERENCE_SIGMA, 1).astype(image.dtype)


def divide_by_noise(image: Array, scale: Array) -> Array:
    """Images (..., H, W) divided by their `noise_scale` (...), or patches (n, P, H, W) by that of their image (n,).

    This is equivalent to multiplying lambda in |x * k - B|^2 + lambda |grad x|_0 by the square of the scale, which
    stronger noise requires. The images of a stack can then share one lambda and one continuation.
    """
    return image / scale.reshape(*scale.shape, *(1,) * (image.ndim - scale.ndim))


def median(values: Array) -> Array:
    """`numpy.median` of `values` (..., size) over the last axis, (...).

    CUDA kernel: select.cu, since CuPy's sorts wait for the device.
    """
    if not goes_to_cuda(values):
        return array_module(values).median(values, axis=-1)
    return _median_of_smallest(values, values.shape[-1])


def _median_of_smallest(values: Array, count: int) -> Array:
    """The median of the `count` smallest float32 `values` (..., size) on a device, (...); NaN if any value is NaN."""
    from ..numerics import cuda

    lower = cuda.select(values, (count - 1) // 2)
    return lower if count % 2 else (lower + cuda.select(values, count // 2)) / 2


def _median_at_weakest(power: Array, signal: Array) -> Array:
    """The median of `power` (..., size) over the NOISE_FREQUENCIES where `signal` is smallest, (...)."""
    xp = array_module(power, signal)
    count = max(1, round(NOISE_FREQUENCIES * signal.shape[-1]))
    if goes_to_cuda(power, signal):
        from ..numerics import cuda

        # Includes all frequencies whose signal equals the bound.
        bound = cuda.select(signal, count - 1)[..., None]
        return _median_of_smallest(xp.where(signal > bound, float("inf"), power), count)
    indices = xp.argpartition(signal, count - 1, axis=-1)[..., :count]
    return xp.median(xp.take_along_axis(power, xp.broadcast_to(indices, (*power.shape[:-1], count)), axis=-1), axis=-1)
