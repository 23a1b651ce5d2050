"""The kernel size of an unknown blur: windows of several sizes race, and the best kernel is measured."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from ..numerics.arrays import Array, array_module, replayed, to_host
from ..numerics.progress import OnProgress
from ..priors.protocol import is_replayable
from .options import TwoStepOptions
from .racing import Entry, Rival, race, race_scale
from .selection import rank, take

# Sides of the windows in pixels. One that exceeds half of the image's shorter side is replaced by that half.
WINDOWS = (17, 35, 71, 151)
# Initializations that keep a kernel small in a window that is too large.
INITIALIZATIONS = ("relaxed", "compact")
# Pixels added on each side of the kernel found: those of full size, and those of the race, which sees no faint tails.
MARGIN, RACE_MARGIN = 1, 1
MIN_SIDE = 7
# The window also holds the second best kernel, if its score is not worse by more than this: a window that is too small
# costs more than one that is too large.
CLOSE_SCORE = 0.1
# Warn if more than this fraction of the kernel's mass lies on the window's border: the kernel may be truncated.
BORDER_MASS_LIMIT = 0.15


def window_sides(shape: tuple[int, int]) -> list[int]:
    """The sides to try for an image of `shape`, odd and rising."""
    largest = max(3, (min(shape) // 2 - 1) | 1)
    return sorted({min(side, largest) for side in WINDOWS})


def size_entries(shape: tuple[int, int]) -> list[Entry]:
    """The initializations and windows that race for an image of `shape`."""
    return [Entry(name, (side, side)) for side, name in itertools.product(window_sides(shape), INITIALIZATIONS)]


def estimate_sizes(
    images: Array, noise_scale: Array, options: TwoStepOptions, progress: OnProgress
) -> tuple[np.ndarray, Rival]:
    """Odd sides (n,) of square windows that hold the blur kernels of `images` (n, H, W) with some margin.

    A kernel is estimated in every window, from every initialization, in a `race`. The one that scores best is measured,
    and returned too: it may be better than those estimated in a window of its size.

    Parameters
    ----------
    images : (n, H, W), or patches (n, P, H, W) with a kernel for each P.
    noise_scale : (n,), see `images.noise.noise_scale`.
    options : its `starts` are not used here.
    """
    shape = images.shape[-2:]
    function = functools.partial(_winner, options=options)
    capturable = all(is_replayable(options.of_start(name).prior) for name in INITIALIZATIONS)
    kernel, support = replayed(
        ("sizes", options), function, images, noise_scale, report=progress, capturable=capturable
    )
    ratio = race_scale(shape, size_entries(shape), options).ratio
    half = np.ceil((half_width(support) + (RACE_MARGIN if ratio < 1 else 0)) / ratio)
    half = half.astype(int) + MARGIN
    largest = window_sides(shape)[-1]
    return np.minimum(np.maximum(2 * half + 1, min(MIN_SIDE, largest)), largest), Rival(kernel, ratio)


def _winner(images: Array, noise_scale: Array, *, options: TwoStepOptions, report: OnProgress) -> tuple[Array, Array]:
    """The best kernel of each image over all windows and initializations, and where the window must reach.

    Both (n, side, side), at the race's scale; the second is not 0 where the kernel is not, or where one as good is not.
    """
    kernels, scores = race(lambda _: images, images, noise_scale, size_entries(images.shape[-2:]), options, report)
    first, second = (rank(scores, 2)[i] for i in (0, 1))
    gap = take([score.score for score in scores], first) - take([score.score for score in scores], second)
    best, rival = take(kernels, first), take(kernels, second)
    return best, best + array_module(images).where((gap < CLOSE_SCORE)[:, None, None], rival, 0)


def half_width(kernel: Array) -> np.ndarray:
    """Distance in pixels from the center to the farthest row or column that is not 0, (n,), on the host."""
    xp = array_module(kernel)
    distances = []
    for axis in (-2, -1):
        side = kernel.shape[axis]
        distance = xp.abs(xp.arange(side) - side // 2)
        distances.append((distance * (kernel.sum(axis=-3 - axis) > 0)).max(axis=-1))
    return to_host(xp.maximum(*distances))
