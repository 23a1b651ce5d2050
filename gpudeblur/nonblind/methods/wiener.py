"""Quadratic restoration in closed form: Wiener and Tikhonov filters."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ...images.kernels import pad_to_odd
from ...images.noise import noise_sigma_under
from ...numerics.arrays import Array, array_module, constant
from ...numerics.boundary import pad_crossfade
from ...numerics.fourier import Shape, irfft2, psf_to_otf, rfft2
from ...numerics.progress import OnProgress, subrange
from ...numerics.spectra import difference_spectrum
from ..regularization import as_column
from ..unknown_boundary import periodic_extension

PRIORS = ("gradient", "laplacian", "identity")
# Candidates for `weight=None`, and the smallest noise assumed, as a fraction of the image's standard deviation.
WEIGHTS = np.logspace(-7, 1, 41)
MIN_NOISE = 3e-3
# The candidates are compared on about this many frequencies.
SAMPLED_FREQUENCIES = 1 << 13


def wiener(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    prior: str = "gradient",
    noise_sigma: Any = None,
    boundary: str = "unknown",
    mask: Any = None,
    callback: OnProgress | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 + weight |D x|^2, one quotient of spectra: conj(K) F B / (|K|^2 + weight |F D|^2).

    [Wiener1949], [Hunt1973].

    Parameters
    ----------
    blurred, kernel, weight, noise_sigma, boundary, mask, callback : common to all methods, see
        `help(gpudeblur.nonblind)`. Values of any range. Without a weight, it is the one under which B is the most
        probable, given its noise and that D x is white and Gaussian.
    prior : {"gradient", "laplacian", "identity"}
        D. "gradient", forward differences: the Wiener filter of an image whose power spectrum falls off as 1 / f^2.
        "identity": Tikhonov ([Lin2020] eq. 10 and 11).

    With the boundary "unknown", what lies beyond the image, and x * k where B is not valid, come from 20 passes of `tv`
    (`periodic_extension`), which take most of the time; the other boundaries take one quotient.
    """
    xp, kernel = array_module(blurred, kernel), kernel.astype(blurred.dtype, copy=False)
    data, window = periodic_data(blurred, kernel, boundary, mask=mask, callback=subrange(callback, 0, 0.9))
    grid = data.shape[-2:]
    otf = psf_to_otf(kernel, grid)
    penalty = constant(xp, prior_power, grid, prior, blurred.dtype)
    power, spectrum = squared_magnitude(otf), rfft2(data)
    if weight is None:
        sigma = noise_sigma_under(blurred, kernel, mask) if noise_sigma is None else noise_sigma
        weight = probable_weight(spectrum, power, penalty, blurred, sigma)
    # A frequency that is zero in both the kernel and the prior is zero in B as well.
    denominator = xp.maximum(power + as_column(weight, blurred) * penalty, float(np.finfo(blurred.dtype).tiny))
    spectrum *= otf.conj() / (denominator * math.prod(grid))
    sharp = irfft2(spectrum, grid, overwrite=True)[window]
    if callback is not None:
        callback(1.0)
    return sharp


def periodic_data(
    blurred: Array,
    kernel: Array,
    boundary: str,
    *,
    ndim: int = 2,
    mask: Array | None = None,
    callback: OnProgress | None = None,
) -> tuple[Array, tuple[Any, ...]]:
    """An image (..., *space) on a periodic grid by `boundary`, and its position there; "unknown" is for 2 axes."""
    if boundary == "wrap":
        return blurred, (...,)
    window = (..., *map(slice, blurred.shape[-ndim:]))
    if boundary != "unknown":
        return pad_crossfade(blurred, tuple(2 * (side - 1) for side in kernel.shape[-ndim:]), boundary), window
    # `periodic_extension` expects images in [0, 1] and kernels of sum 1.
    level = abs(blurred).max(axis=(-2, -1), keepdims=True)
    level = array_module(blurred).where(level > 0, level, 1)
    kernel = pad_to_odd(kernel / kernel.sum(axis=(-2, -1), keepdims=True))
    return level * periodic_extension(blurred / level, kernel, boundary, mask=mask, callback=callback), window


def prior_power(shape: Shape, prior: str, dtype: Any, *, halved: bool = True) -> np.ndarray:
    """|F D|^2 on the frequencies of a real transform (or, if not `halved`, of a complex one), on the host."""
    bins = (*shape[:-1], shape[-1] // 2 + 1) if halved else shape
    if prior == "identity":
        return np.ones(bins, dtype)
    axes = [difference_spectrum(side, n, np.float64) for n, side in zip(bins, shape, strict=True)]
    gradient = functools.reduce(np.add, np.ix_(*axes))
    return (gradient if prior == "gradient" else gradient**2).astype(dtype)


def probable_weight(spectrum: Array, power: Array, penalty: Array, blurred: Array, sigma: Any) -> Array:
    """argmax_w p(B | w, sigma) with F B ~ N(0, sigma^2 (|K|^2 / (w |F D|^2) + 1)), one per image, among `WEIGHTS`."""
    xp, (h, w) = array_module(spectrum), spectrum.shape[-2:]
    limits = np.finfo(blurred.dtype)
    # Rounding errors are noise too; a constant image has no other.
    min_sigma = float(limits.eps) * abs(blurred).max(axis=(-2, -1)) + float(limits.tiny)
    min_sigma = min_sigma + MIN_NOISE * blurred.std(axis=(-2, -1))
    sigma = as_column(xp.maximum(xp.asarray(sigma, dtype=blurred.dtype), min_sigma), blurred)
    pixels = 2 * h * max(1, w - 1)
    # A regular sample of the frequencies, without those that are zero in the prior.
    step = max(1, math.isqrt(h * w // SAMPLED_FREQUENCIES))
    sample = (..., slice(step // 2, None, step), slice(max(1, step // 2) if w > 1 else 0, None, step))
    # In units of the noise, so that nothing overflows. (Complex numbers warn if divided by NaN, not if multiplied.)
    amplitude = spectrum[sample] * (1 / (sigma * pixels**0.5))
    signal, power, penalty = squared_magnitude(amplitude), power[sample], xp.maximum(penalty[sample], 1e-12)
    scores = xp.empty((len(WEIGHTS), *spectrum.shape[:-2]), dtype=blurred.dtype)
    for index, weight in enumerate(WEIGHTS):
        variance = power / (weight * penalty) + 1
        scores[index] = (xp.log(variance) + signal / variance).sum(axis=(-2, -1))
    return constant(xp, _weights, blurred.dtype)[scores.argmin(axis=0)]


def _weights(dtype: Any) -> np.ndarray:
    return WEIGHTS.astype(dtype)


def squared_magnitude(spectrum: Array) -> Array:
    return spectrum.real**2 + spectrum.imag**2
