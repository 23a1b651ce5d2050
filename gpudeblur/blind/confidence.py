"""Does the kernel deserve trust? Signals that need no true picture, and the probability fitted to them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, constant, sum_pixels
from ..numerics.conjugate_gradient import dot
from ..numerics.filters import gradient
from ..numerics.fourier import fast_size, psf_to_otf, rfft2
from .kernel_step import Window

RING = 1
# Frequencies, in cycles a pixel, at which a blur shows: below, the scene decides; above, the noise.
BAND = (0.03, 0.35)
# Logistic regression of "error ratio <= 2" on log(border mass + 0.01), spectral match, log gradient gain and agreement,
# fitted by bench/confidence.py to blurred portraits, photographs and small faces and to pictures that are not blurred.
INTERCEPT, BORDER, MATCH, GAIN, AGREEMENT = -4.79, -0.55, 3.95, -0.55, 1.64
# Strength: a logistic function of the confidence's log odds, log(ringing + TINY) and log(change + TINY), a tenth above
# 1 so that what is sure is handed out whole. Fitted by bench/strength.py.
CONSTANT, OF_ODDS, OF_RINGING, OF_CHANGE = -7.52, 4.62, -1.44, 0.89
MOST, TINY, LEAST_ODDS = 1.1, 1e-4, 1e-3
# Where the kernel has more than so many pixels for each of the picture's (fully, from the second number on), more
# overshoot than WILD takes its square root from it: there even a confident kernel may be wrong, see nonblind.MISTRUST.
SMALL = (0.018, 0.03)
WILD = 4e-3
# Gradient gain under which a latent picture has too few edges left to know a kernel by.
FEW = 0.03


def border_mass(kernel: Array) -> Array:
    """Share of the kernel's mass in the outermost pixels of its window, (...).

    Where the solution is right and the window large enough, nothing is there.
    """
    inner = kernel[..., RING:-RING, RING:-RING].sum(axis=(-2, -1))
    xp = array_module(kernel)
    return xp.maximum(1 - inner / kernel.sum(axis=(-2, -1)), 0)  # not under 0 by rounding


def spectral_match(blurred: Array, kernel: Array) -> Array:
    """Correlation, (...), of the ups and downs of log |F B|^2 with those of log |F k|^2: a true kernel leaves its dips.

    Of both, the part that depends on the length of the frequency alone (a parabola in its logarithm) is taken away:
    that is the scene's own, and any blur's.

    Parameters
    ----------
    blurred : (..., H, W), the picture. kernel : (..., kh, kw).
    """
    xp = array_module(blurred, kernel)
    h, w = blurred.shape[-2:]
    grid = fast_size(h), fast_size(w)
    where, smooth = constant(xp, _frequencies, grid), constant(xp, _parabolas, grid)
    taper = constant(xp, _hann_window, h, w, blurred.dtype)
    room = xp.zeros((*blurred.shape[:-2], *grid), dtype=blurred.dtype)
    mean = sum_pixels(blurred)[..., None, None] / (h * w)
    room[..., :h, :w] = (blurred - mean) * taper
    curves = []
    for spectrum, floor in ((rfft2(room, overwrite=True), 1e-9), (psf_to_otf(kernel, grid), 1e-3)):
        power = (spectrum.real**2 + spectrum.imag**2).reshape(*spectrum.shape[:-2], -1)
        curve = xp.log(xp.take(power, where, axis=-1) + floor)[..., None, :]
        parabola = (curve * smooth).sum(axis=-1, keepdims=True) * smooth  # not by BLAS, which rounds a batch otherwise
        curves.append(curve - parabola.sum(axis=-2, keepdims=True))
    one, other = curves
    tiny = float(np.finfo(blurred.dtype).tiny)
    return (dot(one, other) / xp.sqrt(dot(one, one) * dot(other, other) + tiny))[..., 0, 0]


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
    where = np.flatnonzero((radius > BAND[0]) & (radius < BAND[1]))
    powers = np.log(radius[where])[:, None] ** np.arange(3)
    return where, np.ascontiguousarray(np.linalg.qr(powers)[0].T.astype(np.float32))


def gradient_gain(latent: Array, blurred: Array, window: Window) -> Array:
    """Mean |grad x| of the latent picture over mean |grad B| inside the window (`selection_window`), (...).

    About 1 to 2 for a true kernel: flat regions lose their texture, edges gain. Far more where a wrong kernel or noise
    is turned into edges.
    """
    xp = array_module(latent, blurred)
    top, bottom, left, right = window
    sums = []
    for picture in (latent, blurred):
        gx, gy = gradient(picture)
        inside = abs(gx[..., top:bottom, left:right]) + abs(gy[..., top:bottom, left:right])
        sums.append(sum_pixels(inside))
    return sums[0] / xp.maximum(sums[1], float(np.finfo(latent.dtype).tiny))


def confidence(
    kernel: Array, *, border_mass: Array, spectral_match: Array, gradient_gain: Array, agreement: Array
) -> Array:
    """Probability, (...), that restoring with `kernel` comes within twice the squared error of the true kernel's.

    A kernel of a pixel or two, sum k^2 above 0.25, says that there is nothing to deblur or that nothing could be known;
    that is no success, and from sum k^2 = 0.1 (Levin's kernels have 0.02 to 0.06) it counts less than a full one.
    Likewise where noise has left the latent picture next to no gradients.
    """
    xp = array_module(kernel, border_mass)
    score = INTERCEPT + BORDER * xp.log(border_mass + 0.01) + MATCH * spectral_match
    score = score + GAIN * xp.log(gradient_gain + 0.01) + AGREEMENT * agreement
    spread = xp.clip((0.25 - (kernel**2).sum(axis=(-2, -1))) / 0.15, 0, 1)
    seen = xp.clip(gradient_gain / FEW, 0, 1)
    return spread * seen / (1 + xp.exp(-xp.clip(score, -30, 30)))


def result_signals(sharp: Array, blurred: Array, clipped: Array | None = None) -> tuple[Array, Array, Array]:
    """What a restoration does to a picture (..., H, W): (ringing, change, overshoot), (...) each.

    Mean squares over the blurred picture's variance: of what lies beyond [0, 1] and beyond the blurred picture's
    darkest and brightest value, of all that has changed, of what lies beyond these values alone. A sharp picture has
    more range than a blurred one, letters far more; a wrong kernel rings, and rings beyond any range. In a picture that
    is `clipped` (bool, like `blurred`) anywhere, lamps are brighter than all that was seen: there only what is too dark
    counts.
    """
    xp = array_module(sharp, blurred)
    flat = blurred.reshape(*blurred.shape[:-2], -1)  # one axis: on NumPy, a batch rounds as a loop then
    sharp, darkest = sharp.reshape(flat.shape), flat.min(axis=-1, keepdims=True)
    brightest = flat.max(axis=-1, keepdims=True)
    if clipped is not None:
        brightest = xp.where(clipped.reshape(flat.shape).any(axis=-1, keepdims=True), np.inf, brightest)
    variance = xp.square(flat - flat.mean(axis=-1, keepdims=True)).mean(axis=-1)
    variance = xp.maximum(variance, float(np.finfo(flat.dtype).tiny))

    def share(difference: Array) -> Array:
        return xp.asarray(xp.square(difference).mean(axis=-1) / variance)

    ringing = share(sharp - xp.clip(sharp, xp.minimum(darkest, 0), xp.maximum(brightest, 1)))
    return ringing, share(sharp - flat), share(sharp - xp.clip(sharp, darkest, brightest))


def log_odds(confidence: Array) -> Array:
    xp = array_module(confidence)
    probability = xp.clip(confidence, LEAST_ODDS, 1 - LEAST_ODDS)
    return xp.log(probability / (1 - probability))


def blend_weight(confidence: Array, unknowns: Array, ringing: Array, change: Array, overshoot: Array) -> Array:
    """Share, (...), of the restoration in a cautious result: what gained most on training pictures, losses put first.

    Some wrong kernels are taken for right ones; what they make of the picture shows them. On 240 small training faces,
    nearly half of which fail, it turns a mean gain of 0.3 dB into one of 2.7 dB, and the worst loss of 13.7 dB into one
    of 1 dB.

    Parameters
    ----------
    unknowns : pixels of the kernel for each of the picture's.
    ringing, change, overshoot : `result_signals`.
    """
    xp = array_module(confidence, unknowns, ringing, change, overshoot)
    score = CONSTANT + OF_ODDS * log_odds(confidence)
    score = score + OF_RINGING * xp.log(ringing + TINY) + OF_CHANGE * xp.log(change + TINY)
    share = xp.minimum(MOST / (1 + xp.exp(-xp.clip(score, -30, 30))), 1)
    return xp.asarray(share * small_image_factor(unknowns, overshoot))


def small_image_factor(unknowns: Array, overshoot: Array) -> Array:
    """What `strength` leaves of a small picture that overshoots, (...)."""
    xp = array_module(unknowns, overshoot)
    small = xp.clip((unknowns - SMALL[0]) / (SMALL[1] - SMALL[0]), 0, 1)
    return xp.exp(0.5 * small * xp.log(WILD / xp.maximum(overshoot, WILD)))
