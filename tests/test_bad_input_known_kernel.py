"""Every function that takes a known kernel, the same questions to each: odd input is read rightly, or refused."""

from __future__ import annotations

import functools
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same

import gpudeblur as gd
from gpudeblur import nonblind
from gpudeblur.nonblind import METHODS, scikit_image
from gpudeblur.nonblind.specs import METHOD_SPECS, UNSUPERVISED_WIENER, unchecked
from gpudeblur.synthesis import blur, trajectory_kernel

SCENE = np.random.default_rng(0).random((10, 12)).repeat(4, 0).repeat(4, 1)
KERNEL = trajectory_kernel(5, rng=3)
PICTURE = blur(SCENE, KERNEL, noise_sigma=0.01, rng=0)
BOX = np.full((3, 3), 1 / 9)

DECONVOLVE = {f"deconvolve {name}": functools.partial(gd.deconvolve, method=name) for name in METHOD_SPECS}
NONBLIND = {f"nonblind.{name}": getattr(nonblind, name) for name in nonblind.__all__}
NONBLIND["nonblind.unsupervised_wiener"] = lambda u, k, **o: nonblind.unsupervised_wiener(u, k, **{"rng": 0, **o})
RESTORATION: dict[str, Callable[..., Any]] = {
    "restoration.richardson_lucy": lambda u, k, **o: scikit_image.richardson_lucy(u, k, **{"num_iter": 5, **o}),
    "restoration.wiener": lambda u, k, **o: scikit_image.wiener(u, k, **{"balance": 0.1, **o}),
    "restoration.unsupervised_wiener": lambda u, k, **o: scikit_image.unsupervised_wiener(u, k, **{"rng": 0, **o})[0],
}
DOORS: dict[str, Callable[..., Any]] = {
    **DECONVOLVE,
    **NONBLIND,
    **RESTORATION,
    "estimate_noise": lambda u, k, **o: np.asarray(gd.estimate_noise(u, k, **o)),
}
at_every_door = pytest.mark.parametrize("door", DOORS)
at_nonblind = pytest.mark.parametrize("door", NONBLIND)
at_restoration = pytest.mark.parametrize("door", RESTORATION)


def refuses(error: Any, *words: str) -> Any:
    """What is wrong with which argument, and after it a way out."""
    return pytest.raises(error, match=rf"^({'|'.join(words)})( |\[).*(must|is no).*[,;] ?.*")


@pytest.fixture(autouse=True)
def inputs_stay_as_they_are() -> Iterator[None]:
    before = PICTURE.copy(), KERNEL.copy(), BOX.copy()
    yield
    for array, copy in zip((PICTURE, KERNEL, BOX), before, strict=True):
        assert_same(array, copy)


def test_every_public_function_is_asked() -> None:
    assert {*nonblind.__all__} == {name.replace("-", "_") for name in METHODS if name != "ringing-suppressed"} | {
        "ringing_suppressed",
        "unsupervised_wiener",
    }
    assert {name.removeprefix("restoration.") for name in RESTORATION} == {*scikit_image.__all__}


# ---- kernels


def patched(value: float) -> np.ndarray:
    kernel = KERNEL.copy()
    kernel[1, 2] = value
    return kernel


NO_KERNELS: dict[str, Any] = {
    "zeros": 0 * KERNEL,
    "NaN": patched(np.nan),
    "infinite": patched(-np.inf),
    "one axis": KERNEL[0],
    "no axis": np.array(1.0),
    "a number": 1.0,
    "a NumPy number": np.float64(1),
    "three axes": KERNEL[None],
    "a stack for one picture": np.stack([KERNEL, KERNEL]),
    "empty": KERNEL[:0],
    "complex": KERNEL + 0j,
    "objects": KERNEL.astype(object),
    "text": KERNEL.astype(str),
    "a list": KERNEL.tolist(),
    "None": [],
    "masked": np.ma.masked_equal(KERNEL, 0),
}


@at_every_door
@pytest.mark.parametrize("kind", NO_KERNELS)
def test_kernels_that_cannot_be(door: str, kind: str) -> None:
    if kind == "None" and door == "estimate_noise":
        pytest.skip("its kernel is optional")
    with refuses((TypeError, ValueError), "kernel", "psf"):
        DOORS[door](PICTURE, NO_KERNELS[kind])


