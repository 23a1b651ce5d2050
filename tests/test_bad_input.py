"""Each rule for arguments, asked at its check, with its whole message: argument, rule, what came, way out.

That the public functions ask the checks is in test_bad_input_api.py; "..." in a message stands for anything.
"""

import functools
import itertools
import math
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same

import gpudeblur as gd
from gpudeblur.images import checks
from gpudeblur.images.checks import (
    check_choice,
    check_count,
    check_kernel,
    check_kernel_fits,
    check_kernel_size,
    check_minimum_size,
    check_number,
    check_picture,
    check_positive,
    check_range,
)
from gpudeblur.images.planes import decode, to_planes
from gpudeblur.nonblind.checked import checked
from gpudeblur.nonblind.specs import (
    METHOD_SPECS,
    UNSUPERVISED_WIENER,
    MethodSpec,
    color_axis,
    denoising_module,
    flag,
    patch_mixture,
    unchecked,
)
from gpudeblur.numerics.arrays import choose_module
from gpudeblur.numerics.progress import make_progress


def refuses(error: type[Exception], message: str) -> Any:
    """The whole message, literally but for "...", which stands for anything."""
    return pytest.raises(error, match=f"^{re.escape(message)}$".replace(r"\.\.\.", r"(.|\n)*"))


# ---- arrays

EVERY_SIDE = "every side must be at least 1"
ARRAYS = [
    *(
        (value, TypeError, f"be a NumPy or CuPy array, got {type(value).__name__}; {way_out}")
        for way_out, values in (
            ("convert it with numpy.asarray", ([[1.0]], None, 3, 0.5)),
            ("read the file with gpudeblur.read_...", ("photo.png", b"photo")),
        )
        for value in values
    ),
    (Path("a.png"), TypeError, "be a NumPy or CuPy array, got pathlib...; read the file with gpudeblur.read_..."),
    (types.SimpleNamespace(shape=(3, 3)), TypeError, "be a NumPy or CuPy array, got types.SimpleNamespace; ..."),
    (np.float64(1), TypeError, "be a NumPy or CuPy array, got numpy.float64; convert it with numpy.asarray"),
    (
        np.ma.zeros((3, 3)),
        TypeError,
        "be a plain array, got a masked one; images may be masked where mask is an argument, here pass .filled(value)",
    ),
    *(
        (np.zeros((3, 3), dtype), TypeError, f"have an integer or float dtype, got {name}; {way_out}")
        for dtype, name, way_out in [
            (complex, "complex128", "pass its real part or its magnitude"),
            (object, "object", "convert it with .astype(float)"),
            (bool, "bool", "convert it with .astype(float)"),
            ("U3", "<U3", "read the file first, for instance with gpudeblur....read_image"),
            ("S3", "|S3", "read the file first, for instance with gpudeblur....read_image"),
            ("M8[s]", "datetime64[s]", "convert it to an integer or float dtype"),
            ("m8[s]", "timedelta64[s]", "convert it to an integer or float dtype"),
            ([("a", "f4")], "[('a', '<f4')]", "convert it to an integer or float dtype"),
        ]
    ),
    *((np.zeros(s), ValueError, f"not be empty, got shape {s}; {EVERY_SIDE}") for s in [(0, 5), (5, 0), (0, 5, 5)]),
]


@pytest.mark.parametrize(("array", "error", "message"), ARRAYS)
def test_arrays_that_are_neither_picture_nor_kernel(array: Any, error: type[Exception], message: str) -> None:
    for check in (check_picture, check_kernel):
        with refuses(error, f"latent must {message}"):
            check(array, name="latent")
    for check, name in ((check_picture, "image"), (check_kernel, "kernel")):
        with refuses(error, f"{name} must {message}"):
            check(array)


# ---- pictures

NO_SIGNAL, FEWER = "a 1-D signal is no picture", "pass fewer pictures at a time"


