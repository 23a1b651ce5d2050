"""Defects that nobody told of: dead lines, hot pixels and sharp overlays in a blurred image, and constant borders.

Nothing in a blurred image is sharper than its blur permits. The filter that shows what is sharper is learned from the
image itself: the inverse of its power spectrum, the median over blocks. It is the matched filter of a single pixel, and
lets through what the blur has removed; an edge along a straight motion, which stays sharp, does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arrays import Array, array_module, constant, sum_pixels, to_host, to_host_together
from ..numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from ..numerics.inpainting import inpaint
from ..numerics.user_warnings import warn
from .borders import MIN_WIDTH, border_profiles, border_windows, inside
from .noise import EXPONENTIAL_MEDIAN, GAUSSIAN_MEDIAN, median
from .saturation import DARK_SCENE, find_saturated
from .white import full_scale

MIN_SIDE = 32
BLOCK, REACH = 16, 5  # sides: of the blocks of the spectrum, and pixels on either side of the filter's middle
# Medians are taken of so many pixels, pixels of a line, and blocks of the spectrum, or somewhat more.
PIXELS, LINE_PIXELS, BLOCKS = 1 << 13, 100, 256
NOISE_FLOOR = 5e-4  # of the image's range: less noise than that of 8 bits is no reason to see more
CONTRAST_FLOOR = 4e-3
# Thresholds as pairs: multiples of the image's own deviation, and fractions of the contrast within 7 x 7 pixels (for
# lines of that at which a step is sharp). In 200 blurred images without defects the largest medians along lines were
# (6, 0.4), and at most two pixels exceeded CERTAIN.
CERTAIN, STRONG, WEAK, FAINT, HOT = (10.0, 0.4), (8.0, 0.35), (6.0, 0.25), (3.5, 0.15), (8.0, 0.6)
LINE = (1.0, 0.65)
# How often an overlay must exceed what is sharpest in nine of ten blocks of the rest of the image, and a hot pixel the
# sharpest 0.1 % of it; one that is not clearly single, more. So an image that is sharp has none of these.
OVERLAY_RATIO, HOT_RATIO, SPIKE_RATIO = 2.6, 2.0, 4.0
# What the Laplacian of an image with steps exceeds: a share of the range, and its own deviation by noise times this.
STEP, NOISE_STEP = 0.2, 6.0
MAX_LINE_WIDTH = 4
SHARPEST = 0.999  # quantile
MAX_OVERLAY, MAX_HOT = 0.4, 0.05  # shares of the image
MIN_PIXELS, MIN_OVERLAY_PIXELS = 4, 8  # strong ones of a letter, and certain ones of an overlay
WORD_GAP, BOX_FILL = 6, 0.35  # pixels around letters of a line; share of a line's box
MAX_LIGHTS = 0.01  # fraction of a dark scene that is saturated, above which no overlay is looked for
NEAR = 40  # pixels within which an overlay's fainter parts are looked for


class DefectWarning(UserWarning):
    """Defects were found in an image and left out. `at_command_line` is the text for there."""

    def __init__(self, message: str) -> None:
        super().__init__(message.format("defects=None"))
        self.at_command_line = message.format("--defects none")


@dataclass(frozen=True)
class Defects:
    """What `find_defects` found in an image or in a stack.

    Attributes
    ----------
    valid : bool of the image's shape, False at all defects.
    inside : bool of the image's shape, False on constant borders, which come back as they are; None without borders.
        Everything else that is not valid is filled in.
    names : a phrase for each kind of defect.
    windows : (n, 4) of the images in one row, the `border_windows`; None if there is no constant border.
    """

    valid: Array
    inside: Array | None
    names: tuple[str, ...]
    windows: np.ndarray | None

    def warn(self) -> None:
        """Warn of the defects, with the way out."""
        if self.inside is None:
            outcome = " and filled in"
        else:
            outcome = ", and returned as it is" if len(self.names) == 1 else "; all but the border is filled in"
        warn(
            DefectWarning(
                f"image has {' and '.join(self.names)}, left out{outcome}; if it belongs to the scene, give {{}} "
                "and a mask of the rest"
            )
        )


def has_steps(planes: Array) -> bool:
    """Whether images (..., H, W) have steps from pixel to pixel, so that there may be defects. On CuPy it waits.

    A quick look: of training images blurred by 15 px and more, four in ten have some, of defects all but faint lines.
    """
    if min(planes.shape[-2:]) < 4 * MIN_WIDTH:
        return False
    size = abs(_laplacian(planes)[..., 1:-1, 1:-1])
    noise = median(_sample(size.reshape(*planes.shape[:-2], -1), PIXELS)) / GAUSSIAN_MEDIAN
    span = planes.max(axis=-1).max(axis=-1) - planes.min(axis=-1).min(axis=-1)  # by steps, see `sum_pixels`
    return bool(array_module(planes).any(size.max(axis=-1).max(axis=-1) > STEP * span + NOISE_STEP * noise))


def find_defects(image: Array, valid: Array | None = None, channel_axis: int | None = None) -> Defects | None:
    """The defects of `image`, or None. On CuPy it waits, for a clean image once.

    Parameters
    ----------
    image : (..., H, W), or with one more axis for the channels; finite where it is valid.
    valid : bool of its shape, optional. Other pixels are not looked at.
    """
    xp = array_module(image)
    planes = image if channel_axis is None else xp.moveaxis(image, channel_axis, -3)
    height, width = planes.shape[-2:]
    if min(height, width) < 4 * MIN_WIDTH:
        return None
    lead = planes.shape[: -2 if channel_axis is None else -3]
    planes = planes.reshape(-1, 1 if channel_axis is None else planes.shape[-3], height, width)
    values = planes.astype(np.result_type(planes.dtype, np.float32), copy=False)
    usable = valid
    if usable is not None:
        usable = (usable if channel_axis is None else xp.moveaxis(usable, channel_axis, -3)).reshape(planes.shape)
        values = inpaint(xp.where(usable, values, 0), usable)
    is_large = min(height, width) >= MIN_SIDE
    maps = _sharpness(values) if is_large else None
    arrays = [] if maps is None else [_is_suspect(maps, usable)]
    arrays += border_profiles(values) if usable is None else []
    host = to_host_together(xp, arrays)  # here CuPy must wait
    windows = border_windows(*host[-7:]) if usable is None else None
    border = None if windows is None else inside(windows, (height, width))
    suspects = np.zeros((len(planes), 2)) if maps is None else host[0]
    if border is not None and maps is not None:
        usable = xp.broadcast_to(xp.asarray(border)[:, None], planes.shape)
        values = inpaint(xp.where(usable, values, 0), usable)
        maps = _sharpness(values)
        (suspects,) = to_host_together(xp, [_is_suspect(maps, usable)])
    located = dict[int, Location]()
    if maps is not None:
        is_suspect = suspects[:, 0] != 0
        open_ones = np.flatnonzero(~is_suspect & (suspects[:, 1] != 0))
        is_suspect[open_ones] = _have_single_pixels(values, maps, open_ones)
        for i in np.flatnonzero(is_suspect).tolist():
            inside_image = None if usable is None else to_host(usable[i])
            location = _locate(to_host(values[i]), maps.on_host(i), inside_image, full_scale(image.dtype))
            if location.lost.any():
                located[i] = location
    if not located and border is None:
        return None
    mask = np.ones((len(planes), height, width), dtype=bool) if border is None else border.copy()
    for number, location in located.items():
        mask[number] &= ~location.lost

    def as_image(mask: np.ndarray) -> Array:
        whole = xp.asarray(np.broadcast_to(mask[:, None], planes.shape))
        whole = whole.reshape(*lead, *planes.shape[2 if channel_axis is None else 1 :])
        return whole if channel_axis is None else xp.moveaxis(whole, -3, channel_axis)

    is_valid = as_image(mask)
    return Defects(
        is_valid if valid is None else is_valid & valid,
        None if border is None else as_image(border),
        _names(border is not None, list(located.values())),
        windows,
    )


def _names(has_border: bool, located: list[Location]) -> tuple[str, ...]:
    """A phrase for each kind of defect."""
    names = ["a constant border, as a letterbox or a frame has"] if has_border else []
    for axis, name in ((0, "row"), (1, "column")):
        lines = sorted({line for location in located for line in location.lines[axis]})
        if lines:
            names.append(f"dead {name}{'s' * (len(lines) > 1)} {_listed([str(line) for line in lines])}")
    count = sum(location.hot_count for location in located)
    if count:
        names.append(f"{count} hot or dead pixel{'s' * (count > 1)}")
    boxes = [box for location in located for box in location.boxes]
    if boxes:
        names.append(f"sharp overlays at {_listed(boxes)}")
    return tuple(names)


def _listed(items: Sequence[str], limit: int = 6) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


# ---- what is sharper than the image's blur: the same for NumPy and CuPy


class Sharpness(NamedTuple):
    """How far each pixel and each line of images is from what its neighbors predict.

    Deviations are in units of their spread over the image, fractions in units of the local contrast.
    """

    deviation: Array  # (n, C, H, W)
    fraction: Array
    row_deviation: Array  # (n, C, H), medians along the rows
    row_fraction: Array
    column_deviation: Array  # (n, C, W)
    column_fraction: Array

    def on_host(self, i: int) -> Sharpness:
        """Those of image `i`, without its axis."""
        return Sharpness(*(to_host(array[i]) for array in self))

    def exceeds(self, limits: tuple[float, float]) -> Array:
        """Where pixels exceed `limits` of both, (..., H, W)."""
        return _over(self.deviation, self.fraction, limits)


def _sharpness(planes: Array) -> Sharpness:
    """The `Sharpness` of images (n, C, H, W)."""
    xp = array_module(planes)
    means = _blocks(planes).mean(axis=(-2, -1))
    low = means.min(axis=-1)
    span = means.max(axis=-1) - low
    span = xp.where(span > 0, span, 1)[..., None, None]
    scaled = ((planes - low[..., None, None]) / span).astype(np.float32)
    detail = _laplacian(scaled)
    taps = xp.stack([_inverse_filter(channel) for channel in detail.swapaxes(0, 1)], axis=1)
    response = _laplacian(xp.pad(taps, [(0, 0)] * (taps.ndim - 2) + [(2, 2), (2, 2)]))[..., 1:-1, 1:-1]  # to a pixel
    gain = response[..., REACH + 1, REACH + 1][..., None, None]
    taps, response = taps / gain, response / gain
    error = _filtered(detail, taps)
    del detail
    spread = median(_sample(abs(error).reshape(*error.shape[:-2], -1), PIXELS)) / GAUSSIAN_MEDIAN
    contrast = _extremes(xp.maximum, scaled)
    contrast -= _extremes(xp.minimum, scaled)
    contrast += CONTRAST_FLOOR
    fraction = error / contrast
    deviation = xp.divide(error, xp.maximum(spread, NOISE_FLOOR)[..., None, None], out=error)
    del scaled, contrast
    maps = [deviation, fraction]
    for axis in (-1, -2):
        edge = abs(xp.cumsum(response.sum(axis=axis), axis=-1)).max(axis=-1)[..., None]  # response to a sharp step
        for values, unit in ((deviation, 1), (fraction, edge)):
            lines = values if axis == -1 else values.swapaxes(-2, -1)
            maps.append(median(_sample(lines, LINE_PIXELS)) / unit)
    return Sharpness(*maps)


def _filtered(detail: Array, taps: Array) -> Array:
    """`detail` (..., H, W), continued symmetrically, filtered with `taps`."""
    xp, (height, width), lead = array_module(detail), detail.shape[-2:], [(0, 0)] * (detail.ndim - 2)
    size = fast_size(height + 2 * REACH), fast_size(width + 2 * REACH)
    padded = xp.pad(detail, [*lead, (REACH, REACH), (REACH, REACH)], mode="symmetric")
    padded = xp.pad(padded, [*lead, *((0, n - m) for n, m in zip(size, padded.shape[-2:], strict=True))])
    spectrum = rfft2(padded, overwrite=True)
    spectrum *= psf_to_otf(taps, size) * np.float32(1 / (size[0] * size[1]))
    filtered = irfft2(spectrum, size, overwrite=True)
    return xp.ascontiguousarray(filtered[..., REACH : REACH + height, REACH : REACH + width])


def _is_suspect(maps: Sharpness, usable: Array | None) -> Array:
    """Whether `_locate` may find something in images, and whether it may if pixels are single; (n, 2), as floats.

    Exact: one in ten photographs without defects has a pixel that is sharp enough to be hot, and `_locate` is slow.
    """
    xp = array_module(maps.deviation)
    rows = _over(maps.row_deviation, maps.row_fraction, LINE)
    columns = _over(maps.column_deviation, maps.column_fraction, LINE)
    has_lines = rows.any(axis=-1).any(axis=-1) | columns.any(axis=-1).any(axis=-1)
    candidates = maps.exceeds((HOT[0], WEAK[1]))
    if usable is not None:
        candidates &= usable
        pixels = candidates | (maps.exceeds(STRONG) & usable)
        has_pixels = pixels.any(axis=-1).any(axis=-1).any(axis=-1)  # by steps, see `sum_pixels`
        return xp.stack([has_lines | has_pixels, xp.zeros_like(has_lines)], axis=-1).astype(np.float32)
    sharp = sum_pixels(maps.exceeds(CERTAIN).any(axis=1).astype(np.float32)) >= MIN_OVERLAY_PIXELS
    size = abs(maps.deviation)
    highest = (size * candidates).max(axis=-1).max(axis=(1, 2))
    size = size.max(axis=1)
    above = sum_pixels((size > highest[:, None, None] / SPIKE_RATIO).astype(np.float32))
    peaks = (highest > 0) & (above <= (1 - SHARPEST) * size[0].size + 1)
    return xp.stack([has_lines | sharp | peaks, highest > 0], axis=-1).astype(np.float32)


def _have_single_pixels(values: Array, maps: Sharpness, numbers: np.ndarray) -> np.ndarray:
    """Which of the images with the `numbers` have pixels that differ from all of their neighbors, bool."""
    if len(numbers) == 0:
        return np.zeros(0, dtype=bool)
    xp, (height, width) = array_module(values), values.shape[-2:]
    images = xp.asarray(numbers)
    fraction = maps.fraction[images]
    which, channel, y, x = xp.nonzero(_over(maps.deviation[images], fraction, (HOT[0], WEAK[1])))
    around = xp.arange(-3, 4)
    rows, columns = (
        (n - 1 - abs(n - 1 - abs(at[:, None] + around)))  # reflected
        for n, at in ((height, y), (width, x))
    )
    windows = values[images[which][:, None, None], channel[:, None, None], rows[:, :, None], columns[:, None]]
    arrays = [which.astype(np.float64), windows, fraction[which, channel, y, x]]
    which, windows, fraction = to_host_together(xp, arrays)
    result = np.zeros(len(numbers), dtype=bool)
    result[which[_is_single(windows, fraction)].astype(int)] = True
    return result


def _over(deviation: Array, fraction: Array, limits: tuple[float, float]) -> Array:
    return (abs(deviation) > limits[0]) & (abs(fraction) > limits[1])


def _inverse_filter(detail: Array) -> Array:
    """The matched filter of a single pixel for the `_laplacian` of images, (..., 2 REACH + 1, 2 REACH + 1)."""
    xp = array_module(detail)
    window, laplacian = constant(xp, _window), constant(xp, _laplacian_spectrum)
    blocks = _blocks(detail)
    blocks = blocks[..., :: max(1, blocks.shape[-3] // BLOCKS), :, :] * window
    spectrum = xp.fft.rfft2(blocks)
    del blocks
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32).reshape(*spectrum.shape[:-2], -1)
    del spectrum
    power = median(xp.ascontiguousarray(power.swapaxes(-2, -1))) / EXPONENTIAL_MEDIAN
    power = power.reshape(*power.shape[:-1], *laplacian.shape)
    taps = xp.fft.irfft2(laplacian / xp.maximum(power, NOISE_FLOOR**2 * laplacian**2 + 1e-12), (BLOCK, BLOCK))
    taps = xp.roll(taps, (REACH, REACH), axis=(-2, -1))[..., : 2 * REACH + 1, : 2 * REACH + 1]
    return (taps * constant(xp, _taper)).astype(np.float32)


def _sample(values: Array, count: int) -> Array:
    """At least `count` of the values along the last axis, evenly, or all."""
    return array_module(values).ascontiguousarray(values[..., :: max(1, values.shape[-1] // count)])


def _window() -> np.ndarray:
    """A Hann window of the energy 1, so that white noise has its variance as power."""
    side = np.sin(np.pi * (np.arange(BLOCK) + 0.5) / BLOCK) ** 2
    window = np.outer(side, side)
    return (window / np.sqrt((window**2).sum())).astype(np.float32)


def _laplacian_spectrum() -> np.ndarray:
    side = 2 - 2 * np.cos(2 * np.pi * np.arange(BLOCK) / BLOCK)
    return (side[:, None] + side[None, : BLOCK // 2 + 1]).astype(np.float32)


def _taper() -> np.ndarray:
    side = np.cos(np.pi * np.arange(-REACH, REACH + 1) / (2 * REACH + 2)) ** 2
    return np.outer(side, side).astype(np.float32)


def _blocks(planes: Array) -> Array:
    """Blocks of BLOCK x BLOCK pixels, half of them displaced by half a block, (..., count, BLOCK, BLOCK)."""
    xp, lead, (height, width) = array_module(planes), planes.shape[:-2], planes.shape[-2:]
    grids = []
    for start in (0, BLOCK // 2):
        rows, columns = (height - start) // BLOCK, (width - start) // BLOCK
        part = planes[..., start : start + rows * BLOCK, start : start + columns * BLOCK]
        part = part.reshape(*lead, rows, BLOCK, columns, BLOCK).swapaxes(-3, -2)
        grids.append(part.reshape(*lead, rows * columns, BLOCK, BLOCK))
    return xp.concatenate(grids, axis=-3)


def _laplacian(planes: Array) -> Array:
    edges = [(0, 0)] * (planes.ndim - 2) + [(1, 1), (1, 1)]
    padded = array_module(planes).pad(planes, edges, mode="reflect", reflect_type="odd")  # a slope goes on
    across = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return 4 * planes - (across + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1])


def _extremes(function: Any, planes: Array) -> Array:
    """The maximum or minimum of 7 x 7 pixels."""
    planes = array_module(planes).pad(planes, [(0, 0)] * (planes.ndim - 2) + [(3, 3), (3, 3)], mode="edge")
    for step in (1, 2, 3):
        planes = function(planes[..., :-step], planes[..., step:])
    for step in (1, 2, 3):
        planes = function(planes[..., :-step, :], planes[..., step:, :])
    return planes


# ---- where the defects of a suspect image are: on the host


@dataclass(frozen=True)
class Location:
    """The defects of one image: bool (H, W), numbers of (rows, columns), a count, boxes of overlays as text."""

    lost: np.ndarray
    lines: tuple[list[int], list[int]]
    hot_count: int
    boxes: list[str]


def _locate(values: np.ndarray, maps: Sharpness, usable: np.ndarray | None, white: float) -> Location:
    """The defects of an image, from its channels (C, H, W) and their `_sharpness`; `white` is full scale."""
    shape = values.shape[-2:]
    dead, steps = np.zeros((2, *shape), dtype=bool)
    lines: tuple[set[int], set[int]] = (set(), set())
    for plane, *profiles in zip(values, *maps[2:], strict=True):
        for axis in (0, 1):
            picture = plane if axis == 0 else plane.T
            dead_lines, step_lines = _dead_lines(picture, *profiles[2 * axis : 2 * axis + 2])
            lines[axis].update(dead_lines)
            for mask, numbers in ((dead, dead_lines), (steps, step_lines)):
                (mask if axis == 0 else mask.T)[numbers] = True
    size, part = abs(maps.deviation).max(axis=0), np.ones(shape, dtype=bool)
    if usable is not None:
        part = ndimage().binary_erosion(usable.all(axis=0), iterations=2, border_value=1)
    part &= ~ndimage().binary_dilation(dead, iterations=2)
    single = np.logical_or.reduce([_single_pixels(*planes) for planes in zip(values, *maps[:2], strict=True)])
    single &= part
    overlay = _overlay(values, maps, steps, part, single)
    if overlay.any() and _has_lights(values / white, overlay):
        overlay[:] = False
    hot = single & ~overlay
    beside = overlay | ndimage().binary_dilation(hot, np.ones((3, 3)), iterations=2)
    rest = size[part & ~beside]
    sharpest = np.quantile(rest, SHARPEST) if len(rest) else np.inf
    hot &= size > HOT_RATIO * sharpest
    # At the edges of the scene, its contrast hides that a pixel is single.
    peak = size == ndimage().maximum_filter(size, 3)
    peak &= maps.exceeds((SPIKE_RATIO * float(sharpest), WEAK[1])).any(axis=0)
    hot |= peak & part & ~overlay
    if hot.mean() > MAX_HOT:
        hot[:] = False
    return Location(
        dead | hot | overlay,
        (sorted(lines[0]), sorted(lines[1])),
        int(hot.sum()),
        _boxes(overlay),
    )


def ndimage() -> Any:
    import scipy.ndimage

    return scipy.ndimage


def _dead_lines(plane: np.ndarray, deviation: np.ndarray, fraction: np.ndarray) -> tuple[list[int], list[int]]:
    """(rows of an image that are dead, rows beside a sharp step), from the medians along them."""
    exceeds, count = _over(deviation, fraction, LINE), len(plane)
    dead, steps = list[int](), list[int]()
    labels, groups = ndimage().label(ndimage().binary_closing(np.pad(exceeds, 2))[2:-2] | exceeds)
    for group in range(1, groups + 1):
        lines = np.flatnonzero(labels == group)
        size = abs(fraction[lines])
        sign = np.sign(fraction[lines[size.argmax()]])
        peaks = lines[(size >= 0.5 * size.max()) & (np.sign(fraction[lines]) == sign)]
        first, last = int(peaks[0]), int(peaks[-1])
        is_line = first > 0 and last < count - 1 and last - first < MAX_LINE_WIDTH
        if is_line:
            before, after = plane[first - 1], plane[last + 1]
            depth = abs(plane[first : last + 1] - (before + after) / 2).max(axis=0)
            is_line = bool(np.median(depth) > 2 * np.median(abs(before - after)))
        at_start, at_end = lines[0] <= 1, lines[-1] >= count - 2
        if is_line:
            dead += range(first, last + 1)
        elif at_start and _is_dead_at_border(plane):
            dead.append(0)
        elif at_end and _is_dead_at_border(plane[::-1]):
            dead.append(count - 1)
        else:
            steps += [int(j) for j in lines]
    return dead, steps


def _is_dead_at_border(plane: np.ndarray) -> bool:
    """Whether the first row alone differs from the next."""
    first, second, third = plane[:3]
    return bool(np.median(abs(first - second)) > 2 * np.median(abs(second - third)))


def _single_pixels(plane: np.ndarray, deviation: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Where a pixel differs from all of its neighbors but one."""
    candidates = _over(deviation, fraction, (HOT[0], WEAK[1]))
    y, x = np.nonzero(candidates)
    if len(y) == 0:
        return candidates
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(plane, 3, mode="reflect"), (7, 7))[y, x]
    result = np.zeros_like(candidates)
    result[y, x] = _is_single(windows, fraction[y, x])
    return result


