"""The kernel size of an unknown blur: kernels are estimated in several windows, and the best one is measured."""

from __future__ import annotations

import functools

import numpy as np

from ..images.kernels import fit_size
from ..images.noise import divide_by_noise
from ..images.noise import noise_scale as scale_of_noise
from ..numerics.arrays import Array, array_module, replayed, side_by_side, to_host
from ..numerics.progress import OnProgress, subrange
from ..numerics.resample import resample, scaled_shape
from ..priors.protocol import is_replayable
from .alternation import coarse_to_fine
from .observation import Observation
from .options import TwoStepOptions
from .region import cut_patches
from .selection import KernelScores, rank, score_kernels, take

# Sides of the windows in pixels. One that exceeds half of the image's shorter side is replaced by that half.
WINDOWS = (17, 35, 71)
# In patches of large images: of these at half their size, and where the kernel fits the first of them, of these.
HALF_SIZE_WINDOWS, SMALL_WINDOWS = (17, 35, 75), (17, 35)
# Initializations that keep a kernel small in a window that is too large.
INITIALIZATIONS = ("relaxed", "compact")
# Pixels added on each side of the kernel found.
MARGIN = 2
MIN_SIDE = 7
# Warn if more than this fraction of the kernel's mass lies on the window's border: the kernel may be truncated.
BORDER_MASS_LIMIT = 0.15


def window_sides(shape: tuple[int, int], windows: tuple[int, ...] | None = None) -> list[int]:
    """The sides of `windows`, by default WINDOWS, to try for an image of `shape`, odd and rising."""
    largest = max(3, (min(shape) // 2 - 1) | 1)
    return sorted({min(side, largest) for side in windows or WINDOWS})


def estimate_sizes(
    images: Array,
    noise_scale: Array,
    options: TwoStepOptions,
    progress: OnProgress,
    windows: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Odd sides (n,) of square windows that hold the blur kernels of `images` (n, H, W) with some margin.

    A kernel is estimated in every window, from every initialization, at all scales but the finest. Of these kernels,
    padded to the largest window, the one that scores best is measured.

    Parameters
    ----------
    images : (n, H, W), or patches (n, P, H, W) with a kernel for each P.
    noise_scale : (n,), see `images.noise.noise_scale`.
    options : its `starts` are not used here.
    windows : sides of the windows, by default WINDOWS.
    """
    function = functools.partial(_best_in_largest_window, options=options, windows=windows)
    capturable = all(is_replayable(options.of_start(name).prior) for name in INITIALIZATIONS)
    (kernel,) = replayed(
        ("sizes", options, windows), function, images, noise_scale, report=progress, capturable=capturable
    )
    largest = kernel.shape[-1]
    return np.minimum(np.maximum(2 * (half_width(kernel) + MARGIN) + 1, min(MIN_SIDE, largest)), largest)


def estimate_sizes_in_patches(observed: Observation, options: TwoStepOptions, progress: OnProgress) -> np.ndarray:
    """The odd side (1,) of a window for the one kernel of large images, from patches of them at half their size.

    A kernel that is small there is estimated again at full size: half a pixel more or less would be a tenth of it.
    """
    patches = cut_patches(observed, (2 * HALF_SIZE_WINDOWS[-1] + 1,) * 2)
    half = resample(patches.luminance, scaled_shape(patches.shape, 0.5))
    scale = scale_of_noise(half).mean(keepdims=True)
    sides = estimate_sizes(half[None], scale, options, subrange(progress, 0, 0.5), HALF_SIZE_WINDOWS)
    if sides[0] > HALF_SIZE_WINDOWS[0]:
        progress(1.0)
        return np.asarray(2 * sides - 1)
    patches = cut_patches(observed, (SMALL_WINDOWS[-1],) * 2)
    scale, progress = patches.noise_scale.mean(keepdims=True), subrange(progress, 0.5, 0.5)
    return estimate_sizes(patches.luminance[None], scale, options, progress, SMALL_WINDOWS)


def _best_in_largest_window(
    images: Array, noise_scale: Array, *, options: TwoStepOptions, windows: tuple[int, ...] | None, report: OnProgress
) -> tuple[Array]:
    """The best kernel of each image over all windows and initializations, (n, side, side)."""
    sides, scaled = window_sides(images.shape[-2:], windows), divide_by_noise(images, noise_scale)
    cases = [(side, name) for side in sides for name in INITIALIZATIONS]

    def run(i: int, side: int, name: str) -> tuple[Array, KernelScores]:
        progress = subrange(report, i / len(cases), 1 / len(cases))
        kernel = coarse_to_fine(images, (side, side), options.of_start(name), progress)
        kernel = fit_size(kernel, (sides[-1], sides[-1]))
        return kernel, score_kernels(scaled, kernel, noise_scale)

    runs = [functools.partial(run, i, *case) for i, case in enumerate(cases)]
    kernels, scores = zip(*side_by_side(array_module(images), runs), strict=True)
    return (take(kernels, rank(scores, 1)[0]),)


def half_width(kernel: Array) -> np.ndarray:
    """Distance in pixels from the center to the farthest row or column that is not 0, (n,), on the host."""
    xp = array_module(kernel)
    distances = []
    for axis in (-2, -1):
        side = kernel.shape[axis]
        distance = xp.abs(xp.arange(side) - side // 2)
        distances.append((distance * (kernel.sum(axis=-3 - axis) > 0)).max(axis=-1))
    return to_host(xp.maximum(*distances))
