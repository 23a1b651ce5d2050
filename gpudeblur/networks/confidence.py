"""Confidence in what a network restored, from signals that need no true image, and how much of it to take."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..images.noise import noise_sigma
from ..images.planes import luminance
from ..numerics.arrays import Array, array_module, constant, sum_pixels
from ..numerics.filters import gradient
from ..numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2

KERNEL_SIDE = 25  # pixels, of the kernel that blurs the restored image again; at most half of the image
RIDGE = 1e-3  # of its least squares, as a fraction of the mean power
MIN_NOISE = 2e-3  # of an image in [0, 1]; 8 bits have 0.0011
OFFSET = 1e-4  # added to signals before their logarithm
# Logistic functions of `features`, by `python -m bench fit networks`: the probability that a restoration is nearer to
# the true image than the blurred one, and the share of it to take, with losses weighted most.
CONFIDENCE = {
    "deepdeblur": (8.807, 1.507, -0.303, -2.123, 0.341),
    "enhancement-gan": (8.051, 1.413, -0.042, -2.255, 0.324),
    "sketch": (2.829, 0.627, -0.02, 0.453, 0.261),
    "face": (6.837, 1.17, -0.036, -2.698, 0.274),
}
STRENGTH = {
    "deepdeblur": (5.101, 1.376, -1.292, 1.102, 0.795),
    "enhancement-gan": (4.304, 1.289, -0.991, 0.834, 0.688),
    "sketch": (2.691, 1.006, -0.429, 1.216, 0.551),
    "face": (3.487, 1.53, -0.233, -1.999, 1.501),
}
MAX_ODDS = 4.0  # log odds of the gate count up to here
STRENGTH_SCALE = 1.05  # of the share, at most 1: the best restorations are returned unblended


def signals(restored: Array, blurred: Array) -> dict[str, Array]:
    """What is known of a restoration without the true image, one number an image, (n,).

    - ``change``: mean squared difference over the blurred image's variance. Small where there was nothing to do.
    - ``reblur``: see `reblur_residual`. About 1 if a single kernel leads from the restored image to the blurred one.
    - ``gradient_energy``: of the restored image over that of the blurred one.

    Parameters
    ----------
    restored, blurred : (n, C, H, W) float, C = 1 or 3.
    """
    xp = array_module(restored, blurred)
    variance = blurred.reshape(len(blurred), -1).var(axis=-1)
    change = xp.square(restored - blurred).reshape(len(blurred), -1).mean(axis=-1)
    x, y = (_gray(images) for images in (restored, blurred))
    energies = [sum_pixels(gx**2 + gy**2) + OFFSET for gx, gy in (gradient(x), gradient(y))]
    return {
        "change": (change / (variance + OFFSET**2)).astype(x.dtype),
        "reblur": reblur_residual(x, y),
        "gradient_energy": energies[0] / energies[1],
    }


def reblur_residual(restored: Array, blurred: Array) -> Array:
    """rms(k * x - B) over the noise of B, (n,), for the kernel k that least squares finds between x and B.

    k = F^-1 [conj(F x) F B / (|F x|^2 + ridge)] of the images under a Hann window, cropped to `KERNEL_SIDE`. The
    residual is measured where k does not reach beyond the border.

    Parameters
    ----------
    restored, blurred : (n, H, W), sides from 16 pixels.
    """
    xp, (h, w) = array_module(restored, blurred), blurred.shape[-2:]
    half = min(KERNEL_SIDE, min(h, w) // 2) // 2
    grid = fast_size(h), fast_size(w)
    taper = constant(xp, _hann_window, h, w, blurred.dtype)
    x, y = (images - sum_pixels(images)[..., None, None] / (h * w) for images in (restored, blurred))

    def spectrum(images: Array) -> Array:
        padded: Any = xp.zeros((len(images), *grid), dtype=images.dtype)
        padded[..., :h, :w] = images
        return rfft2(padded, overwrite=True)

    tapered, pixels = spectrum(x * taper), grid[0] * grid[1]
    power = abs(tapered) ** 2
    ridge = RIDGE * power.mean(axis=(-2, -1), keepdims=True) + float(np.finfo(x.dtype).tiny)
    quotient = tapered.conj() * spectrum(y * taper) / ((power + ridge) * pixels)
    periodic = irfft2(quotient.astype(tapered.dtype), grid, overwrite=True)
    kernel = xp.roll(periodic, (half, half), axis=(-2, -1))[..., : 2 * half + 1, : 2 * half + 1]
    again = spectrum(x) * psf_to_otf(xp.ascontiguousarray(kernel), grid) / pixels
    residual = irfft2(again.astype(tapered.dtype), grid, overwrite=True)[..., :h, :w] - y
    inside = residual[..., half : h - half, half : w - half]
    noise = xp.maximum(noise_sigma(blurred), MIN_NOISE)
    return xp.sqrt(sum_pixels(xp.square(inside)) / (inside.shape[-2] * inside.shape[-1])) / noise


def _gray(images: Array) -> Array:
    """(n, H, W) float32, contiguous."""
    xp = array_module(images)
    gray = images[:, 0] if images.shape[1] == 1 else luminance(images)
    return xp.ascontiguousarray(gray.astype(xp.float32))


def _hann_window(h: int, w: int, dtype: Any) -> np.ndarray:
    """Positive at the border."""
    return np.outer(np.hanning(h + 2)[1:-1], np.hanning(w + 2)[1:-1]).astype(dtype)


def features(change: Array, reblur: Array, gradient_energy: Array, face: Array | None = None) -> Array:
    """(n, 5): 1, the logarithms of `signals`, and the log odds of the gate's probability `face`; None: surely faces."""
    xp = array_module(change, reblur, gradient_energy)
    columns = [xp.log(signal + OFFSET) for signal in (change, reblur, gradient_energy)]
    face = xp.ones_like(change) if face is None else xp.clip(face, OFFSET, 1 - OFFSET)
    odds = xp.clip(xp.log(face / xp.maximum(1 - face, OFFSET)), -MAX_ODDS, MAX_ODDS)
    return xp.stack([xp.ones_like(change), *columns, odds], axis=-1)


def confidence(name: str, features: Array) -> Array:
    """Probability, (n,), that a restoration by that network is nearer to the true image than the blurred one."""
    return _logistic(features, CONFIDENCE[name])


def strength(name: str, features: Array) -> Array:
    """Share, (n,), of the restored image in the result."""
    return array_module(features).minimum(STRENGTH_SCALE * _logistic(features, STRENGTH[name]), 1)


def _logistic(features: Array, weights: tuple[float, ...]) -> Array:
    xp = array_module(features)
    score = (features * xp.asarray(weights, dtype=features.dtype)).sum(axis=-1)
    return xp.asarray(1 / (1 + xp.exp(-xp.clip(score, -30, 30))))