def _is_single(windows: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Whether the middle of `windows` (n, 7, 7) differs from all of its neighbors but one."""
    count = len(windows)
    near = abs(windows[:, 2:5, 2:5] - windows[:, 3:4, 3:4]).reshape(count, 9)
    second = np.partition(near, 2, axis=-1)[:, 2]  # the least are the pixel itself and one neighbor
    ordered = np.sort(windows.reshape(count, 49), axis=-1)
    contrast = np.where(abs(fraction) > HOT[1], 0.6 * (ordered[:, -1] - ordered[:, 0]), np.inf)
    contrast = np.minimum(contrast, ordered[:, -4] - ordered[:, 3])  # without other hot pixels
    is_single: np.ndarray = second > contrast
    return is_single


def _overlay(
    values: np.ndarray, maps: Sharpness, steps: np.ndarray, part: np.ndarray, single: np.ndarray
) -> np.ndarray:
    """Where sharp edges lie close together, and what they enclose; nowhere if the rest of the image is as sharp."""
    nd, square = ndimage(), np.ones((3, 3), dtype=bool)
    size, nothing = abs(maps.deviation).max(axis=0), np.zeros_like(part)
    strong = maps.exceeds(STRONG).any(axis=0) & part
    weak = maps.exceeds(WEAK).any(axis=0) & part
    crowd = nd.uniform_filter(strong.astype(np.float32), 9) * 81
    strong &= ~(nd.binary_dilation(single, square) & (crowd < 2 * MIN_PIXELS + 9))
    region = _enclosed(strong | (weak & nd.binary_dilation(strong, square, iterations=3)) | steps, strong | steps)
    if not region.any():
        return nothing
    beside = nd.binary_dilation(region | single, square, iterations=8)
    level = _sharpness_of_rest(np.where(part, size, 0), beside)
    inside = strong & region
    if inside.any() and np.median(size[inside]) < OVERLAY_RATIO * level:
        return nothing
    # Fainter parts, such as letters on a background as bright as they are, lie near; the faintest in the same line.
    for near, share, limits in (((NEAR, NEAR), 1.5, WEAK), ((NEAR // 10, 3 * NEAR), 1.0, FAINT)):
        fainter = maps.exceeds(limits).any(axis=0) & part & (size > share * level)
        fainter &= nd.maximum_filter(region, (2 * near[0] + 1, 2 * near[1] + 1)) & ~(
            nd.binary_dilation(single, square) & ~region
        )
        region = _enclosed(region | fainter, region | fainter)
    region = _boxed(region)
    certain = maps.exceeds(CERTAIN).any(axis=0) & part & region
    if certain.sum() < MIN_OVERLAY_PIXELS and not steps.any():
        return nothing
    low, high = values.min(axis=(-2, -1), keepdims=True), values.max(axis=(-2, -1), keepdims=True)
    ranges = nd.maximum_filter(values, (1, 3, 3)) - nd.minimum_filter(values, (1, 3, 3))
    flat, _ = nd.label((ranges <= 1e-3 * (high - low)).all(axis=0))
    touched = np.unique(flat[nd.binary_dilation(region, square, iterations=2)])
    region |= np.isin(flat, touched[touched > 0])
    region = nd.binary_fill_holes(nd.binary_dilation(region, square, iterations=2))
    return region if region.mean() <= MAX_OVERLAY else nothing


def _has_lights(values: np.ndarray, overlay: np.ndarray) -> bool:
    """Whether a scene (C, H, W) in [0, 1] is dark and has lights beside an overlay.

    Their clipped edges, and the traces of small ones, are as sharp as an overlay.
    """
    lights = find_saturated(values).any(axis=0) & ~overlay
    return bool(values.mean() < DARK_SCENE and lights.mean() > MAX_LIGHTS)


def _enclosed(edges: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """`edges` and what they enclose, where at least MIN_PIXELS of `counted` are connected."""
    if not edges.any():
        return np.zeros_like(edges)
    nd, square = ndimage(), np.ones((3, 3), dtype=bool)
    region = nd.binary_closing(np.pad(edges, 8), square, iterations=4)[8:-8, 8:-8] | edges
    labels, count = nd.label(nd.binary_fill_holes(region), square)
    keep = nd.sum_labels(counted, labels, np.arange(count + 1)) >= MIN_PIXELS
    keep[0] = False
    return keep[labels]


def _boxed(region: np.ndarray) -> np.ndarray:
    """`region`, and the boxes of its words and lines that are well filled: of these, not each letter may be found."""
    nd = ndimage()
    labels, _ = nd.label(nd.binary_dilation(region, np.ones((3, 3)), iterations=WORD_GAP))
    boxed = region.copy()
    for box in nd.find_objects(np.where(region, labels, 0)):
        if box is not None and region[box].mean() >= BOX_FILL:
            boxed[box] = True
    return boxed


def _sharpness_of_rest(size: np.ndarray, beside: np.ndarray) -> float:
    """The largest of `size` in a block of the image, exceeded in one of ten of those without a pixel of `beside`."""
    highest, excluded = _blocks(size).max(axis=(-2, -1)), _blocks(beside).any(axis=(-2, -1))
    return float(np.quantile(highest[~excluded], 0.9)) if not excluded.all() else np.inf


def _boxes(overlay: np.ndarray) -> list[str]:
    """Where overlays lie, as slices of rows and columns; letters of a word are one."""
    nd = ndimage()
    if not overlay.any():
        return []
    labels, _ = nd.label(nd.binary_dilation(overlay, np.ones((3, 3)), iterations=8))
    return [
        f"[{ys.start}:{ys.stop}, {xs.start}:{xs.stop}]"
        for ys, xs in nd.find_objects(np.where(overlay, labels, 0))
        if ys is not None
    ]
