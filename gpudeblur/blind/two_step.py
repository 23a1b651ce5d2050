"""The two-step method of [Chen2017]: blur kernels of images. `two_step` is all of it.

    initializations -> coarse to fine { latent step <-> kernel step } -> ranking -> the best candidates:
    finest scale { latent step <-> kernel step } -> refinement of the kernel -> selection

On a GPU, in float32 and for small stacks, all initializations are one CUDA graph, each of them a branch of it, and so
is the finest scale.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..images.kernels import fit_size
from ..images.noise import divide_by_noise
from ..numerics.arrays import Array, array_module, constant, replayed, side_by_side, stack
from ..numerics.progress import OnProgress, subrange
from ..priors.protocol import is_replayable
from .alternation import coarse_to_fine, run_scale
from .confidence import border_mass, confidence
from .kernel_projection import normalize, project
from .kernel_refine import refine_kernel
from .kernel_step import has_gradients, selection_window, window_pixels
from .observation import Observation
from .options import TwoStepOptions
from .saturated_lights import remove_lights
from .schedule import finest_options, finest_runs, finest_scale
from .selection import KernelScores, agreement, rank, score_kernels, take, take_scores

# Initializations that use the image with saturated lights removed. The others use the original, because a bright region
# may be mistaken for a light.
WITHOUT_LIGHTS = ("wide", "sparse", "compact")
NETWORK_SIDE = 16  # pixels, of the smallest images that networks take
SIGNALS = ("confidence", "border_mass", "spectral_match", "gradient_gain", "agreement", "energy")


class Views(NamedTuple):
    """One stack of images (n, H, W) as the parts of the method see it.

    Attributes
    ----------
    full : the images.
    noise_scale : (n,), see `images.noise.noise_scale`.
    unlit : the images with everything within half a kernel of a saturated light inpainted.
    scoring : the images with the lights alone inpainted: what kernels are scored on.
    """

    full: Array
    noise_scale: Array
    unlit: Array | None = None
    scoring: Array | None = None

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The views that there are: two, or all four."""
        return tuple(view for view in self if view is not None)


def two_step(
    observed: Observation, size: tuple[int, int], options: TwoStepOptions, progress: OnProgress
) -> tuple[Array, dict[str, Array]]:
    """Kernels (n, *size) of `observed`, and the `SIGNALS` that tell their worth, (n,) each.

    If saturated lights are found, the initializations in `WITHOUT_LIGHTS` use an image without them, at the finest
    scale too, and all candidates are scored on an image without them. With one initialization neither happens.
    """
    runs = len(options.starts), finest_runs(options)
    begin = runs[0] / sum(runs)
    views = views_of(observed, size, options)
    coarse = replayed(
        ("coarse", size, options),
        functools.partial(coarse_kernels, size=size, options=options),
        *views.arrays,
        report=subrange(progress, 0, begin),
        capturable="network" not in options.starts
        and all(is_replayable(options.of_start(name).prior) for name in options.starts),
    )
    kernel, *signals = replayed(
        ("finest", size, options),
        functools.partial(finest_kernel, size=size, options=options),
        *views.arrays,
        *coarse,
        report=subrange(progress, begin, 1 - begin),
        capturable=is_replayable(finest_options(options)[0].prior),
    )
    progress(1.0)
    return kernel, dict(zip(SIGNALS, signals, strict=True))


def views_of(observed: Observation, size: tuple[int, int], options: TwoStepOptions) -> Views:
    """The views of `observed` for kernels of `size`; where lights are saturated, this waits for a device once."""
    views = Views(observed.luminance, observed.noise_scale)
    if observed.saturated is None or len(options.starts) == 1:
        return views
    # The luminance is wrong where any of its channels is saturated.
    unlit, scoring = remove_lights(views.full, observed.saturated.any(axis=1), size)
    return views if unlit is views.full else views._replace(unlit=unlit, scoring=scoring)


def coarse_kernels(
    *arrays: Array, size: tuple[int, int], options: TwoStepOptions, report: OnProgress
) -> tuple[Array, ...]:
    """The first step (eq. 2-11) from every initialization, at all scales but the finest.

    Parameters
    ----------
    arrays : `Views.arrays`.

    Returns
    -------
    Kernels (starts, n, *size), and their `KernelScores.parts`, (starts, n) each. With a single
    initialization there is nothing to rank, and these are not computed: they hold `noise_scale`.
    """
    views, several = Views(*arrays), len(options.starts) > 1
    scoring = views.full
    if several:
        scoring = divide_by_noise(scoring if views.scoring is None else views.scoring, views.noise_scale)

    def run(i: int, name: str) -> tuple[Array, ...]:
        image = views.full if views.unlit is None or name not in WITHOUT_LIGHTS else views.unlit
        progress = subrange(report, i / len(options.starts), 1 / len(options.starts))
        if name == "network":
            kernel = network_kernel(image, size)
        else:
            kernel = coarse_to_fine(image, size, options.of_start(name), progress)
        if not several:
            return kernel, *(views.noise_scale,) * 4
        return kernel, *score_kernels(scoring, kernel, views.noise_scale, judged=True).parts

    results = side_by_side(
        array_module(views.full), [functools.partial(run, *start) for start in enumerate(options.starts)]
    )
    return tuple(stack(column) for column in zip(*results, strict=True))


