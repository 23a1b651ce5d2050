"""The size of an unknown blur: kernels of several windows are begun, the best of them is measured."""

from __future__ import annotations

import functools

import numpy as np

from ..images.kernels import fit_size
from ..images.noise import divide_by_noise
from ..numerics.arrays import Array, array_module, replayed, side_by_side, to_host
from ..numerics.progress import OnProgress, subrange
from ..priors.protocol import is_replayable
from .alternation import coarse_to_fine
from .options import TwoStepOptions
from .selection import KernelScores, rank, score_kernels, take

# Sides of the windows, pixels; what exceeds half of a picture's shorter side is left out, and half of it taken instead.
WINDOWS = (17, 35, 71)
# Starts that keep a kernel small in a window that is too large.
INITIALIZATIONS = ("relaxed", "compact")
# Free pixels on each side of what was found.
MARGIN = 2
SMALLEST = 7
# Share of a kernel's mass in the outer pixels of its window from which on it may go on beyond.
BORDER_MASS_LIMIT = 0.15


def windows(shape: tuple[int, int]) -> list[int]:
    """The sides to try for a picture of `shape`, odd and rising."""
    most = max(3, (min(shape) // 2 - 1) | 1)
    return sorted({min(side, most) for side in WINDOWS})


def estimate_sizes(stack: Array, loud: Array, options: TwoStepOptions, report: OnProgress) -> np.ndarray:
    """Odd sides (n,) of square windows that hold the blur kernels of `stack` (n, H, W) with room to spare.

    Every window is the first guess of every probe, at all scales but the finest; of their kernels, laid into the
    largest window, `choice.judge` says which explains the picture best, and its extent about its centre is the answer.

    Parameters
    ----------
    stack : (n, H, W), the pictures. loud : (n,), their `noise.noise_scale`.
    options : `options.starts` plays no part here.
    """
    function = functools.partial(_probe, options=options)
    capturable = all(is_replayable(options.of_start(name).prior) for name in INITIALIZATIONS)
    (kernel,) = replayed(("sizes", options), function, stack, loud, report=report, capturable=capturable)
    largest = kernel.shape[-1]
    return np.minimum(np.maximum(2 * (half_width(kernel) + MARGIN) + 1, min(SMALLEST, largest)), largest)


def _probe(stack: Array, loud: Array, *, options: TwoStepOptions, report: OnProgress) -> tuple[Array]:
    """Of the kernels of all windows and probes, in the largest window, the best of each picture, (n, side, side)."""
    sides, quiet = windows(stack.shape[-2:]), divide_by_noise(stack, loud)
    cases = [(side, name) for side in sides for name in INITIALIZATIONS]

    def probe(number: int) -> tuple[Array, KernelScores]:
        side, name = cases[number]
        of_this = subrange(report, number / len(cases), 1 / len(cases))
        kernel = fit_size(coarse_to_fine(stack, (side, side), options.of_start(name), of_this), (sides[-1], sides[-1]))
        return kernel, score_kernels(quiet, kernel, loud)

    probes = [functools.partial(probe, number) for number in range(len(cases))]
    kernels, judgements = zip(*side_by_side(array_module(stack), probes), strict=True)
    return (take(kernels, rank(judgements, 1)[0]),)


def half_width(kernel: Array) -> np.ndarray:
    """The farthest row or column, counted from the middle, where kernels (n, kh, kw) are not 0, (n,) on the host."""
    xp = array_module(kernel)
    found = []
    for axis in (-2, -1):
        side = kernel.shape[axis]
        away = xp.abs(xp.arange(side) - side // 2)
        found.append((away * (kernel.sum(axis=-3 - axis) > 0)).max(axis=-1))
    return to_host(xp.maximum(*found))
