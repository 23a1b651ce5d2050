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
# Logistic functions of 1, log change, log reblur and log gradient energy, by `python -m bench fit networks`:
# the probability that a restoration is nearer to the true image than the blurred one, and the share of it to take, with
# losses weighted most.
CONFIDENCE = {
    "deepdeblur": (4.0, 0.0, 0.0, 0.0),
    "enhancement-gan": (4.0, 0.0, 0.0, 0.0),
    "sketch": (4.0, 0.0, 0.0, 0.0),
    "face": (4.0, 0.0, 0.0, 0.0),
}
STRENGTH = dict(CONFIDENCE)
# Of the automatic strength, for what is certainly no small face. At 0.5, 24 blurred crops of photographs keep +0.50 dB
# of the +0.65 that DeepDeblur's full change gains, and the sketch network costs the worst of them 0.15 dB, not 1.01.
OTHER_SHARE = 0.5
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


def features(change: Array, reblur: Array, gradient_energy: Array) -> Array:
    """(n, 4): 1 and the logarithms of `signals`."""
    xp = array_module(change, reblur, gradient_energy)
    columns = [xp.log(signal + OFFSET) for signal in (change, reblur, gradient_energy)]
    return xp.stack([xp.ones_like(change), *columns], axis=-1)


def confidence(name: str, features: Array) -> Array:
    """Probability, (n,), that a restoration by that network is nearer to the true image than the blurred one."""
    return _logistic(features, CONFIDENCE[name])


def strength(name: str, features: Array) -> Array:
    """Share, (n,), of the restored image in the result."""
    return array_module(features).minimum(STRENGTH_SCALE * _logistic(features, STRENGTH[name]), 1)


def face_share(face: Array) -> Array:
    """Factor of the automatic strength, (n,), by the probability that an image is of a small face.

    It falls from 1 at 1/2 to `OTHER_SHARE` at 0.
    """
    return OTHER_SHARE + (1 - OTHER_SHARE) * array_module(face).minimum(2 * face, 1)


def _logistic(features: Array, weights: tuple[float, ...]) -> Array:
    xp = array_module(features)
    score = (features * xp.asarray(weights, dtype=features.dtype)).sum(axis=-1)
    return xp.asarray(1 / (1 + xp.exp(-xp.clip(score, -30, 30))))
