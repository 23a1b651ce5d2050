"""The white level: what "auto" takes, what is doubted, and the arithmetic of planes in any unit."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same

from gpudeblur.images.checks import UnitWarning
from gpudeblur.images.planes import from_planes, to_planes
from gpudeblur.images.white import ComparedWhite, WhiteLevelError, assess_white, check_white, natural_level, white_level

VALUES = np.random.default_rng(0).random((40, 50))
VALUES[10:20, 10:20] = 1


def of(top: float, dtype: Any = np.uint16) -> np.ndarray:
    """A picture with values from 0 to `top`."""
    return (VALUES * top).astype(dtype)


def assessed(image: Any, white: Any = None, **options: Any) -> tuple[float, str]:
    """(white level, its warning or "")."""
    level, warning = assess_white(image, white, **options)
    return float(level), str(warning or "")


@pytest.mark.parametrize(
    ("dtype", "largest", "level"),
    [
        *(("u2", largest, 255) for largest in (0, 1, 255)),
        *(("u2", largest, 1023) for largest in (256, 1023)),
        *(("u2", largest, 4095) for largest in (1024, 4095)),
        *(("i2", largest, 16383) for largest in (4096, 16383)),
        ("u2", 16384, 65535), ("i2", 16384, 32767), ("u1", 3, 255), ("i1", 100, 127), ("u1", 255, 255),
        ("i8", 200, 255), ("i8", 65535, 65535), ("i8", 65536, 2**17 - 1), ("u4", 2**20 - 1, 2**20 - 1),
        ("i4", 2**31 - 1, 2**31 - 1), ("u8", 2.0**64, 2.0**64),
        *(("f4", largest, 1) for largest in (0, -3, 1 / 16, 1, 1.3, 16)),
        ("f4", 17, 255), ("f8", 262.5, 255), ("f4", 4000, 4095), ("f8", 8e4, 65535),
        ("f4", 9.3e-4, 9.8e-4), ("f8", 9.3e-18, 9.8e-18), ("f8", 0.03, 0.032), ("f8", 9.6e-3, 1.1e-2),
        ("f8", 9.3e5, 9.8e5),
    ],
)  # fmt: skip
def test_what_auto_takes(dtype: str, largest: float, level: float) -> None:
    assert natural_level(np.dtype(dtype), largest) == level


# ---- what is said of pictures without white=


@pytest.mark.parametrize(
    ("image", "level", "values", "whose"),
    [
        (of(4095), 4095, "4095, under 1/16", "uint16"),
        (of(900), 1023, "900, under 1/16", "uint16"),
        (of(255), 255, "255, under 1/16", "uint16"),
        (of(4095, ">i2"), 4095, "4095, under 1/16", "int16"),  # of its range, both signs
        (of(200, int), 255, "200, under 1/16", "int64"),
        (of(70000, np.uint32), 2**17 - 1, "7e+04, under 1/16", "uint32"),
        (of(9.3e-4, np.float32), 9.8e-4, "0.00093, under 1/16", "floats"),
        (of(9.3e-18, float), 9.8e-18, "9.3e-18, under 1/16", "floats"),
        (of(16383), 16383, "16383, the full scale of 14 bits, in", "uint16"),
    ],
)
def test_a_picture_in_another_unit_is_read_by_its_values(image: Any, level: float, values: str, whose: str) -> None:
    taken, text = assessed(image)
    assert taken == level
    assert text.startswith(f"image has values up to {values}")
    assert f"{whose}, and is read as if full scale were {level:g}; give white=" in text
    assert f'give white="auto" or white={level:g} if that is right, or the right value' in text
    _, warning = assess_white(image, None)
    assert warning is not None
    assert f"give --white-level auto or {level:g} if" in warning.at_command_line
    assert "white=" not in warning.at_command_line
    assert assessed(image, float(level)) == assessed(image, "auto") == (level, "")
    assert assessed(image, None, unit_free=True) == (level, "")


def test_other_numbers_in_the_unit_of_full_scale_keep_it() -> None:
    taken, text = assessed(of(4095), adaptive=False)
    assert taken == 65535
    assert 'is read as if full scale were 65535; give white="auto" or white=4095 if that is right' in text
    assert assessed(of(200, int), adaptive=False)[0] == 255  # 2^63 - 1 is the unit of nobody


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_a_picture_that_fills_its_range_is_not_warned_of(dtype: str) -> None:
    full = float(np.iinfo(dtype).max)
    span = 2 * full if dtype[0] == "i" else full
    for top in (full * (1 - 1e-9), full * 0.9, span / 15):
        assert assessed(of(top, dtype)) == (full, "")


def test_floats_that_fill_their_range_are_not_warned_of() -> None:
    image: Any
    for image in (VALUES, VALUES * 1.3, VALUES * 4.1, VALUES / 15, VALUES - 0.5, 0.1 * VALUES - 1, 0.01 * VALUES - 1):
        assert assessed(image) == (1, "")
    for image in (np.zeros((4, 5)), -VALUES, np.zeros((4, 5), np.uint16)):
        assert assessed(image)[1] == ""


def test_a_night_with_lamps_is_not_warned_of() -> None:
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        night = (np.random.default_rng(1).random((200, 300)) * 0.01 * top).astype(dtype)
        assert "under 1/16" in assessed(night)[1]
        night[50:53, 70:73] = top
        assert assessed(night) == (top, "")


def test_hot_pixels_and_lines_say_nothing_of_the_unit() -> None:
    for where in ((5, 7), (slice(None), 9), (11, slice(None))):
        image = of(4095)
        image[where] = 65535
        level, text = assessed(image)
        assert level == 4095
        assert text.startswith("image has values up to 4095, single pixels apart, under 1/16")
        level, text = assessed(image, "auto")  # holds all values
        assert level == 65535
        assert 'under 1/16 of 65535, which white="auto" takes for full scale; give its value' in text


def test_8_bits_that_are_dim_have_no_other_full_scale() -> None:
    level, text = assessed(of(12, np.uint8))
    assert level == 255
    assert text.endswith("is read as if full scale were 255; give white=, its value, if it is another")


@pytest.mark.parametrize(
    ("top", "level"), [(8, 8.4), (15.9, 17), (100, 255), (255, 255), (4095, 4095), (30000, 65535), (1e6, 1.1e6)]
)
def test_floats_far_above_1_are_read_by_their_values(top: float, level: float) -> None:
    taken, text = assessed(VALUES * top)
    assert taken == level
    assert f"these as if full scale were {level:g}; divide by the white level (255 for 8 bits), or give it" in text
    assert assessed(VALUES * top, adaptive=False)[0] == 1
    assert assessed(VALUES * top, unit_free=True)[1] == ""
    warning = assess_white(VALUES * top, None)[1]
    assert warning is not None
    assert warning.at_command_line.endswith("give --white-level auto, or the value of full scale (255 for 8 bits)")


def test_a_few_lights_far_above_1_leave_it_full_scale() -> None:
    image = VALUES.copy()
    image[3:6, 3:6] = 100
    assert assessed(image, "auto")[0] == 1
    level, text = assessed(image)
    assert level == 1
    assert text.startswith("image has values up to 100: floats are read as intensities of about [0, 1]; divide")


# ---- white= below the values


def test_a_white_level_below_the_values_is_refused() -> None:
    rule = r"must not be below the values of the image, got 255 for values up to 4095 \(9\d % of them above\)"
    with pytest.raises(
        WhiteLevelError, match=rf"^white {rule}; give the value of full scale; 'auto' takes 4095$"
    ) as error:
        white_level(of(4095), 255.0)
    assert error.value.at_command_line.startswith("--white-level must not be below")
    for image in (VALUES * 1.25, VALUES * 0.1):
        assert assessed(image, 1.0) == (1, "")  # noise, and what the user says


def test_hot_pixels_above_the_white_level_are_warned_of() -> None:
    image = of(4095)
    image[5, 7] = 60000
    with pytest.warns(
        UnitWarning, match=r"^image has values up to 6e\+04, 0\.05 % of them far above white=4095: no pix"
    ):
        assert white_level(image, 4095.0) == 4095.0


@pytest.mark.parametrize(
    ("white", "error"),
    [*((w, ValueError) for w in (0, -1.0, math.nan, math.inf, "full", "Auto", "255")),
     *((w, TypeError) for w in (True, np.True_, [255], np.ones(2), 1j, b"auto", object()))],
)  # fmt: skip
def test_white_levels_that_cannot_be(white: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=r"^white must be .*, got .*; give the value of full scale, such as 4095 for 12 bit"
    ):
        check_white(white)


def test_white_levels_that_can_be() -> None:
    for white in (4095, np.uint16(4095), np.array(4095.0), 4095.0):
        assert type(check_white(white)) is float
    for kept in (None, "auto", ComparedWhite(3)):
        assert check_white(kept) is kept


# ---- planes


@pytest.mark.parametrize("dtype", ["u2", "i4", "i8", "f4", "f8", ">f8", "f2"])
def test_planes_are_fractions_of_white_and_come_back(dtype: str) -> None:
    image = of(1000, dtype)
    for precision in ("float32", "float64"):
        planes = to_planes(image, dtype=precision, white=1023.0)
        assert planes.dtype == precision
        assert_close(planes, image.astype(float) / 1023, rtol=1e-6)
        back = from_planes(planes, image, white=1023.0)
        assert back.dtype == image.dtype
        assert_close(back.astype(float), image.astype(float), rtol=1e-6)


def test_values_beyond_float32_need_not_be_so_in_the_unit_of_white() -> None:
    for unit in (1e-60, 1e60):
        planes = to_planes(VALUES * unit, dtype="float32", white=unit)
        assert_close(planes, VALUES, rtol=1e-6)
        assert_close(from_planes(planes, VALUES, white=unit), VALUES * unit, rtol=1e-6)


def test_integers_are_clipped_at_a_given_white_and_not_at_an_assumed_one() -> None:
    planes = np.array([[-0.5, 0.5, 1.5]])
    assert_same(from_planes(planes, np.uint16, white=4095.0), np.array([[0, 2048, 4095]], np.uint16))
    assert_same(from_planes(planes, np.int16, white=4095.0), np.array([[-2048, 2048, 4095]], np.int16))
    assert_same(from_planes(planes, np.int16, white=1e5), np.array([[-32768, 32767, 32767]], np.int16))
    assert_same(from_planes(planes, np.float64, white=4.0), planes * 4)
    for dtype, top in ((np.uint16, 6142), (np.int64, 4095)):
        assumed, _ = assess_white(of(4095, dtype), None)
        assert from_planes(planes, dtype, white=assumed)[0, 2] == top


@pytest.mark.gpu
def test_a_device_decides_as_the_host(cupy: Any) -> None:
    for image in (of(4095), of(200, int), of(1e-3, float), of(255, np.float32), of(255, np.uint8)):
        for white in (None, "auto", 1e5):
            on_device, on_host = assess_white(cupy.asarray(image), white), assess_white(image, white)
            assert on_device[0] == on_host[0]
            assert str(on_device[1]) == str(on_host[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            level = white_level(image, None)
        planes: Any = to_planes(cupy.asarray(image), dtype="float32", white=level)
        assert_close(planes.get(), to_planes(image, dtype="float32", white=level), rtol=1e-6)
        assert_same(from_planes(planes, image.dtype, white=level), from_planes(planes.get(), image, white=level))
