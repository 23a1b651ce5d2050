"""Bad input at the public functions: each ends in the error of design.md, section 8, from whichever door it came in."""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpudeblur as gd

PICTURE = np.random.default_rng(0).random((40, 50)).astype(np.float32)
BOX = np.full((3, 3), 1 / 9)

DOORS: dict[str, Callable[..., Any]] = {
    "deblur": lambda image, **more: gd.deblur(image, 9, **more),
    "estimate_kernel": lambda image, **more: gd.estimate_kernel(image, 9, **more),
    "deconvolve": lambda image, **more: gd.deconvolve(image, BOX, **more),
}
BLIND: dict[str, Callable[..., Any]] = {"deblur": gd.deblur, "estimate_kernel": gd.estimate_kernel}
at_every_door = pytest.mark.parametrize("door", sorted(DOORS))
at_blind_doors = pytest.mark.parametrize("door", sorted(BLIND))


def refuses(error: type[Exception], message: str) -> Any:
    """The whole message, literally."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


@pytest.fixture(autouse=True)
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before any work."""
    from gpudeblur.blind import deblur
    from gpudeblur.nonblind import deconvolve

    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("computed with bad input")

    monkeypatch.setattr(deblur, "two_step", computed)
    monkeypatch.setattr(deblur, "restore", computed)
    monkeypatch.setattr(deconvolve, "METHODS", dict.fromkeys(deconvolve.METHODS, computed))
    monkeypatch.setattr(deconvolve, "tiled", computed)


def test_the_trap_of_this_file_works() -> None:
    """Good input does reach the computation, so that each refusal below is one."""
    for door in DOORS.values():
        with pytest.raises(AssertionError, match="computed"):
            door(PICTURE)


# ---- the kernel size


@at_blind_doors
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (24, "kernel_size must be odd, got 24; use 23 or 25"),
        (np.int64(4), "kernel_size must be odd, got 4; use 3 or 5"),
        ((9, 4), "kernel_size must be odd, got (9, 4); use (9, 3) or (9, 5)"),
        (0, "kernel_size must be at least 3, got 0; the smallest is 3"),
        (-7, "kernel_size must be at least 3, got -7; the smallest is 3"),
        (1, "kernel_size must be at least 3, got 1; a 1 x 1 kernel is no blur, the smallest is 3"),
        ((9, -1), "kernel_size must be at least 3, got (9, -1); the smallest is 3"),
        (
            (9, 9, 9),
            "kernel_size must be one odd integer or a pair (height, width), got 3 numbers: (9, 9, 9); "
            "use for instance 31 or (31, 25)",
        ),
        (
            41,
            "kernel_size must not exceed the picture, got (41, 41) for a picture of 40 x 50; use at most (39, 49)",
        ),
        (
            (3, 51),
            "kernel_size must not exceed the picture, got (3, 51) for a picture of 40 x 50; use at most (39, 49)",
        ),
    ],
)
def test_kernel_sizes_that_cannot_be(door: str, size: Any, message: str) -> None:
    with refuses(ValueError, message):
        BLIND[door](PICTURE, size)


@at_blind_doors
@pytest.mark.parametrize(
    ("size", "kind"), [(25.0, "float"), ("25", "str"), (True, "bool"), ((9, 9.0), "tuple"), ([9, "9"], "list")]
)
def test_kernel_sizes_that_are_no_integers(door: str, size: Any, kind: str) -> None:
    message = (
        f"kernel_size must be an odd integer or a pair of them, got {size!r} ({kind}); use for instance 31 or (31, 25)"
    )
    with refuses(TypeError, message):
        BLIND[door](PICTURE, size)


@at_blind_doors
def test_no_kernel_size_is_good_input_but_the_rest_is_looked_at(door: str) -> None:
    for size in ((), (None,)):
        with pytest.raises(AssertionError, match="computed"):
            BLIND[door](PICTURE, *size)
        with refuses(ValueError, "image must not be empty, got shape (0, 50); every side must be at least 1"):
            BLIND[door](PICTURE[:0], *size)


@at_blind_doors
def test_a_colour_picture_without_its_channel_axis_gets_a_hint(door: str) -> None:
    message = (
        "kernel_size must not exceed the picture, got (9, 9) for a picture of 50 x 3; use at most (49, 3); "
        "a picture with channels (H, W, C) needs channel_axis=-1"
    )
    with refuses(ValueError, message):
        BLIND[door](np.zeros((40, 50, 3), np.uint8), 9)


# ---- the picture


