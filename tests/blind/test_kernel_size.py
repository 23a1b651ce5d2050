"""kernel_size=None: the size that is found, and the warning where it may be too small."""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur.blind import kernel_size
from gpudeblur.blind.kernel_size import half_width, window_sides
from gpudeblur.images.kernels import fit_size
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (data.camera() / 255).astype(np.float32)
QUICK = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2)
any_size = pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch")


def blurred(size: int, side: int = 128) -> np.ndarray:
    end = side + size - 1
    return blur(CAMERA[80 : 80 + end, 120 : 120 + end], trajectory_kernel(size, rng=3).astype(np.float32))


@pytest.fixture(scope="module")
def alone() -> Callable[[int], gd.BlindResult]:
    """The result for the image with a kernel of that size; of size 0 for a constant one."""

    @functools.cache
    def result(size: int) -> gd.BlindResult:
        image = blurred(size) if size else np.full((128, 128), 0.5, dtype=np.float32)
        return gd.deblur(image, final="hyper-laplacian", options=QUICK)

    return result


def test_window_sides_rise_and_stay_within_half_of_the_image() -> None:
    assert window_sides((255, 255)) == [17, 35, 71, 127]
    assert window_sides((400, 900)) == [17, 35, 71, 151]
    assert window_sides((300, 60)) == [17, 29]
    assert window_sides((20, 400)) == [9]
    for side in (3, 5, 8, 33, 34, 35, 36, 142, 144):
        sides = window_sides((side, side))
        assert sides == sorted(set(sides))
        assert all(window % 2 and 3 <= window <= max(3, side / 2) for window in sides)


def test_half_width_reaches_the_farthest_pixel(xp: Any) -> None:
    kernel = np.zeros((3, 9, 11))
    kernel[0, 4, 5] = 1
    kernel[1, 4, 5], kernel[1, 1, 6] = 1, 0.1
    kernel[2, 5, 10] = 1
    assert half_width(xp.asarray(kernel)).tolist() == [0, 3, 5]


@pytest.mark.slow
@pytest.mark.parametrize("size", [9, 21])
def test_an_unknown_size_is_found(xp: Any, size: int, alone: Callable[[int], gd.BlindResult]) -> None:
    result = alone(size) if xp is np else gd.deblur(xp.asarray(blurred(size)), final=None, options=QUICK)
    side = result.kernel.shape[-1]
    assert size - 4 <= side <= size + 10  # the margin is 2 on each side
    assert result.info["kernel_size"] == side


@pytest.mark.slow
def test_in_a_window_of_unknown_size_the_kernel_is_right() -> None:
    assert kernel_similarity(gd.estimate_kernel(blurred(21)), trajectory_kernel(21, rng=3)) > 0.8


@pytest.mark.slow
def test_a_stack_equals_a_loop_but_for_padding(alone: Callable[[int], gd.BlindResult]) -> None:
    stack = np.stack([blurred(9), blurred(21), np.full((128, 128), 0.5, dtype=np.float32)])
    together = gd.deblur(stack, final="hyper-laplacian", options=QUICK)
    assert len(set(together.info["kernel_size"])) == 3
    for i, size in enumerate((9, 21, 0)):
        expected = alone(size)
        np.testing.assert_array_equal(fit_size(expected.kernel, together.kernel.shape[-2:]), together.kernel[i])
        np.testing.assert_array_equal(expected.image, together.image[i])
        for name in ("confidence", "border_mass", "energy", "agreement", "residual", "strength", "kernel_size"):
            assert together.info[name][i] == expected.info[name]
    assert together.kernel.sum(axis=(-2, -1)) == pytest.approx(1)


@pytest.mark.slow
def test_estimate_kernel_finds_the_same_kernel(alone: Callable[[int], gd.BlindResult]) -> None:
    fractions: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel = gd.estimate_kernel(blurred(9), options=QUICK, callback=lambda _, done: fractions.append(done))
    np.testing.assert_array_equal(kernel, alone(9).kernel)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@any_size
@pytest.mark.slow
def test_a_stack_of_color_images_has_a_size_each(xp: Any) -> None:
    gray = np.stack([blurred(9, 64), blurred(15, 64)])
    colors = np.stack([gray, gray**2, gray**0.5], axis=-1)
    options = gd.TwoStepOptions(starts=("wide",), iterations=1, finest_iterations=1, strength=1)
    together = gd.deblur(xp.asarray(colors), channel_axis=-1, final="hyper-laplacian", options=options)
    assert together.image.shape == colors.shape
    assert together.info["kernel_size"].shape == (2,)
    alone = gd.deblur(xp.asarray(colors[1]), channel_axis=-1, final="hyper-laplacian", options=options)
    np.testing.assert_allclose(to_host(alone.image), to_host(together.image)[1], atol=1e-3)
    assert isinstance(alone.info["kernel_size"], int)


def test_a_kernel_at_the_border_of_its_window_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_size, "WINDOWS", (7,))
    message = "kernel_size=None found kernels that touch the border of their window in 1 of 1 images; give a larger"
    with pytest.warns(RuntimeWarning, match=re.escape(message)):
        gd.deblur(blurred(21, 96), final=None, options=QUICK)


@any_size
@pytest.mark.parametrize("shape", [(5, 5), (5, 40), (12, 12)])
def test_small_images_give_finite_results(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    result = gd.deblur(image, options=QUICK, final="hyper-laplacian")
    assert np.isfinite(result.image).all()
    assert result.kernel.shape[-1] <= min(shape)
