"""Checks of images, kernels and numbers that users pass, and their error messages."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module
from ..numerics.user_warnings import warn
from .kernels import kernel_sum

_DTYPE_WAY_OUT = {  # by the kind of dtype
    "b": "convert it with .astype(float)",
    "c": "pass its real part or its magnitude",
    "O": "convert it with .astype(float)",
    "S": "read the file first, for instance with gpudeblur.read_image",
    "U": "read the file first, for instance with gpudeblur.read_image",
}


def check_picture(
    image: Any,
    *,
    channel_axis: int | None = None,
    name: str = "image",
    nan_advice: str | None = "inpaint it first",
) -> None:
    """Raise unless `image` is an image, or a stack of images of one size.

    Parameters
    ----------
    image : (..., H, W) array, or with one more axis for the channels
        NumPy or CuPy, integer or float. 2 to 4 axes in all; with `channel_axis` 3 or 4.
    channel_axis : int, optional
        Axis of the channels; None for gray.
    name : str
        The argument's name in the messages.
    nan_advice : str or None
        The end of the error of NaN or infinity; None accepts them.

    Raises
    ------
    TypeError
        `image` is not an array, its dtype is not real, or `channel_axis` is not an integer.
    ValueError
        Wrong number of axes, no such `channel_axis`, an empty array, NaN or infinity (with the index of the first).

    Notes
    -----
    The test for NaN is one reduction; on CuPy the call waits for its result.
    """
    xp = module_of(image, name)
    check_dtype(image.dtype, name)
    if channel_axis is None:
        if not 2 <= image.ndim <= 4:
            way_out = "a 1-D signal is no picture" if image.ndim < 2 else "pass fewer pictures at a time"
            raise ValueError(
                f"{name} must have 2 to 4 axes, (..., H, W), got {image.ndim} (shape {image.shape}); {way_out}"
            )
    else:
        _check_channel_axis(channel_axis, image.shape, name)
    if image.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {image.shape}; every side must be at least 1")
    check_axes(image.shape, channel_axis, name)
    if nan_advice is not None:
        check_finite(image, xp, name, nan_advice)


MAX_COLORS = 4  # channels of a color picture with alpha
MIN_LONG = 8  # pixels, at least, of the sides that are taken for those of a picture with channels
MAX_BANDS = 32  # a shorter last axis, a quarter of the others at most, is probably one of channels


def check_axes(
    shape: tuple[int, ...], channel_axis: int | None, name: str = "image", *, way_out: str = "give channel_axis=-1"
) -> None:
    """Refuse a shape that is read as a stack of narrow pictures, but looks like (H, W, C) or (C, H, W).

    A stack of pictures at most `MAX_COLORS` pixels wide, or such pictures of many channels, are refused.
    A last axis of up to `MAX_BANDS` pixels, much shorter than the others, is warned of. Reads no pixel.
    """
    axis = None if channel_axis is None else channel_axis % len(shape)
    *stack, rows, columns = (side for i, side in enumerate(shape) if i != axis)
    is_narrow = columns <= MAX_COLORS and bool(stack) and min(stack[-1], rows) >= MIN_LONG
    if channel_axis is None:
        pictures = f"{rows} x {columns}"
        if is_narrow:
            squeeze = f", or {name}[..., 0]" if columns == 1 else ""
            raise ValueError(
                f"{name} must end in rows and columns, (..., H, W), got shape {shape}, whose last axis of {columns} "
                f"looks like channels; {way_out}{squeeze}, or pass pictures of {pictures} one by one"
            )
        if len(shape) == 3 and columns <= MAX_BANDS and 4 * columns <= min(stack[-1], rows):
            warn(
                f"{name} of shape {shape} is taken for a stack of {stack[-1]} pictures of {pictures}; if its last axis "
                f"is one of channels, {way_out}"
            )
    elif is_narrow or (min(rows, columns) <= MAX_COLORS and min(shape[channel_axis], max(rows, columns)) >= MIN_LONG):
        short = next(i - len(shape) for i, side in enumerate(shape) if side in (rows, columns) and side <= MAX_COLORS)
        raise ValueError(
            f"channel_axis must be the axis of the channels, got {channel_axis} for shape {shape}, which makes "
            f"pictures of {rows} x {columns} with {shape[channel_axis]} channels; use {short}, or pass the channels as "
            "a stack of gray pictures"
        )


def check_kernel_size(
    kernel_size: Any, shape: tuple[int, ...] | None = None, within: str = "picture"
) -> tuple[int, int]:
    """`kernel_size` as (height, width).

    Parameters
    ----------
    kernel_size : int or pair of int
        Odd, at least 3, in pixels; a pair is (height, width).
    shape : (H, W), optional
        The picture's; the kernel must fit into it.
    within : str
        What has that shape, in the message.

    Raises
    ------
    TypeError
        Not an integer or a pair of integers; 25.0 and True are not integers here.
    ValueError
        Below 3, even, larger than the picture, or a sequence of another length than 2.
    """
    is_sequence = isinstance(kernel_size, tuple | list) or (
        isinstance(kernel_size, np.ndarray) and kernel_size.ndim > 0
    )
    if is_sequence and len(kernel_size) != 2:
        raise ValueError(
            f"kernel_size must be one odd integer or a pair (height, width), got {len(kernel_size)} numbers: "
            f"{kernel_size!r}; use for instance 31 or (31, 25)"
        )
    integers = [as_integer(side) for side in (kernel_size if is_sequence else (kernel_size,))]
    sides = [side for side in integers if side is not None]
    if len(sides) < len(integers):
        raise TypeError(
            f"kernel_size must be an odd integer or a pair of them, got {kernel_size!r} "
            f"({type(kernel_size).__name__}); use for instance 31 or (31, 25)"
        )
    if min(sides) < 3:
        way_out = "a 1 x 1 kernel is no blur, the smallest is 3" if min(sides) == 1 else "the smallest is 3"
        raise ValueError(f"kernel_size must be at least 3, got {_format_sides(sides)}; {way_out}")
    if any(side % 2 == 0 for side in sides):
        # 2 has been refused, so `below` is at least 3.
        below, above = (_format_sides([side + (side % 2 - 1) * sign for side in sides]) for sign in (1, -1))
        raise ValueError(f"kernel_size must be odd, got {_format_sides(sides)}; use {below} or {above}")
    height, width = sides[0], sides[-1]
    if shape is None:
        return height, width
    rows, columns = shape[-2:]
    if height > rows or width > columns:
        largest = tuple(side - (side % 2 == 0) for side in (rows, columns))
        way_out = f"use at most {largest}" if min(largest) >= 3 else "a picture must be at least 3 x 3"
        if min(rows, columns) <= 4:
            way_out += "; a picture with channels (H, W, C) needs channel_axis=-1"
        raise ValueError(
            f"kernel_size must not exceed the {within}, got {(height, width)} for a {within} of {rows} x {columns}; "
            f"{way_out}"
        )
    return height, width


def check_minimum_size(shape: tuple[int, ...]) -> None:
    """Raise if the image (..., H, W) is smaller than 5 x 5, the minimum for kernel_size=None."""
    rows, columns = shape[-2:]
    if min(rows, columns) < 5:
        raise ValueError(
            f"image must have at least 5 x 5 pixels for kernel_size=None, got {rows} x {columns}; "
            "give a kernel_size, or channel_axis=-1 if it has channels (H, W, C)"
        )


MIN_NETWORK_SIDE = 16  # pixels, of a picture for a network


def check_network_picture(
    image: Any, *, channel_axis: int | None = None, nan_advice: str | None = "inpaint it first"
) -> None:
    """`check_picture`, and raise unless a network can restore it: 16 x 16 pixels, and 1, 3 or 4 channels."""
    check_picture(image, channel_axis=channel_axis, nan_advice=nan_advice)
    rows, columns = without_channels(image, channel_axis)[-2:]
    if min(rows, columns) < MIN_NETWORK_SIDE:
        way_out = "channel_axis=-1 if it has channels (H, W, C), else enlarge it"
        raise ValueError(f"image must have at least 16 x 16 pixels for a network, got {rows} x {columns}; {way_out}")
    if channel_axis is not None and image.shape[channel_axis] not in (1, 3, 4):
        channels = image.shape[channel_axis]
        raise ValueError(
            f"image must have 1, 3 or 4 channels for a network (gray, RGB, RGB and alpha), got {channels}; "
            "pass its channels as a stack of gray pictures"
        )


MIN_POSITIVE, MAX_POSITIVE = 1e-20, 1e12  # of weights: beyond, float32 divides 0 by 0 in some method


def check_positive(name: str, value: Any, stack: tuple[int, ...], *, zero: bool = False) -> Any:
    """A positive number, or an array of one for each picture of a `stack` (...); with `zero`, 0 is allowed.

    It must be of a magnitude with which float32 can compute, `MIN_POSITIVE` to `MAX_POSITIVE`.
    """
    try:
        array = value if hasattr(value, "shape") else np.asarray(value)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    rule = "not be negative, and be finite" if zero else "be positive, and finite"
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a number, or one a picture, got {value!r}; leave it out to have it estimated")
    if not bool(((array >= 0) if zero else (array > 0)).all() and (array < math.inf).all()):
        raise ValueError(f"{name} must {rule}, got {value!r}; leave it out to have it estimated")
    if not bool(((array >= MIN_POSITIVE) | (array == 0)).all() and (array <= MAX_POSITIVE).all()):
        magnitudes = f"from {MIN_POSITIVE:g} to {MAX_POSITIVE:g}{', or 0' if zero else ''}"
        raise ValueError(f"{name} must be {magnitudes}, got {value!r}; leave it out to have it estimated")
    if array.shape not in ((), stack):
        one_each = f", or one a picture, {stack}" if stack else ""
        raise ValueError(f"{name} must be a number{one_each}, got shape {array.shape}; channels share a number")
    return array if array.ndim else float(array)


MAX_COUNT = 10**9  # what is beyond would never end


def check_count(name: str, value: Any, *, minimum: int = 1, way_out: str = "leave it out for the default") -> int:
    """`value` as an integer of at least `minimum`."""
    count = as_integer(value)
    if count is None:
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__}); round it")
    check_rule(name, count, count >= minimum, f"be at least {minimum}", way_out)
    check_rule(name, count, count <= MAX_COUNT, f"be at most {MAX_COUNT}", way_out)
    return count


def check_number(
    name: str, value: Any, rule: str, holds: Callable[[float], bool], *, way_out: str = "leave it out for the default"
) -> float:
    """`value` as a finite float for which `holds` is true; `rule` is what it must be, in words."""
    try:
        if isinstance(value, str | bytes | bool | np.bool_) or np.ndim(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):  # ValueError: a ragged list
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__}); {way_out}") from None
    check_rule(name, value, math.isfinite(number) and holds(number), f"be {rule}, and finite", way_out)
    return number


def check_flag(name: str, value: Any) -> bool:
    """`value` as a bool."""
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__}); leave it out")
    return bool(value)


def check_rule(name: str, value: Any, holds: bool, rule: str, way_out: str = "leave it out for the default") -> None:
    """Raise ValueError "`name` must `rule`, got `value`; `way_out`" unless the rule holds."""
    if not holds:
        raise ValueError(f"{name} must {rule}, got {value!r}; {way_out}")


def check_kernel_fits(kernel: Any, image: Any, *, channel_axis: int | None = None, both: bool = True) -> None:
    """Raise if a kernel is larger than the image, or a stack of kernels does not have one for each image.

    Parameters
    ----------
    kernel, image : as `check_kernel` and `check_picture` accept them. The channels of an image share its kernel.
    both : False allows a kernel that is longer than the image along one of its axes.
    """
    (kh, kw), (*lead, h, w) = kernel.shape[-2:], without_channels(image, channel_axis)
    if (kh > h and kw > w) or (both and (kh > h or kw > w)):
        raise ValueError(
            f"kernel must not exceed the picture, got {kh} x {kw} for a picture of {h} x {w}; crop its empty border"
        )
    stack = tuple(lead)
    if kernel.ndim > 2 and kernel.shape[:-2] != stack:
        if kw <= MAX_COLORS < kh:
            raise ValueError(_channels_of_kernel(kernel.shape, "kernel"))
        one_each = f"or one a picture, {(*stack, kh, kw)}" if stack else "for one picture"
        way_out = "channels share a kernel"
        if kernel.shape[0] == 1:
            way_out = "use kernel[0]"
        elif kernel.shape[0] > MAX_COLORS:
            way_out += "; a 3-D PSF needs gpudeblur.restoration.richardson_lucy"
        raise ValueError(f"kernel must be one, (kh, kw), {one_each}, got shape {kernel.shape}; {way_out}")


def _channels_of_kernel(shape: tuple[int, ...], name: str) -> str:
    return (
        f"{name} must end in its rows and columns, (..., kh, kw), got shape {shape}, whose last axis of {shape[-1]} "
        f"looks like channels; use {name}[..., 0], or read its file with gpudeblur.read_kernel"
    )


def random_generator(rng: Any) -> np.random.Generator:
    """`numpy.random.default_rng(rng)`, with an error that names the argument."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng must be a numpy.random.Generator or a seed, an int from 0 on, got {rng!r}") from None


