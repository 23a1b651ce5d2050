"""Light streaks: a blur kernel read off the traces that small lights leave in a dark scene.

A light that is smaller than a pixel leaves the kernel itself. Traces that agree with each other all over the image come
from the camera's motion; thin bright things of the scene do not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..images import checks
from ..images.checks import without_channels
from ..images.kernels import fit_size, pad_to_odd, support_sides
from ..images.planes import decode, luminance, split_alpha, to_planes
from ..images.saturation import DARK_SCENE, PLATEAU
from ..images.white import check_white, white_level
from ..numerics.arrays import Array, array_module, move, to_host
from ..numerics.fourier import fast_size
from ..numerics.interchange import any_library
from ..numerics.user_warnings import warn
from .kernel_size import MARGIN
from .observation import Observation
from .options import Settings

SIDES = (25, 41, 71)  # pixels, of the longest traces looked for
# A trace is what exceeds one of these fractions of its peak, around the peak; the lowest at which it is apart from the
# rest, with less than that at its rim.
LEVELS = (0.2, 0.35, 0.5)
# Peaks are at least this share of the brightest, and so many deviations of the noise, above their background.
PEAK_SHARE, PEAK_NOISE = 0.05, 8.0
DARK = 0.6  # background of a trace, in units of its peak above it
MIN_LENGTH = 9  # pixels
MAX_AREA = 0.25  # of the square of its length: a trace is thin
MAX_PEAKS, MAX_TRACES = 600, 48
# Correlation, after the best shift, at which two traces agree; traces that must; and the floor of the kernel.
AGREEMENT, MIN_TRACES, FLOOR = 0.88, 4, 0.05
RIM = 2  # pixels kept around a trace


class Trace(NamedTuple):
    """A bright thin trace: its peak above the background, its thinness in [0, 1], its pixels with `RIM` around them."""

    peak: float
    thinness: float
    light: np.ndarray


class StreakKernel(NamedTuple):
    """A kernel (s, s), the mean correlation of its traces, and their number."""

    kernel: np.ndarray
    agreement: float
    traces: int


@any_library
def streak_kernel(
    image: Array,
    max_side: int = SIDES[-1],
    *,
    channel_axis: int | None = None,
    gamma: float = 1.0,
    white: float | str | None = None,
) -> Array:
    """The blur kernel that the traces of small lights show in an image, such as those of lamps and stars at night.

    Nothing is estimated: traces that are bright, thin, apart from the rest and alike are aligned, and their median is
    the kernel. Lights that are larger than a pixel make it thicker than the blur; ``deblur(image, initial=kernel)``
    takes it as a beginning.

    Parameters
    ----------
    image : (H, W), or (H, W, C) with ``channel_axis=-1``
        See `deblur`; a single image.
    max_side : int, pixels
        The longest trace.
    channel_axis, gamma, white : see `deblur`.

    Returns
    -------
    (k, k) float64 array
        Convolution sense, non-negative, sum 1, of odd side; in the memory of `image`.

    Raises
    ------
    TypeError, ValueError
        An argument is invalid; or fewer than four traces are alike.

    Warns
    -----
    UserWarning
        The image is not dark, or reaches full scale nowhere, so that it may show no lights.
    """
    checks.check_picture(image, channel_axis=channel_axis)
    side = checks.check_count("max_side", max_side, minimum=MIN_LENGTH)
    checks.check_gamma(gamma)
    if without_channels(image, channel_axis)[:-2]:
        raise ValueError(f"image must be a single one, got shape {image.shape}; call once for each image of a stack")
    colors, _ = split_alpha(image, channel_axis)
    level = white_level(colors, check_white(white), channel_axis=channel_axis, dtype="float32")
    planes = to_planes(colors, channel_axis=channel_axis, dtype="float32", white=level)
    mean, maximum = float(planes.mean()), float(planes.max())
    planes = decode(planes, gamma)
    streaks = find_streaks(to_host(planes if channel_axis is None else luminance(planes[None])[0]), side)
    if streaks is None:
        raise ValueError(
            f"image must have {MIN_TRACES} or more traces of lights that are alike, got fewer; use estimate_kernel"
        )
    if mean >= DARK_SCENE or maximum < PLATEAU:
        warn(
            f"image may show no lights (mean {mean:.2f} and maximum {maximum:.2f} of full scale; night scenes have "
            f"less than {DARK_SCENE} and more than {PLATEAU}): what is taken for their traces, {streaks.traces} thin "
            "bright lines, may belong to the scene; look at the kernel, or use estimate_kernel"
        )
    return move(streaks.kernel, array_module(image))


def find_streaks(image: np.ndarray, max_side: int = SIDES[-1]) -> StreakKernel | None:
    """The kernel that most traces of lights in an image have in common, or None if there are no such traces.

    Parameters
    ----------
    image : (H, W) float.
    max_side : longest trace, in pixels.

    Returns
    -------
    StreakKernel or None
        Convolution sense, of odd side, sum 1. The traces of lights that are larger than a pixel or clipped are thicker
        than the kernel: it is where an estimate begins.
    """
    sides = sorted({min(side, max_side) for side in SIDES})  # with a wide one, lights are not apart
    kernel, _ = max((_common_trace(light_traces(image, side), side) for side in sides), key=lambda result: result[1])
    return kernel


def with_initial(observed: Observation, settings: Settings, *, search: bool) -> Observation:
    """`observed` with the user's initial kernel; or, with `search`, those of the light streaks in dark images.

    Lights reach full scale; in an image that does not, such as text on black, letters are alike. The search waits for a
    device, and takes place on the host.
    """
    if settings.initial is not None:
        kernel = to_host(settings.initial) if observed.xp is np else settings.initial
        return replace(observed, initial=observed.xp.asarray(kernel, dtype=observed.image.dtype)[None])
    if not search or len(settings.options.starts) == 1:
        return observed
    dark = observed.is_dark & (to_host(observed.luminance.max(axis=(-2, -1))) >= PLATEAU)
    limit = SIDES[-1] if settings.kernel_size is None else min(settings.kernel_size)
    limit = min(limit, (min(observed.shape) // 2 - 1) | 1)
    streaks = {int(i): find_streaks(to_host(observed.luminance[i]), limit) for i in np.flatnonzero(dark)}
    kernels = {i: streak.kernel for i, streak in streaks.items() if streak is not None}
    if not kernels:
        return observed
    side = max(len(kernel) for kernel in kernels.values())
    initial = np.full((len(observed), side, side), np.nan)
    for i, kernel in kernels.items():
        initial[i] = fit_size(kernel, (side, side))
    return replace(observed, initial=observed.xp.asarray(initial, dtype=observed.image.dtype))


def initial_sides(initial: Array) -> np.ndarray:
    """Odd sides (n,) of windows that hold kernels (n, s, s) with a margin; 0 where they are NaN. Waits for a device."""
    kernels = np.nan_to_num(to_host(initial))
    sides = [max(support_sides(kernel[None])) + 2 * MARGIN if kernel.any() else 0 for kernel in kernels]
    return np.array(sides)


def _common_trace(traces: list[Trace], max_side: int) -> tuple[StreakKernel | None, float]:
    """The kernel of the traces that agree with that which has most votes, and its votes: peaks of thin traces."""
    if len(traces) < MIN_TRACES:
        return None, 0.0
    correlation, shifts = _correlations([trace.light for trace in traces])
    agree = correlation > AGREEMENT
    votes = np.where(agree, correlation, 0) @ [trace.peak * trace.thinness for trace in traces]
    votes[agree.sum(axis=1) < MIN_TRACES] = 0
    reference = int(votes.argmax())
    if votes[reference] == 0:
        return None, 0.0
    members = np.flatnonzero(agree[reference])
    margin = max_side // 2
    height, width = (n + 2 * margin for n in traces[reference].light.shape)
    canvas = np.zeros((len(members), height, width))
    for plane, member in zip(canvas, members, strict=True):
        light = traces[member].light / traces[member].light.sum()
        top, left = (margin + int(shift) for shift in shifts[reference, member])
        rows, columns = (
            slice(max(0, start), min(n, start + m))
            for start, n, m in zip((top, left), (height, width), light.shape, strict=True)
        )
        plane[rows, columns] = light[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    kernel = np.median(canvas, axis=0)
    kernel[kernel < FLOOR * kernel.max()] = 0
    agreement = float(correlation[reference, members].mean())
    return StreakKernel(_cropped(kernel), agreement, len(members)), float(votes[reference])


def light_traces(image: np.ndarray, max_side: int) -> list[Trace]:
    """The thin bright traces of at most `max_side` pixels that lie apart in an image (H, W), the brightest first."""
    nd = _ndimage()
    background = nd.grey_opening(nd.uniform_filter(image, 3), (max_side + 2, max_side + 2))
    light = np.maximum(image - background, 0)
    noise = 1.4826 * np.median(abs(image - nd.median_filter(image, 3))) + 1e-4
    limit = max(PEAK_SHARE * light.max(), PEAK_NOISE * noise)
    is_peak = (light == nd.maximum_filter(light, 7)) & (light > limit) & (background < DARK * light)
    ys, xs = np.nonzero(is_peak)
    used, traces = np.zeros(image.shape, dtype=bool), list[Trace]()
    for i in np.argsort(-light[ys, xs], kind="stable")[:MAX_PEAKS]:
        if used[ys[i], xs[i]]:
            continue
        trace = _trace_at(light, int(ys[i]), int(xs[i]), max_side, used)
        if trace is not None:
            traces.append(trace)
        if len(traces) == MAX_TRACES:
            break
    return traces


def _trace_at(light: np.ndarray, y: int, x: int, max_side: int, used: np.ndarray) -> Trace | None:
    """The trace of which (y, x) is the peak; its pixels become True in `used`."""
    nd, square = _ndimage(), np.ones((3, 3), dtype=bool)
    window = slice(max(0, y - max_side), y + max_side + 1), slice(max(0, x - max_side), x + max_side + 1)
    near, peak = light[window], light[y, x]
    at = y - window[0].start, x - window[1].start
    for level in LEVELS:
        labels, _ = nd.label(near > level * peak, square)
        mask = labels == labels[at]
        rows, columns = nd.find_objects(mask.astype(np.uint8))[0]
        sides = rows.stop - rows.start, columns.stop - columns.start
        is_whole = rows.start > 0 and rows.stop < near.shape[0] and columns.start > 0 and columns.stop < near.shape[1]
        if not is_whole or not MIN_LENGTH <= max(sides) <= max_side or near[mask].max() > peak:
            continue
        rim = nd.binary_dilation(mask, square, iterations=4) & ~nd.binary_dilation(mask, square, iterations=2)
        area = near[mask].sum() / np.quantile(near[mask], 0.9) / (sides[0] ** 2 + sides[1] ** 2)
        if np.quantile(near[rim], 0.9) > level * peak or area > MAX_AREA:
            continue
        base = np.median(near[rim])
        alone = np.where(nd.binary_dilation(mask, square), np.maximum(near - base, 0), 0)
        used[window] |= mask
        box = tuple(slice(max(0, side.start - RIM), side.stop + RIM) for side in (rows, columns))
        return Trace(float(peak), float(1 - area / MAX_AREA), alone[box])
    return None


def _correlations(patches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Largest normalized correlation of each pair of patches, (n, n), and the shift of the second there, (n, n, 2)."""
    count = len(patches)
    side = fast_size(2 * max(max(patch.shape) for patch in patches))
    spectra = np.stack([np.fft.rfft2(patch / np.sqrt((patch**2).sum()), (side, side)) for patch in patches])
    correlation, shifts = np.eye(count), np.zeros((count, count, 2), dtype=int)
    for i in range(count - 1):
        product = np.fft.irfft2(spectra[i] * spectra[i + 1 :].conj(), (side, side)).reshape(-1, side * side)
        at = product.argmax(axis=1)
        correlation[i, i + 1 :] = correlation[i + 1 :, i] = np.take_along_axis(product, at[:, None], axis=1)[:, 0]
        shift = (np.stack([at // side, at % side], axis=1) + side // 2) % side - side // 2
        shifts[i, i + 1 :], shifts[i + 1 :, i] = shift, -shift
    return correlation, shifts


def _cropped(kernel: np.ndarray) -> np.ndarray:
    """A kernel in the smallest odd square that holds it, sum 1."""
    box = _ndimage().find_objects((kernel > 0).astype(np.uint8))[0]
    side = max(part.stop - part.start for part in box) | 1
    cropped = pad_to_odd(kernel[box])
    return fit_size(cropped / cropped.sum(), (side, side))


def _ndimage() -> Any:
    import scipy.ndimage

    return scipy.ndimage
