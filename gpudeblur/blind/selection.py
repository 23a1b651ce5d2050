"""Selection of the best of several kernels, by how well each explains the observed image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..networks.judge.forward import judge
from ..numerics.arrays import Array, array_module, constant, stack
from ..numerics.boundary import pad_liu_jia
from ..numerics.chunks import map_in_chunks
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from .confidence import gradient_gain, spectral_match
from .kernel_step import selection_window
from .latent import latent_step, objective, residual
from .region import for_patches, mean_of_patches

# lambda of the energy: small enough to tell fine kernels apart, large enough that the edges of a wrong kernel count.
GRADIENT_WEIGHT, BETA_MAX = 1e-3, 60.0
# Weight of the log energy beside the spectral match. On training images any weight from 0.7 to 1.2 does as well.
ENERGY_WEIGHT = 0.8
# Weight of the judge's logit beside them, in images of up to so many pixels. It is not asked about larger ones, where
# the other terms tell more, and it can prefer wrong kernels of photographed blur (docs/method.md).
JUDGE_WEIGHT, JUDGE_PIXELS = 0.05, 100 * 100


@dataclass(frozen=True)
class KernelScores:
    """Scores of kernels (n, kh, kw) that need no sharp image, (n,) each.

    Attributes
    ----------
    energy : log of min_x (|x * k - B|^2 + lambda |grad x|_0) per pixel (eq. 2), with one lambda for all kernels. A
        wrong kernel needs more edges, or leaves a larger residual.
    match : `confidence.spectral_match`. A kernel of the wrong shape misses the dips of the image's spectrum.
    gain : `confidence.gradient_gain` of that x.
    logit : of the network "judge" for that x, larger where the kernel is more likely to be right; 0 where it is not
        asked, as in large images (`JUDGE_PIXELS`).
    noise_scale : `images.noise.noise_scale` of the image.
    """

    energy: Array
    match: Array
    gain: Array
    logit: Array
    noise_scale: Array

    @property
    def parts(self) -> tuple[Array, Array, Array, Array]:
        """(energy, match, gain, logit)."""
        return self.energy, self.match, self.gain, self.logit

    @property
    def score(self) -> Array:
        """Larger is better; comparable between kernels of one image only. -inf for a kernel with NaN.

        The stronger the noise, the less the energy tells: a truncated kernel can have a lower one.
        """
        xp = array_module(self.energy)
        score = self.match - ENERGY_WEIGHT * self.energy / self.noise_scale + JUDGE_WEIGHT * self.logit
        return xp.where(xp.isnan(score), -np.inf, score)


def score_kernels(scaled: Array, kernel: Array, noise_scale: Array, *, judged: bool = False) -> KernelScores:
    """Score each kernel (n, kh, kw) on its image (n, H, W), which is divided by its `noise_scale` (n,).

    Of images (n, P, H, W), each P are patches that share a kernel, and the scores are means over them. This costs 15
    iterations of the latent step at full size; with `judged`, about two more in a small image.
    """
    judged = judged and scaled.shape[-2] * scaled.shape[-1] <= JUDGE_PIXELS

    def score(blurred: Array, kernel: Array) -> tuple[Array, ...]:
        kernel = for_patches(kernel, blurred)
        padded, latent, difference = explain(blurred, kernel)
        energy, match, gain = signals(blurred, kernel, padded, latent, difference)
        xp, (h, w) = array_module(energy), blurred.shape[-2:]
        if not judged:
            return energy, match, gain, xp.zeros_like(energy)
        images = (image[..., :h, :w].reshape(-1, h, w) for image in (latent, blurred, difference))
        return energy, match, gain, mean_of_patches(judge(*images).reshape(blurred.shape[:-2]))

    energy, match, gain, logit = map_in_chunks(score, scaled, kernel)
    return KernelScores(energy, match, gain, logit, noise_scale)


def explain(blurred: Array, kernel: Array) -> tuple[Array, Array, Array]:
    """(B, x, x * k - B), (n, H', W') each: what kernels (n, kh, kw) make of images (n, H, W), on a periodic grid.

    The grid holds the image in its first H rows and W columns; x minimizes eq. 2.
    """
    padded = pad_liu_jia(blurred, (kernel.shape[-2] - 1, kernel.shape[-1] - 1))
    blurred_hat = rfft2(padded)
    latent = latent_step(padded, kernel, blurred_hat=blurred_hat, gradient_weight=GRADIENT_WEIGHT, beta_max=BETA_MAX)
    return padded, latent, residual(latent, kernel, blurred_hat)


def signals(
    blurred: Array, kernel: Array, padded: Array, latent: Array, difference: Array
) -> tuple[Array, Array, Array]:
    """The energy, match and gain of `KernelScores`; the last three arguments are those of `explain`."""
    xp, (h, w), (kh, kw) = array_module(blurred), blurred.shape[-2:], kernel.shape[-2:]
    energy = objective(latent, difference, gradient_weight=GRADIENT_WEIGHT, threshold=GRADIENT_WEIGHT / BETA_MAX)
    energy = xp.log(xp.maximum(mean_of_patches(energy) / (h * w), float(np.finfo(blurred.dtype).tiny)))
    gain = gradient_gain(latent, padded, selection_window((h, w), (kh, kw)))
    return energy, mean_of_patches(spectral_match(blurred, kernel)), mean_of_patches(gain)


def rank(scores: Sequence[KernelScores], count: int | None = None) -> Array:
    """(count, n): the indices of the `count` best candidates of each image, best first; None: of all candidates.

    Of equal candidates the first comes first. Each is compared with each, since a sort would wait for the device.
    """
    xp, candidates = array_module(scores[0].energy), len(scores)
    score = stack([candidate.score for candidate in scores])
    equal_and_earlier = (score == score[:, None]) & constant(xp, _earlier, candidates)
    ranks = ((score > score[:, None]) | equal_and_earlier).sum(axis=1)
    return stack([(ranks == i).argmax(axis=0) for i in range(count or candidates)])


def _earlier(n: int) -> np.ndarray:
    """(n, n, 1) bool: whether the second index is less than the first."""
    return np.tri(n, k=-1, dtype=bool)[..., None]


def take(candidates: Any, indices: Array) -> Array:
    """(n, ...): each image's candidate by its index in `indices` (n,); `candidates` a list of (n, ...), or stacked."""
    stacked = stack(candidates) if isinstance(candidates, list | tuple) else candidates
    return stacked[indices, array_module(indices).arange(len(indices))]