@at_every_door
@pytest.mark.parametrize("sum_", [0.0, -1.0])
def test_kernels_whose_sum_is_not_positive(door: str, sum_: float) -> None:
    if door in ("restoration.wiener", "restoration.unsupervised_wiener"):
        pytest.skip("scikit-image's have no rule for the sum")
    kernel = KERNEL - (1 - sum_) / KERNEL.size
    with warnings.catch_warnings(), refuses(ValueError, "kernel", "psf"):
        warnings.simplefilter("ignore", UserWarning)  # of negative values
        DOORS[door](PICTURE, kernel)


@at_every_door
def test_negative_kernels_are_warned_of(door: str) -> None:
    with pytest.warns(UserWarning, match=r"^(kernel|psf) has negative values, down to -0\.1: no blur has; cut them "):
        DOORS[door](PICTURE, patched(-0.1))


@at_every_door
@pytest.mark.parametrize("part", [np.s_[:4, :4], np.s_[:4]])
def test_pictures_smaller_than_the_kernel(door: str, part: Any) -> None:
    """Along both axes it is refused but by scikit-image's steps, along one where it wraps."""
    wraps = door in ("restoration.wiener", "restoration.unsupervised_wiener")
    if door == "restoration.richardson_lucy" or (part is not None and PICTURE[part].shape[1] > 5 and not wraps):
        assert np.isfinite(DOORS[door](PICTURE[part], KERNEL)).all()
    else:
        with refuses(ValueError, "kernel", "psf"):
            DOORS[door](PICTURE[part], KERNEL)


@pytest.mark.parametrize("door", [*DECONVOLVE, *NONBLIND, "estimate_noise"])
def test_kernels_of_any_scale_dtype_order_and_sides(door: str) -> None:
    """Deltas too, wherever: of even sides the origin is (kh // 2, kw // 2)."""
    expected = DOORS[door](PICTURE, KERNEL)
    readonly = np.asfortranarray(KERNEL)
    readonly.flags.writeable = False
    wide = np.repeat(KERNEL, 2, axis=1)[:, ::2]
    for kernel in (255 * KERNEL, 1e-30 * KERNEL, KERNEL.astype(">f8"), KERNEL.astype("longdouble"), readonly, wide):
        assert_close(DOORS[door](PICTURE, kernel), expected, atol=1e-5)
    box = np.ones((3, 4), np.uint8)
    assert_close(DOORS[door](PICTURE, box), DOORS[door](PICTURE, np.pad(box, [(0, 0), (0, 1)]) / 12), atol=1e-5)


# ---- pictures


def spoiled(value: float) -> np.ndarray:
    picture = PICTURE.copy()
    picture[3, 4] = value
    return picture


NO_PICTURES: dict[str, Any] = {
    "NaN": spoiled(np.nan),
    "infinite": spoiled(np.inf),
    "one axis": PICTURE[0],
    "no axis": np.array(0.5),
    "a number": 0.5,
    "no rows": PICTURE[:0],
    "no pictures": PICTURE[None][:0],
    "complex": PICTURE + 0j,
    "objects": PICTURE.astype(object),
    "text": PICTURE.astype(str),
    "a list": PICTURE.tolist(),
    "None": None,
    "masked": np.ma.masked_greater(PICTURE, 0.9),
    "dates": (1000 * PICTURE).astype("datetime64[s]"),
}


@at_every_door
@pytest.mark.parametrize("kind", NO_PICTURES)
def test_pictures_that_cannot_be(door: str, kind: str) -> None:
    with refuses((TypeError, ValueError), "image", "blurred", "psf", "batch"):  # "one axis" is one for scikit-image
        DOORS[door](NO_PICTURES[kind], KERNEL)


@pytest.mark.parametrize("door", [*DECONVOLVE, *NONBLIND, "estimate_noise"])
def test_pictures_of_bool(door: str) -> None:
    with refuses(TypeError, "image", "blurred"):
        DOORS[door](PICTURE > 0.5, KERNEL)


@pytest.mark.parametrize("door", [*DECONVOLVE, *RESTORATION, "estimate_noise"])
@pytest.mark.parametrize("shape", [(40, 48, 0), (0, 48, 3), (2, 0, 48, 3)])
def test_pictures_without_channels_or_rows(door: str, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, "image"):
        DOORS[door](np.zeros(shape), KERNEL, channel_axis=-1)


