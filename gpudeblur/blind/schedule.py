"""The schedule of the method: every number of every scale and iteration, known before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..numerics.resample import scaled_shape
from .options import TwoStepOptions
from .pyramid import kernel_sizes, support_size

# Pixels added to the kernel size at the finest scale.
FINEST_MARGIN = 2
# Every candidate goes through the finest scale with each of these settings: with the options as they are, and with
# stronger regularization and a threshold in each iteration, which keep the kernel compact.
FINEST_VARIANTS: tuple[Mapping[str, Any], ...] = ({}, {"kernel_weight": 1e-2, "iteration_threshold": (0.1, 0.1)})


@dataclass(frozen=True)
class Iteration:
    """The numbers of one latent step and one kernel step."""

    gradient_weight: float  # lambda
    edge_fraction: float  # fraction of the latent gradients, the strongest ones, that the kernel step uses
    threshold: float = 0.0  # fraction of the kernel's maximum under which its pixels become 0 after the step


@dataclass(frozen=True)
class Scale:
    """One scale of the pyramid. Sizes in pixels, (rows, columns)."""

    size: tuple[int, int]  # support of the kernel
    shape: tuple[int, int]  # of the image
    factor: float  # from the scale before to this one
    iterations: tuple[Iteration, ...]
    smooth_sigma: float
    beta_max: float
    ratio: float = 1.0  # sides of the image at this scale to those at full size


def schedule(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions) -> list[Scale]:
    """All scales for an image of `shape` and a kernel of `size`, the coarsest first.

    The last entry, of full size, only gives the kernel's final size; `finest_scale` has what runs there. If the kernel
    is so small that there is one scale, that one runs as it stands here.
    """
    support = support_size(size, shape, options.support_margin)
    sizes = kernel_sizes(support, ratio=options.scale_ratio, smallest=options.smallest_kernel)
    total = len(sizes) * options.iterations
    gradient_weight, (first, last) = options.gradient_weight, options.edge_fraction
    scales = []
    for level, (scale_size, ratio) in enumerate(sizes):
        iterations = []
        for step in range(level * options.iterations, (level + 1) * options.iterations):
            threshold = _between(options.iteration_threshold, step / max(1, total - 1))
            iterations.append(Iteration(gradient_weight, first + (last - first) * step / total, threshold))
            gradient_weight = max(gradient_weight / options.gradient_weight_decay, options.gradient_weight_min)
        factor = ratio / sizes[level - 1][1] if level else 1.0
        sigma = options.smooth_sigma * (level + 1)
        image_shape = scaled_shape(shape, ratio)
        scales.append(Scale(scale_size, image_shape, factor, tuple(iterations), sigma, options.beta_max, ratio))
    return scales


def finest_scale(shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions) -> Scale:
    """The finest scale, with `options` as `finest_options` gives them."""
    count = options.finest_iterations
    edge_fraction, threshold = options.edge_fraction[1], options.iteration_threshold[1]
    weights = (_between(options.finest_gradient_weight, i / max(1, count - 1)) for i in range(count))
    iterations = tuple(Iteration(weight, edge_fraction, threshold) for weight in weights)
    support = support_size(size, shape, FINEST_MARGIN)
    return Scale(support, shape, 1.0, iterations, options.smooth_sigma, options.finest_beta_max)


def finest_options(options: TwoStepOptions) -> list[TwoStepOptions]:
    """The options of each run of one candidate at the finest scale.

    The smooth prior is off there, and so is the prior on the latent image unless `finest_prior` is set. With a single
    initialization nothing is ranked, and the first variant runs alone.
    """
    variants = FINEST_VARIANTS if len(options.starts) > 1 else FINEST_VARIANTS[:1]
    prior = options.prior if options.finest_prior else None
    return [replace(options, smooth_weight=0.0, prior=prior, **variant) for variant in variants]


def finest_runs(options: TwoStepOptions) -> int:
    """How often the finest scale runs: each candidate with each of `finest_options`."""
    return min(options.finest_candidates, len(options.starts)) * len(finest_options(options))


def _between(ends: tuple[float, float], fraction: float) -> float:
    """From the first of `ends` to the second, geometrically; 0 where they are 0."""
    return ends[0] * (ends[1] / ends[0]) ** fraction if min(ends) > 0 else 0.0
