"""Entry and exit of arrays: round trips, axes, dtypes. What is refused is in test_bad_input.py."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from laws import assert_close, assert_same

from gpudeblur.images.checks import check_kernel, check_kernel_size, check_picture
from gpudeblur.images.planes import from_planes, luminance, to_planes

INTEGERS = [np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32]
FLOATS = [np.float16, np.float32, np.float64]


@st.composite
def pictures(draw, dtypes):
    """A picture or stack with or without a channel axis anywhere, of either byte order."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))
    channel_axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1)) if len(shape) > 2 else None
    dtype = np.dtype(draw(st.sampled_from(dtypes))).newbyteorder(draw(st.sampled_from("<>")))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    return draw(hnp.arrays(dtype, shape, elements=elements)), channel_axis


@settings(max_examples=40)
@given(pictures(INTEGERS + FLOATS))
def test_pictures_come_back_exactly_from_fresh_planes(case):
    image, channel_axis = case
    before, image.flags.writeable = image.copy(), False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stack of very small pictures looks like one with channels
        check_picture(image, channel_axis=channel_axis)
    planes = to_planes(image[::-1], channel_axis=channel_axis, dtype=np.float64)
    assert planes.flags.c_contiguous
    assert planes.dtype == np.float64
    assert planes.dtype.isnative
    assert image.dtype.kind == "f" or planes.max(initial=-2) <= 1
    back = from_planes(planes, image, channel_axis=channel_axis)
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image[::-1])
    planes[...] = 7
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_float32_is_enough_for_16_bits(dtype):
    image = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    np.testing.assert_array_equal(from_planes(to_planes(image, dtype=np.float32), image), image)


def test_integers_are_fractions_rounded_and_clipped_at_the_end():
    for value, dtype, fraction in ((255, np.uint8, 1), (51, np.uint8, 0.2), (65535, np.uint16, 1)):
        assert to_planes(np.full((1, 1), value, dtype), dtype=np.float64)[0, 0] == fraction
    planes = np.array([[-0.5, 0.5 / 255 + 1e-9, 0.4 / 255, 1.5]])
    np.testing.assert_array_equal(from_planes(planes, np.uint8), np.array([[0, 1, 0, 255]], np.uint8))
    np.testing.assert_array_equal(from_planes(np.array([[-9.0]]), np.int8), np.array([[-128]], np.int8))
    for wide in (np.int64, np.uint64):  # white does not overflow
        bright, clipped, black = from_planes(np.array([1.0, 7.0, 0.0]), wide)
        assert min(bright, clipped) > np.iinfo(wide).max - 2048
        assert black == 0


def test_floats_are_neither_scaled_nor_clipped():
    image = np.array([[-3.0, 255.0, 1e6]])
    np.testing.assert_array_equal(to_planes(image, dtype=np.float32), image.astype(np.float32))
    np.testing.assert_array_equal(from_planes(image, np.float32), image.astype(np.float32))


@pytest.mark.parametrize(("axis", "shape"), [(-1, (5, 6, 3)), (2, (5, 6, 3)), (0, (3, 5, 6)), (1, (5, 3, 6))])
def test_channels_go_before_the_rows(axis, shape):
    image = np.random.default_rng(0).random(shape)
    planes = to_planes(image, channel_axis=axis, dtype=np.float64)
    assert planes.shape == (3, 5, 6)
    assert to_planes(np.zeros((2, 5, 6, 3)), channel_axis=-1, dtype=np.float32).shape == (2, 3, 5, 6)
    np.testing.assert_array_equal(planes[1], np.take(image, 1, axis=axis))
    np.testing.assert_array_equal(from_planes(planes, image, channel_axis=axis), image)


def test_a_dtype_is_as_good_as_the_picture_it_belongs_to():
    planes = np.full((2, 2), 0.5)
    for like in (np.uint8, "uint8", np.dtype(np.uint8), np.zeros((1, 1), np.uint8)):
        assert from_planes(planes, like).dtype == np.uint8


def test_luminance_of_rgb_is_rec_709():
    red, green, blue = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    gray = luminance(np.stack([red, green, blue]))
    np.testing.assert_allclose(gray, 0.2126 * red + 0.7152 * green + 0.0722 * blue, rtol=1e-6)
    assert gray.dtype == np.float32
    stack = np.random.default_rng(0).random((2, 1, 4, 5))
    np.testing.assert_allclose(luminance(np.repeat(stack, 3, axis=1)), stack[:, 0], rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_luminance_of_unknown_channels_is_their_mean(channels):
    planes = np.random.default_rng(0).random((2, channels, 4, 5), dtype=np.float32)
    gray = luminance(planes)
    np.testing.assert_allclose(gray, planes.mean(axis=1), rtol=1e-6)
    assert gray.dtype == np.float32


def test_kernel_size_is_an_odd_integer_or_a_pair():
    for pair in ((5, 7), [5, 7], np.array([5, 7], np.uint8), (np.int16(5), 7)):
        assert check_kernel_size(pair, (31, 40)) == (5, 7)
    for side in (31, np.int64(31), np.array(31)):
        size = check_kernel_size(side, (31, 40))
        assert size == (31, 31)
        assert type(size[0]) is type(size[1]) is int


def test_pictures_of_other_libraries_subclasses_become_plain():
    image: Any = np.zeros((3, 3)).view(type("Special", (np.ndarray,), {}))
    check_picture(image)
    assert type(to_planes(image, dtype=np.float32)) is np.ndarray


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_cupy_does_what_numpy_does(cupy, dtype):
    image = (np.random.default_rng(0).random((2, 9, 8, 3)) * 200).astype(dtype)
    on_device = cupy.asarray(image)
    check_picture(on_device, channel_axis=-1)
    planes = to_planes(on_device, channel_axis=-1, dtype=np.float32)
    assert isinstance(planes, cupy.ndarray)
    expected = to_planes(image, channel_axis=-1, dtype=np.float32)
    assert_close(planes, expected, rtol=1e-6)
    assert_close(luminance(planes), luminance(expected), rtol=1e-5)
    for like in (on_device, image, dtype):
        assert_same(from_planes(planes, like, channel_axis=-1), image)


@pytest.mark.gpu
def test_cupy_is_refused_in_the_same_words(cupy):
    bad = cupy.zeros((4, 5), np.float32)
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"^image must be finite, got nan at index \(1, 2\) \(1 bad pixel\); "):
        check_picture(bad)
    check_kernel(cupy.ones((3, 5)))
    with pytest.raises(ValueError, match=r"^kernel must not sum to zero, got a sum of 0; "):
        check_kernel(cupy.zeros((2, 3, 3)))