def without_channels(image: Any, channel_axis: int | None) -> tuple[int, ...]:
    """The shape (..., H, W) of an image that `check_picture` accepts."""
    shape = list(image.shape)
    if channel_axis is not None:
        del shape[channel_axis]
    return tuple(shape)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_region(region: Any) -> tuple[slice, slice] | str:
    """`region` as "auto", "all", or two slices with integers or None as ends."""
    if isinstance(region, str) and region in ("auto", "all"):
        return region
    way_out = "use 'auto', 'all', or for instance numpy.s_[100:400, 200:600]"
    if not isinstance(region, tuple | list) or len(region) != 2 or not all(isinstance(part, slice) for part in region):
        raise TypeError(f"region must be two slices, of rows and of columns, got {region!r}; {way_out}")
    for part in region:
        ends = [end for end in (part.start, part.stop) if end is not None]
        if part.step not in (None, 1) or any(as_integer(end) is None for end in ends):
            raise ValueError(f"region must have integers as ends and no step, got {part!r}; {way_out}")
    return region[0], region[1]


def region_window(
    region: tuple[slice, slice], shape: tuple[int, int], inside: tuple[slice, slice]
) -> tuple[slice, slice]:
    """The part of a `region` of images (H, W) = `shape` that lies `inside` a window of them, within that window.

    Raises
    ------
    ValueError
        The region reaches beyond the image, or there is no such part.
    """
    parts = []
    for part, n, window in zip(region, shape, inside, strict=True):
        start, stop, _ = part.indices(n)
        ends = [end for end in (part.start, part.stop) if end is not None]
        if stop <= start or any(abs(end) > n for end in ends):
            raise ValueError(f"region must lie inside the image, {shape[0]} x {shape[1]}, got {region!r}")
        start, stop = max(start, window.start), min(stop, window.stop)
        if stop <= start:
            raise ValueError(f"region must reach what lies inside the constant border, {inside!r}, got {region!r}")
        parts.append(slice(start - window.start, stop - window.start))
    return parts[0], parts[1]


