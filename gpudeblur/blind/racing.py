"""The race between initializations: all go through the coarsest scales, and the best of them through the others.

A kernel that fails mostly does so at a coarse scale already, where an iteration and a score cost a fraction of what
they cost at full size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..images.kernels import fit_size
from ..images.noise import divide_by_noise
from ..numerics.arrays import Array, array_module, side_by_side
from ..numerics.progress import OnProgress, subrange
from ..numerics.resample import resample
from .alternation import enlarge_to_full, run_scales
from .kernel_projection import initial_kernel, normalize
from .options import TwoStepOptions
from .pyramid import enlarge_kernel
from .region import per_kernel
from .schedule import Scale, finest_scale, schedule
from .selection import KernelScores, rank, score_kernels

# The number of scales between the race and full size, and the least side of an image at the race. A smaller image is
# judged badly there, and its other scales cost little: all go on.
RACE_DISTANCE, RACE_SIDE = 2, 100
RACE_SURVIVORS = 3


class Entry(NamedTuple):
    """An initialization, a name in `STARTS`, and the kernel size it starts with."""

    name: str
    size: tuple[int, int]


class Rival(NamedTuple):
    """A kernel (n, kh, kw) from elsewhere that is judged beside those of a race, and the ratio of its scale."""

    kernel: Array
    ratio: float


def race_distance(shape: tuple[int, int], entries: Sequence[Entry], options: TwoStepOptions) -> int:
    """`RACE_DISTANCE`, or 1 for a small image, or 0 where an entry has a single scale: small kernels have few."""
    schedules = [schedule(shape, entry.size, options.of_start(entry.name)) for entry in entries]
    distance = min(RACE_DISTANCE, *(len(scales) - 1 for scales in schedules))
    while distance > 1 and min(schedules[0][-1 - distance].shape) < RACE_SIDE:
        distance -= 1
    return distance


def race_survivors(count: int, shape: tuple[int, int], entries: Sequence[Entry], options: TwoStepOptions) -> int:
    """How many of `count` kernels go on after a race: all if it leaves out no scale, see `race_distance`."""
    if race_distance(shape, entries, options) < RACE_DISTANCE:
        return count
    return min(count, max(RACE_SURVIVORS, options.finest_candidates))


def race(
    images: Callable[[Entry], Array],
    scoring: Array,
    noise_scale: Array,
    entries: Sequence[Entry],
    options: TwoStepOptions,
    progress: OnProgress,
) -> tuple[list[Array], list[KernelScores]]:
    """Kernels of all entries at the scale of the race, in the largest of their windows, and their scores.

    Parameters
    ----------
    images : the images (n, H, W) from which an entry estimates the kernels.
    scoring : (n, H, W), what the kernels are scored on.
    noise_scale : (n,), see `images.noise.noise_scale`.
    """
    schedules, scale = _schedules(scoring.shape[-2:], entries, options)
    image, scaled_noise = at_scale(scoring, noise_scale, scale)

    def run(i: int, entry: Entry) -> tuple[Array, KernelScores]:
        start, xp = images(entry), array_module(scoring)
        entry_options, part = options.of_start(entry.name), subrange(progress, i / len(entries), 1 / len(entries))
        kernel = initial_kernel(schedules[i][0].size, len(start), xp, start.dtype)
        kernel, determined = run_scales(start, kernel, schedules[i], entry_options, part)
        kernel = normalize(fit_size(kernel, scale.size), determined)
        return kernel, score_kernels(image, kernel, scaled_noise)

    results = side_by_side(array_module(scoring), [functools.partial(run, *entry) for entry in enumerate(entries)])
    kernels, scores = zip(*results, strict=True)
    return list(kernels), list(scores)


def race_scale(shape: tuple[int, int], entries: Sequence[Entry], options: TwoStepOptions) -> Scale:
    """The scale of the race, with the largest of the windows."""
    return _schedules(shape, entries, options)[1]


def _schedules(
    shape: tuple[int, int], entries: Sequence[Entry], options: TwoStepOptions
) -> tuple[list[list[Scale]], Scale]:
    """(the scales of each entry up to that of the race, `race_scale`)."""
    distance = race_distance(shape, entries, options)
    schedules = [schedule(shape, entry.size, options.of_start(entry.name)) for entry in entries]
    schedules = [scales[: len(scales) - distance] for scales in schedules]
    height, width = (max(scales[-1].size[axis] for scales in schedules) for axis in (0, 1))
    return schedules, replace(schedules[0][-1], size=(height, width))


def score_rival(rival: Rival, scoring: Array, noise_scale: Array, scale: Scale) -> tuple[Array, KernelScores]:
    """The kernel of a rival in the window of `scale`, and its scores there."""
    kernel = rival.kernel
    if rival.ratio != scale.ratio:
        kernel = enlarge_kernel(kernel, scale.ratio / rival.ratio, scale.size)
    kernel = normalize(fit_size(kernel, scale.size))
    image, scaled_noise = at_scale(scoring, noise_scale, scale)
    return kernel, score_kernels(image, kernel, scaled_noise)


def at_scale(images: Array, noise_scale: Array, scale: Scale) -> tuple[Array, Array]:
    """(images (n, h, w) at a scale, divided by their noise scale there; that noise scale): pixels average the noise."""
    noise_scale = array_module(images).maximum(noise_scale * scale.ratio, 1)
    return divide_by_noise(resample(images, scale.shape), noise_scale), noise_scale


def candidates(
    images: Callable[[Entry | None], Array],
    scoring: Array,
    noise_scale: Array,
    entries: Sequence[Entry],
    rival: Rival | None,
    size: tuple[int, int],
    options: TwoStepOptions,
    progress: OnProgress,
) -> list[tuple[Array, ...]]:
    """For each entry, and at the end for the rival: kernels (n, *size), and their `KernelScores.parts`, (n,) each.

    The best of a `race` go through the other scales, each with the options of its initialization. The others are
    enlarged as they are, with an energy of infinity. On a device, which must not wait for the ranks, all go through.

    Parameters
    ----------
    images : the images (n, H, W) from which an entry, or the rival (None), estimates the kernels.
    scoring, noise_scale : see `race`.
    """
    xp, shape, begin = array_module(scoring), scoring.shape[-2:], len(entries) / (len(entries) + RACE_SURVIVORS)
    kernels, scores = race(images, scoring, noise_scale, entries, options, subrange(progress, 0, begin))
    scale, racers = race_scale(shape, entries, options), list[Entry | None](entries)
    if rival is not None:
        kernel, rival_scores = score_rival(rival, scoring, noise_scale, scale)
        kernels, scores, racers = [*kernels, kernel], [*scores, rival_scores], [*racers, None]
    ranks = rank(scores, race_survivors(len(kernels), shape, entries, options))
    scaled = divide_by_noise(scoring, noise_scale)

    def run(i: int, racer: Entry | None) -> tuple[Array, ...]:
        racer_options = options if racer is None else options.of_start(racer.name)
        part = subrange(progress, begin + (1 - begin) * i / len(racers), (1 - begin) / len(racers))

        def finish(image: Array, kernel: Array, scaled: Array, noise_scale: Array) -> tuple[Array, ...]:
            kernel = to_full_size(image, kernel, scale, size, racer_options, part)
            return kernel, *score_kernels(scaled, kernel, noise_scale, judged=True).parts

        goes_on, zeros = (ranks == i).any(axis=0), xp.zeros_like(noise_scale)
        results = [enlarged(kernels[i], scale, shape, size, options), zeros + np.inf, zeros, zeros.copy(), zeros.copy()]
        arrays = images(racer), kernels[i], scaled, noise_scale
        if xp is not np:
            return tuple(
                xp.where(per_kernel(goes_on, result), finished, result)
                for finished, result in zip(finish(*arrays), results, strict=True)
            )
        if goes_on.any():
            for finished, result in zip(finish(*(array[goes_on] for array in arrays)), results, strict=True):
                result[goes_on] = finished
        return tuple(results)

    return side_by_side(xp, [functools.partial(run, *racer) for racer in enumerate(racers)])


def to_full_size(
    images: Array, kernel: Array, scale: Scale, size: tuple[int, int], options: TwoStepOptions, progress: OnProgress
) -> Array:
    """Kernels (n, kh, kw) of `scale` through the scales between it and the finest, at full size, (n, *size)."""
    shape = images.shape[-2:]
    between = [finer for finer in schedule(shape, size, options)[:-1] if finer.ratio > scale.ratio]
    if not between:
        return enlarged(kernel, scale, shape, size, options)
    kernel = enlarge_kernel(kernel, between[0].ratio / scale.ratio, between[0].size)
    kernel, determined = run_scales(images, kernel, between, options, progress)
    return normalize(enlarged(kernel, between[-1], shape, size, options), determined)


def enlarged(
    kernel: Array, scale: Scale, shape: tuple[int, int], size: tuple[int, int], options: TwoStepOptions
) -> Array:
    """Kernels (n, kh, kw) of `scale` at full size, (n, *size)."""
    return normalize(fit_size(enlarge_to_full(kernel, scale, finest_scale(shape, size, options), options), size))
