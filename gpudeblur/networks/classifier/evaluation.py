"""Accuracy of the classifier on whole images, clear and blurred, at every scale of a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...numerics.resample import resample, scaled_shape
from ..training.pictures import Pictures
from .data import draw_kernel, largest_kernel, make_pair

SCALES = (1.0, 0.7071, 0.5, 0.3536, 0.25)
SEED = 1 << 20  # far from any training seed, so that the kernels were never trained on


@dataclass(frozen=True)
class Evaluation:
    """The result at one scale. `clear`, `blurred` (n,): f of the clear images, and of the same images blurred."""

    clear: np.ndarray
    blurred: np.ndarray

    @property
    def accuracy(self) -> float:
        """Fraction of all images, clear and blurred, on the right side of 1 / 2."""
        return float(0.5 * ((self.clear < 0.5).mean() + (self.blurred > 0.5).mean()))

    @property
    def ratio(self) -> float:
        """Median of f(clear) / f(blurred)."""
        return float(np.median(self.clear / np.maximum(self.blurred, 1e-12)))


def evaluate(
    probability: Callable[[np.ndarray], np.ndarray],
    folder: Pictures,
    *,
    scales: Sequence[float] = SCALES,
    kernels: tuple[int, int] = (7, 51),
    noise: float = 0.01,
    quality: int | None = None,
    seed: int = SEED,
) -> dict[float, Evaluation]:
    """f of every image of a folder, clear and blurred by a random kernel, both noisy and quantized to 8 bits.

    Parameters
    ----------
    probability : f of images (N, H, W).
    scales : factors by which both images are reduced, after the noise, as a pyramid does.
    kernels : pixels, smallest and largest side of the kernels, uniform; see `DataConfig`.
    noise : standard deviation.
    quality : JPEG quality of both images; None: no JPEG.
    """
    values: dict[float, list[np.ndarray]] = {scale: [] for scale in scales}
    for index, image in enumerate(folder.images):
        rng = np.random.default_rng((seed, index))
        sides = np.arange(kernels[0], largest_kernel(image.shape, kernels) + 1, 2)
        kernel = draw_kernel(rng, int(sides[rng.integers(len(sides))]))
        pair = np.stack(make_pair(image.astype(np.float32), kernel, noise, quality, rng))
        for scale in scales:
            values[scale].append(probability(resample(pair, scaled_shape(pair.shape[-2:], scale))))
    return {scale: Evaluation(*np.array(pairs).T) for scale, pairs in values.items()}
