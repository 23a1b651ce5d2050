"""Confidence in an estimated kernel, from signals that need no true image, and how much restoration it is worth."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, constant, sum_pixels
from ..numerics.conjugate_gradient import dot
from ..numerics.filters import gradient
from ..numerics.fourier import fast_size, psf_to_otf, rfft2
from .kernel_step import Window

BORDER_WIDTH = 1  # pixels
# Frequencies, in cycles per pixel, at which a blur shows: the scene dominates below, the noise above.
BAND = (0.03, 0.35)
# Logistic regression of "error ratio <= 2" on log(border mass + 0.01), spectral match, log gradient gain and agreement,
# fitted by `python -m bench fit` to blurred portraits, photographs and small faces, and to images without blur.
INTERCEPT, BORDER, MATCH, GAIN, AGREEMENT = -4.79, -0.55, 3.95, -0.55, 1.64
# The blend weight: a logistic function of the confidence's log odds, log(ringing + OFFSET) and log(change + OFFSET),
# scaled by 1.1 and clipped at 1, so that confident results are returned unblended. Fitted by `python -m bench fit`.
BLEND_INTERCEPT, ODDS_WEIGHT, RINGING_WEIGHT, CHANGE_WEIGHT = -7.52, 4.62, -1.44, 0.89
BLEND_SCALE, OFFSET, MIN_PROBABILITY = 1.1, 1e-4, 1e-3
# If kernel pixels / image pixels exceeds SMALL_RATIO[0] (full effect from SMALL_RATIO[1]), an overshoot above the limit
# multiplies the blend weight by sqrt(limit / overshoot), where the confidence is below DOUBTFUL[1] (full effect from
# DOUBTFUL[0] on): wrong kernels of small faces overshoot. So do right ones of text.
SMALL_RATIO, DOUBTFUL = (0.018, 0.03), (0.5, 0.65)
OVERSHOOT_LIMIT = 4e-3
# Gradient gain below which a latent image has too few edges left to determine a kernel.
MIN_GAIN = 0.03


def border_mass(kernel: Array) -> Array:
    """Fraction of the kernel's mass in the outermost pixels of its window, (...).

    It is 0 for a correct kernel in a window that is large enough.
    """
    inner = kernel[..., BORDER_WIDTH:-BORDER_WIDTH, BORDER_WIDTH:-BORDER_WIDTH].sum(axis=(-2, -1))
    xp = array_module(kernel)
    return xp.maximum(1 - inner / kernel.sum(axis=(-2, -1)), 0)  # rounding may leave it below 0


def spectral_match(blurred: Array, kernel: Array) -> Array:
    """Correlation, (...), of the detrended log |F B|^2 and log |F k|^2: the dips of a true kernel's spectrum show in B.

    From both, a parabola in the logarithm of the radial frequency is subtracted, which fits the scene's own spectrum
    and the mean fall-off of any blur.

    Parameters
    ----------
    blurred : (..., H, W).
    kernel : (..., kh, kw).
    """
    xp = array_module(blurred, kernel)
    h, w = blurred.shape[-2:]
    grid = fast_size(h), fast_size(w)
    indices, parabolas = constant(xp, _frequencies, grid), constant(xp, _parabolas, grid)
    taper = constant(xp, _hann_window, h, w, blurred.dtype)
    padded = xp.zeros((*blurred.shape[:-2], *grid), dtype=blurred.dtype)
    mean = sum_pixels(blurred)[..., None, None] / (h * w)
    padded[..., :h, :w] = (blurred - mean) * taper
    curves = []
    for spectrum, floor in ((rfft2(padded, overwrite=True), 1e-9), (psf_to_otf(kernel, grid), 1e-3)):
        power = (spectrum.real**2 + spectrum.imag**2).reshape(*spectrum.shape[:-2], -1)
        curve = xp.log(xp.take(power, indices, axis=-1) + floor)[..., None, :]
        trend = (curve * parabolas).sum(axis=-1, keepdims=True) * parabolas  # BLAS would round a batch differently
        curves.append(curve - trend.sum(axis=-2, keepdims=True))
    a, b = curves
    tiny = float(np.finfo(blurred.dtype).tiny)
    return (dot(a, b) / xp.sqrt(dot(a, a) * dot(b, b) + tiny))[..., 0, 0]


def _hann_window(h: int, w: int, dtype: Any) -> np.ndarray:
    return np.outer(np.hanning(h), np.hanning(w)).astype(dtype)


def _frequencies(grid: tuple[int, int]) -> np.ndarray:
    """Flat indices of the frequencies in the band."""
    return _band(grid)[0]


def _parabolas(grid: tuple[int, int]) -> np.ndarray:
    """Orthonormal basis of the parabolas in log frequency over the band, (3, frequencies)."""
    return _band(grid)[1]


@functools.lru_cache(maxsize=4)
def _band(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(`_frequencies`, `_parabolas`)."""
    radius = np.hypot(np.fft.fftfreq(grid[0])[:, None], np.fft.rfftfreq(grid[1])).ravel()
    indices = np.flatnonzero((radius > BAND[0]) & (radius < BAND[1]))
    powers = np.log(radius[indices])[:, None] ** np.arange(3)
    return indices, np.ascontiguousarray(np.linalg.qr(powers)[0].T.astype(np.float32))


