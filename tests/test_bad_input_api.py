"""Every public function asks the checks of test_bad_input.py, names its own argument, and computes nothing before.

Representatives for each, and all that a function checks itself. `deblur_batch` is asked in batch/test_iterator.py,
files in images/test_io.py, `restoration` also in nonblind/test_restoration.py, `synthesis` in test_synthesis.py.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpudeblur as gd
from gpudeblur import metrics, nonblind, restoration
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.specs import METHOD_SPECS, UNSUPERVISED_WIENER, unchecked
from gpudeblur.synthesis import blur, trajectory_kernel

SCENE = np.random.default_rng(0).random((10, 12)).repeat(4, 0).repeat(4, 1)
KERNEL = trajectory_kernel(5, rng=3)
PICTURE = blur(SCENE, KERNEL, noise_sigma=0.01, rng=0)  # 36 x 44
SPOILED = np.where(np.arange(44) == 7, np.nan, PICTURE)
for array in (SCENE, KERNEL, PICTURE, SPOILED):
    array.flags.writeable = False

Function = Callable[..., Any]
BLIND: dict[str, Function] = {"deblur": gd.deblur, "estimate_kernel": gd.estimate_kernel}
DECONVOLVE: dict[str, Function] = {f"deconvolve {m}": functools.partial(gd.deconvolve, method=m) for m in METHOD_SPECS}
NONBLIND: dict[str, Function] = {f"nonblind.{name}": getattr(nonblind, name) for name in nonblind.__all__}
KNOWN = {**DECONVOLVE, **NONBLIND}


class Trap:
    """A callback that ends the run at its first step, and notes it."""

    sprung = False

    def __call__(self, *_: Any) -> bool:
        assert not self.sprung
        self.sprung = True
        return True


def refused(error: type[Exception], message: str, function: Function, *arguments: Any, **more: Any) -> None:
    """With a message that begins so (literally, but for "..."), before the first step of the computation."""
    trap = Trap()
    with pytest.raises(error, match="^" + re.escape(message).replace(r"\.\.\.", ".*")):
        function(*arguments, **{"callback": trap} | more)
    assert not trap.sprung


@pytest.mark.parametrize("name", [*BLIND, *KNOWN])
def test_good_input_does_reach_the_first_step(name: str) -> None:
    """So that each refusal in this file is one. A callback that returns True ends every function."""
    trap, function = Trap(), {**BLIND, **KNOWN}[name]
    with pytest.raises(gd.Stopped, match=r"^stopped by the callback in stage '\w+' at \d+% of the run$"):
        function(PICTURE, 9 if name in BLIND else KERNEL, callback=trap)
    assert trap.sprung


# ---- kernel unknown


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": SPOILED}, "image must be finite, got nan at index (0, 7) (36 bad pixels)"),
        ({"image": PICTURE * 1e300}, "image must be within 3.4e+38 for float32, got ...e+"),
        ({"image": PICTURE[:, :3]}, "kernel_size must not exceed the picture...channel_axis=-1"),
        ({"image": PICTURE[:0], "kernel_size": None}, "image must not be empty, got shape (0, 44)"),
        ({"image": PICTURE[:4], "kernel_size": None}, "image must have at least 5 x 5 pixels"),
        ({"channel_axis": -1}, "image must have 3 or 4 axes when channel_axis is given, got 2"),
    ],
)
def test_blind_functions_refuse(name: str, arguments: dict[str, Any], message: str) -> None:
    """What else they refuse, before they read a pixel, is in blind/test_options.py."""
    refused(ValueError, message, BLIND[name], **{"image": PICTURE, "kernel_size": 9} | arguments)


def test_floats_that_look_like_8_bits_are_warned_of_at_the_call() -> None:
    for function in (gd.deblur, gd.estimate_kernel):
        with pytest.warns(UserWarning, match=r"^image has values up to 2\d\d.*divide by the white level") as caught:  # noqa: SIM117
            with pytest.raises(gd.Stopped):
                function(PICTURE * 255, 9, callback=Trap())
        assert caught[0].filename == __file__


# ---- channels

COLOR = np.dstack([PICTURE] * 3)
LAST = "must end in rows and columns, (..., H, W), got shape (36, 44, 3), whose last axis of 3 looks like channels; "


def test_channels_need_their_axis() -> None:
    networks: Function = functools.partial(gd.restore, network="deepdeblur")
    for function in (*BLIND.values(), networks, *DECONVOLVE.values(), gd.estimate_noise):
        arguments = () if function in (*BLIND.values(), networks) else (KERNEL,)
        with pytest.raises(ValueError, match="^image " + re.escape(LAST + "give channel_axis=-1, or pass")):
            function(COLOR, *arguments)
    for function in NONBLIND.values():
        refused(
            ValueError, f"blurred {LAST}use gpudeblur.deconvolve(..., channel_axis=-1), or", function, COLOR, KERNEL
        )
    with pytest.raises(ValueError, match="^pictures " + re.escape(LAST + "put one picture into a list, with channel_")):
        gd.deblur_batch(COLOR, 3)
    with pytest.raises(ValueError, match=r"^pictures must end in .*; give channel_axis=-1, or pass pictures of 44 x 3"):
        gd.deblur_batch(COLOR[None], 3)
    (result,) = gd.deblur_batch([COLOR], 3)
    assert str(result.error).startswith(f"image {LAST}")
    with pytest.raises(ValueError, match="^image " + re.escape(LAST)):
        restoration.wiener(COLOR, KERNEL, 0.1, batch=1)
    with pytest.raises(ValueError, match=r"^psf must have the 3 axes of the picture, .*; channels need channel_axis="):
        restoration.wiener(COLOR, KERNEL, 0.1)
    with pytest.warns(
        UserWarning, match=r"^psf of shape \(5, 5, 3\) is applied along all 3 axes .*; give channel_axis=-1"
    ):
        restoration.wiener(COLOR, np.dstack([KERNEL] * 3) / 3, 0.1)


# ---- kernel known


@pytest.mark.parametrize("name", KNOWN)
def test_functions_of_a_known_kernel_refuse(name: str) -> None:
    image = "image" if name in DECONVOLVE else "blurred"
    refused(ValueError, f"{image} must be finite, got nan at index (0, 7)", KNOWN[name], SPOILED, KERNEL)
    refused(TypeError, f"{image} must be a NumPy or CuPy array, got list", KNOWN[name], PICTURE.tolist(), KERNEL)
    refused(ValueError, f"{image} must be within ...; scale it", KNOWN[name], PICTURE * 1e160, KERNEL)
    refused(ValueError, "kernel must not sum to zero", KNOWN[name], PICTURE, 0 * KERNEL)
    refused(ValueError, "kernel must not exceed the picture, got 5 x 5 for", KNOWN[name], PICTURE[:4, :4], KERNEL)
    refused(TypeError, "callback must be a function, got 3", KNOWN[name], PICTURE, KERNEL, callback=3)
    with pytest.warns(UserWarning, match=r"^kernel has negative values, down to "), pytest.raises(gd.Stopped):
        KNOWN[name](PICTURE, KERNEL - 0.01, callback=Trap())


def test_every_method_is_public_and_checked() -> None:
    checked = {getattr(nonblind, name).__wrapped__ for name in nonblind.__all__}
    assert {*METHODS.values()} < checked
    assert len(checked) == len(METHODS) + 1  # and the sampler


def test_every_option_with_a_number_has_a_check() -> None:
    for spec in (*METHOD_SPECS.values(), UNSUPERVISED_WIENER):
        for option in inspect.signature(spec.function).parameters.values():
            if isinstance(option.default, int | float) and not isinstance(option.default, bool):
                assert spec.parameters[option.name] is not unchecked, f"{option.name} of {spec.function.__name__}"


METHOD_NAMES = ", ".join(map(repr, METHOD_SPECS))
FOUR = "'unknown', 'reflect', 'edge', 'wrap'"
ESTIMATED = "leave it out to have it estimated"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channel_axis": 1.0}, TypeError, "channel_axis must be an integer or None, got 1.0 (float)"),
        ({"device": "gpu"}, ValueError, "device must be None, 'cpu', 'cuda' or 'auto', got 'gpu'"),
        ({"gamma": 0}, ValueError, "gamma must be a positive number, got 0"),
        ({"method": "magic"}, ValueError, f"method must be one of {METHOD_NAMES}, got 'magic'"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of 'float32', 'float64', got 'float16'"),
        ({"boundary": "mirror"}, ValueError, "boundary of method 'tv' must be one of 'unknown', 'liu-jia', 'reflect', "
         "'edge', 'taper', 'wrap', got 'mirror'"),
        ({"boundary": "edge", "method": "sparse"}, ValueError, "boundary of method 'sparse' must be one of 'unknown'"),
        ({"boundary": "taper", "method": "wiener"}, ValueError, f"boundary of method 'wiener' must be one of {FOUR}, "),
        ({"boundary": "liu-jia", "method": "richardson-lucy"}, ValueError, f"boundary ... must be one of {FOUR}, got "),
        ({"weight": 1e-3, "method": "richardson-lucy"}, ValueError, "weight is not known to method 'richardson-lucy'"),
        ({"iterations": 9, "method": "l0"}, ValueError, "iterations are not known to method 'l0', got 9; leave it out"),
        *(
            ({"tile": 64, "method": method}, ValueError, "method with tile must be one of 'tv', 'hyper-laplacian', "
             f"'sparse', 'epll', 'pnp', 'l0', 'ringing-suppressed', got '{method}'")
            for method in ("wiener", "richardson-lucy")
        ),
        ({"tile": 64, "boundary": "edge"}, ValueError, "boundary must be 'unknown' with tile, got 'edge'"),
        *(
            ({"tile": tile}, ValueError, f"tile must be a positive integer or 'auto', got {tile!r}; 'auto' is as many")
            for tile in (0, -64, 64.0, "x", True, np.array([64, 64]))
        ),
        *(
            ({"noise_sigma": value, **more}, ValueError, f"noise_sigma must not be negative, ... finite, got {value}")
            for value in (-0.01, math.nan, math.inf)
            for more in ({}, {"weight": 1.0}, {"method": "wiener"}, {"method": "richardson-lucy"})
        ),
        ({"weight": "0.1"}, TypeError, f"weight must be a number, or one a picture, got '0.1'; {ESTIMATED}"),
        ({"weight": [1, 2]}, ValueError, "weight must be a number, got shape (2,); channels share a number"),
        *(
            ({"iterations": 0, "method": method}, ValueError, "iterations must be at least 1, got 0; leave it out")
            for method in ("tv", "sparse", "richardson-lucy")
        ),
        ({"saturation": "top"}, ValueError, "saturation must be a positive level, 'auto' or None, got 'top'"),
        ({"saturation": [0.9]}, ValueError, "saturation must be a positive level, 'auto' or None, got [0.9]"),
    ],
)  # fmt: skip
def test_deconvolve_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    refused(error, message, gd.deconvolve, PICTURE, KERNEL, **options)


def test_kernels_and_numbers_of_deconvolve_count_no_channels() -> None:
    color = np.stack([PICTURE] * 3, axis=-1)
    arguments: dict[str, Any] = {"channel_axis": -1}
    refused(ValueError, "kernel must be one", gd.deconvolve, color, np.stack([KERNEL] * 3), **arguments)
    refused(ValueError, "weight must be a number, got", gd.deconvolve, color, KERNEL, weight=np.ones(3), **arguments)
    refused(ValueError, "kernel must not exceed", gd.deconvolve, color, np.ones((37, 45)), **arguments)
    refused(ValueError, "kernel must not exceed", gd.deconvolve, PICTURE, np.ones((37, 3)), boundary="wrap")


def test_a_mask_of_clipped_pixels_is_checked_where_there_is_one() -> None:
    functions = [f for f in NONBLIND.values() if "saturated" in inspect.signature(f).parameters]
    assert len(functions) == sum(takes.saturated for takes in METHOD_SPECS.values())
    for function in functions:
        refused(ValueError, "saturated must be bool and like blurred", function, PICTURE, KERNEL, saturated=PICTURE)
        with pytest.raises(gd.Stopped):
            function(PICTURE, KERNEL, saturated=PICTURE > 0.9, callback=Trap())


# ---- the noise, scikit-image's functions, metrics


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((SPOILED,), ValueError, "image must be finite, got nan at index"),
        ((PICTURE > 0.5, KERNEL), TypeError, "image must have an integer or float dtype, got bool"),
        ((PICTURE, 0 * KERNEL), ValueError, "kernel must not sum to zero"),
        ((PICTURE[:4, :4], KERNEL), ValueError, "kernel must not exceed the picture, got 5 x 5 for a picture of 4 x 4"),
    ],
)
def test_estimate_noise_refuses(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        gd.estimate_noise(*arguments)
    with pytest.raises(ValueError, match=r"^device must be None"):
        gd.estimate_noise(PICTURE, device="gpu")


def test_user_params_that_cannot_be() -> None:
    cases = {"burnin": (2.5, -1), "max_num_iter": ("9",), "min_num_iter": (None,), "threshold": (math.nan, "x"),
             "callback": (3,)}  # fmt: skip
    for name, values in cases.items():
        for value in values:
            with pytest.raises((TypeError, ValueError), match=rf"^user_params\['{name}'\] must .*got {value!r}"):
                restoration.unsupervised_wiener(PICTURE, KERNEL, user_params={name: value})
    params: Any
    for params in (3, [("burnin", 3)], "burnin"):
        with pytest.raises(TypeError, match=r"^user_params must be a dictionary, got "):
            restoration.unsupervised_wiener(PICTURE, KERNEL, user_params=params)


@pytest.mark.parametrize("value", [-1, math.nan, "1", True, None, np.ones(2)])
def test_numbers_of_scikit_images_functions_that_cannot_be(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^balance must be .*; 0 is the inverse filter, 0\.1 a start$"):
        restoration.wiener(PICTURE, KERNEL, value)
    if value is not None:
        with pytest.raises((TypeError, ValueError), match=r"^filter_epsilon must be "):
            restoration.richardson_lucy(PICTURE, KERNEL, filter_epsilon=value)


@pytest.mark.filterwarnings("ignore:psf has negative values:UserWarning", "ignore:psf sums to:UserWarning")
@pytest.mark.parametrize(
    ("image", "psf"),
    [(PICTURE, KERNEL - 1 / 25), (PICTURE, -KERNEL), (np.ones(9), np.ones(3)), (np.ones((9,) * 3), np.ones((3,) * 3))],
)
def test_an_unknown_boundary_needs_light_and_two_axes(image: np.ndarray, psf: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^boundary must not be 'unknown' for a p.*; use 'edge'$"):
        restoration.wiener(image, psf, 0.1, boundary="unknown")


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim, metrics.align, metrics.scores])
def test_metrics_refuse(measure: Function) -> None:
    with pytest.raises(ValueError, match=r"^image and reference must have one shape, got "):
        measure(PICTURE, PICTURE[1:])
    with pytest.raises(ValueError, match=r"^image must "):
        measure(PICTURE[:0], PICTURE[:0])
    with pytest.raises(TypeError, match=r"^arrays must be all NumPy or all CuPy"):
        measure(PICTURE.tolist(), PICTURE)


# ---- NumPy, CuPy and devices


def test_numpy_and_cupy_do_not_mix() -> None:
    from cuda_on_cpu import device

    message = "arrays must be all NumPy or all CuPy, got ...rray, ...; move them with cupy.asarray or "
    with device.installed(lambda _: None) as cupy:
        for pair in ((PICTURE, cupy.asarray(KERNEL)), (cupy.asarray(PICTURE), KERNEL)):
            for where in (None, "cpu", "cuda", "auto"):
                refused(TypeError, message, gd.deconvolve, *pair, device=where)