@pytest.mark.parametrize(
    ("shape", "axis", "error", "message"),
    [
        ((), None, ValueError, f"image must have 2 to 4 axes, (..., H, W), got 0 (shape ()); {NO_SIGNAL}"),
        ((7,), None, ValueError, f"image must have 2 to 4 axes, (..., H, W), got 1 (shape (7,)); {NO_SIGNAL}"),
        ((1, 1, 1, 5, 5), None, ValueError, f"image must have 2 to 4 axes, (..., H, W), got 5 (shape ...); {FEWER}"),
        ((5, 6), -1, ValueError, "image must have 3 or 4 axes when channel_axis is given, got 2 (shape (5, 6)); "
         "leave channel_axis out for a gray picture"),
        ((1, 1, 1, 5, 5), -1, ValueError, f"image must have 3 or 4 axes when channel_axis is given, got 5 ...{FEWER}"),
        *(
            ((5, 6, 3), axis, ValueError, f"channel_axis must be between -3 and 2 for shape (5, 6, 3), got {axis}; "
             "use -1 for (H, W, C)")
            for axis in (3, -4, 100)
        ),
        *(
            ((5, 6, 3), axis, TypeError, f"channel_axis must be an integer or None, got {axis!r} ({kind}); "
             "use -1 for (H, W, C)")
            for axis, kind in [(1.0, "float"), ("last", "str"), (True, "bool"), ((-1,), "tuple")]
        ),
        ((5, 6, 0), -1, ValueError, f"image must not be empty, got shape (5, 6, 0); {EVERY_SIDE}"),
    ],
)  # fmt: skip
def test_axes_that_no_picture_has(shape: tuple[int, ...], axis: Any, error: type[Exception], message: str) -> None:
    with refuses(error, message):
        check_picture(np.zeros(shape), channel_axis=axis)


CHANNELS = "give channel_axis=-1, or pass pictures of"
MANY = "or pass the channels as a stack of gray pictures"


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        *(
            ((20, 30, c), None, f"image must end in rows and columns, (..., H, W), got shape (20, 30, {c}), whose last "
             f"axis of {c} looks like channels; {CHANNELS} 30 x {c} one by one")
            for c in (2, 3, 4)
        ),
        ((20, 30, 1), None, "image must ..., whose last axis of 1 looks like channels; give channel_axis=-1, or "
         "image[..., 0], or pass pictures of 30 x 1 one by one"),
        ((2, 20, 30, 3), None, "image must ..., got shape (2, 20, 30, 3), whose last axis of 3 looks like ..."),
        ((3, 20, 30), -1, "channel_axis must be the axis of the channels, got -1 for shape (3, 20, 30), which makes "
         f"pictures of 3 x 20 with 30 channels; use -3, {MANY}"),
        ((20, 30, 3), 0, f"channel_axis must ..., which makes pictures of 30 x 3 with 20 channels; use -1, {MANY}"),
        ((20, 30, 3), 1, f"channel_axis must ..., which makes pictures of 20 x 3 with 30 channels; use -1, {MANY}"),
        ((2, 20, 30, 3), 0, f"channel_axis must ..., which makes pictures of 30 x 3 with 2 channels; use -1, {MANY}"),
    ],
)  # fmt: skip
def test_channels_are_not_taken_for_columns(shape: tuple[int, ...], axis: Any, message: str) -> None:
    with refuses(ValueError, message):
        check_picture(np.zeros(shape), channel_axis=axis)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((20, 30), None), ((20, 3), None), ((3, 20, 30), None), ((1, 20, 3), None), ((4, 20, 3), None), ((5, 4, 4), None),
     ((19, 30, 5), None), ((20, 30, 16), None), ((9, 100, 20), None), ((20, 30, 3), -1), ((20, 30, 1), -1),
     ((3, 20, 30), 0), ((20, 30, 31), -1), ((2, 20, 30, 3), -1), ((2, 3, 20, 30), 1), ((20, 3, 3), -1)],
)  # fmt: skip
def test_shapes_of_ordinary_pictures(shape: tuple[int, ...], axis: Any) -> None:
    check_picture(np.zeros(shape), channel_axis=axis)


def test_a_short_last_axis_is_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"^image of shape \(64, 80, 8\) is taken for a stack of 64 pictures of 80 x 8;"
    ):
        check_picture(np.zeros((64, 80, 8)))


def test_a_bad_pixel_is_found_wherever_it_is() -> None:
    for index, value in zip(np.ndindex(5, 7), itertools.cycle((np.nan, np.inf, -np.inf)), strict=False):
        array = np.zeros((5, 7), np.float32)
        array[index] = value
        where = f"be finite, got {value} at index {index} (1 bad pixel)"
        with refuses(ValueError, f"image must {where}; inpaint it first"):
            check_picture(array)
        with refuses(ValueError, f"kernel must {where}; estimate it again or set it to zero there"):
            check_kernel(array)