def take_scores(scores: Sequence[KernelScores], indices: Array) -> KernelScores:
    """The scores of each image's candidate."""
    fields = ("energy", "match", "gain", "logit", "noise_scale")
    return KernelScores(*(take([getattr(candidate, field) for candidate in scores], indices) for field in fields))


def agreement(kernel: Array, candidates: Sequence[Array]) -> Array:
    """Mean similarity of `kernel` (n, kh, kw) with the candidates, (n,); 1 where there are none.

    The similarity is the largest normalized correlation over all shifts ([Hu2012]). Initializations that fail end at
    different kernels.
    """
    xp = array_module(kernel)
    if not candidates:
        return xp.ones(len(kernel), dtype=kernel.dtype)
    grid = (2 * kernel.shape[-2] - 1, 2 * kernel.shape[-1] - 1)
    hat = psf_to_otf(kernel, grid)
    total = xp.zeros(len(kernel), dtype=kernel.dtype)
    for candidate in candidates:
        spectrum = hat * psf_to_otf(candidate, grid).conj()
        if xp is np:
            correlation = np.fft.irfft2(spectrum, s=grid)
        else:
            correlation = irfft2(spectrum, grid, overwrite=True) / (grid[0] * grid[1])
        norm = xp.sqrt((kernel**2).sum(axis=(-2, -1)) * (candidate**2).sum(axis=(-2, -1)))
        total = total + correlation.max(axis=(-2, -1)) / norm
    return total / len(candidates)
