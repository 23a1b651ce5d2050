"""The two-step method of Chen & Chang 2017: kernels of pictures. The whole of it is `two_step`.

    several starts, some without the picture's lamps (saturation), each coarse to fine: { latent step <-> kernel step }
    (alternation) -> the best (choice) through the finest scale and the second step (kernel_refine) -> the best of these

On a GPU all starts are one CUDA graph, each a branch of it, and so is the finest scale.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from ..images.kernels import fit_size
from ..images.noise import divide_by_noise, noise_scale
from ..numerics.arrays import Array, array_module, constant, replayed, side_by_side
from ..numerics.arrays import stack as stacked
from ..numerics.progress import OnProgress, subrange
from ..numerics.user_warnings import warn
from ..priors.protocol import is_replayable
from .alternation import coarse_to_fine, has_gradients, run_scale
from .confidence import border_mass, confidence
from .kernel_projection import normalize, project
from .kernel_refine import refine_kernel
from .kernel_size import BORDER_MASS_LIMIT, estimate_sizes
from .kernel_step import selection_window, window_pixels
from .options import TwoStepOptions
from .pyramid import support_size
from .saturated_lights import remove_lights
from .schedule import Iteration, Scale
from .selection import KernelScores, agreement, rank, score_kernels, take, take_scores

# Pixels added to the kernel size at the finest scale.
FINEST_MARGIN = 2
# Starts that see a picture without its lamps; the others see it as it is: not all that looks like a lamp is one.
WITHOUT_LIGHTS = ("wide", "sparse", "compact")
SIGNALS = ("confidence", "border_mass", "spectral_match", "gradient_gain", "agreement", "energy")
# The finest scale is gone through in both of these ways: as precise as can be, and with a firm hand, for a kernel that
# would run all over its support. The prior is left to the coarser scales, unless `finest_prior` says otherwise.
FINEST_VARIANTS: tuple[dict[str, Any], ...] = (
    {"smooth_weight": 0.0, "prior": None},
    {"smooth_weight": 0.0, "prior": None, "kernel_weight": 1e-2, "iteration_threshold": (0.1, 0.1)},
)


def two_step(
    gray: Array, lights: Array | None, size: tuple[int, int] | None, options: TwoStepOptions, report: OnProgress
) -> tuple[Array, Any, dict[str, Array]]:
    """Kernels of `gray` (..., H, W), their sizes, and what is known about them, (...) each.

    `lights`: where it is clipped. The sizes are `size` where it is given, else a side, or an array (...) of them.
    """
    lead, stack = gray.shape[:-2], gray.reshape(-1, *gray.shape[-2:])
    lights = None if lights is None else lights.reshape(stack.shape)
    loud = noise_scale(stack)
    sides: Any = size
    if size is not None:
        kernel, signals = _best_kernel(stack, lights, loud, size, options, report)
    else:
        each = estimate_sizes(stack, loud, options, subrange(report, 0, 0.4))
        kernel, signals = _kernel_of_sides(stack, lights, loud, each, options, subrange(report, 0.4, 0.6))
        sides = each.reshape(lead) if lead else int(each[0])
    report(1.0)
    signals = {name: values.reshape(lead) for name, values in signals.items()}
    return kernel.reshape(*lead, *kernel.shape[-2:]), sides, signals


def _kernel_of_sides(
    stack: Array, lights: Array | None, loud: Array, sides: np.ndarray, options: TwoStepOptions, report: OnProgress
) -> tuple[Array, dict[str, Array]]:
    """`_best_kernel` at each picture's own side; the smaller kernels of a stack are padded."""
    xp = array_module(stack)
    most = int(sides.max())
    kernel = xp.zeros((len(stack), most, most), dtype=stack.dtype)
    signals: dict[str, Array] = {}
    done = 0.0
    for side in np.unique(sides):
        these = xp.asarray(np.flatnonzero(sides == side))
        share = len(these) / len(stack)
        size = (int(side), int(side))
        own = None if lights is None else lights[these]
        found, more = _best_kernel(stack[these], own, loud[these], size, options, subrange(report, done, share))
        kernel[these] = fit_size(found, (most, most))
        for name, values in more.items():
            signals.setdefault(name, xp.zeros(len(stack), dtype=values.dtype))[these] = values
        done += share
    touching = int((signals["border_mass"] > BORDER_MASS_LIMIT).sum())
    if touching:
        warn(
            f"kernel_size=None found kernels that touch the border of their window in {touching} of {len(stack)} "
            "pictures; give a larger kernel_size if the blur is longer",
            RuntimeWarning,
        )
    return kernel, signals


