"""The two-step method of [Chen2017]: blur kernels of images. `two_step` is all of it.

    initializations -> coarse to fine { latent step <-> kernel step } -> ranking -> the best candidates:
    finest scale { latent step <-> kernel step } -> refinement of the kernel -> selection

On a GPU, in float32 and for small stacks, all initializations are one CUDA graph, each of them a branch of it, and so
is the finest scale.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
from .racing import Entry, Rival, candidates
from .region import patches_of, per_kernel
from .saturated_lights import remove_lights
from .schedule import (
    finest_options,
    finest_runs,
    finest_scale,
)
from .selection import KernelScores, agreement, rank, score_kernels, take, take_scores

# Initializations that use the image with saturated lights removed. The others use the original, because a bright region
# may be mistaken for a light.
WITHOUT_LIGHTS = ("wide", "sparse", "compact")
NETWORK_SIDE = 16  # pixels, of the smallest images that networks take
SIGNALS = ("confidence", "border_mass", "spectral_match", "gradient_gain", "agreement", "energy")


class Views(NamedTuple):
    """One stack of images (n, H, W), or of patches (n, P, H, W) with a kernel for each P, as the method sees it.

    Attributes
    ----------
    full : the images.
    noise_scale : (n,), see `images.noise.noise_scale`.
    unlit : the images with everything within half a kernel of a saturated light inpainted.
    scoring : the images with the lights alone inpainted: what kernels are scored on.
    initial : (n, *size), kernels to begin the finest scale with, beside those of the initializations; NaN for an image
        without one.
    """

    full: Array
    noise_scale: Array
    unlit: Array | None = None
    scoring: Array | None = None
    initial: Array | None = None

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What there is: the first two, the next two where there are lights, `initial`. See `from_arrays`."""
        return tuple(view for view in self if view is not None)

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array]) -> Views:
        """The views of which these are the `arrays`."""
        unlit, scoring = arrays[2:4] if len(arrays) > 3 else (None, None)
        return cls(arrays[0], arrays[1], unlit, scoring, arrays[-1] if len(arrays) % 2 else None)


