"""Quadratic restoration in closed form: Wiener and Tikhonov filters, and a Gibbs sampler for their weights."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ...images.kernels import pad_to_odd
from ...images.noise import noise_sigma_under
from ...numerics.arrays import Array, array_module
from ...numerics.boundary import pad_crossfade
from ...numerics.fourier import Shape, irfftn, kernel_to_grid, rfftn
from ...numerics.progress import OnProgress, subrange
from ..unknown_boundary import torus

BOUNDARIES = ("unknown", "reflect", "edge", "wrap")
PRIORS = ("gradient", "laplacian", "identity")
# Weights that are tried for `weight=None`, and the least noise of a picture in standard deviations of its own.
WEIGHTS = np.logspace(-7, 1, 41)
LEAST_NOISE = 3e-3
# Frequencies that are looked at for the weight: an even selection of about so many.
FREQUENCIES = 1 << 13


def wiener(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    prior: str = "gradient",
    noise_sigma: Any = None,
    boundary: str = "unknown",
    callback: OnProgress | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 + weight |D x|^2, one quotient of spectra: conj(K) F B / (|K|^2 + weight |F D|^2).

    Parameters
    ----------
    blurred : (..., H, W) float.
    kernel : (kh, kw), or one a picture, (..., kh, kw). Its origin is its pixel (kh // 2, kw // 2).
    weight : a number or one a picture. Larger: less noise and ringing, less detail. None: the weight under which B is
        the most probable, given its noise and that D x is white and Gaussian.
    prior : {"gradient", "laplacian", "identity"}
        D. "gradient", forward differences: the Wiener filter of a picture whose power spectrum falls off as 1 / f^2.
        "identity": Tikhonov, seed 4, eq. 10 and 11.
    noise_sigma : standard deviation of the noise of B, a number or one a picture, for the weight; None estimates it.
    boundary : {"unknown", "reflect", "edge", "wrap"}
        See `boundary.extend`. "unknown": what was not seen is x * k with the x of 20 passes of `tv` (`torus`), which
        take most of the time; "edge" is one quotient.
    callback : called with the fraction done after each of these passes, and at the end.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    N. Wiener: Extrapolation, interpolation, and smoothing of stationary time series, 1949.
    B. R. Hunt: The application of constrained least squares estimation to image restoration, IEEE Trans. Comput. 1973.
    S. Lin et al.: seed 4, eq. 10 and 11.
    """
    xp, kernel = array_module(blurred, kernel), kernel.astype(blurred.dtype, copy=False)
    data, inside = on_grid(blurred, kernel, boundary, callback=subrange(callback, 0, 0.9))
    grid = data.shape[-2:]
    otf = kernel_otf(kernel, grid)
    penalty = xp.asarray(prior_power(grid, prior, blurred.dtype))
    power, spectrum = _squared(otf), rfftn(data, 2)
    if weight is None:
        sigma = noise_sigma_under(blurred, kernel) if noise_sigma is None else noise_sigma
        weight = probable_weight(spectrum, power, penalty, blurred, sigma)
    weight = xp.asarray(weight, dtype=blurred.dtype)[..., None, None]
    # A frequency that neither the kernel nor the prior knows is 0 in B as well.
    bottom = xp.maximum(power + weight * penalty, float(np.finfo(blurred.dtype).tiny))
    spectrum *= otf.conj() / (bottom * math.prod(grid))
    sharp = irfftn(spectrum, grid)[inside]
    if callback is not None:
        callback(1.0)
    return sharp


def on_grid(
    picture: Array, kernel: Array, boundary: str, *, ndim: int = 2, callback: OnProgress | None = None
) -> tuple[Array, tuple[Any, ...]]:
    """The picture (..., *space) on a periodic grid as `boundary` says, and where it is there."""
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(map(repr, BOUNDARIES))}, got {boundary!r}")
    if boundary == "wrap":
        return picture, (...,)
    inside = (..., *map(slice, picture.shape[-ndim:]))
    if boundary != "unknown":
        return pad_crossfade(picture, tuple(2 * (side - 1) for side in kernel.shape[-ndim:]), boundary), inside
    if ndim != 2:
        raise ValueError(f"boundary 'unknown' is for pictures of 2 axes, got {ndim}; use 'edge'")
    # `torus` is for pictures in [0, 1], and kernels of sum 1.
    level = abs(picture).max(axis=(-2, -1), keepdims=True)
    level = array_module(picture).where(level > 0, level, 1)
    kernel = pad_to_odd(kernel / kernel.sum(axis=(-2, -1), keepdims=True))
    return level * torus(picture / level, kernel, boundary, callback=callback), inside


def kernel_otf(kernel: Array, grid: Shape) -> Array:
    """The transform of `kernel` (..., *sides), its pixel `side // 2` the origin."""
    return rfftn(kernel_to_grid(kernel, grid), len(grid))


def prior_power(shape: Shape, prior: str, dtype: Any, *, halved: bool = True) -> np.ndarray:
    """|F D|^2 on the frequencies of a real transform (or, not `halved`, of a complex one), on the host."""
    if prior not in PRIORS:
        raise ValueError(f"prior must be one of {', '.join(map(repr, PRIORS))}, got {prior!r}")
    bins = (*shape[:-1], shape[-1] // 2 + 1) if halved else shape
    if prior == "identity":
        return np.ones(bins, dtype)
    axes = [4 * np.sin(np.pi * np.arange(count) / side) ** 2 for count, side in zip(bins, shape, strict=True)]
    gradient = functools.reduce(np.add, np.ix_(*axes))
    return (gradient if prior == "gradient" else gradient**2).astype(dtype)


def probable_weight(spectrum: Array, power: Array, penalty: Array, blurred: Array, sigma: Any) -> Array:
    """argmax_w p(B | w, sigma) with F B ~ N(0, sigma^2 (|K|^2 / (w |F D|^2) + 1)), one a picture, among `WEIGHTS`."""
    xp, (h, w) = array_module(spectrum), spectrum.shape[-2:]
    limits = np.finfo(blurred.dtype)
    # Rounding is noise too, and a constant picture has no other.
    least = float(limits.eps) * abs(blurred).max(axis=(-2, -1)) + float(limits.tiny)
    least = least + LEAST_NOISE * blurred.std(axis=(-2, -1))
    sigma = xp.maximum(xp.asarray(sigma, dtype=blurred.dtype), least)[..., None, None]
    pixels = 2 * h * max(1, w - 1)
    # All frequencies in steps, but for those that the prior does not know.
    step = max(1, math.isqrt(h * w // FREQUENCIES))
    every = (..., slice(step // 2, None, step), slice(max(1, step // 2) if w > 1 else 0, None, step))
    # In units of the noise, so that nothing overflows. (Divided by a NaN, complex numbers warn; multiplied, not.)
    amplitude = spectrum[every] * (1 / (sigma * pixels**0.5))
    energy, power, penalty = _squared(amplitude), power[every], xp.maximum(penalty[every], 1e-12)
    scores = []
    for weight in WEIGHTS:
        variance = power / (weight * penalty) + 1
        scores.append((xp.log(variance) + energy / variance).sum(axis=(-2, -1)))
    return xp.asarray(WEIGHTS.astype(blurred.dtype))[xp.stack(scores).argmin(axis=0)]


def _squared(spectrum: Array) -> Array:
    return spectrum.real**2 + spectrum.imag**2