def gradient_gain(latent: Array, blurred: Array, window: Window) -> Array:
    """Mean |grad x| of the latent image over mean |grad B| inside the window (`selection_window`), (...).

    About 1 to 2 for a true kernel: flat regions lose texture, edges gain. Far more where a wrong kernel or noise became
    edges.
    """
    xp = array_module(latent, blurred)
    top, bottom, left, right = window
    sums = []
    for image in (latent, blurred):
        gx, gy = gradient(image)
        inside = abs(gx[..., top:bottom, left:right]) + abs(gy[..., top:bottom, left:right])
        sums.append(sum_pixels(inside))
    return sums[0] / xp.maximum(sums[1], float(np.finfo(latent.dtype).tiny))


def confidence(
    kernel: Array, *, border_mass: Array, spectral_match: Array, gradient_gain: Array, agreement: Array
) -> Array:
    """Probability, (...), that restoring with `kernel` has at most twice the squared error of the true kernel.

    A kernel of a pixel or two, sum k^2 above 0.25, means that the image is not blurred or that nothing determines a
    kernel; its confidence is 0, and from sum k^2 = 0.1 on it is reduced (the kernels of [Levin2009] have 0.02 to
    0.06). So it is where noise has left almost no gradients in the latent image.
    """
    xp = array_module(kernel, border_mass)
    score = INTERCEPT + BORDER * xp.log(border_mass + 0.01) + MATCH * spectral_match
    score = score + GAIN * xp.log(gradient_gain + 0.01) + AGREEMENT * agreement
    spread = xp.clip((0.25 - (kernel**2).sum(axis=(-2, -1))) / 0.15, 0, 1)
    edges = xp.clip(gradient_gain / MIN_GAIN, 0, 1)
    return spread * edges / (1 + xp.exp(-xp.clip(score, -30, 30)))


def log_odds(confidence: Array) -> Array:
    """log(p / (1 - p)) of probabilities, (...)."""
    xp = array_module(confidence)
    probability = xp.clip(confidence, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return xp.log(probability / (1 - probability))


def blend_weight(confidence: Array, unknowns: Array, ringing: Array, change: Array, overshoot: Array) -> Array:
    """Weight, (...), of the restoration in the result, fitted on training images with losses weighted most.

    Some wrong kernels get a high confidence; the restoration shows them. On 240 small training faces, nearly half of
    which fail, blending turns a mean gain of 0.3 dB into 2.7 dB, and the worst loss of 13.7 dB into 1 dB.

    Parameters
    ----------
    unknowns : kernel pixels / image pixels.
    ringing, change, overshoot : `result_signals`.
    """
    xp = array_module(confidence, unknowns, ringing, change, overshoot)
    score = BLEND_INTERCEPT + ODDS_WEIGHT * log_odds(confidence)
    score = score + RINGING_WEIGHT * xp.log(ringing + OFFSET) + CHANGE_WEIGHT * xp.log(change + OFFSET)
    weight = xp.minimum(BLEND_SCALE / (1 + xp.exp(-xp.clip(score, -30, 30))), 1)
    return xp.asarray(weight * small_image_factor(confidence, unknowns, overshoot))


def small_image_factor(confidence: Array, unknowns: Array, overshoot: Array) -> Array:
    """Factor of the blend weight for a small image with a doubtful kernel that overshoots, (...)."""
    xp = array_module(confidence, unknowns, overshoot)
    small = xp.clip((unknowns - SMALL_RATIO[0]) / (SMALL_RATIO[1] - SMALL_RATIO[0]), 0, 1)
    doubtful = xp.clip((DOUBTFUL[1] - confidence) / (DOUBTFUL[1] - DOUBTFUL[0]), 0, 1)
    return xp.exp(0.5 * small * doubtful * xp.log(OVERSHOOT_LIMIT / xp.maximum(overshoot, OVERSHOOT_LIMIT)))