def check_defects(defects: Any) -> None:
    """Raise unless `defects` is "auto" or None."""
    if defects is not None and not (isinstance(defects, str) and defects == "auto"):
        raise ValueError(f"defects must be one of 'auto', None, got {defects!r}; give what you know of as a mask")


class UnitWarning(UserWarning):
    """The values of an image suggest another unit than is assumed. `at_command_line` is the text for there."""

    def __init__(self, message: str, at_command_line: str) -> None:
        super().__init__(message)
        self.at_command_line = at_command_line


# The end of the warning of values over LARGE_VALUE.
LARGE_VALUE = 16
_READ_AS = "floats are read as intensities of about [0, 1]; divide by the white level (255 for 8 bits)"
SCALE_ADVICE = f'{_READ_AS}, or give it (white=255, or white="auto"), or pass the integers themselves'
_SCALE_ADVICE_AT_COMMAND_LINE = (
    "floats are read as intensities of about [0, 1]; give --white-level auto, or the value of full scale (255 for 8 "
    "bits)"
)


def check_range(planes: Array, advice: str | None = SCALE_ADVICE, *, name: str = "image") -> None:
    """Raise if squares of the values may overflow, and warn of values over 16, which look like those of 8 bits.

    Parameters
    ----------
    planes : (..., H, W) float.
    advice : the end of the warning; None: no warning.
    """
    check_largest(float(abs(planes).max()), planes.dtype, advice, name=name)


