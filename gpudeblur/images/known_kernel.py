"""A kernel that a user gives: its floor, the place of its origin, stacks of kernels; warnings of what looks wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, to_host
from ..numerics.user_warnings import warn
from . import checks
from .kernels import kernel_sum

FLOOR = "auto"  # the value of `floor` that estimates it
MAX_ON_HOST = 1 << 20  # values of kernels that are examined on the host
MIN_AGREEMENT = 0.5  # fraction of the kernels of a stack that must look wrong for a warning
# The border of a kernel: this fraction of each side of at least 5 pixels, and at most so many pixels.
BORDER_FRACTION, MAX_BORDER, MIN_SIDE = 8, 32, 5
# A floor holds this share of the sum, at most that of the maximum, and is flat: its quartile differs by at most this
# fraction from that of the ring within, and its 5 % quantile from its median.
FLOOR_SHARE, FLOOR_HEIGHT, FLOOR_SLOPE, FLOOR_NOISE = 0.03, 0.5, 0.1, 0.4
NOISE_LIMIT = 2.0  # standard deviations above an estimated floor, below which a pixel is noise and set to 0
# A kernel with its origin in the corner: shifted to the middle, it has at most this fraction of its variance. It has
# these shares of its sum in at least two quadrants, and in the corners, a quarter of the sides long, together.
COMPACTNESS, QUADRANT_SHARE, CORNER_SHARE = 0.27, 0.05, 0.6
MAX_DOUBLE = 4  # pixels, (sum k)^2 / sum k^2, of a double image: two points at opposite ends, no shifted kernel
MAX_RING = 4096  # values of a border, from which quantiles are taken
MAX_MEDIAN_SIDE = 256  # pixels along each axis, from which the median of a kernel is taken
SUM_TOLERANCE, SUM_RATIO, MIRROR_TOLERANCE = 0.01, 1.1, 1e-3


def known_kernel(kernel: Any, *, floor: Any = None, name: str = "kernel", way_out: str = 'give floor="auto"') -> Array:
    """Check a kernel (..., kh, kw) that a user gives, with `check_kernel`, and subtract its floor.

    Parameters
    ----------
    floor : None, "auto" or a number
        See `subtract_floor`.
    way_out : str
        What to do about a floor, in the warning.

    Returns
    -------
    `kernel`, or float64 without its floor.

    Raises
    ------
    TypeError, ValueError
        As `check_kernel`; a stack of kernels looks like a 3-D point spread function; or `floor` is not one.
    """
    if floor is not None:
        checks.check_kernel_array(kernel, name=name, odd=False)
        kernel = subtract_floor(kernel, floor, 2, name=name)
    checks.check_kernel(kernel, name=name, odd=False)
    warn_of_measured(kernel, 2, name=name, way_out="" if floor == FLOOR else way_out)
    if kernel.ndim > 2:
        check_kernel_stack(kernel, name=name)
    return kernel


def subtract_floor(kernel: Array, floor: Any, ndim: int, *, name: str = "kernel") -> Array:
    """`kernel`, over its last `ndim` axes, without the constant that a camera's offset or the sky added to it; float64.

    A number is subtracted, and what is below it becomes 0. "auto" takes the median of the border, without the parts
    of the kernel that reach it, and sets to 0 what is not above it by `NOISE_LIMIT` standard deviations of the noise.
    """
    values = array_module(kernel).asarray(kernel, dtype=np.float64)
    xp = array_module(values)
    if not (isinstance(floor, str) and floor == FLOOR):
        way_out = '"auto" takes it from the border'
        level: Any = checks.check_number(
            "floor", floor, "a number of the kernel's unit", lambda _: True, way_out=way_out
        )
        limit: Any = level
    else:
        levels, sigmas = border_level(values, ndim)
        level, limit = (xp.asarray(v)[(..., *(None,) * ndim)] for v in (levels, levels + NOISE_LIMIT * sigmas))
    result = xp.where(values > limit, values - level, 0)
    axes = tuple(range(-ndim, 0))
    if bool((result.max(axis=axes) <= 0).any()):
        raise ValueError(
            f"floor must leave something of the {name}, got {floor!r} for a maximum of {float(values.max()):.4g}; "
            "give a smaller number, or leave it out"
        )
    return result


def border_level(kernel: Array, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """(median, standard deviation of the noise) of the border of kernels, (...): a tail above it is left out."""
    ring = to_host(_ring(kernel, _widths(kernel.shape[-ndim:])))
    border = np.sort(ring, axis=-1)
    count = np.full(border.shape[:-1], border.shape[-1])
    level, sigma = np.zeros(border.shape[:-1]), np.zeros(border.shape[:-1])
    for index in np.ndindex(*border.shape[:-1]):
        values = border[index]
        for _ in range(5):
            inside = values[: count[index]]
            level[index] = np.median(inside)
            below = inside[inside <= level[index]]
            sigma[index] = 1.4826 * np.median(level[index] - below)  # half of a Gaussian, which a tail leaves alone
            count[index] = max(1, np.searchsorted(values, level[index] + 3 * sigma[index], side="right"))
    return level, sigma


def warn_of_measured(kernel: Array, ndim: int, *, name: str, way_out: str) -> None:
    """Warn of kernels, over the last `ndim` axes, with a floor, or with the origin in the corner. On CuPy it waits.

    Of a stack, half must look so: a camera's offset is in all of them. `way_out` is what to do about a floor; "": it is
    not looked for.
    """
    if max(kernel.shape[-ndim:]) < MIN_SIDE:
        return
    if kernel.size <= MAX_ON_HOST:
        kernel = to_host(kernel)  # a single wait
    kernel = kernel.astype(np.float64, copy=False)
    if _is_shifted(kernel, ndim).mean() >= MIN_AGREEMENT:
        warn(
            f"{name} has its values around its corners, as a kernel with the origin at [0, 0] has; its origin must be "
            f"in the middle: numpy.fft.fftshift({name}) puts it there"
        )
    elif way_out:
        fraction = _floor_fraction(kernel, ndim)
        if (fraction > 0).mean() >= MIN_AGREEMENT:
            warn(
                f"{name} has a floor, a constant along its border that holds {100 * float(fraction.max()):.0f} % of "
                f"its sum and blurs widely; if it is the offset of the camera or the sky, {way_out}"
            )


def _widths(sides: tuple[int, ...]) -> list[int]:
    """The border's width along each axis, 0 along short ones; at least one axis has a border."""
    long = MIN_SIDE if max(sides) >= MIN_SIDE else max(sides)
    return [min(max(1, n // BORDER_FRACTION), MAX_BORDER) if n >= long else 0 for n in sides]


def _ring(kernel: Array, widths: list[int]) -> Array:
    """The values along the border, (..., size); those in its corners come more than once."""
    xp, ndim = array_module(kernel), len(widths)
    slabs = []
    for axis, width in enumerate(widths):
        for part in (slice(0, width), slice(kernel.shape[axis - ndim] - width, None)):
            slab = kernel[(..., *(part if a == axis else slice(None) for a in range(ndim)))] if width else None
            if slab is not None:
                slabs.append(slab.reshape(*kernel.shape[:-ndim], -1))
    return xp.concatenate(slabs, axis=-1)


def _floor_fraction(kernel: Array, ndim: int) -> np.ndarray:
    """The fraction of the sum that is a floor, (...); 0 where there is none."""
    xp, sides, axes = array_module(kernel), kernel.shape[-ndim:], tuple(range(-ndim, 0))
    widths = _widths(sides)
    lowest, quartile, median = _quantiles(_ring(kernel, widths), (0.05, 0.25, 0.5))
    total = to_host(xp.asarray(kernel.sum(axis=axes)))
    fraction = quartile * math.prod(sides) / np.where(total > 0, total, 1)
    is_floor = (fraction >= FLOOR_SHARE) & (lowest >= (1 - FLOOR_NOISE) * median)
    if is_floor.any():  # seldom
        inside: Any = (..., *(slice(w, n - w) for w, n in zip(widths, sides, strict=True)))
        (within,) = _quantiles(_ring(kernel[inside], widths), (0.25,))
        largest = to_host(xp.asarray(kernel.max(axis=axes)))
        is_floor &= (quartile >= (1 - FLOOR_SLOPE) * within) & (quartile <= FLOOR_HEIGHT * largest)
    return np.where(is_floor, fraction, 0)


def _quantiles(ring: Array, fractions: tuple[float, ...]) -> list[np.ndarray]:
    """Quantiles along the last axis, each one of the values; of many, of a part."""
    values = np.sort(to_host(ring[..., :: 1 + ring.shape[-1] // MAX_RING]), axis=-1)
    return [values[..., round(fraction * (values.shape[-1] - 1))] for fraction in fractions]


def _is_shifted(kernel: Array, ndim: int) -> np.ndarray:
    """Whether kernels have their values around their corners, and none in the middle; bool (...)."""
    xp, sides, axes = array_module(kernel), kernel.shape[-ndim:], tuple(range(-ndim, 0))
    middle: Any = (..., *(slice(n // 4, n - n // 4) for n in sides))
    if bool((kernel[middle].sum(axis=axes) >= 0.5 * kernel.sum(axis=axes)).all()):  # so it is as a rule
        return np.zeros(kernel.shape[:-ndim], dtype=bool)
    sample: Any = (..., *(slice(None, None, 1 + n // MAX_MEDIAN_SIDE) for n in sides))
    background = np.median(to_host(kernel[sample]), axis=axes)
    kernel = xp.maximum(kernel - xp.asarray(background)[(..., *(None,) * ndim)], 0)
    long = [axis for axis in axes if sides[axis] >= MIN_SIDE]
    spread: Any = 0.0
    shifted: Any = 0.0
    for axis in long:
        line = to_host(xp.asarray(kernel.sum(axis=tuple(a for a in axes if a != axis))))
        spread = spread + _variance(line)
        shifted = shifted + _variance(np.fft.fftshift(line, axes=-1))
    is_shifted = np.asarray(shifted < COMPACTNESS * np.asarray(spread))
    if not is_shifted.any():
        return is_shifted
    if len(long) == 1:  # a line: a double image is no shifted kernel, whose maximum is at its first pixel
        line = to_host(kernel).reshape(*kernel.shape[:-ndim], -1)
        return is_shifted & (line.argmax(axis=-1) == 0) & ((line > 0.01 * line.max(axis=-1, keepdims=True)).sum(-1) > 2)
    halves = [((0, n - n // 2), (n - n // 2, n)) if n >= MIN_SIDE else ((0, n),) for n in sides]
    quarters = [((0, n - n // 4 - n // 2), (n - n // 2 + n // 4, n)) if n >= MIN_SIDE else ((0, n),) for n in sides]
    quadrants, corners = (
        np.stack([to_host(xp.asarray(part.sum(axis=axes))) for part in _parts(kernel, ranges)])
        for ranges in (halves, quarters)
    )
    total = quadrants.sum(axis=0)
    count = (quadrants >= QUADRANT_SHARE * total).sum(axis=0)
    size = total**2 / np.maximum(to_host(xp.asarray((kernel**2).sum(axis=axes))), np.finfo(float).tiny)
    is_shifted &= corners.sum(axis=0) >= CORNER_SHARE * total
    return np.asarray(is_shifted & ((count >= 3) | ((count == 2) & (size > MAX_DOUBLE))))  # a double image is in two


def _parts(kernel: Array, ranges: list[Any]) -> Iterator[Array]:
    """The parts of kernels (..., *sides) in all combinations of `ranges`, some (begin, end) for each axis."""
    for part in itertools.product(*ranges):
        window: Any = (..., *(slice(*limits) for limits in part))
        yield kernel[window]


def _variance(line: np.ndarray) -> np.ndarray:
    """The variance of the position along lines of weights (..., n), (...)."""
    at, total = np.arange(line.shape[-1]), np.maximum(line.sum(axis=-1), np.finfo(float).tiny)
    mean = (line * at).sum(axis=-1) / total
    return np.asarray((line * (at - mean[..., None]) ** 2).sum(axis=-1) / total)


def check_kernel_stack(kernel: Array, *, name: str = "kernel") -> None:
    """Refuse a stack of kernels (..., kh, kw) that looks like the planes of a 3-D point spread function.

    Kernels of sum 1 each never do. Others do if they sum to 1 together, if their sums differ and not only by their
    scale to a common maximum, or if the stack mirrors itself. On CuPy the call waits.
    """
    count = int(np.prod(kernel.shape[:-2]))
    if count < 2:
        return
    kernel = to_host(kernel) if kernel.size <= MAX_ON_HOST else kernel
    values = kernel.astype(np.float64, copy=False).reshape(count, *kernel.shape[-2:])
    sums = to_host(kernel_sum(values, 2))
    if (abs(sums - 1) <= SUM_TOLERANCE).all():
        return
    peaks = to_host(values.max(axis=(-2, -1)))
    tolerance = MIRROR_TOLERANCE * float(peaks.max())
    if abs(sums.sum() - 1) <= SUM_TOLERANCE:
        likeness = "sum to 1 together"
    elif sums.max() > SUM_RATIO * sums.min() and peaks.max() > (1 + SUM_TOLERANCE) * peaks.min():
        likeness = f"have sums from {float(sums.min()):.3g} to {float(sums.max()):.3g}"
    elif count > 2 and float(abs(values - values[::-1]).max()) <= tolerance < float(abs(values - values[:1]).max()):
        likeness = "mirror each other"
    else:
        return
    raise ValueError(
        f"{name} must have the sum 1 for each picture, got shape {kernel.shape}, whose slices {likeness}, as the "
        f"planes of a 3-D point spread function do; use gpudeblur.restoration.richardson_lucy for one, and "
        f"{name} / {name}.sum((-2, -1), keepdims=True) for a kernel a picture"
    )