def test_bad_pixels_are_counted_and_the_first_is_named() -> None:
    image = np.zeros((2, 5, 7, 3), np.float16)
    image[1, 2, 3, 0], image[1, 4, 0, 2] = np.inf, np.nan
    with refuses(ValueError, "image must be finite, got inf at index (1, 2, 3, 0) (2 bad pixels); inpaint ..."):
        check_picture(image, channel_axis=-1)


def test_values_beyond_the_dtype_or_its_squares() -> None:
    beyond = "image must be within 3.4e+38 for float32, got 1.0e+300; scale it to about [0, 1]"
    with refuses(ValueError, beyond):
        to_planes(np.full((2, 2), 1e300), dtype=np.float32)
    for dtype, value, limit in (("float32", "1.0e+30", "1.8e+15"), ("float64", "1.0e+200", "1.3e+150")):
        with refuses(ValueError, f"light must be within {limit} for {dtype}, got {value}; scale it to about [0, 1]"):
            check_range(np.full((2, 2), -float(value), dtype), None, name="light")


def test_floats_that_look_like_8_bits_are_warned_of() -> None:
    check_range(np.full((2, 2), 16.0))
    with pytest.warns(UserWarning, match=r"^image has values up to 255: floats .*divide by the white level \(255 for"):
        check_range(np.array([[-255.0, 3.0]]))
    check_range(np.array([[255.0]]), None)


def test_gammas_that_cannot_be() -> None:
    gamma: Any
    for gamma in (0, -1.0, math.nan, math.inf, "2", None):
        with refuses(ValueError, f"gamma must be a positive number, got {gamma!r}; 1 is linear, photos have about 2.2"):
            decode(np.ones((2, 2)), gamma)


# ---- kernel sizes

PAIR = "use for instance 31 or (31, 25)"


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (24, ValueError, "be odd, got 24; use 23 or 25"),
        (np.int64(4), ValueError, "be odd, got 4; use 3 or 5"),
        ((24, 31), ValueError, "be odd, got (24, 31); use (23, 31) or (25, 31)"),
        *((size, ValueError, f"be at least 3, got {size}; the smallest is 3") for size in (0, -5, 2, (9, -1))),
        (1, ValueError, "be at least 3, got 1; a 1 x 1 kernel is no blur, the smallest is 3"),
        ((5, 1), ValueError, "be at least 3, got (5, 1); a 1 x 1 kernel is no blur, the smallest is 3"),
        *(
            (size, TypeError, f"be an odd integer or a pair of them, got {size!r} ({kind}); {PAIR}")
            for size, kind in [(25.0, "float"), ("25", "str"), (True, "bool"), ((25, 3.5), "tuple"), ([9, "9"], "list")]
        ),
        *(
            (size, ValueError, f"be one odd integer or a pair (height, width), got {len(size)} numbers: {size}; {PAIR}")
            for size in [(), (3, 5, 7)]
        ),
        (65, ValueError, "not exceed the picture, got (65, 65) for a picture of 64 x 60; use at most (63, 59)"),
        ((5, 61), ValueError, "not exceed the picture, got (5, 61) for a picture of 64 x 60; use at most (63, 59)"),
    ],
)
def test_kernel_sizes_that_cannot_be(size: Any, error: type[Exception], message: str) -> None:
    with refuses(error, f"kernel_size must {message}"):
        check_kernel_size(size, (64, 60))


def test_pictures_too_small_for_any_kernel() -> None:
    channels = "a picture with channels (H, W, C) needs channel_axis=-1"
    with refuses(ValueError, f"...got (3, 3) for a picture of 2 x 9; a picture must be at least 3 x 3; {channels}"):
        check_kernel_size(3, (2, 9))
    with refuses(ValueError, f"...got (25, 25) for a picture of 640 x 3; use at most (639, 3); {channels}"):
        check_kernel_size(25, (480, 640, 3))
    check_minimum_size((5, 5))
    with refuses(ValueError, "image must have at least 5 x 5 pixels for kernel_size=None, got 640 x 3; give a ..."):
        check_minimum_size((480, 640, 3))


# ---- kernels