@at_every_door
@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_one_pixel_that_is_not_finite(door: str, value: float, shown: str) -> None:
    bad = PICTURE.copy()
    bad[7, 11] = value
    message = f"image must be finite, got {shown} at index (7, 11) (1 bad pixel); mask or inpaint it first"
    with refuses(ValueError, message):
        DOORS[door](bad)


@at_every_door
def test_it_says_where_in_a_stack_and_how_many(door: str) -> None:
    bad = np.zeros((2, 20, 20, 3), np.float16)
    bad[1, 2, 3, 1] = bad[1, 5:7, 5, 0] = np.nan
    message = "image must be finite, got nan at index (1, 2, 3, 1) (3 bad pixels); mask or inpaint it first"
    with refuses(ValueError, message):
        DOORS[door](bad, channel_axis=-1)


@at_every_door
@pytest.mark.parametrize("shape", [(0, 50), (40, 0), (0, 40, 50)])
def test_an_empty_array(door: str, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, f"image must not be empty, got shape {shape}; every side must be at least 1"):
        DOORS[door](np.zeros(shape))


@at_every_door
@pytest.mark.parametrize(
    ("shape", "way_out"),
    [
        ((), "a 1-D signal is no picture"),
        ((50,), "a 1-D signal is no picture"),
        ((2, 2, 2, 40, 50), "pass fewer pictures at a time"),
    ],
)
def test_wrong_number_of_axes(door: str, shape: tuple[int, ...], way_out: str) -> None:
    rule = f"image must have 2 to 4 axes, (..., H, W), got {len(shape)} (shape {shape}); {way_out}"
    with refuses(ValueError, rule):
        DOORS[door](np.zeros(shape))


@at_every_door
@pytest.mark.parametrize(
    ("dtype", "name", "way_out"),
    [
        ("complex64", "complex64", "pass its real part or its magnitude"),
        ("object", "object", "convert it with .astype(float)"),
        ("bool", "bool", "convert it with .astype(float)"),
        ("U4", "<U4", "read the file first, for instance with gpudeblur.read_image"),
        ("S4", "|S4", "read the file first, for instance with gpudeblur.read_image"),
        ("M8[s]", "datetime64[s]", "convert it to an integer or float dtype"),
    ],
)
def test_dtypes_that_are_no_light(door: str, dtype: str, name: str, way_out: str) -> None:
    with refuses(TypeError, f"image must have an integer or float dtype, got {name}; {way_out}"):
        DOORS[door](np.zeros((40, 50), dtype))


@at_every_door
@pytest.mark.parametrize(
    ("image", "kind"), [(PICTURE.tolist(), "list"), (None, "NoneType"), ("photo.png", "str"), (b"photo", "bytes")]
)
def test_not_an_array(door: str, image: Any, kind: str) -> None:
    with refuses(TypeError, f"image must be a NumPy or CuPy array, got {kind}; convert it with numpy.asarray"):
        DOORS[door](image)


@at_every_door
def test_a_masked_array(door: str) -> None:
    message = "image must be a plain array, got a masked one; fill the mask first, with .filled(value)"
    with refuses(TypeError, message):
        DOORS[door](np.ma.masked_array(PICTURE))


@at_every_door
@pytest.mark.parametrize("axis", [3, -4, 7])
def test_a_channel_axis_that_is_not_there(door: str, axis: int) -> None:
    message = f"channel_axis must be between -3 and 2 for shape (40, 50, 3), got {axis}; use -1 for (H, W, C)"
    with refuses(ValueError, message):
        DOORS[door](np.zeros((40, 50, 3)), channel_axis=axis)


@at_every_door
@pytest.mark.parametrize(("axis", "kind"), [(1.0, "float"), ("c", "str"), (True, "bool"), ((-1,), "tuple")])
def test_a_channel_axis_that_is_no_integer(door: str, axis: Any, kind: str) -> None:
    message = f"channel_axis must be an integer or None, got {axis!r} ({kind}); use -1 for (H, W, C)"
    with refuses(TypeError, message):
        DOORS[door](np.zeros((40, 50, 3)), channel_axis=axis)


@at_every_door
def test_a_channel_axis_for_a_gray_picture(door: str) -> None:
    message = (
        "image must have 3 or 4 axes when channel_axis is given, got 2 (shape (40, 50)); "
        "leave channel_axis out for a gray picture"
    )
    with refuses(ValueError, message):
        DOORS[door](PICTURE, channel_axis=-1)


