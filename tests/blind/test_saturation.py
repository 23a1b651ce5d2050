"""Clipped light: where it is, that it goes without a trace, and that a picture without any is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur.blind import deblur, two_step
from gpudeblur.blind.saturated_lights import DARK_SURROUND, MAX_LIGHT_AREA, RIM, inpaint, light_masks
from gpudeblur.images.saturation import find_saturated
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (0.8 * data.camera()[100:260, 140:300] / 255).astype(np.float32)
KERNEL = trajectory_kernel(13, rng=3).astype(np.float32)


def night(*, seed: int = 0) -> np.ndarray:
    """A dim scene with lamps that leave clipped trails."""
    rng, scene = np.random.default_rng(seed), 0.5 * CAMERA
    for y, x in rng.integers(12, 148, (8, 2)):
        scene[y : y + 2, x : x + 2] += 20
    return np.minimum(blur(scene, KERNEL), 1).astype(np.float32)


def test_a_plateau_is_clipped_and_a_hot_pixel_is_not(xp: Any) -> None:
    picture = np.full((3, 9, 11), 0.5, dtype=np.float32)
    picture[0, 2:4, 3:6] = 1
    picture[0, 2, 4] = 0.96  # noise
    picture[1, 4, 4] = 1
    picture[2, 2:4, 3:6] = 1.5  # no top at 1
    found = to_host(find_saturated(xp.asarray(picture)))
    expected = np.zeros(picture.shape, dtype=bool)
    expected[0, 2:4, 3:6] = True
    np.testing.assert_array_equal(found, expected)


def test_regions_reach_half_a_kernel_and_the_rim_but_not_across_the_border(xp: Any) -> None:
    lights = np.zeros((2, 61, 71), dtype=bool)
    lights[0, 20, 0] = True
    traces, rims = (to_host(found) for found in light_masks(xp.zeros(lights.shape), xp.asarray(lights), (9, 13)))
    for found, reach in ((traces, 7), (rims, RIM)):
        expected = np.zeros(lights.shape, dtype=bool)
        expected[0, 20 - reach : 21 + reach, : reach + 1] = True
        np.testing.assert_array_equal(found, expected)


def test_white_paper_stays(xp: Any) -> None:
    lights = np.zeros((2, 60, 60), dtype=bool)
    lights[0, : int(60 * MAX_LIGHT_AREA)] = True
    lights[1, :5] = True
    traces, rims = light_masks(xp.zeros(lights.shape), xp.asarray(lights), (9, 9))
    assert not to_host(traces)[0].any()
    assert not to_host(rims)[0].any()
    assert to_host(traces)[1].any()


def test_what_is_bright_beside_its_clipped_part_stays(xp: Any) -> None:
    pictures, lights = np.full((2, 60, 60), 0.1), np.zeros((2, 60, 60), dtype=bool)
    pictures[1, 20:40, 20:40] = DARK_SURROUND + 0.1
    lights[:, 28:32, 28:32] = True
    traces, rims = (to_host(found) for found in light_masks(xp.asarray(pictures), xp.asarray(lights), (9, 9)))
    assert traces[0].any()
    assert not traces[1].any()
    assert not rims[1].any()


@pytest.mark.parametrize("shape", [(37, 50), (1, 8), (64, 64)])
def test_filling_keeps_the_rest_and_stays_between_its_ends(xp: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((2, *shape), dtype=np.float32)
    mask = rng.random((2, *shape)) < 0.5
    mask[1] = False
    found = to_host(inpaint(xp.asarray(picture), xp.asarray(mask)))
    np.testing.assert_array_equal(found[~mask], picture[~mask])
    rest = picture[0][~mask[0]]
    assert found.dtype == np.float32
    assert (found[0] >= rest.min() - 1e-6).all()
    assert (found[0] <= rest.max() + 1e-6).all()


def test_a_lamp_in_a_flat_scene_leaves_nothing(xp: Any) -> None:
    picture = np.full((40, 50), 0.25, dtype=np.float32)
    mask = np.zeros(picture.shape, dtype=bool)
    mask[10:30, 0:35] = True
    picture[mask] = 1
    np.testing.assert_allclose(to_host(inpaint(xp.asarray(picture), xp.asarray(mask))), 0.25, atol=1e-6)


def test_a_picture_without_clipping_is_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("no light was clipped")

    picture = blur(CAMERA, KERNEL)
    expected = gd.estimate_kernel(picture, 13)
    monkeypatch.setattr(two_step, "remove_lights", refuse)
    np.testing.assert_array_equal(gd.estimate_kernel(picture, 13), expected)


def test_a_clipped_neighbour_disturbs_nothing() -> None:
    plain = blur(CAMERA, KERNEL).astype(np.float32)
    alone = gd.deblur(plain, 13, final=None)
    both = gd.deblur(np.stack([plain, night()]), 13, final=None)
    np.testing.assert_allclose(both.kernel[0], alone.kernel, atol=1e-6)
    np.testing.assert_allclose(both.kernel[1], gd.deblur(night(), 13, final=None).kernel, atol=1e-6)


def test_lamps_do_not_decide_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with_lights = [float(kernel_similarity(gd.estimate_kernel(night(seed=seed), 13), KERNEL)) for seed in (0, 1)]
    monkeypatch.setattr(deblur, "find_saturated", lambda planes: np.zeros(planes.shape, dtype=bool))
    without = [float(kernel_similarity(gd.estimate_kernel(night(seed=seed), 13), KERNEL)) for seed in (0, 1)]
    assert np.mean(with_lights) > np.mean(without) + 0.1


def test_one_clipped_channel_is_enough() -> None:
    gray = 0.5 * CAMERA
    colour = np.stack([gray, gray, gray], axis=-1)
    colour[40:44, 40:44, 2] = 1
    seen = deblur._enter(colour, 13, -1, None, "two-step", 1.0, None)[1]
    assert seen is not None
    assert seen.sum() == 16
    assert seen[40:44, 40:44].all()
    assert deblur._enter(gray, 13, None, None, "two-step", 1.0, None)[1] is None
