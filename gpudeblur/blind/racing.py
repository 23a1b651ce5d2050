"""The race between initializations: all go through the coarsest scales, and the best of them through the others.

A kernel that fails mostly does so at a coarse scale already, where an iteration and a score cost a fraction of what
they cost at full size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..images.kernels import fit_size
from ..images.noise import divide_by_noise
from ..numerics.arrays import Array, array_module, side_by_side
from ..numerics.progress import OnProgress, subrange
from ..numerics.resample import resample
from .alternation import run_scales
from .kernel_projection import initial_kernel, normalize
from .options import TwoStepOptions
from .pyramid import enlarge_kernel
from .schedule import Scale, schedule
from .selection import KernelScores, score_kernels

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