@at_every_door
def test_five_axes_with_channels(door: str) -> None:
    shape = (1, 2, 40, 50, 3)
    message = f"image must have 3 or 4 axes when channel_axis is given, got 5 (shape {shape}); "
    with refuses(ValueError, message + "pass fewer pictures at a time"):
        DOORS[door](np.zeros(shape), channel_axis=-1)


# ---- the kernel of deconvolve


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (
            np.zeros((3, 3)),
            ValueError,
            "kernel must not sum to zero, got a sum of 0; a blur keeps the light, so its kernel sums to 1",
        ),
        (
            np.stack([BOX, BOX - 1 / 9]),
            ValueError,
            "kernel must not sum to zero, got a sum of 0; a blur keeps the light, so its kernel sums to 1",
        ),
        (
            np.ones(5),
            ValueError,
            "kernel must have at least 2 axes, (..., kh, kw), got 1 (shape (5,)); "
            "give a line blur its second axis with kernel[None, :]",
        ),
        (
            np.ones((0, 3)),
            ValueError,
            "kernel must not be empty, got shape (0, 3); every side must be at least 1",
        ),
        (
            np.array([[1, np.nan, 1]]),
            ValueError,
            "kernel must be finite, got nan at index (0, 1) (1 bad pixel); estimate it again or set it to zero there",
        ),
        (
            np.ones((41, 51)),
            ValueError,
            "kernel must not exceed the picture, got 41 x 51 for a picture of 40 x 50; crop its empty border",
        ),
        (
            np.ones((3, 3), complex),
            TypeError,
            "kernel must have an integer or float dtype, got complex128; pass its real part or its magnitude",
        ),
        (
            [[1.0]],
            TypeError,
            "kernel must be a NumPy or CuPy array, got list; convert it with numpy.asarray",
        ),
    ],
)
def test_kernels_that_cannot_be(kernel: Any, error: type[Exception], message: str) -> None:
    with refuses(error, message):
        gd.deconvolve(PICTURE, kernel)


def test_a_kernel_larger_than_a_colour_picture() -> None:
    message = "kernel must not exceed the picture, got 41 x 51 for a picture of 40 x 50; crop its empty border"
    with refuses(ValueError, message):
        gd.deconvolve(np.zeros((40, 50, 3)), np.ones((41, 51)), channel_axis=-1)


@pytest.mark.parametrize("size", [(41, 3), (3, 51)])
def test_on_a_torus_no_side_of_a_kernel_may_be_longer(size: tuple[int, int]) -> None:
    kh, kw = size
    message = f"kernel must not exceed the picture, got {kh} x {kw} for a picture of 40 x 50; crop its empty border"
    with refuses(ValueError, message):
        gd.deconvolve(PICTURE, np.ones(size), boundary="wrap")


@pytest.mark.parametrize("size", [(3, 4), (4, 3), (2, 2), (41, 3), (4, 51)])
def test_kernels_of_even_sides_and_long_ones_are_good_input(size: tuple[int, int]) -> None:
    with pytest.raises(AssertionError, match="computed"):
        gd.deconvolve(PICTURE, np.ones(size))


@pytest.mark.parametrize(
    ("shape", "axis", "kernels"),
    [((40, 50), None, 2), ((4, 40, 50), None, 2), ((40, 50, 3), -1, 3), ((4, 40, 50, 3), -1, 3)],
)
def test_kernels_of_another_stack(shape: tuple[int, ...], axis: int | None, kernels: int) -> None:
    """One kernel, or one a picture; the channels share theirs."""
    with pytest.raises(ValueError, match=rf"^kernel must .*, got .*\({kernels}, 3, 3\)"):
        gd.deconvolve(np.zeros(shape), np.stack([BOX] * kernels), channel_axis=axis)


# ---- the options of deconvolve


