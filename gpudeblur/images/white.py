"""The white level: the value of full scale, in the unit of the user's image."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, to_host_together
from ..numerics.user_warnings import warn
from .checks import LARGE_VALUE, UnitWarning, check_number, value_limit, warning_of_large

# Full scales of 8 to 16 bits.
USUAL_LEVELS = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
# An image whose values end below this fraction of full scale is suspected to be in another unit.
MIN_RANGE = 1 / 16
# Noise at full scale may exceed it by this factor; of larger values there may be this fraction, for hot pixels.
NOISE_HEADROOM, MAX_HOT_PIXELS = 1.25, 0.01
# Integers of so many bytes are hardly ever used to their full range, such as 2^63 - 1: they come from conversions.
WIDE_BYTES = 4

_WAY_OUT = "give the value of full scale, such as 4095 for 12 bits"


class WhiteLevelError(ValueError):
    """`white` contradicts the values of the image. `at_command_line` is the text for there."""

    def __init__(self, message: str, at_command_line: str) -> None:
        super().__init__(message)
        self.at_command_line = at_command_line


class ComparedWhite(float):
    """A white level that has been compared with the values of its image, so that this is not done again."""


def full_scale(dtype: Any) -> float:
    """The largest value of an integer dtype, 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def check_white(white: Any) -> Any:
    """`white` as a positive float, "auto" or None, without reading a pixel.

    Raises
    ------
    TypeError, ValueError
        It is anything else; the message says why.
    """
    if white is None or isinstance(white, ComparedWhite):
        return white
    if isinstance(white, str):
        if white != "auto":
            raise ValueError(f"white must be a positive number, 'auto' or None, got {white!r}; {_WAY_OUT}")
        return white
    return check_number("white", white, "above 0", lambda level: level > 0, way_out=_WAY_OUT)


def white_level(
    image: Array,
    white: Any,
    *,
    channel_axis: int | None = None,
    dtype: Any = "float32",
    unit_free: bool = False,
    name: str = "image",
) -> float:
    """The value of full scale of an image, and a warning where that is doubtful. On CuPy the call waits.

    Parameters
    ----------
    image : (..., H, W) array, or with one more axis for the channels
        As `check_picture` accepts it. The images of a stack have one white level.
    white : what `check_white` returns
        None: the full scale of the dtype; but wide integers with few values are those of a usual full scale. "auto":
        the smallest usual full scale that holds all values.
    dtype : dtype
        Of the computation: what `check_largest` refuses is not warned of.
    unit_free : bool
        Whether the result does not depend on the unit; then an image that hardly uses its range is not warned of.

    Raises
    ------
    WhiteLevelError
        Many values are above `white`, or "auto" knows no full scale as large as they are.
    """
    level, warning = assess_white(image, white, channel_axis=channel_axis, dtype=dtype, unit_free=unit_free, name=name)
    if warning is not None:
        warn(warning)
    return level


def assess_white(
    image: Array,
    white: Any,
    *,
    channel_axis: int | None = None,
    dtype: Any = "float32",
    unit_free: bool = False,
    name: str = "image",
) -> tuple[ComparedWhite, UnitWarning | None]:
    """`white_level` with its warning, or None, instead of warning."""
    if isinstance(white, ComparedWhite):
        return white, None
    kind = image.dtype
    full = full_scale(kind)
    is_wide = kind.kind in "iu" and kind.itemsize >= WIDE_BYTES
    if white is None and unit_free and not is_wide:
        return ComparedWhite(full), None
    xp = array_module(image)
    values = image if channel_axis is None else xp.moveaxis(image, channel_axis, -3)
    levels = [level.astype(np.float64) for level in (values.max(), bright_level(values), values.min())]
    largest, bright, smallest = (float(level) for level in to_host_together(xp, levels))
    if isinstance(white, float):
        return ComparedWhite(white), _compare(image, white, largest, name)
    usual = usual_level(kind, largest)
    if white == "auto" and usual is None:
        raise WhiteLevelError(
            f"white='auto' knows full scales up to {USUAL_LEVELS[-1]:.0f}, got values up to {largest:.4g}; {_WAY_OUT}",
            f"--white-level auto knows full scales up to {USUAL_LEVELS[-1]:.0f}, got values up to {largest:.4g}; "
            f"{_WAY_OUT}",
        )
    magnitude = max(largest, -smallest)
    is_dim = 0 < bright < MIN_RANGE * full
    if white is None and is_wide and is_dim and usual is not None and usual < full:
        read = f"{name} is {kind} with values up to {largest:.0f}, and is read as if full scale were {usual:.0f}"
        way_outs = (f"give white={usual:.0f} if it is", f"give --white-level {usual:.0f} if it is")
        return ComparedWhite(usual), _warning(read, *way_outs)
    level = usual if white == "auto" and usual is not None else full
    if not unit_free and white is None and kind.kind == "f" and magnitude > LARGE_VALUE:
        is_refused = magnitude > value_limit(dtype)
        return ComparedWhite(level), None if is_refused else warning_of_large(magnitude, name=name)
    if unit_free or not 0 < bright < MIN_RANGE * level:
        return ComparedWhite(level), None
    return ComparedWhite(level), _warning_of_dim(kind, level, largest, bright, name)


