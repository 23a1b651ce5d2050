"""Input that is odd but may be meant: computed, with a warning where it is likely a slip."""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import assert_close
from test_bad_input_api import DECONVOLVE, KERNEL, PICTURE, SCENE

import gpudeblur as gd
from gpudeblur import nonblind, restoration
from gpudeblur.nonblind.specs import METHOD_SPECS
from gpudeblur.synthesis import blur

FUNCTIONS: dict[str, Callable[..., Any]] = {name: DECONVOLVE[f"deconvolve {name}"] for name in METHOD_SPECS}
FUNCTIONS["estimate_noise"] = gd.estimate_noise
FUNCTIONS["restoration.wiener"] = functools.partial(restoration.wiener, balance=0.1)
FUNCTIONS["restoration.richardson_lucy"] = functools.partial(restoration.richardson_lucy, num_iter=5, boundary="edge")
SLOW = dict.fromkeys(("epll", "ringing-suppressed", "sparse"), pytest.mark.slow)
METHODS = [pytest.param(name, marks=SLOW.get(name, ())) for name in METHOD_SPECS]


@pytest.mark.parametrize("name", [*METHODS, "estimate_noise"])
def test_a_range_of_a_million_is_finite_and_warned_of(name: str) -> None:
    """A lamp in a dark room, blurred, and one that is not. Without a unit there is nothing to warn of."""
    scene = SCENE.copy()
    scene[20:23, 20:23] = 1e6
    for picture in (blur(scene, KERNEL), np.where(scene[2:-2, 2:-2] > 1, 1e6, PICTURE)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            out = FUNCTIONS[name](picture.astype("float32"), KERNEL)
        assert np.isfinite(out).all()
        assert len(caught) == (name not in ("wiener", "richardson-lucy", "estimate_noise"))
        for warning in caught:
            assert re.match(r"image has values up to \S+e\+0[56]: floats are read as", str(warning.message))
            assert warning.filename == __file__


@pytest.mark.parametrize("name", [*METHODS, *sorted(FUNCTIONS.keys() - METHOD_SPECS.keys())])
def test_small_constant_pictures_stay_as_they_are(name: str) -> None:
    for shape in ((9, 9), (1, 9), (9, 1), (6, 7)):
        box = np.ones(np.minimum(3, shape)) / np.minimum(3, shape).prod()
        for value in (0.0, 0.5):
            out = FUNCTIONS[name](np.full(shape, value), box)
            assert_close(np.asarray(out), np.full((), 0 if name == "estimate_noise" else value), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_kernels_off_their_middle_shift_alike_at_every_boundary(method: str) -> None:
    """A delta two rows below the origin of even sides and three columns to its left."""
    spec, kernel = METHOD_SPECS[method], np.zeros((6, 8))
    # The levels of a network's denoiser fall with the sixth root of the weight.
    slight = {"weight": 1e-20 if spec.network else 1e-7} if spec.weight else {"noise_sigma": 0}
    kernel[5, 1] = 1
    for boundary in spec.boundaries:
        out = gd.deconvolve(PICTURE, kernel, method=method, boundary=boundary, dtype="float64", **slight)
        assert_close(out[8:-8, 8:-8], np.roll(PICTURE, (-2, 3), (0, 1))[8:-8, 8:-8], atol=1e-3)


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


def test_a_flat_weight_for_each_picture_of_a_stack() -> None:
    stack, weights = np.stack([PICTURE, PICTURE[::-1]]), [0.01, 0.02]
    out = nonblind.ringing_suppressed(stack, KERNEL, flat_weight=weights)
    for restored, picture, weight in zip(out, stack, weights, strict=True):
        assert_close(restored, nonblind.ringing_suppressed(picture, KERNEL, flat_weight=weight), atol=1e-6)