def _best_kernel(
    stack: Array,
    lights: Array | None,
    loud: Array,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: OnProgress,
) -> tuple[Array, dict[str, Array]]:
    """Several starts, the best of them through the finest scale, the best of these; with what tells of its worth.

    `stack` (n, H, W), `lights` (n, H, W) where it is clipped, `loud` (n,) its `noise_scale`. Where the
    lights are lamps, some of the starts see the picture without the lamps' whole traces, and what these found is
    finished there; all are judged on the picture without the lamps alone. A single start sees it as it is.
    """
    pictures: tuple[Array, ...] = (stack, loud)
    if lights is not None and len(options.starts) > 1:
        dark, bare = remove_lights(stack, lights, size)  # without the lamps' traces, without the lamps
        if dark is not stack:
            pictures = (stack, loud, dark, bare)
    coarse_share = len(options.starts) / (len(options.starts) + _finals(options))
    key = size, options
    coarse = functools.partial(_coarse_kernels, size=size, options=options)
    finest = functools.partial(_finest_kernel, size=size, options=options)
    coarse_priors = [options.of_start(name).prior for name in options.starts]
    finest_prior = options.prior if options.finest_prior else None
    candidates = replayed(
        ("coarse", *key), coarse, *pictures,
        report=subrange(report, 0, coarse_share), capturable=all(map(is_replayable, coarse_priors)),
    )  # fmt: skip
    kernel, *signals = replayed(
        ("finest", *key), finest, *pictures, *candidates,
        report=subrange(report, coarse_share, 1 - coarse_share), capturable=is_replayable(finest_prior),
    )  # fmt: skip
    return kernel, dict(zip(SIGNALS, signals, strict=True))


def _finals(options: TwoStepOptions) -> int:
    """How often the finest scale is gone through."""
    several = len(options.starts) > 1
    return min(options.finest_candidates, len(options.starts)) * len(
        FINEST_VARIANTS if several else FINEST_VARIANTS[:1]
    )


def _coarse_kernels(
    stack: Array,
    loud: Array,
    dark: Array | None = None,
    bare: Array | None = None,
    *,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: OnProgress,
) -> tuple[Array, Array, Array, Array]:
    """Kernels of all starts for `_best_kernel`, (starts, n, kh, kw), and energy, match and gain of each (starts, n)."""
    several = len(options.starts) > 1
    judged_on = divide_by_noise(stack if bare is None else bare, loud) if several else stack

    def begin(i: int, name: str) -> tuple[Array, Array, Array, Array]:
        picture = stack if dark is None or name not in WITHOUT_LIGHTS else dark
        progress = subrange(report, i / len(options.starts), 1 / len(options.starts))
        kernel = coarse_to_fine(picture, size, options.of_start(name), progress)
        return kernel, *(score_kernels(judged_on, kernel, loud).parts if several else (loud,) * 3)

    xp = array_module(stack)
    results = side_by_side(xp, [functools.partial(begin, *item) for item in enumerate(options.starts)])
    kernels, energy, match, gain = (stacked(each) for each in zip(*results, strict=True))
    return kernels, energy, match, gain


