"""The size of an unknown blur: kernels of several windows are begun, the best of them is measured."""

from __future__ import annotations

import numpy as np

from ._arrays import Array, array_module, to_host
from .alternation import Report, part, start
from .choice import judge, order, pick
from .noise import quieten
from .options import TwoStepOptions
from .pyramid import fit_size

# Sides of the windows, pixels; what exceeds half of a picture's shorter side is left out, and half of it taken instead.
WINDOWS = (17, 35, 71)
# Starts that keep a kernel small in a window that is too large.
PROBES = ("relaxed", "compact")
# Free pixels on each side of what was found.
ROOM = 2
SMALLEST = 7
# Share of a kernel's mass in the outer pixels of its window from which on it may go on beyond.
TOUCHES = 0.15


def windows(shape: tuple[int, int]) -> list[int]:
    """The sides to try for a picture of `shape`, odd and rising."""
    most = max(3, (min(shape) // 2 - 1) | 1)
    return sorted({min(side, most) for side in WINDOWS})


def estimate_sizes(stack: Array, loud: Array, options: TwoStepOptions, report: Report) -> np.ndarray:
    """Odd sides (n,) of square windows that hold the blur kernels of `stack` (n, H, W) with room to spare.

    Every window is the first guess of every probe, at all scales but the finest; of their kernels, laid into the
    largest window, `choice.judge` says which explains the picture best, and its extent about its centre is the answer.

    Parameters
    ----------
    stack : (n, H, W), the pictures. loud : (n,), their `noise.loudness`.
    options : `options.starts` plays no part here.
    """
    sides = windows(stack.shape[-2:])
    most, parts = (sides[-1], sides[-1]), len(sides) * len(PROBES)
    found: list[Array] = []
    for side in sides:
        for name in PROBES:
            of_this = part(report, len(found) / parts, 1 / parts)
            kernel = start(stack, (side, side), options.of_start(name), of_this)
            found.append(fit_size(kernel, most))
    quiet = quieten(stack, loud)
    best = pick(found, order([judge(quiet, kernel, loud) for kernel in found])[0])
    return np.minimum(np.maximum(2 * (extent(best) + ROOM) + 1, min(SMALLEST, most[0])), most[0])


def extent(kernel: Array) -> np.ndarray:
    """The farthest row or column, counted from the middle, where kernels (n, kh, kw) are not 0, (n,) on the host."""
    xp = array_module(kernel)
    found = []
    for axis in (-2, -1):
        side = kernel.shape[axis]
        away = xp.abs(xp.arange(side) - side // 2)
        found.append((away * (kernel.sum(axis=-3 - axis) > 0)).max(axis=-1))
    return to_host(xp.maximum(*found))
