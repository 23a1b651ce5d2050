"""How well a classifier tells clear pictures from blurred ones: whole pictures, at every scale of a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...numerics.resample import resample, scaled_shape
from .data import ImageFolder, draw_kernel, largest_kernel, make_pair

SCALES = (1.0, 0.7071, 0.5, 0.3536, 0.25)
SEED = 1 << 20  # far from the seeds that one trains with: the kernels are unseen


@dataclass(frozen=True)
class Evaluation:
    """At one scale. `clear`, `blurred` (n,): f of the pictures and of the same blurred."""

    clear: np.ndarray
    blurred: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of all pictures, clear and blurred, on the right side of 1 / 2."""
        return float(0.5 * ((self.clear < 0.5).mean() + (self.blurred > 0.5).mean()))

    @property
    def ratio(self) -> float:
        """Median of f(clear) / f(blurred)."""
        return float(np.median(self.clear / np.maximum(self.blurred, 1e-12)))


def evaluate(
    probability: Callable[[np.ndarray], np.ndarray],
    folder: ImageFolder,
    *,
    scales: Sequence[float] = SCALES,
    kernels: tuple[int, int] = (7, 51),
    noise: float = 0.01,
    quality: int | None = None,
    seed: int = SEED,
) -> dict[float, Evaluation]:
    """f of every picture of a folder, clear and blurred by a kernel of its own, both with noise and 8-bit steps.

    Parameters
    ----------
    probability : f of pictures (N, H, W).
    scales : factors by which both are reduced, after the noise, as a pyramid does.
    kernels : pixels, smallest and largest side of the kernels, uniform; see `pairs.DataConfig`.
    noise : of all pictures.
    quality : of the JPEG that both go through; None for none.
    """
    found: dict[float, list[np.ndarray]] = {scale: [] for scale in scales}
    for number, picture in enumerate(folder.pictures):
        rng = np.random.default_rng((seed, number))
        sides = np.arange(kernels[0], largest_kernel(picture.shape, kernels) + 1, 2)
        kernel = draw_kernel(rng, int(sides[rng.integers(len(sides))]))
        both = np.stack(make_pair(picture.astype(np.float32), kernel, noise, quality, rng))
        for scale in scales:
            found[scale].append(probability(resample(both, scaled_shape(both.shape[-2:], scale))))
    return {scale: Evaluation(*np.array(values).T) for scale, values in found.items()}