def check_largest(largest: float, dtype: Any, advice: str | None = SCALE_ADVICE, *, name: str = "image") -> None:
    """`check_range` by the largest magnitude."""
    limit = value_limit(dtype)
    if largest > limit:
        raise ValueError(f"{name} must be within {limit:.1e} for {dtype}, got {largest:.1e}; scale it to about [0, 1]")
    if advice is not None and largest > LARGE_VALUE:
        warn(warning_of_large(largest, advice, name=name))


def value_limit(dtype: Any) -> float:
    """The largest value of which the squares of 1e8 pixels can be summed."""
    return float(np.finfo(dtype).max) ** 0.5 / 1e4


def warning_of_large(
    largest: float, advice: str = SCALE_ADVICE, *, white: float = 1.0, name: str = "image"
) -> UnitWarning:
    """The warning of values over LARGE_VALUE; `white` is what is taken for full scale."""
    text = f"{name} has values up to {largest:.4g}: "
    at_command_line = _SCALE_ADVICE_AT_COMMAND_LINE if advice == SCALE_ADVICE else advice
    if white != 1:
        read_as = f", these as if full scale were {white:g};"
        advice, at_command_line = advice.replace(";", read_as), at_command_line.replace(";", read_as)
    return UnitWarning(text + advice, text + at_command_line)