def network_kernel(image: Array, size: tuple[int, int]) -> Array:
    """The kernels (n, *size) of images (n, H, W) by the network "sketch" ([Lin2020])."""
    from ..networks import bridge, restore

    network = restore.load("sketch", None, bridge.device_of(image))
    missing = [max(0, NETWORK_SIDE - side) for side in image.shape[-2:]]
    if any(missing):  # the network knows no smaller images
        image = array_module(image).pad(image, ((0, 0), (0, missing[0]), (0, missing[1])), mode="symmetric")
    kernel = restore.estimate_kernels(network, image[:, None]).astype(image.dtype, copy=False)
    return normalize(fit_size(kernel, size))


def finest_kernel(
    *arrays: Array, size: tuple[int, int], options: TwoStepOptions, report: OnProgress
) -> tuple[Array, ...]:
    """The best candidates through the finest scale and the second step, and of these the best.

    Parameters
    ----------
    arrays : `Views.arrays`, and what `coarse_kernels` returned.

    Returns
    -------
    Kernels (n, *size), and the `SIGNALS`, (n,) each.
    """
    views, (kernels, energy, match, gain, logit) = Views(*arrays[:-5]), arrays[-5:]
    xp, several = array_module(views.full), len(options.starts) > 1
    scaled = divide_by_noise(views.full, views.noise_scale)
    unlit, scoring = None, scaled
    if views.unlit is not None and views.scoring is not None:
        unlit, scoring = (divide_by_noise(image, views.noise_scale) for image in (views.unlit, views.scoring))
    coarse_scores = [KernelScores(*parts, views.noise_scale) for parts in zip(energy, match, gain, logit, strict=True)]
    candidates = min(options.finest_candidates, len(kernels))
    ranks = rank(coarse_scores, candidates) if several else xp.zeros((1, len(scaled)), dtype=int)
    variants = finest_options(options)

    def run(number: int) -> tuple[Array, KernelScores]:
        candidate, image = ranks[number // len(variants)], scaled
        if unlit is not None:
            is_unlit = constant(xp, np.array, tuple(name in WITHOUT_LIGHTS for name in options.starts))
            image = xp.where(is_unlit[candidate][:, None, None], unlit, scaled)
        progress = subrange(report, number / finest_runs(options), 1 / finest_runs(options))
        kernel = finish(image, take(kernels, candidate), size, variants[number % len(variants)], progress)
        return kernel, score_kernels(scoring, kernel, views.noise_scale, judged=True)

    results = side_by_side(xp, [functools.partial(run, number) for number in range(finest_runs(options))])
    finished, scores = (list(column) for column in zip(*results, strict=True))
    if several:  # in an image without noise, a candidate may be better than what the finest scale makes of it
        finished.append(take(kernels, ranks[0]))
        first = take_scores(coarse_scores, ranks[0])
        scores.append(replace(first, energy=xp.where(views.noise_scale > 1, np.inf, first.energy)))
    best = rank(scores, 1)[0]
    kernel = take(finished, best)
    return kernel, *signals_of(kernel, take_scores(scores, best), list(kernels))


def finish(image: Array, kernel: Array, size: tuple[int, int], options: TwoStepOptions, progress: OnProgress) -> Array:
    """Kernels (n, kh, kw) through the finest scale (eq. 2-11), the second step (eq. 12-16) and the projection."""
    scale = finest_scale(image.shape[-2:], size, options)
    limits = {"share": options.finest_threshold, "component": options.kernel_component}
    kernel, a, b = run_scale(image, fit_size(kernel, scale.size), scale, options, progress)
    if options.refine:
        refined = refine_kernel(
            a,
            b,
            project(kernel, **limits),
            weight=options.refine_weight,
            beta=options.refine_beta,
            solver=options.kernel_solver,
            iterations=options.kernel_iterations,
        )
        determined = has_gradients(a, window_pixels(selection_window(scale.shape, scale.size)))
        kernel = array_module(kernel).where(determined[..., None, None], refined, kernel)
    return normalize(fit_size(project(kernel, **limits), size))


def signals_of(kernel: Array, scores: KernelScores, coarse: list[Array]) -> list[Array]:
    """`SIGNALS` of kernels (n, kh, kw), (n,) each: see `confidence`."""
    signals = {
        "border_mass": border_mass(kernel),
        "spectral_match": scores.match,
        "gradient_gain": scores.gain,
        "agreement": agreement(kernel, coarse),
    }
    return [confidence(kernel, **signals), *signals.values(), scores.energy]