@at_nonblind
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "longdouble"])
def test_dtypes_that_nonblind_does_not_compute_in(door: str, dtype: str) -> None:
    with refuses(TypeError, "blurred"):
        DOORS[door](PICTURE.astype(dtype), KERNEL)


@at_every_door
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pictures_of_any_order_are_read(door: str, dtype: str) -> None:
    u = PICTURE.astype(dtype)
    expected = DOORS[door](u, KERNEL)
    orders = [np.repeat(np.repeat(u, 2, 0), 3, 1)[::2, ::3], u[::-1].copy()[::-1], np.asfortranarray(u)]
    for given in [*orders, u.astype(u.dtype.newbyteorder("S"))]:
        given.flags.writeable = False
        assert_same(DOORS[door](given, KERNEL), expected)
        assert_same(given, u)


@at_every_door
def test_a_range_of_a_million_is_finite_and_warned_of_where_there_is_a_unit(door: str) -> None:
    """A lamp in a dark room, blurred, and one that is not."""
    scene = SCENE.copy()
    scene[20:23, 20:23] = 1e6
    for picture in (blur(scene, KERNEL), np.where(scene[2:-2, 2:-2] > 1, 1e6, PICTURE)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            out = DOORS[door](picture.astype("float32"), KERNEL)
        assert np.isfinite(out).all()
        method = door.removeprefix("deconvolve ")
        unit = door in RESTORATION or (door in DECONVOLVE and method not in ("wiener", "richardson-lucy"))
        assert len(told) == unit
        for one in told:
            what = "clip=True cuts" if door in RESTORATION else "floats are read as"
            assert re.match(rf"image has values up to \S+e\+0[56]: {what}", str(one.message))
            assert one.filename == __file__


@pytest.mark.parametrize("door", [*DECONVOLVE, *NONBLIND])
def test_values_whose_squares_are_too_large(door: str) -> None:
    with refuses(ValueError, "image", "blurred"):
        DOORS[door]((PICTURE * 1e30).astype("float32"), KERNEL)


@at_every_door
@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(9, 9), (1, 9), (9, 1), (6, 7)])
def test_small_and_constant_pictures(door: str, value: float, shape: tuple[int, int]) -> None:
    if "unsupervised" in door:
        pytest.skip("it draws random numbers")
    kernel = np.ones((min(3, shape[0]), min(3, shape[1])))
    given = {"boundary": "edge"} if door == "restoration.richardson_lucy" else {}
    out = DOORS[door](np.full(shape, value), kernel / kernel.size, **given)
    assert_close(out, np.full((), 0 if door == "estimate_noise" else value), atol=1e-5)


# ---- options


def has(door: str, option: str) -> bool:
    if door in DECONVOLVE:
        takes = METHOD_SPECS[door.removeprefix("deconvolve ")]
        return {"weight": takes.weight, "iterations": bool(takes.iterations)}.get(option, option == "noise_sigma")
    name = door.rpartition(".")[2]
    return option in inspect.signature(getattr(nonblind if door in NONBLIND else scikit_image, name)).parameters


CHECKS = {
    name
    for spec in (*METHOD_SPECS.values(), UNSUPERVISED_WIENER)
    for name, check in spec.parameters.items()
    if check is not unchecked
}
BAD_NUMBERS = (math.nan, -1, -0.5, math.inf, "1", 1j, None, [[1, 2], [3]], object())
NULLABLE = ("weight", "flat_weight", "noise_sigma", "filter_epsilon")
COUNTS = ("iterations", "num_iter", "reweightings", "stride", "burnin", "min_num_iter", "max_num_iter")
CASES = [
    (door, option)
    for door in [*DECONVOLVE, *NONBLIND, *RESTORATION]
    for option in [*sorted(CHECKS), "balance", "filter_epsilon"]
    if option not in ("boundary", "prior") and has(door, option)
]


def test_every_option_with_a_number_has_a_check() -> None:
    for name in nonblind.__all__:
        for option in inspect.signature(getattr(nonblind, name)).parameters.values():
            numeric = isinstance(option.default, int | float) and not isinstance(option.default, bool)
            assert option.name in CHECKS or not numeric, f"{option.name} of {name}"


