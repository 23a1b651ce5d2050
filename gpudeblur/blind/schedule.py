"""The schedule of the method: scales, iterations and their weights, all known before the run."""

from __future__ import annotations

from dataclasses import dataclass

from ..numerics.resample import scaled_shape
from .options import TwoStepOptions
from .pyramid import kernel_sizes, support_size


@dataclass(frozen=True)
class Iteration:
    """The weights of one latent and one kernel step."""

    gradient_weight: float  # lambda
    share: float  # of the gradients, those that vote
    cut: float = 0.0  # share of the kernel's maximum: what is smaller becomes 0 after the step; 0 cuts nothing


@dataclass(frozen=True)
class Scale:
    """One scale of the pyramid: all that is known before it begins. Sizes in pixels, (rows, columns)."""

    size: tuple[int, int]  # support of the kernel
    shape: tuple[int, int]  # of the picture
    factor: float  # from the scale before to this one
    iterations: tuple[Iteration, ...]
    smooth_sigma: float
    beta_max: float


def schedule(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions) -> list[Scale]:
    """All scales for a picture of `shape` and a kernel of `size`, coarsest first."""
    support = support_size(size, shape, options.support_margin)
    scales = kernel_sizes(support, ratio=options.scale_ratio, smallest=options.smallest_kernel)
    gradient_weight, (first, last) = options.gradient_weight, options.edge_fraction
    found = []
    for level, (scale_size, scale) in enumerate(scales):
        iterations = []
        for i in range(options.iterations):
            done = level * options.iterations + i
            share = first + (last - first) * done / (len(scales) * options.iterations)
            cut = _cut(options.iteration_threshold, done / max(1, len(scales) * options.iterations - 1))
            iterations.append(Iteration(gradient_weight, share, cut))
            gradient_weight = max(gradient_weight / options.gradient_weight_decay, options.gradient_weight_min)
        factor = scale / scales[level - 1][1] if level else 1.0
        sigma = options.smooth_sigma * (level + 1)
        found.append(Scale(scale_size, scaled_shape(shape, scale), factor, tuple(iterations), sigma, options.beta_max))
    return found


def _cut(ends: tuple[float, float], done: float) -> float:
    """Between both ends, geometrically."""
    return ends[0] * (ends[1] / ends[0]) ** done if min(ends) > 0 else 0.0