LIGHT = "a blur keeps the light, so its kernel sums to 1"


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones(5), "have at least 2 axes, (..., kh, kw), got 1 (shape (5,)); give a line blur ... kernel[None, :]"),
        (np.ones((4, 5)), "have odd sides, got a height of 4 (shape (4, 5)); pad it with one zero row"),
        (np.ones((5, 4)), "have odd sides, got a width of 4 (shape (5, 4)); pad it with one zero column"),
        (np.zeros((3, 3)), f"not sum to zero, got a sum of 0; {LIGHT}"),
        (np.zeros((1, 1), np.uint8), f"not sum to zero, got a sum of 0; {LIGHT}"),
        (np.array([[0.1, 0.2, -0.3]]), f"not sum to zero, got a sum of 0; {LIGHT}"),  # but for rounding
        (np.array([[[1, 0, 0]], [[1, 0, -1]]]), f"not sum to zero, got a sum of 0; {LIGHT}"),
        (-np.ones((3, 3)), "have a positive sum, got -9; change its sign"),
    ],
)
def test_kernels_that_cannot_be(kernel: np.ndarray, message: str) -> None:
    with refuses(ValueError, f"kernel must {message}"):
        check_kernel(kernel)


def test_channels_of_a_kernel_are_not_taken_for_columns() -> None:
    kernel = np.pad(np.ones((5, 5)), 2)
    way_out = "looks like channels; use kernel[..., 0], or read its file with gpudeblur.read_kernel"
    for count in (1, 3, 4):
        channels = np.repeat(kernel[..., None], count, -1)
        got = f"got shape (9, 9, {count}), whose last axis of {count}"
        with refuses(ValueError, f"kernel must end in its rows and columns, (..., kh, kw), {got} {way_out}"):
            check_kernel(channels, odd=False)
        with refuses(ValueError, f"kernel must end in its rows and columns, (..., kh, kw), {got} {way_out}"):
            check_kernel_fits(channels + 1, np.ones((40, 50)))
    check_kernel(np.ones((6, 9, 3)))  # kernels of a stack


def test_negative_values_in_a_kernel_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"^kernel has negative values, down to -0\.1: no blur has; cut them off with"):
        check_kernel(np.array([[-0.1, 1.2, -0.1]]))
    check_kernel(np.array([[-1e-6, 1.2, 0]]))  # rounding
    check_kernel(np.ones((4, 4)), odd=False)


CROP = "crop its empty border"


@pytest.mark.parametrize(
    ("kernel", "image", "options", "message"),
    [
        ((41, 51), (40, 50), {"both": False}, f"not exceed the picture, got 41 x 51 for a picture of 40 x 50; {CROP}"),
        ((41, 3), (40, 50), {}, f"not exceed the picture, got 41 x 3 for a picture of 40 x 50; {CROP}"),
        ((3, 51), (40, 50, 3), {"channel_axis": -1}, f"not exceed ..., got 3 x 51 for a picture of 40 x 50; {CROP}"),
        ((1, 3, 3), (40, 50), {}, "be one, (kh, kw), for one picture, got shape (1, 3, 3); use kernel[0]"),
        (
            (7, 3, 3),
            (9, 40, 50),
            {},
            "be one, ..., got shape (7, 3, 3); ...; a 3-D PSF needs gpudeblur.restoration.ric...",
        ),
        ((2, 3, 3), (40, 50), {}, "be one, (kh, kw), for one picture, got shape (2, 3, 3); channels share a kernel"),
        ((2, 3, 3), (4, 40, 50), {}, "be one, (kh, kw), or one a picture, (4, 3, 3), got shape (2, 3, 3); ..."),
        ((3, 3, 3), (40, 50, 3), {"channel_axis": -1}, "be one, (kh, kw), for one picture, got shape (3, 3, 3); ..."),
        ((3, 3, 3), (4, 3, 40, 50), {"channel_axis": 1}, "be one, ..., or one a picture, (4, 3, 3), got ..."),
    ],
)
def test_kernels_that_do_not_fit(kernel: Any, image: Any, options: dict[str, Any], message: str) -> None:
    with refuses(ValueError, f"kernel must {message}"):
        check_kernel_fits(np.ones(kernel), np.ones(image), **options)
    check_kernel_fits(np.ones((41, 3)), np.ones((40, 50)), both=False)
    check_kernel_fits(np.ones((4, 3, 3)), np.ones((4, 40, 50)))


# ---- numbers and names