CUT_LIGHT = 0.01  # of the light of an image, that negative values take away


def warn_of_cut(image: Array, offset: float = 0.0, *, ndim: int = 2, name: str = "image") -> None:
    """Warn if a method counts negative values of `image` + `offset` as 0, and so adds light. On CuPy it waits.

    `ndim` is the number of axes of an image, the last ones.
    """
    if float(image.min()) >= -offset:
        return
    data = image + offset if offset else image
    axes = tuple(range(-ndim, 0))
    negative = array_module(data).minimum(data, 0).sum(axis=axes)
    if bool((-negative > CUT_LIGHT * (data.sum(axis=axes) - negative)).any()):
        warn(
            f"{name} has negative values, down to {float(image.min()):.3g}, which Richardson-Lucy counts as 0, so that "
            f"it adds light; give offset={-float(image.min()):.3g} or more, which is added before and subtracted after"
        )


MIN_GAMMA, MAX_GAMMA = 0.01, 100  # beyond, all light is 0 or full scale in float32


def check_gamma(gamma: Any, way_out: str = "1 is linear, photos have about 2.2") -> None:
    is_positive = isinstance(gamma, (int, float, np.integer, np.floating)) and bool(0 < gamma < math.inf)
    check_rule("gamma", gamma, is_positive, "be a positive number", way_out)
    check_rule("gamma", gamma, MIN_GAMMA <= gamma <= MAX_GAMMA, f"be from {MIN_GAMMA} to {MAX_GAMMA}", way_out)


def check_focal(focal: Any, way_out: str = "use math.inf for motion in the image plane") -> float:
    """A focal length in pixels: a positive number, infinity included."""
    if isinstance(focal, list | tuple) or np.ndim(focal):
        raise TypeError(f"focal must be one number for a whole stack, got {focal!r}; deblur each camera's images apart")
    if isinstance(focal, bool) or not isinstance(focal, int | float | np.integer | np.floating):
        raise TypeError(f"focal must be a number, got {focal!r} ({type(focal).__name__}); {way_out}")
    check_rule("focal", focal, bool(focal > 0), "be positive, in pixels", way_out)
    return float(focal)


def check_kernel(kernel: Any, *, name: str = "kernel", odd: bool = True) -> None:
    """Raise unless `kernel` is a blur kernel, or a stack of them; warn of negative values.

    Parameters
    ----------
    kernel : (..., kh, kw) array
        NumPy or CuPy, integer or float, odd sides if `odd`, finite; each kernel has a positive sum.
    name : str
        The argument's name in the messages.

    Raises
    ------
    TypeError
        Not an array, or its dtype is not real.
    ValueError
        Fewer than 2 axes, empty, an even side, NaN or infinity, or a sum that is not positive.
    """
    check_kernel_array(kernel, name=name, odd=odd)
    height, width = kernel.shape[-2:]
    values = kernel.astype(np.float64)
    total = kernel_sum(values, 2)
    if bool((total == 0).any()):
        if kernel.ndim > 2 and width <= MAX_COLORS < height:  # its rows are taken for kernels
            raise ValueError(_channels_of_kernel(kernel.shape, name))
        raise ValueError(
            f"{name} must not sum to zero, got a sum of {float(abs(total).min()):g}; "
            "a blur keeps the light, so its kernel sums to 1"
        )
    if bool((total < 0).any()):
        raise ValueError(f"{name} must have a positive sum, got {float(total.min()):g}; change its sign")
    if bool((values < -1e-3 * abs(values).max()).any()):
        warn(
            f"{name} has negative values, down to {float(values.min()):g}: no blur has; "
            "cut them off with numpy.maximum(kernel, 0) unless they are meant",
        )


