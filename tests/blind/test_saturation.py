"""Saturated lights: where they are, that they are removed without a trace, and that other images are left alone."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from laws import assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings
from gpudeblur.blind.saturated_lights import DARK_SURROUND, MAX_LIGHT_AREA, RIM, light_masks, remove_lights
from gpudeblur.blind.two_step import two_step, views_of
from gpudeblur.images.saturation import find_saturated
from gpudeblur.metrics import kernel_similarity
from gpudeblur.nonblind.final import restore, result_signals
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (0.8 * data.camera()[100:260, 140:300] / 255).astype(np.float32)
KERNEL = trajectory_kernel(13, rng=3).astype(np.float32)
TWO_STARTS = gd.TwoStepOptions(starts=("wide", "compact"))


def night(*, seed: int = 0) -> np.ndarray:
    """A dim scene with lights that leave saturated trails."""
    rng, scene = np.random.default_rng(seed), 0.5 * CAMERA
    for y, x in rng.integers(12, 148, (8, 2)):
        scene[y : y + 2, x : x + 2] += 20
    return np.minimum(blur(scene, KERNEL), 1).astype(np.float32)


def observe(image: Any, channel_axis: int | None = None) -> Observation:
    return Observation.of(image, Settings.of(13, channel_axis, None, "two-step", None, 1.0, None, TWO_STARTS))


# ---- where it is


def test_a_plateau_is_saturated_and_a_hot_pixel_is_not(xp: Any) -> None:
    image = np.full((3, 9, 11), 0.5, dtype=np.float32)
    image[0, 2:4, 3:6] = 1
    image[0, 2, 4] = 0.96  # noise
    image[1, 4, 4] = 1
    image[2, 2:4, 3:6] = 1.5  # no top at 1
    expected = np.zeros(image.shape, dtype=bool)
    expected[0, 2:4, 3:6] = True
    assert_same(find_saturated(xp.asarray(image)), expected)


def test_one_saturated_channel_makes_a_light(xp: Any) -> None:
    color = np.full((80, 80, 3), 0.1, dtype=np.float32)
    assert observe(xp.asarray(color), -1).saturated is None
    color[40:44, 40:44, 2] = 1
    observed = observe(xp.asarray(color), -1)
    expected = np.zeros((1, 3, 80, 80), dtype=bool)
    expected[0, 2, 40:44, 40:44] = True
    assert_same(observed.saturated, expected)
    unlit = views_of(observed, (13, 13), TWO_STARTS).unlit
    np.testing.assert_allclose(to_host(unlit), 0.1, atol=1e-6)


def test_masks_reach_half_a_kernel_and_a_rim_inside_the_image(xp: Any) -> None:
    saturated = np.zeros((2, 61, 71), dtype=bool)
    saturated[0, 20, 0] = True
    masks = light_masks(xp.zeros(saturated.shape), xp.asarray(saturated), (9, 13), xp.zeros(len(saturated), dtype=bool))
    for mask, radius in zip(masks, (7, RIM), strict=True):
        expected = np.zeros(saturated.shape, dtype=bool)
        expected[0, 20 - radius : 21 + radius, : radius + 1] = True
        assert_same(mask, expected)


def test_large_white_areas_and_bright_surrounds_are_no_lights(xp: Any) -> None:
    images, saturated = np.zeros((4, 60, 60)), np.zeros((4, 60, 60), dtype=bool)
    saturated[0, : int(60 * MAX_LIGHT_AREA)] = True
    saturated[1, :5] = True
    images[2:], saturated[2:, 28:32, 28:32] = 0.1, True
    images[2, 20:40, 20:40] = DARK_SURROUND + 0.1
    for is_dark, expected in ((False, [False, True, False, True]), (True, [False, True, True, True])):
        for mask in light_masks(xp.asarray(images), xp.asarray(saturated), (9, 9), xp.full(4, is_dark)):
            assert to_host(mask).any(axis=(1, 2)).tolist() == expected


# ---- the image without it


def test_a_light_in_a_flat_scene_leaves_no_trace(xp: Any) -> None:
    image, saturated = np.full((1, 60, 60), 0.25, dtype=np.float32), np.zeros((1, 60, 60), dtype=bool)
    saturated[0, 20:30, 0:25] = True
    image[saturated] = 1
    for result in remove_lights(xp.asarray(image), xp.asarray(saturated), (9, 9), xp.zeros(1, dtype=bool)):
        np.testing.assert_allclose(to_host(result), 0.25, atol=1e-6)


# ---- in the method


def test_views_without_lights_exist_only_where_lights_are(xp: Any) -> None:
    dark, plain = (observe(xp.asarray(image)) for image in (night(), blur(CAMERA, KERNEL).astype(np.float32)))
    views = views_of(dark, (13, 13), TWO_STARTS)
    assert dark.saturated is not None
    assert views.full is dark.luminance
    unlit, scoring = remove_lights(dark.luminance, dark.saturated[:, 0], (13, 13), xp.asarray(dark.is_dark))
    assert_same(views.unlit, unlit)
    assert_same(views.scoring, scoring)
    assert len(views.arrays) == 4
    assert len(views_of(dark, (13, 13), gd.TwoStepOptions(starts=("wide",))).arrays) == 2
    assert len(views_of(plain, (13, 13), TWO_STARTS).arrays) == 2


def test_a_bright_image_with_saturated_paper_stays_as_it_is(xp: Any) -> None:
    paper = np.full((60, 60), 0.9, dtype=np.float32)
    paper[20:30, 20:30] = 1
    observed = observe(xp.asarray(paper))
    assert observed.saturated is not None
    assert len(views_of(observed, (13, 13), TWO_STARTS).arrays) == 2


@pytest.mark.slow
def test_a_saturated_image_disturbs_no_other_in_its_stack() -> None:
    options = dataclasses.replace(TWO_STARTS, iterations=1, finest_iterations=1)
    images = [blur(CAMERA, KERNEL).astype(np.float32)[:64, :64], night()[:64, :64]]
    kernels = gd.estimate_kernel(np.stack(images), 13, options=options)
    for kernel, image in zip(kernels, images, strict=True):
        np.testing.assert_allclose(kernel, gd.estimate_kernel(image, 13, options=options), atol=1e-6)


@pytest.mark.slow
def test_removing_lights_improves_the_kernel() -> None:
    gains = []
    for seed in (0, 1):
        observed = observe(night(seed=seed))
        blind_to_lights = dataclasses.replace(observed, saturated=None)
        kernels = (two_step(o, (13, 13), TWO_STARTS, lambda _: None)[0][0] for o in (observed, blind_to_lights))
        aware, unaware = (float(kernel_similarity(kernel, KERNEL)) for kernel in kernels)
        gains.append(aware - unaware)
    assert np.mean(gains) > 0.1


def test_ringing_around_lights_does_not_count(xp: Any) -> None:
    image = night()
    info = gd.deblur(xp.asarray(image), 13, options=dataclasses.replace(TWO_STARTS, strength=1)).info
    sharp = restore(image, KERNEL, "sparse", None, find_saturated(image))
    observed = observe(image)
    assert observed.saturated is not None
    footprints = light_masks(observed.luminance, observed.saturated[:, 0], (13, 13), observed.is_dark)[0]
    everywhere, outside = (result_signals(sharp, image, find_saturated(image), mask) for mask in (None, ~footprints[0]))
    assert float(outside[0]) < 0.1 * float(everywhere[0])
    assert info["ringing"] < 0.1 * float(everywhere[0])