def bright_level(values: Array) -> Array:
    """The largest value that a whole square of 2 x 2 pixels of images (..., H, W) reaches: no hot pixel, nor line."""
    xp = array_module(values)
    if values.shape[-1] > 1:
        values = xp.minimum(values[..., 1:], values[..., :-1])
    if values.shape[-2] > 1:
        values = xp.minimum(values[..., 1:, :], values[..., :-1, :])
    return values.max()


def usual_level(dtype: Any, largest: float) -> float | None:
    """The smallest usual full scale of a dtype that holds values up to `largest`; None if none does.

    Floats may exceed it a little, by noise, and 1 as far as `checks.LARGE_VALUE`, by lights.
    """
    if dtype.kind == "f":
        holds = [level for level in USUAL_LEVELS if largest <= NOISE_HEADROOM * level]
        return 1.0 if largest <= LARGE_VALUE else holds[0] if holds else None
    full = full_scale(dtype)
    return next((level for level in USUAL_LEVELS if largest <= level <= full), full)


def _compare(image: Array, white: float, largest: float, name: str) -> UnitWarning | None:
    """Raise if many values are above a `white` that the user gave; a warning if some are."""
    if largest <= NOISE_HEADROOM * white:
        return None
    fraction = float((image > NOISE_HEADROOM * white).mean())
    above = f"{name} has values up to {largest:.4g}, {100 * fraction:.2g} % of them above {NOISE_HEADROOM:g} x"
    if fraction > MAX_HOT_PIXELS:
        usual = usual_level(image.dtype, largest)
        auto = "" if usual is None else f", which would be {usual:.0f} by 'auto'"
        got = f"got {white:g} for values up to {largest:.4g} ({100 * fraction:.2g} % of them above it)"
        way_out = f"give the value of full scale{auto}"
        rule = "must not be below the values of the image"
        raise WhiteLevelError(f"white {rule}, {got}; {way_out}", f"--white-level {rule}, {got}; {way_out}")
    end = "no pixel counts as saturated; cut them off if they are hot pixels"
    return UnitWarning(f"{above} white={white:g}: {end}", f"{above} --white-level {white:g}: {end}")


def _warning_of_dim(dtype: Any, level: float, largest: float, bright: float, name: str) -> UnitWarning:
    """Of an image whose values end below 1/16 of `level`."""
    values = f"{largest:.4g}" if largest <= 2 * bright else f"{bright:.4g}, single pixels apart"
    whose = "floats" if dtype.kind == "f" else str(dtype)
    text = f"{name} has values up to {values}, under 1/16 of {level:g}, taken as the full scale of {whose}"
    usual = usual_level(dtype, largest)
    if usual is not None and usual < level and bright >= MIN_RANGE * usual:
        return _warning(text, f'give white="auto", or white={usual:.0f}', f"give --white-level auto, or {usual:.0f}")
    end = f"the value of full scale, if it is not {level:g}"
    return _warning(text, f"give white=, {end}", f"give --white-level, {end}")


def _warning(text: str, way_out: str, at_command_line: str) -> UnitWarning:
    text += ": noise and saturation are judged by it"
    return UnitWarning(f"{text}; {way_out}", f"{text}; {at_command_line}")