def test_weights_and_noise_out_of_range() -> None:
    value: Any
    for value in (-1e-3, -1, math.nan, math.inf, [0.1, -1]):
        estimated = f"got {value!r}; leave it out to have it estimated"
        with refuses(ValueError, f"weight must be positive, and finite, {estimated}"):
            check_positive("weight", value, (2,))
        with refuses(ValueError, f"sigma must not be negative, and be finite, {estimated}"):
            check_positive("sigma", value, (2,), zero=True)
    for value in (0, np.float32(0)):
        assert check_positive("sigma", value, (), zero=True) == 0
        with refuses(ValueError, f"weight must be positive, and finite, got {value!r}; leave it out ..."):
            check_positive("weight", value, ())
    for value in (1e-30, 1e20, [0.1, 1e300]):  # float32 would divide 0 by 0
        with refuses(ValueError, f"weight must be from 1e-20 to 1e+12, got {value!r}; leave it out to ..."):
            check_positive("weight", value, (2,))
    with refuses(ValueError, "sigma must be from 1e-20 to 1e+12, or 0, got 1e+20; leave it out ..."):
        check_positive("sigma", 1e20, (), zero=True)
    for value in ("0.1", True, 1j, None, [None], [[1, 2], [3]], object()):
        with refuses(TypeError, f"weight must be a number, or one a picture, got {value!r}; leave it out ..."):
            check_positive("weight", value, ())


def test_one_number_or_one_a_picture() -> None:
    with refuses(ValueError, "weight must be a number, got shape (3,); channels share a number"):
        check_positive("weight", np.ones(3), ())
    with refuses(ValueError, "weight must be a number, or one a picture, (2,), got shape (3,); channels share ..."):
        check_positive("weight", [1, 2, 3], (2,))
    assert_same(check_positive("weight", [1, 2], (2,)), np.array([1, 2]))
    for value in (np.float32(0.5), np.array(0.5), 0.5):
        assert type(check_positive("weight", value, (2,))) is float


def test_counts_that_cannot_be() -> None:
    value: Any
    for value in (0, -3):
        with refuses(ValueError, f"passes must be at least 1, got {value}; leave it out for the default"):
            check_count("passes", value)
    for value in (2.5, "9", True, None, np.ones(2), [3]):
        with refuses(TypeError, f"passes must be an integer, got {value!r} ({type(value).__name__}); round it"):
            check_count("passes", value)
    for value in (np.int16(2), np.array(2), np.uint8(2)):
        assert type(check_count("passes", value)) is int


def test_numbers_that_cannot_be() -> None:
    value: Any
    check = functools.partial(check_number, "rate", rule="below 2", holds=lambda number: number < 2, way_out="try 1")
    for value in (2.0, math.nan, -math.inf):
        with refuses(ValueError, f"rate must be below 2, and finite, got {value!r}; try 1"):
            check(value)
    for value in ("1", b"1", True, np.True_, 1j, None, [1], [[1], []]):
        with refuses(TypeError, f"rate must be a number, got {value!r} ({type(value).__name__}); try 1"):
            check(value)
    for value in (np.float32(1), np.array(1), 1):
        assert type(check(value)) is float


def test_names_that_do_not_exist() -> None:
    for value in ("magic", 3, None, np.array(["tv", "l0"])):
        with refuses(ValueError, f"method must be one of 'tv', 'l0', got {value!r}"):
            check_choice("method", value, ("tv", "l0"))


def test_true_stops_a_run_and_nothing_else_does() -> None:
    answer: Any
    for answer in (None, False, 1, "stop", np.False_):
        make_progress(lambda *_, answer=answer: answer, "kernel")(0.5)
    for answer in (True, np.True_):
        with refuses(gd.Stopped, "stopped by the callback in stage 'kernel' at 50% of the run"):
            make_progress(lambda *_, answer=answer: answer, "kernel")(0.5)
    with refuses(TypeError, "callback must be a function, got 3; leave it out for no reports"):
        make_progress(3, "kernel")  # type: ignore[arg-type]


# ---- options of the methods for a known kernel

