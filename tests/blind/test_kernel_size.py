"""kernel_size=None: the window that is found, and what is said when it may be too small."""

from __future__ import annotations

import re
import warnings
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
QUICK = gd.TwoStepOptions(starts=("wide",))


def blurred(size: int, side: int = 200) -> np.ndarray:
    reach = side + size - 1
    return blur(CAMERA[80 : 80 + reach, 120 : 120 + reach], trajectory_kernel(size, rng=3).astype(np.float32))


def test_windows_rise_and_stay_within_half_of_the_picture() -> None:
    assert window_sides((255, 255)) == [17, 35, 71]
    assert window_sides((300, 60)) == [17, 29]
    assert window_sides((20, 400)) == [9]
    for side in (3, 5, 8, 33, 34, 35, 36, 142, 144):
        found = window_sides((side, side))
        assert found == sorted(set(found))
        assert all(one % 2 and 3 <= one <= max(3, side / 2) for one in found)


def test_extent_is_the_farthest_from_the_middle(xp: Any) -> None:
    kernel = np.zeros((3, 9, 11))
    kernel[0, 4, 5] = 1
    kernel[1, 4, 5], kernel[1, 1, 6] = 1, 0.1
    kernel[2, 5, 10] = 1
    assert half_width(xp.asarray(kernel)).tolist() == [0, 3, 5]


@pytest.mark.parametrize("size", [9, 21])
def test_an_unknown_size_is_found(xp: Any, size: int) -> None:
    result = gd.deblur(xp.asarray(blurred(size)), final=None)
    side = result.kernel.shape[-1]
    assert size - 4 <= side <= size + 10  # its own margin is 2 on each side
    assert kernel_similarity(to_host(result.kernel), trajectory_kernel(size, rng=3)) > 0.8


def test_a_stack_equals_a_loop_but_for_the_padding() -> None:
    stack = np.stack([blurred(9), blurred(21), np.full((200, 200), 0.5, dtype=np.float32)])
    together = gd.deblur(stack, final="hyper-laplacian", options=QUICK)
    for i, picture in enumerate(stack):
        alone = gd.deblur(picture, final="hyper-laplacian", options=QUICK)
        np.testing.assert_array_equal(fit_size(alone.kernel, together.kernel.shape[-2:]), together.kernel[i])
        np.testing.assert_array_equal(alone.image, together.image[i])
        for name in ("confidence", "border_mass", "energy", "agreement", "residual", "strength", "kernel_size"):
            assert together.info[name][i] == alone.info[name]
    assert together.kernel.sum(axis=(-2, -1)) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch")
def test_a_stack_in_colour(xp: Any) -> None:
    gray = np.stack([blurred(9, 96), blurred(21, 96)])
    colours = np.stack([gray, gray**2, gray**0.5], axis=-1)
    options = gd.TwoStepOptions(starts=("wide",), cautious=False)
    together = gd.deblur(xp.asarray(colours), channel_axis=-1, final="hyper-laplacian", options=options)
    assert together.image.shape == colours.shape
    assert together.info["kernel_size"].shape == (2,)
    for i in range(2):
        alone = gd.deblur(xp.asarray(colours[i]), channel_axis=-1, final="hyper-laplacian", options=options)
        np.testing.assert_allclose(to_host(alone.image), to_host(together.image)[i], atol=1e-3)
        assert isinstance(alone.info["kernel_size"], int)


def test_the_pieces_make_the_whole() -> None:
    picture = blurred(9, 96)
    result = gd.deblur(picture, None, options=QUICK, final="hyper-laplacian")
    np.testing.assert_array_equal(gd.estimate_kernel(picture, options=QUICK), result.kernel)


def test_progress_rises_to_one() -> None:
    told: list[float] = []
    gd.deblur(blurred(9, 96), options=QUICK, callback=lambda _, done: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_kernel_that_touches_its_window_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = blurred(21)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gd.deblur(picture, final=None, options=QUICK)
    monkeypatch.setattr(kernel_size, "WINDOWS", (9,))
    message = "kernel_size=None found kernels that touch the border of their window in 1 of 1 pictures; give a larger"
    with pytest.warns(RuntimeWarning, match=re.escape(message)):
        gd.deblur(picture, final=None, options=QUICK)


@pytest.mark.parametrize("shape", [(5, 5), (5, 40), (12, 12)])
def test_small_pictures_give_finite_answers(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).random(shape, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = gd.deblur(picture, options=QUICK, final="hyper-laplacian")
    assert np.isfinite(result.image).all()
    assert result.kernel.shape[-1] <= min(shape)


@pytest.mark.parametrize("shape", [(3, 3), (4, 90), (40, 50, 3)])
def test_a_picture_that_is_too_small_or_has_channels_is_refused(shape: tuple[int, ...]) -> None:
    message = f"image must have at least 5 x 5 pixels for kernel_size=None, got {shape[-2]} x {shape[-1]}; give a"
    picture = np.random.default_rng(0).random(shape)
    with pytest.raises(ValueError, match=re.escape(message)):
        gd.deblur(picture)
    with gd.deblur_batch([picture]) as results:
        assert isinstance(next(results).error, ValueError)