def two_step(
    observed: Observation,
    size: tuple[int, int],
    options: TwoStepOptions,
    progress: OnProgress,
    rival: Rival | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Kernels (n, *size) of `observed`, and the `SIGNALS` that tell their worth, (n,) each.

    Where `observed` holds patches, n is the number of kernels that they share. If saturated lights are found, the
    initializations in `WITHOUT_LIGHTS` use an image without them, at the finest scale too, and all candidates are
    scored on an image without them. With one initialization neither happens, and a `rival` is not used.
    """
    runs = len(options.starts), finest_runs(options)
    begin = runs[0] / sum(runs)
    views = views_of(observed, size, options)
    ratio = None if rival is None or len(options.starts) == 1 else rival.ratio
    coarse = replayed(
        ("coarse", size, options, ratio),
        functools.partial(coarse_kernels, size=size, options=options, rival_ratio=ratio),
        *views.arrays,
        *(() if rival is None or ratio is None else (rival.kernel,)),
        report=subrange(progress, 0, begin),
        capturable="network" not in options.starts
        and all(is_replayable(part.prior) for part in (options, *map(options.of_start, options.starts))),
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
    images = [observed.luminance]
    if observed.saturated is not None and len(options.starts) > 1:
        # The luminance is wrong where any of its channels is saturated.
        is_dark = observed.xp.asarray(observed.is_dark)
        unlit, scoring = remove_lights(observed.luminance, observed.saturated.any(axis=1), size, is_dark)
        images += [] if unlit is observed.luminance else [unlit, scoring]
    images, scale = [observed.in_patches(image) for image in images], observed.noise_scale_of_kernels()
    views = Views(images[0], scale, *images[1:])
    if observed.initial is None:
        return views
    initial = fit_size(observed.initial, size)
    return views._replace(initial=observed.xp.broadcast_to(initial, (len(scale), *size)))


def coarse_kernels(
    *arrays: Array,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: OnProgress,
    rival_ratio: float | None = None,
) -> tuple[Array, ...]:
    """The first step (eq. 2-11) from every initialization, at all scales but the finest, see `racing`.

    Parameters
    ----------
    arrays : `Views.arrays`, and the kernel of a `Rival` if `rival_ratio` is set.

    Returns
    -------
    Kernels (candidates, n, *size) of the initializations, that of the network behind the others, and of the rival; and
    their `KernelScores.parts`, (candidates, n) each. See `racing.candidates`. With a single initialization there is
    nothing to rank, and the parts are not computed: they hold `noise_scale`.
    """
    rival = None if rival_ratio is None else Rival(arrays[-1], rival_ratio)
    views = Views.from_arrays(arrays if rival is None else arrays[:-1])
    if len(options.starts) == 1:
        (name,) = options.starts
        if name == "network":
            kernel = network_kernel(views.full, size)
        else:
            kernel = coarse_to_fine(views.full, size, options.of_start(name), report)
        return kernel[None], *(views.noise_scale[None],) * 4
    scoring = views.full if views.scoring is None else views.scoring
    entries = [Entry(name, size) for name in options.starts if name != "network"]

    def image_of(entry: Entry | None) -> Array:
        is_unlit = views.unlit is not None and entry is not None and entry.name in WITHOUT_LIGHTS
        return views.unlit if is_unlit else views.full

    results = candidates(image_of, scoring, views.noise_scale, entries, rival, size, options, report) if entries else []
    if "network" in options.starts:
        kernel, scaled = network_kernel(views.full, size), divide_by_noise(scoring, views.noise_scale)
        parts = score_kernels(scaled, kernel, views.noise_scale, judged=True).parts
        results.insert(len(entries), (kernel, *parts))
    return tuple(stack(column) for column in zip(*results, strict=True))


def from_unlit(options: TwoStepOptions, count: int) -> tuple[bool, ...]:
    """Which of the `count` candidates of `coarse_kernels` come from the image without lights."""
    names = [name for name in options.starts if name != "network"]
    return (*(name in WITHOUT_LIGHTS for name in names), *(False,) * (count - len(names)))


def network_kernel(image: Array, size: tuple[int, int]) -> Array:
    """The kernels (n, *size) of images (n, H, W) by the network "sketch" ([Lin2020])."""
    from ..networks import bridge, restore

    network = restore.load("sketch", None, bridge.device_of(image))
    missing = [max(0, NETWORK_SIDE - side) for side in image.shape[-2:]]
    planes = image.reshape(-1, *image.shape[-2:])
    if any(missing):  # the network knows no smaller images
        planes = array_module(image).pad(planes, ((0, 0), (0, missing[0]), (0, missing[1])), mode="symmetric")
    kernel = restore.estimate_kernels(network, planes[:, None]).astype(image.dtype, copy=False)
    if image.ndim > planes.ndim:
        kernel = kernel.reshape(*image.shape[:2], *kernel.shape[-2:]).mean(axis=1)
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
    views, (kernels, *parts) = Views.from_arrays(arrays[:-5]), arrays[-5:]
    xp, several = array_module(views.full), len(options.starts) > 1
    scaled = divide_by_noise(views.full, views.noise_scale)
    unlit, scoring = None, scaled
    if views.unlit is not None and views.scoring is not None:
        unlit, scoring = (divide_by_noise(image, views.noise_scale) for image in (views.unlit, views.scoring))
    coarse_scores = [
        KernelScores(energy, match, gain, logit, views.noise_scale)
        for energy, match, gain, logit in zip(*parts, strict=True)
    ]
    count = min(options.finest_candidates, len(kernels))
    ranks = rank(coarse_scores, count) if several else xp.zeros((1, len(scaled)), dtype=int)
    is_unlit = constant(xp, np.array, from_unlit(options, len(kernels)))
    variants = finest_options(options)
    chosen = [(take(kernels, ranks[i]), is_unlit[ranks[i]], None) for i in range(count)]
    if views.initial is not None:
        absent = xp.isnan(views.initial).any(axis=(-2, -1))
        initial = xp.where(absent[:, None, None], take(kernels, ranks[0]), views.initial)
        chosen.append((initial, ~absent, absent))
    runs = len(chosen) * len(variants)

    def run(number: int) -> tuple[Array, KernelScores]:
        (kernel, without_lights, absent), image = chosen[number // len(variants)], scaled
        if unlit is not None:
            image = xp.where(per_kernel(without_lights, scaled), unlit, scaled)
        progress = subrange(report, number / runs, 1 / runs)
        kernel = finish(image, kernel, size, variants[number % len(variants)], progress)
        scores = score_kernels(scoring, kernel, views.noise_scale, judged=True)
        return kernel, scores if absent is None else replace(scores, energy=xp.where(absent, np.inf, scores.energy))

    results = side_by_side(xp, [functools.partial(run, number) for number in range(runs)])
    finished, scores = (list(column) for column in zip(*results, strict=True))
    if several:  # in an image without noise, a candidate may be better than what the finest scale makes of it
        finished.append(take(kernels, ranks[0]))
        first = take_scores(coarse_scores, ranks[0])
        scores.append(replace(first, energy=xp.where(views.noise_scale > 1, np.inf, first.energy)))
    best = rank(scores, 1)[0]
    kernel = take(finished, best)
    return kernel, *signals_of(kernel, take_scores(scores, best), list(kernels[: len(options.starts)]), views.initial)


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
        window = selection_window(scale.shape, scale.size)
        determined = has_gradients(a, window_pixels(window) * patches_of(image, kernel))
        kernel = array_module(kernel).where(determined[..., None, None], refined, kernel)
    return normalize(fit_size(project(kernel, **limits), size))


def signals_of(kernel: Array, scores: KernelScores, coarse: list[Array], initial: Array | None = None) -> list[Array]:
    """`SIGNALS` of kernels (n, kh, kw), (n,) each: see `confidence`.

    The agreement is that with the `coarse` kernels, or with the `initial` one where that is larger: what light streaks
    show does not depend on the other kernels.
    """
    xp, agreed = array_module(kernel), agreement(kernel, coarse)
    signals = {
        "border_mass": border_mass(kernel),
        "spectral_match": scores.match,
        "gradient_gain": scores.gain,
        "agreement": agreed if initial is None else xp.fmax(agreed, agreement(kernel, [initial])),  # NaN without one
    }
    return [confidence(kernel, **signals), *signals.values(), scores.energy]