@pytest.mark.parametrize(("door", "option"), CASES)
def test_numbers_that_cannot_be(door: str, option: str) -> None:
    more = (2.5, True, np.ones(2)) if option in COUNTS else (True, np.ones(2))
    for value in (*BAD_NUMBERS, *more):
        if value is None and (option in NULLABLE or door in DECONVOLVE):
            continue
        with refuses((TypeError, ValueError), option, "exponent"):
            DOORS[door](PICTURE, KERNEL, **{option: value})


@pytest.mark.parametrize(("door", "option"), [case for case in CASES if case[1] != "max_num_iter"])
def test_numbers_of_numpy_are_numbers(door: str, option: str) -> None:
    number: Any = {"exponent": 0.7, "beta_rate": 2.0, "beta_max": 16.0}.get(option, 0.02)
    scalars: Any = (np.float64(number), np.array(number))
    if option in COUNTS:
        number, scalars = 2, (np.int16(2), np.array(2), np.uint8(2))
    expected = DOORS[door](PICTURE, KERNEL, **{option: number})
    for value in scalars:
        assert_close(DOORS[door](PICTURE, KERNEL, **{option: value}), expected, atol=1e-6)


@at_nonblind
def test_options_that_do_not_exist(door: str) -> None:
    with refuses(TypeError, "strength"):
        DOORS[door](PICTURE, KERNEL, strength=1)


@at_every_door
@pytest.mark.parametrize("value", ["mirror", 3, None, np.array(["edge", "wrap"])])
def test_boundaries_that_do_not_exist(door: str, value: Any) -> None:
    if door == "estimate_noise" or (door == "nonblind.sparse") or (door in RESTORATION and value is None):
        pytest.skip("it has none, or None means none")
    with refuses(ValueError, "boundary"):
        DOORS[door](PICTURE, KERNEL, boundary=value)


@pytest.mark.parametrize("name", ["method", "dtype"])
@pytest.mark.parametrize("value", ["magic", 3, None, np.array(["tv", "l0"])])
def test_names_that_do_not_exist(name: str, value: Any) -> None:
    with refuses(ValueError, name):
        gd.deconvolve(PICTURE, KERNEL, **{name: value})


@at_nonblind
def test_numbers_one_a_picture(door: str) -> None:
    stack = np.stack([PICTURE, PICTURE[::-1]])
    for option in ("weight", "flat_weight", "noise_sigma"):
        if has(door, option):
            out = DOORS[door](stack, KERNEL, **{option: [0.01, 0.02]})
            for one, picture, number in zip(out, stack, (0.01, 0.02), strict=True):
                assert_close(one, DOORS[door](picture, KERNEL, **{option: number}), atol=1e-6)
            with refuses(ValueError, option):
                DOORS[door](stack, KERNEL, **{option: [0.01, 0.02, 0.03]})


@pytest.mark.parametrize("params", [3, [("burnin", 3)], "burnin"])
def test_user_params_that_are_none(params: Any) -> None:
    with refuses(TypeError, "user_params"):
        scikit_image.unsupervised_wiener(PICTURE, KERNEL, user_params=params)


@pytest.mark.parametrize(
    ("name", "value"),
    [("burnin", 2.5), ("burnin", -1), ("max_num_iter", "9"), ("min_num_iter", None), ("threshold", math.nan),
     ("threshold", "x"), ("callback", 3)],
)  # fmt: skip
def test_user_params_that_cannot_be(name: str, value: Any) -> None:
    with refuses((TypeError, ValueError), "user_params"):
        scikit_image.unsupervised_wiener(PICTURE, KERNEL, user_params={name: value})


@pytest.mark.parametrize("psf", [KERNEL - 1 / KERNEL.size, -KERNEL])
def test_an_unknown_boundary_asks_for_light(psf: np.ndarray) -> None:
    with warnings.catch_warnings(), refuses(ValueError, "boundary"):
        warnings.simplefilter("ignore", UserWarning)  # of negative values
        scikit_image.wiener(PICTURE, psf, 0.1, boundary="unknown")


@pytest.mark.parametrize("ndim", [1, 3])
def test_an_unknown_boundary_asks_for_two_axes(ndim: int) -> None:
    with refuses(ValueError, "boundary"):
        scikit_image.wiener(np.ones((9,) * ndim), np.ones((3,) * ndim), 0.1, boundary="unknown")