def _finest_kernel(
    stack: Array,
    loud: Array,
    *arrays: Array,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: OnProgress,
) -> tuple[Array, ...]:
    """The best kernel (n, kh, kw) that comes of those of `_coarse_kernels`, and its `SIGNALS`, (n,) each.

    `arrays`: the pictures without lamps, where there are any, and what `_coarse_kernels` has returned.
    """
    xp, several = array_module(stack), len(options.starts) > 1
    *lampless, kernels, energy, match, gain = arrays
    quiet, quiet_dark = divide_by_noise(stack, loud), None
    judged_on = quiet
    if lampless:
        quiet_dark, judged_on = (divide_by_noise(picture, loud) for picture in lampless)
    judgements = [KernelScores(*each, loud) for each in zip(energy, match, gain, strict=True)]
    finest_candidates = min(options.finest_candidates, len(kernels))
    places = rank(judgements, finest_candidates) if several else xp.zeros((1, len(stack)), dtype=int)
    ways = FINEST_VARIANTS if several else FINEST_VARIANTS[:1]

    def end(number: int) -> tuple[Array, KernelScores]:
        place, way = places[number // len(ways)], ways[number % len(ways)]
        picture = quiet
        if quiet_dark is not None:
            in_the_dark = constant(xp, np.array, tuple(name in WITHOUT_LIGHTS for name in options.starts))
            picture = xp.where(in_the_dark[place][:, None, None], quiet_dark, quiet)
        prior = {"prior": options.prior} if options.finest_prior else {}
        progress = subrange(report, number / _finals(options), 1 / _finals(options))
        kernel = _finish(picture, take(kernels, place), size, replace(options, **{**way, **prior}), progress)
        return kernel, score_kernels(judged_on, kernel, loud)

    results = side_by_side(xp, [functools.partial(end, number) for number in range(_finals(options))])
    candidates, verdicts = (list(each) for each in zip(*results, strict=True))
    if several:  # what was begun may be better than how it ended, in a picture without noise
        candidates.append(take(kernels, places[0]))
        verdict = take_scores(judgements, places[0])
        verdicts.append(replace(verdict, energy=xp.where(loud > 1, np.inf, verdict.energy)))
    best = rank(verdicts, 1)[0]
    kernel = take(candidates, best)
    return kernel, *_signals(kernel, take_scores(verdicts, best), list(kernels))


def _finish(quiet: Array, kernel: Array, size: tuple[int, int], options: TwoStepOptions, report: OnProgress) -> Array:
    """Kernels (n, kh, kw) through the finest scale, then the second step and the projection."""
    shape, threshold = quiet.shape[-2:], options.finest_threshold
    support = support_size(size, shape, FINEST_MARGIN)
    first, last = options.finest_gradient_weight
    count = options.finest_iterations
    weights = [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]
    share, cut = options.edge_fraction[1], options.iteration_threshold[1]
    iterations = tuple(Iteration(weight, share, cut) for weight in weights)
    scale = Scale(support, shape, 1.0, iterations, options.smooth_sigma, options.finest_beta_max)
    kernel, a, b = run_scale(quiet, fit_size(kernel, support), scale, options, report)
    if options.refine:
        refined = refine_kernel(
            a,
            b,
            project(kernel, share=threshold, component=options.kernel_component),
            weight=options.refine_weight,
            beta=options.refine_beta,
            solver=options.kernel_solver,
            iterations=options.kernel_iterations,
        )
        known = has_gradients(a, window_pixels(selection_window(shape, support)))
        kernel = array_module(kernel).where(known[..., None, None], refined, kernel)
    return normalize(fit_size(project(kernel, share=threshold, component=options.kernel_component), size))


def _signals(kernel: Array, verdict: KernelScores, coarse: list[Array]) -> list[Array]:
    """`SIGNALS`, what tells whether the kernels (n, kh, kw) are right, (n,) each: see `confidence`."""
    signals = {
        "border_mass": border_mass(kernel),
        "spectral_match": verdict.match,
        "gradient_gain": verdict.gain,
        "agreement": agreement(kernel, coarse),
    }
    return [confidence(kernel, **signals), *signals.values(), verdict.energy]