def check_kernel_array(kernel: Any, *, name: str = "kernel", odd: bool = True) -> None:
    """What `check_kernel` asks of any array: memory, dtype, axes, sides, and finite values."""
    xp = module_of(kernel, name)
    check_dtype(kernel.dtype, name)
    if kernel.ndim < 2:
        raise ValueError(
            f"{name} must have at least 2 axes, (..., kh, kw), got {kernel.ndim} (shape {kernel.shape}); "
            "give a line blur its second axis with kernel[None, :]"
        )
    if kernel.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {kernel.shape}; every side must be at least 1")
    height, width = kernel.shape[-2:]
    for side, length, line in (("height", height, "row"), ("width", width, "column")):
        if odd and length % 2 == 0:
            raise ValueError(
                f"{name} must have odd sides, got a {side} of {length} (shape {kernel.shape}); "
                f"pad it with one zero {line}"
            )
    check_finite(kernel, xp, name, "estimate it again or set it to zero there")


def module_of(array: Any, name: str) -> Any:
    """NumPy or CuPy; a TypeError that names the argument for anything else."""
    if isinstance(array, np.ma.MaskedArray):
        way_out = "images may be masked where mask is an argument, here pass .filled(value)"
        raise TypeError(f"{name} must be a plain array, got a masked one; {way_out}")
    try:
        return array_module(array)
    except TypeError:
        kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
        way_out = "convert it with numpy.asarray"
        if isinstance(array, str | bytes | os.PathLike):
            reader = "read_kernel" if name in ("kernel", "psf", "initial") else "read_image"
            way_out = f"read the file with gpudeblur.{reader}"
        raise TypeError(f"{name} must be a NumPy or CuPy array, got {kind}; {way_out}") from None


def check_dtype(dtype: np.dtype, name: str) -> None:
    if dtype.kind not in "iuf":
        way_out = _DTYPE_WAY_OUT.get(dtype.kind, "convert it to an integer or float dtype")
        raise TypeError(f"{name} must have an integer or float dtype, got {dtype}; {way_out}")


def check_axis(channel_axis: Any) -> int:
    """`channel_axis` as an int."""
    axis = as_integer(channel_axis)
    if axis is None:
        raise TypeError(
            f"channel_axis must be an integer or None, got {channel_axis!r} ({type(channel_axis).__name__}); "
            "use -1 for (H, W, C)"
        )
    return axis


def _check_channel_axis(channel_axis: Any, shape: tuple[int, ...], name: str) -> None:
    axis = check_axis(channel_axis)
    if not 3 <= len(shape) <= 4:
        way_out = "leave channel_axis out for a gray picture" if len(shape) < 3 else "pass fewer pictures at a time"
        raise ValueError(
            f"{name} must have 3 or 4 axes when channel_axis is given, got {len(shape)} (shape {shape}); {way_out}"
        )
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"channel_axis must be between {-len(shape)} and {len(shape) - 1} for shape {shape}, got {axis}; "
            "use -1 for (H, W, C)"
        )


# The end of the error of NaN or infinity in functions that take a mask, and at their commands.
NAN_ADVICE, _NAN_ADVICE_AT_COMMAND_LINE = "mask='nan' leaves such pixels out", "--mask nan leaves such pixels out"


class NotFiniteError(ValueError):
    """An array with NaN or infinity. `at_command_line` is the text for there."""

    def __init__(self, message: str, at_command_line: str) -> None:
        super().__init__(message)
        self.at_command_line = at_command_line


def check_finite(array: Array, xp: Any, name: str, way_out: str) -> None:
    if array.dtype.kind != "f":
        return
    finite = xp.isfinite(array)
    if bool(finite.all()):  # waits for the device
        return
    invalid = ~finite
    index = tuple(int(i) for i in np.unravel_index(int(invalid.argmax()), array.shape))
    count = int(invalid.sum())
    rule = (
        f"{name} must be finite, got {float(array[index])} at index {index} "
        f"({count} bad pixel{'s' if count > 1 else ''})"
    )
    at_command_line = _NAN_ADVICE_AT_COMMAND_LINE if way_out == NAN_ADVICE else way_out
    raise NotFiniteError(f"{rule}; {way_out}", f"{rule}; {at_command_line}")


def as_integer(value: Any) -> int | None:
    """`value` as an int, or None if it is not an integer. Booleans are not: they are mistakes here."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _format_sides(sides: list[int]) -> str:
    return str(sides[0]) if len(sides) == 1 else str(tuple(sides))