EIGHT = "'tv', 'hyper-laplacian', 'sparse', 'epll', 'l0', 'ringing-suppressed', 'wiener', 'richardson-lucy'"
FOUR = "'unknown', 'reflect', 'edge', 'wrap'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, f"method must be one of {EIGHT}, got 'magic'"),
        ({"method": None}, f"method must be one of {EIGHT}, got None"),
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'float64', got 'float16'"),
        (
            {"boundary": "mirror"},
            "boundary of method 'tv' must be one of 'unknown', 'liu-jia', 'reflect', 'edge', 'taper', 'wrap', "
            "got 'mirror'",
        ),
        (
            {"boundary": "edge", "method": "sparse"},
            "boundary of method 'sparse' must be one of 'unknown', got 'edge'",
        ),
        (
            {"boundary": "taper", "method": "wiener"},
            f"boundary of method 'wiener' must be one of {FOUR}, got 'taper'",
        ),
        (
            {"boundary": "liu-jia", "method": "richardson-lucy"},
            f"boundary of method 'richardson-lucy' must be one of {FOUR}, got 'liu-jia'",
        ),
        (
            {"weight": 1e-3, "method": "richardson-lucy"},
            "weight is not known to method 'richardson-lucy', got 0.001; leave it out",
        ),
        (
            {"iterations": 9, "method": "l0"},
            "iterations are not known to method 'l0', got 9; leave it out",
        ),
        (
            {"tile": 64, "method": "wiener"},
            "method with tile must be one of 'tv', 'hyper-laplacian', 'sparse', 'epll', 'l0', 'ringing-suppressed', "
            "got 'wiener'",
        ),
        (
            {"tile": 64, "boundary": "edge"},
            "boundary must be 'unknown' with tile, got 'edge'; leave it out",
        ),
        ({"gamma": 0}, "gamma must be a positive number, got 0; 1 is linear, photos have about 2.2"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with refuses(ValueError, message):
        gd.deconvolve(PICTURE, BOX, **options)


@pytest.mark.parametrize("value", [0, -1e-3, math.nan, math.inf, np.float32(0)])
def test_weights_that_are_not_positive(value: Any) -> None:
    message = f"weight must be positive, and finite, got {value!r}; leave it out to have it estimated"
    with refuses(ValueError, message):
        gd.deconvolve(PICTURE, BOX, weight=value)


@pytest.mark.parametrize("method", ["tv", "wiener", "richardson-lucy", "ringing-suppressed"])
@pytest.mark.parametrize("more", [{}, {"weight": 1.0}])
def test_noise_that_is_negative(method: str, more: dict[str, float]) -> None:
    """With a weight too, where it is not asked for."""
    more = {} if method == "richardson-lucy" else more
    for value in (-0.01, math.nan, math.inf):
        message = f"noise_sigma must not be negative, and be finite, got {value!r}; leave it out to have it estimated"
        with refuses(ValueError, message):
            gd.deconvolve(PICTURE, BOX, method=method, noise_sigma=value, **more)
    with pytest.raises(AssertionError, match="computed"):
        gd.deconvolve(PICTURE, BOX, method=method, noise_sigma=0)


@pytest.mark.parametrize("name", ["weight", "noise_sigma"])
@pytest.mark.parametrize("value", ["0.1", True, 1j, [None]])
def test_numbers_that_are_none(name: str, value: Any) -> None:
    estimated = "leave it out to have it estimated"
    with refuses(TypeError, f"{name} must be a number, or one a picture, got {value!r}; {estimated}"):
        gd.deconvolve(PICTURE, BOX, **{name: value})


@pytest.mark.parametrize("name", ["weight", "noise_sigma"])
def test_numbers_of_another_stack(name: str) -> None:
    """One, or one a picture; the channels share theirs."""
    rest = "got shape (3,); channels share a number"
    with refuses(ValueError, f"{name} must be a number, {rest}"):
        gd.deconvolve(np.zeros((40, 50, 3)), BOX, channel_axis=-1, **{name: np.ones(3)})
    with refuses(ValueError, f"{name} must be a number, or one a picture, (2,), {rest}"):
        gd.deconvolve(np.zeros((2, 40, 50)), BOX, **{name: [1, 2, 3]})


@pytest.mark.parametrize("value", [0, -3, 2.5, "9", True])
@pytest.mark.parametrize("method", ["tv", "sparse", "richardson-lucy"])
def test_iterations_that_are_none(method: str, value: Any) -> None:
    number = type(value) is int
    integer = f"iterations must be an integer, got {value!r} ({type(value).__name__}); round it"
    least = f"iterations must be at least 1, got {value}; leave it out for the default"
    with refuses(ValueError if number else TypeError, least if number else integer):
        gd.deconvolve(PICTURE, BOX, method=method, iterations=value)


@pytest.mark.parametrize("value", [0, -64, 64.0, "x", True, np.array([64, 64])])
def test_tiles_that_are_none(value: Any) -> None:
    with refuses(ValueError, f"tile must be a positive integer or 'auto', got {value!r}; 'auto' is as many as fit"):
        gd.deconvolve(PICTURE, BOX, tile=value)


# ---- NumPy, CuPy and devices


class FakeArray:
    """An array of a CuPy that has no driver."""


FakeArray.__name__, FakeArray.__module__ = "ndarray", "cupy"


class CUDARuntimeError(RuntimeError):
    pass


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A `cupy` that knows its arrays, and finds as many devices as a test says."""
    fake = types.ModuleType("cupy")
    fake.ndarray = FakeArray  # type: ignore[attr-defined]
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 0, CUDARuntimeError=CUDARuntimeError)
    fake.cuda = types.SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def test_numpy_and_cupy_do_not_mix(fake_cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture here and a kernel there. The message names both; a fake array has no values that could be checked."""
    from gpudeblur.images import checks

    monkeypatch.setattr(checks, "check_kernel", lambda *_, **__: None)
    monkeypatch.setattr(checks, "check_picture", lambda *_, **__: None)
    ways_out = "move them with cupy.asarray or cupy.asnumpy, or pass device= and NumPy arrays"
    for image, kernel, got in (
        (PICTURE, FakeArray(), "numpy.ndarray, cupy.ndarray"),
        (FakeArray(), BOX, "cupy.ndarray, numpy.ndarray"),
    ):
        for device in (None, "cpu", "cuda", "auto"):
            with refuses(TypeError, f"arrays must be all NumPy or all CuPy, got {got}; {ways_out}"):
                gd.deconvolve(image, kernel, device=device)


@pytest.mark.gpu
def test_real_cupy_and_numpy_do_not_mix(cupy: Any) -> None:
    for image, kernel in ((PICTURE, cupy.asarray(BOX)), (cupy.asarray(PICTURE), BOX)):
        with pytest.raises(TypeError, match=r"^arrays must be all NumPy or all CuPy, got .*ndarray, .*ndarray; "):
            gd.deconvolve(image, kernel)


def test_an_array_of_another_library_is_no_cupy_array(fake_cupy: types.ModuleType) -> None:
    class Tensor:
        shape = (40, 50)

    name = f"{Tensor.__module__}.{Tensor.__qualname__}"
    with refuses(TypeError, f"image must be a NumPy or CuPy array, got {name}; convert it with numpy.asarray"):
        gd.deblur(Tensor(), 9)


WAY_OUT = 'use device="cpu", or install the extra for your driver: pip install "gpudeblur[cuda13]"'


@at_every_door
def test_cuda_without_a_driver(door: str, fake_cupy: Any) -> None:
    def no_driver() -> int:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    fake_cupy.cuda.runtime.getDeviceCount = no_driver
    message = (
        "device='cuda' needs an NVIDIA GPU and driver, CUDA says: "
        f"cudaErrorInsufficientDriver: CUDA driver version is insufficient; {WAY_OUT}"
    )
    with refuses(RuntimeError, message):
        DOORS[door](PICTURE, device="cuda")


@at_every_door
def test_cuda_without_a_gpu(door: str, fake_cupy: Any) -> None:
    with refuses(RuntimeError, f"device='cuda' needs an NVIDIA GPU, CUDA sees none; {WAY_OUT}"):
        DOORS[door](PICTURE, device="cuda")


@at_every_door
def test_cuda_without_cupy(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    message = r"^device='cuda' needs CuPy, which cannot be imported \(.*cupy.*\); "
    with pytest.raises(RuntimeError, match=message + re.escape(WAY_OUT) + "$"):
        DOORS[door](PICTURE, device="cuda")


@at_every_door
def test_cuda_on_this_machine_runs_or_says_why(door: str) -> None:
    """No fake: whatever is installed here."""
    with pytest.raises((RuntimeError, AssertionError), match=r"^device='cuda' needs .*; use device=|^computed"):
        DOORS[door](PICTURE, device="cuda")


@at_every_door
@pytest.mark.parametrize("device", ["gpu", "CUDA", "", 0, "cuda:1"])
def test_devices_that_are_none(door: str, device: Any) -> None:
    with refuses(ValueError, f"device must be None, 'cpu', 'cuda' or 'auto', got {device!r}"):
        DOORS[door](PICTURE, device=device)


@at_every_door
def test_auto_without_a_gpu_goes_on(door: str, fake_cupy: Any) -> None:
    with pytest.raises(AssertionError, match="computed"):
        DOORS[door](PICTURE, device="auto")


def test_pictures_beyond_float32() -> None:
    with refuses(ValueError, "image must be within 3.4e+38 for float32, got 1.0e+300; scale it to about [0, 1]"):
        gd.estimate_kernel(np.full((40, 50), 1e300), 3)