# ---- callbacks: one rule


@pytest.mark.parametrize("door", [*DECONVOLVE, *NONBLIND])
def test_true_stops_every_function_and_nothing_else_does(door: str) -> None:
    calls: list[Any] = []
    expected = DOORS[door](PICTURE, KERNEL)
    for answer in (None, False, 1, "stop", np.False_):
        assert_same(DOORS[door](PICTURE, KERNEL, callback=lambda *args, answer=answer: answer), expected)
    for answer in (True, np.True_):
        calls.clear()
        with pytest.raises(gd.Stopped, match=r"^stopped by the callback in stage '\w+' at \d+% of the run$"):
            DOORS[door](PICTURE, KERNEL, callback=lambda *args, answer=answer: calls.append(args) or answer)
        assert len(calls) == 1
    with refuses(TypeError, "callback"):
        DOORS[door](PICTURE, KERNEL, callback=3)


# ---- conventions


@pytest.mark.parametrize("method", METHOD_SPECS)
def test_kernels_off_their_middle_shift_alike_at_every_boundary(method: str) -> None:
    """A delta two rows below the origin of even sides and three columns to its left."""
    kernel, slight = np.zeros((6, 8)), {"weight": 1e-7} if METHOD_SPECS[method].weight else {"noise_sigma": 0}
    kernel[5, 1] = 1
    for boundary in METHOD_SPECS[method].boundaries:
        out = gd.deconvolve(PICTURE, kernel, method=method, boundary=boundary, dtype="float64", **slight)
        expected = np.roll(PICTURE, (-2, 3), (0, 1))
        assert_close(out[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-3)


@at_nonblind
def test_a_stack_of_nonblind_is_a_loop(door: str) -> None:
    stack, kernels = np.stack([PICTURE, PICTURE[::-1], 0 * PICTURE]), np.stack([KERNEL, KERNEL.T, KERNEL[::-1]])
    stack = stack.astype("float32")
    out, shared = DOORS[door](stack, kernels), DOORS[door](stack, KERNEL)
    for i in range(3):
        assert_same(out[i], DOORS[door](stack[i], kernels[i]))
        assert_same(shared[i], DOORS[door](stack[i], KERNEL))


@pytest.mark.parametrize("method", ["wiener", "hyper-laplacian"])
def test_float64_is_computed_in_float64(method: str) -> None:
    """A long inverse on a torus, where single precision is far from the truth."""
    kernel = np.outer([1, 2.2, 1], [1, 2.2, 1]) / 4.2**2
    spread = np.zeros(SCENE.shape)
    spread[:3, :3] = kernel
    blurred = np.fft.ifft2(np.fft.fft2(SCENE) * np.fft.fft2(np.roll(spread, (-1, -1), (0, 1)))).real
    single, double = (
        np.abs(gd.deconvolve(blurred, kernel, method=method, boundary="wrap", weight=1e-16, dtype=dtype) - SCENE).max()
        for dtype in ("float32", "float64")
    )
    assert double < 1e-8 < 1e-6 < single


# ---- what is clipped

KNOWING = [name for name in nonblind.__all__ if "saturated" in inspect.signature(getattr(nonblind, name)).parameters]


@pytest.mark.parametrize("name", KNOWING)
def test_what_is_clipped_is_bool_and_like_the_picture(name: str) -> None:
    door = getattr(nonblind, name)
    assert np.isfinite(door(PICTURE, KERNEL, saturated=PICTURE > 0.9)).all()
    for wrong in (PICTURE, (PICTURE > 0.9)[1:]):
        with pytest.raises(ValueError, match=r"^saturated must be bool and like blurred, .*; blurred >= 1 is one$"):
            door(PICTURE, KERNEL, saturated=wrong)
    with pytest.raises(TypeError, match=r"^saturated must be"):
        door(PICTURE, KERNEL, saturated=True)


@pytest.mark.parametrize("level", [0, -1.0, True, math.nan, "top", [0.9]])
def test_a_level_of_saturation_is_positive(level: Any) -> None:
    with pytest.raises(ValueError, match=r"^saturation must be a positive level, 'auto' or None, got"):
        gd.deconvolve(PICTURE, KERNEL, saturation=level)
