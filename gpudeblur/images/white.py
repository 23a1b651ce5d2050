"""The white level: the value of full scale, in the unit of the user's image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, to_host_together
from ..numerics.user_warnings import warn
from .checks import LARGE_VALUE, UnitWarning, check_number, value_limit, warning_of_large

# Full scales of 8 to 16 bits.
USUAL_LEVELS = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
# An image whose values end below this fraction of the range of its dtype is in another unit, in all likelihood.
MIN_RANGE = 1 / 16
# Noise at full scale may exceed it by this factor; of larger values there may be this fraction, for hot pixels.
NOISE_HEADROOM, MAX_HOT_PIXELS = 1.25, 0.01
# Floats of which more than such a fraction is above such a value are not in [0, 1]: lights are fewer.
OTHER_UNIT = ((LARGE_VALUE, MAX_HOT_PIXELS), (4, 0.1))
# Larger than the brightest square of 2 x 2 pixels by more than this factor: a hot pixel.
HOT_PIXEL = 2.0
# Integers of so many bytes come from conversions: no sensor fills them.
WIDE_BYTES = 4

_WAY_OUT = "give the value of full scale, such as 4095 for 12 bits"


class WhiteLevelError(ValueError):
    """`white` contradicts the values of the image. `at_command_line` is the text for there."""

    def __init__(self, message: str, at_command_line: str) -> None:
        super().__init__(message)
        self.at_command_line = at_command_line


class ComparedWhite(float):
    """A white level that has been compared with the values of its image, so that this is not done again.

    Attributes
    ----------
    top : float
        Where integer results are clipped: the white level, or the end of the dtype if the level is only assumed.
    """

    top: float

    def __new__(cls, level: float, top: float | None = None) -> ComparedWhite:
        self = super().__new__(cls, level)
        self.top = float(level) if top is None else top
        return self


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


def white_level(image: Array, white: Any, **options: Any) -> ComparedWhite:
    """The value of full scale of an image; warns where it is doubtful. Options and errors as `assess_white`."""
    level, warning = assess_white(image, white, **options)
    if warning is not None:
        warn(warning)
    return level


def assess_white(
    image: Array,
    white: Any,
    *,
    channel_axis: int | None = None,
    dtype: Any = "float32",
    adaptive: bool = True,
    unit_free: bool = False,
    name: str = "image",
) -> tuple[ComparedWhite, UnitWarning | None]:
    """The value of full scale of an image, and a warning where it is doubtful, or None. On CuPy the call waits.

    Parameters
    ----------
    image : (..., H, W) array, or with one more axis for the channels
        As `check_picture` accepts it. The images of a stack have one white level.
    white : what `check_white` returns
        "auto": `natural_level`. None: the full scale of the dtype, but `natural_level` for an image that ends below
        MIN_RANGE of its range, or exactly at a smaller usual full scale, and for floats by OTHER_UNIT.
    dtype : dtype
        Of the computation: what `check_largest` refuses is not warned of.
    adaptive : bool
        Whether None may mean `natural_level` for other than wide integers. It must not where the user has given other
        numbers in the unit of full scale.
    unit_free : bool
        Whether the result does not depend on the unit, so that nothing needs a warning.

    Raises
    ------
    WhiteLevelError
        Many values are above `white`.
    """
    if isinstance(white, ComparedWhite):
        return white, None
    options: dict[str, Any] = {"dtype": dtype, "adaptive": adaptive, "unit_free": unit_free, "name": name}
    return assess_values(image.dtype, Values.of(image, channel_axis), white, **options)


@dataclass(frozen=True)
class Values:
    """What the white level depends on: `bright` as in `bright_level`, and which fraction of the values is above one."""

    largest: float
    bright: float
    smallest: float
    fraction_above: Callable[[float], float]

    @classmethod
    def of(cls, image: Array, channel_axis: int | None = None) -> Values:
        """Those of an image. On CuPy the call waits."""
        xp = array_module(image)
        values = image if channel_axis is None else xp.moveaxis(image, channel_axis, -3)
        levels = [level.astype(np.float64) for level in (values.max(), bright_level(values), values.min())]
        largest, bright, smallest = (float(level) for level in to_host_together(xp, levels))
        return cls(largest, bright, smallest, lambda value: float((image > value).mean()))


def assess_values(
    image_dtype: Any, values: Values, white: Any, *, dtype: Any, adaptive: bool, unit_free: bool, name: str
) -> tuple[ComparedWhite, UnitWarning | None]:
    """`assess_white` of an image of that dtype with these values."""
    largest, bright, smallest = values.largest, values.bright, values.smallest
    if isinstance(white, float):
        return ComparedWhite(white), _compare(image_dtype, values, white, name)
    is_large = image_dtype.kind == "f" and any(
        largest > value and values.fraction_above(value) > fraction for value, fraction in OTHER_UNIT
    )
    if white == "auto":
        level, warning = _automatic(image_dtype, largest, bright, is_large, name)
    else:
        level, warning = _assumed(image_dtype, largest, bright, smallest, adaptive, name)
        magnitude = max(largest, -smallest)
        if image_dtype.kind == "f" and (is_large or magnitude > LARGE_VALUE) and magnitude <= value_limit(dtype):
            extent = _without_hot(largest, bright)
            level = ComparedWhite(natural_level(image_dtype, extent, is_large) if adaptive else 1.0)
            warning = warning_of_large(magnitude, white=float(level), name=name)
    return level, None if unit_free else warning


def bright_level(values: Array) -> Array:
    """The largest value that a whole square of 2 x 2 pixels of images (..., H, W) reaches: no hot pixel, nor line.

    Of the squares that begin in even rows, which is half the work.
    """
    xp = array_module(values)
    if (height := values.shape[-2]) > 1:
        values = xp.minimum(values[..., : height - 1 : 2, :], values[..., 1::2, :])
    if values.shape[-1] > 1:
        values = xp.minimum(values[..., 1:], values[..., :-1])
    return values.max()


def natural_level(dtype: Any, largest: float, is_large: bool | None = None) -> float:
    """The smallest usual full scale that holds values up to `largest`.

    For integers 2^8 - 1 to 2^16 - 1, beyond them any 2^n - 1, and at most the end of the dtype. For floats also 1,
    which holds lights unless the image `is_large` by OTHER_UNIT (None: above `checks.LARGE_VALUE`), while the others
    hold noise only. For other floats the largest value itself, rounded up by 5 to 15 % so that nothing seems to be
    saturated.
    """
    if dtype.kind != "f":
        enough = (level for level in USUAL_LEVELS if largest <= level)
        return min(full_scale(dtype), next(enough, 2.0 ** math.ceil(math.log2(max(largest, 1) + 1)) - 1))
    usual = [level for level in USUAL_LEVELS if largest <= NOISE_HEADROOM * level]
    is_large = largest > LARGE_VALUE if is_large is None else is_large
    if largest <= 0 or (largest >= MIN_RANGE and not is_large):
        return 1.0
    if largest > LARGE_VALUE and usual:
        return usual[0]
    digit = 10.0 ** (math.floor(math.log10(1.05 * largest)) - 1)
    return float(f"{math.ceil(1.05 * largest / digit) * digit:.1e}")


def _compare(dtype: Any, values: Values, white: float, name: str) -> UnitWarning | None:
    """Raise if many values are above a `white` that the user gave; a warning if some are."""
    largest = values.largest
    if largest <= NOISE_HEADROOM * white:
        return None
    fraction = values.fraction_above(NOISE_HEADROOM * white)
    percent = f"{100 * fraction:.2g} % of them"
    if fraction <= MAX_HOT_PIXELS:
        end = "no pixel counts as saturated; cut them off if they are hot pixels"
        text = f"{name} has values up to {largest:.4g}, {percent} far above"
        return UnitWarning(f"{text} white={white:g}: {end}", f"{text} --white-level {white:g}: {end}")
    way_out = f"give the value of full scale; 'auto' takes {natural_level(dtype, largest):g}"
    rule = f"must not be below the values of the image, got {white:g} for values up to {largest:.4g} ({percent} above)"
    raise WhiteLevelError(f"white {rule}; {way_out}", f"--white-level {rule}; {way_out}")


def _automatic(
    dtype: Any, largest: float, bright: float, is_large: bool, name: str
) -> tuple[ComparedWhite, UnitWarning | None]:
    """The white level by "auto"."""
    level = natural_level(dtype, largest, is_large)
    if not 0 < bright < MIN_RANGE * level:
        return ComparedWhite(level), None
    text = f"{name} has values up to {_extent(largest, bright)}, under 1/16 of {level:g}, which"
    end = "takes for full scale; give its value, if it is another"
    return ComparedWhite(level), UnitWarning(f'{text} white="auto" {end}', f"{text} --white-level auto {end}")


def _assumed(
    dtype: Any, largest: float, bright: float, smallest: float, adaptive: bool, name: str
) -> tuple[ComparedWhite, UnitWarning | None]:
    """The white level where the user gives none."""
    full, is_integer = full_scale(dtype), dtype.kind in "iu"
    span = 2 * full + 1 if dtype.kind == "i" else full
    natural = natural_level(dtype, max(_without_hot(largest, bright), -smallest))
    if bright > 0 and max(bright, -smallest) < MIN_RANGE * span:
        text = f"{name} has values up to {_extent(largest, bright)}, under 1/16 of the range of"
    elif is_integer and largest == natural < full:
        text = f"{name} has values up to {largest:.0f}, the full scale of {math.log2(largest + 1):.0f} bits, in"
    else:
        return ComparedWhite(full), None
    text += f" {dtype.name if is_integer else 'floats'}"
    if natural == full:
        text += f", and is read as if full scale were {full:g}; give"
        return ComparedWhite(full), UnitWarning(
            f"{text} white=, its value, if it is another", f"{text} --white-level, its value, if it is another"
        )
    is_wide = is_integer and dtype.itemsize >= WIDE_BYTES
    level, top = (natural, natural if is_wide else full) if adaptive or is_wide else (full, full)
    text += f", and is read as if full scale were {level:g}; give"
    return ComparedWhite(level, top), UnitWarning(
        f'{text} white="auto" or white={natural:g} if that is right, or the right value',
        f"{text} --white-level auto or {natural:g} if that is right, or the right value",
    )


def _without_hot(largest: float, bright: float) -> float:
    """The largest value that is not that of hot pixels."""
    return bright if largest > HOT_PIXEL * bright else largest


def _extent(largest: float, bright: float) -> str:
    return f"{bright:.4g}, single pixels apart" if largest > HOT_PIXEL * bright else f"{largest:.4g}"
