"""Which of several kernels is right? Each is asked how well it explains the picture, and what it would make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, constant, stack
from ..numerics.boundary import pad_liu_jia
from ..numerics.chunks import map_in_chunks
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from .confidence import gradient_gain, spectral_match
from .kernel_step import selection_window
from .latent import latent_step, objective

# lambda of the energy: small enough to tell fine kernels apart, large enough that a wrong one has to pay for its edges.
GRADIENT_WEIGHT, BETA_MAX = 1e-3, 60.0
# What a logarithm of the energy is worth beside a correlation. On training pictures any weight from 0.7 to 1.2 does.
ENERGY_SHARE = 0.8


@dataclass(frozen=True)
class KernelScores:
    """What is known of kernels (n, kh, kw) without a sharp picture; (n,) each.

    Attributes
    ----------
    energy : log of min_x (|x * k - B|^2 + lambda |grad x|_0) a pixel (eq. 2), for one lambda and every kernel. A wrong
        kernel needs more edges, or leaves more of the picture unexplained.
    match : `confidence.spectral_match`. A kernel that is wrong in shape misses the dips of the picture's spectrum.
    gain : `confidence.gradient_gain` of that x.
    noise_scale : `noise.noise_scale` of the picture.
    """

    energy: Array
    match: Array
    gain: Array
    noise_scale: Array

    @property
    def parts(self) -> tuple[Array, Array, Array]:
        """(energy, match, gain)."""
        return self.energy, self.match, self.gain

    @property
    def score(self) -> Array:
        """The larger, the better; comparable between kernels of one picture only. -inf for a kernel with NaN.

        The louder the noise, the less the energy says of the kernel: a cut one that leaves more unexplained has less.
        """
        xp = array_module(self.energy)
        score = self.match - ENERGY_SHARE * self.energy / self.noise_scale
        return xp.where(xp.isnan(score), -np.inf, score)


def score_kernels(quiet: Array, kernel: Array, noise_scale: Array) -> KernelScores:
    """Each kernel (n, kh, kw) held against its picture (n, H, W), divided by its `noise.noise_scale` (n,).

    About a dozen passes of the latent step, at full size.
    """

    def some(blurred: Array, kernel: Array) -> tuple[Array, ...]:
        shape, size = blurred.shape[-2:], kernel.shape[-2:]
        wrapped = pad_liu_jia(blurred, (size[0] - 1, size[1] - 1))
        blurred_hat = rfft2(wrapped)
        latent = latent_step(
            wrapped, kernel, blurred_hat=blurred_hat, gradient_weight=GRADIENT_WEIGHT, beta_max=BETA_MAX
        )
        energy = objective(
            latent, kernel, blurred_hat, gradient_weight=GRADIENT_WEIGHT, threshold=GRADIENT_WEIGHT / BETA_MAX
        )
        xp = array_module(energy)
        energy = xp.log(xp.maximum(energy / (shape[0] * shape[1]), float(np.finfo(blurred.dtype).tiny)))
        gain = gradient_gain(latent, wrapped, selection_window((shape[0], shape[1]), (size[0], size[1])))
        return energy, spectral_match(blurred, kernel), gain

    energy, match, gain = map_in_chunks(some, quiet, kernel)
    return KernelScores(energy, match, gain, noise_scale)


def rank(judgements: Sequence[KernelScores], count: int | None = None) -> Array:
    """(count, n): the numbers of the candidates, each picture's best first; of equals the first. None: of all.

    By comparing each with each, since a sort would wait for the device.
    """
    xp, candidates = array_module(judgements[0].energy), len(judgements)
    score = stack([judgement.score for judgement in judgements])
    equal_and_earlier = (score == score[:, None]) & constant(xp, _earlier, candidates)
    rank = ((score > score[:, None]) | equal_and_earlier).sum(axis=1)
    return stack([(rank == place).argmax(axis=0) for place in range(count or candidates)])


def _earlier(count: int) -> np.ndarray:
    """(count, count, 1) bool: whether the second number is less than the first."""
    return np.tri(count, k=-1, dtype=bool)[..., None]


def take(arrays: Any, which: Array) -> Array:
    """(n, ...): of each picture, what the array with its number in `which` (n,) holds; `arrays` a list, or stacked."""
    stacked = stack(arrays) if isinstance(arrays, list | tuple) else arrays
    return stacked[which, array_module(which).arange(len(which))]


def take_scores(judgements: Sequence[KernelScores], which: Array) -> KernelScores:
    """The judgements with each picture's number."""
    fields = ("energy", "match", "gain", "noise_scale")
    return KernelScores(*(take([getattr(one, field) for one in judgements], which) for field in fields))


def agreement(kernel: Array, others: Sequence[Array]) -> Array:
    """Mean over `others` of their similarity with `kernel` (n, kh, kw), (n,); 1 where there are no others.

    The similarity is the largest normalised correlation over all shifts (Hu & Yang 2012). Starts that have gone wrong
    have gone different ways.
    """
    xp = array_module(kernel)
    if not others:
        return xp.ones(len(kernel), dtype=kernel.dtype)
    grid = (2 * kernel.shape[-2] - 1, 2 * kernel.shape[-1] - 1)
    hat = psf_to_otf(kernel, grid)
    found = xp.zeros(len(kernel), dtype=kernel.dtype)
    for other in others:
        spectrum = hat * psf_to_otf(other, grid).conj()
        if xp is np:
            product = np.fft.irfft2(spectrum, s=grid)
        else:
            product = irfft2(spectrum, grid, overwrite=True) / (grid[0] * grid[1])
        norm = xp.sqrt((kernel**2).sum(axis=(-2, -1)) * (other**2).sum(axis=(-2, -1)))
        found = found + product.max(axis=(-2, -1)) / norm
    return found / len(others)