POSITIVE, AT_LEAST_0 = ((1e-9,), (0,)), ((0,), (-1e-9,))
COUNT_FROM_0, COUNT_FROM_1 = ((0,), (0.5,)), ((1,), (0, 2.5))
# The last values that each allows, and some that it does not.
BOUNDS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    **dict.fromkeys(("weight", "flat_weight", "beta_max", "sigma", "range_sigma"), POSITIVE),
    **dict.fromkeys(("noise_sigma", "offset", "damping", "tv_weight", "discrepancy", "threshold"), AT_LEAST_0),
    **dict.fromkeys(("iterations", "num_iter"), COUNT_FROM_1),
    "stride": ((1, 8), (0, 2.5, 9)),
    **dict.fromkeys(("reweightings", "burnin", "min_num_iter"), COUNT_FROM_0),
    "max_num_iter": ((2,), (1, 2.5)),
    "exponent of sparse": ((1e-9, 2), (0, 2.001)),
    "exponent of hyper_laplacian": ((1e-9, 0.999), (0, 1)),
    "beta_rate": ((1.001,), (1,)),
    "suppression": ((0, 1), (-1e-9, 1.001)),
}


CHECKS = [
    (spec.function.__name__, option, check)
    for spec in (*METHOD_SPECS.values(), UNSUPERVISED_WIENER)
    for option, check in spec.parameters.items()
    if check not in (unchecked, flag, patch_mixture, color_axis, denoising_module) and option != "prior"
]


@pytest.mark.parametrize(("method", "option", "check"), CHECKS)
def test_every_number_has_its_bounds(method: str, option: str, check: Any) -> None:
    allowed, beyond = BOUNDS.get(f"{option} of {method}") or BOUNDS[option]
    for value in (*beyond, -1, -0.5, math.nan, math.inf, "1", 1j, [[1, 2], [3]], object(), True, np.ones(2)):
        with pytest.raises((TypeError, ValueError), match=rf"^{option} must .*[,;] "):
            check(option, value, ())
    for value in allowed:
        assert check(option, value, ()) == value


def test_counts_end_and_ragged_lists_are_named() -> None:
    with refuses(ValueError, "num_iter must be at most 1000000000, got 1000000000000; leave it out for the default"):
        checks.check_count("num_iter", 10**12)
    with refuses(TypeError, "kernel_size must be an odd integer or a pair of them, got [[1, 2], [3]] (list)..."):
        checks.check_kernel_size([[1, 2], [3]])
    with refuses(TypeError, "focal must be one number for a whole stack, got [[1, 2], [3]]; ..."):
        checks.check_focal([[1, 2], [3]])


def test_flags_and_mixtures() -> None:
    value: Any
    for value in (True, np.bool_(False), 1, 0):
        assert flag("accelerated", value, ()) is bool(value)
    for value in (None, 2, "no", np.ones(2), [], 1.0):
        with refuses(TypeError, f"accelerated must be True or False, got {value!r} (..."):
            flag("accelerated", value, ())
    with refuses(TypeError, "mixture must be a gpudeblur.nonblind.methods.mixture.Mixture, got float"):
        patch_mixture("mixture", 0.5, ())


def recorded(blurred: Any, kernel: Any, *, weight: Any = None, iterations: int = 9, boundary: str = "unknown",
             saturated: Any = None, callback: Any = None) -> Any:  # fmt: skip
    """A method that gives back what it was given."""
    return blurred, kernel, {"weight": weight, "iterations": iterations, "saturated": saturated, "callback": callback}


SPARSE = METHOD_SPECS["sparse"].parameters
SPEC = MethodSpec(function=recorded, parameters={name: SPARSE[name] for name in ("weight", "iterations")})
METHOD: Callable[..., Any] = checked(recorded, SPEC)
U = np.random.default_rng(0).random((12, 16))
K = np.outer([1.0, 2, 1], [1.0, 2, 4, 2, 1]) / 40


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blurred": U > 0.5}, TypeError, "blurred must have an integer or float dtype, got bool; convert it with ..."),
        *(
            ({"blurred": U.astype(dtype)}, TypeError, f"blurred must have dtype float32 or float64, got {name}; ...")
            for dtype, name in [("uint8", "uint8"), ("int64", "int64"), ("float16", "float16"), ("g", "float128")]
        ),
        ({"blurred": U[0]}, ValueError, f"blurred must have at least 2 axes, ..., got 1 (shape (16,)); {NO_SIGNAL}"),
        ({"blurred": U[:0]}, ValueError, f"blurred must not be empty, got shape (0, 16); {EVERY_SIDE}"),
        ({"kernel": np.stack([K, K])}, ValueError, "kernel must be one, (kh, kw), for one picture, got ..."),
        ({"kernel": np.ones((13, 3)), "boundary": "wrap"}, ValueError, "kernel must not exceed ..., got 13 x 3 ..."),
        ({"strength": 1}, TypeError, "strength is no option of recorded, which has weight, iterations, boundary, ..."),
        ({"weight": [1, 2, 3]}, ValueError, "weight must be a number, got shape (3,); channels share a number"),
        ({"iterations": None}, TypeError, "iterations must be an integer, got None (NoneType); round it"),
        ({"saturated": True}, TypeError, "saturated must be a NumPy or CuPy array, got bool; convert it with ..."),
        *(
            ({"saturated": mask}, ValueError, "saturated must be bool and like blurred, shape (12, 16), got ...")
            for mask in (U, (U > 0.9)[1:])
        ),
    ],
)
def test_what_a_checked_method_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with refuses(error, message):
        METHOD(**{"blurred": U, "kernel": K} | arguments)


def test_a_checked_method_gets_plain_arrays_and_numbers() -> None:
    blurred, _, options = METHOD(U, np.ones((13, 3)), weight=np.float32(0.5), iterations=np.uint8(3), saturated=U > 0.9)
    assert_same(blurred, U)
    assert (options["weight"], options["iterations"]) == (0.5, 3)
    assert (type(options["weight"]), type(options["iterations"])) == (float, int)
    assert_same(options["saturated"], U > 0.9)
    assert METHOD(U, K, weight=None)[2]["weight"] is None
    assert_same(METHOD(np.stack([U, U]), K, weight=[1, 2])[2]["weight"], np.array([1, 2]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pictures_of_any_order_are_read(dtype: str) -> None:
    u = U.astype(dtype)
    for view in (np.repeat(u, 2, 0)[::2], u[::-1].copy()[::-1], np.asfortranarray(u), u.astype(u.dtype.newbyteorder())):
        view.flags.writeable = False
        blurred, kernel, _ = METHOD(view, K)
        assert blurred.dtype == kernel.dtype == u.dtype
        assert blurred.dtype.isnative
        assert blurred.flags.c_contiguous
        assert_same(blurred, u)


def test_kernels_of_any_scale_dtype_order_and_sides_are_read() -> None:
    wide = np.repeat(K, 2, axis=1)[:, ::2]
    for kernel in (255 * K, 1e-300 * K, 1e300 * K, K.astype(">f8"), K.astype("g"), np.asfortranarray(K), wide):
        kernel.flags.writeable = False
        assert_close(METHOD(U, kernel)[1], K, rtol=1e-12)
    for sides in ((3, 4), (4, 3), (2, 2)):
        padded = np.pad(np.ones(sides), [(0, 1 - side % 2) for side in sides])
        assert_close(METHOD(U, np.ones(sides, np.uint8))[1], padded / padded.sum(), rtol=1e-12)


# ---- devices


def test_cuda_without_a_driver_a_gpu_or_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDARuntimeError(RuntimeError):
        pass

    def no_driver() -> int:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: too old")

    cupy: Any = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 0, CUDARuntimeError=CUDARuntimeError)
    cupy.ndarray, cupy.cuda = type("ndarray", (), {}), types.SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    way_out = 'use device="cpu", or install the extra for your driver: pip install "gpudeblur[cuda13]"'
    with refuses(RuntimeError, f"device='cuda' needs an NVIDIA GPU, CUDA sees none; {way_out}"):
        choose_module(U, "cuda")
    assert choose_module(U, "auto") is choose_module(U, None) is choose_module(U, "cpu") is np
    runtime.getDeviceCount = no_driver
    says = "CUDA says: cudaErrorInsufficientDriver: too old"
    with refuses(RuntimeError, f"device='cuda' needs an NVIDIA GPU and driver, {says}; {way_out}"):
        choose_module(U, "cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with refuses(RuntimeError, f"device='cuda' needs CuPy, which cannot be imported (...cupy...); {way_out}"):
        choose_module(U, "cuda")


def test_devices_that_do_not_exist() -> None:
    device: Any
    for device in ("gpu", "CUDA", "", 0, "cuda:1"):
        with refuses(ValueError, f"device must be None, 'cpu', 'cuda' or 'auto', got {device!r}"):
            choose_module(U, device)
