"""Light streaks, and kernels to begin with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage.data import camera

import gpudeblur as gd
from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings
from gpudeblur.blind.streaks import find_streaks, light_traces, with_initial
from gpudeblur.metrics import kernel_similarity
from gpudeblur.synthesis import blur, trajectory_kernel

SCENE = camera()[100:290, 150:380] / 255
KERNEL = trajectory_kernel(21, rng=3, width=1.0)
QUICK = gd.TwoStepOptions(starts=("wide", "compact"), iterations=1, finest_iterations=1, finest_candidates=1)


def night(lamps: int, kernel: np.ndarray = KERNEL, shape: tuple[int, int] = (160, 200)) -> np.ndarray:
    """A dark scene with as many lamps of a pixel, far apart, blurred."""
    scene = 0.3 * SCENE[: shape[0], : shape[1]]
    rows, columns = np.meshgrid(np.arange(25, 140, 36), np.arange(25, 180, 36), indexing="ij")
    scene[rows.ravel()[:lamps], columns.ravel()[:lamps]] += 40
    return blur(scene, kernel).astype(np.float32)


def test_lamps_show_the_kernel() -> None:
    streak = find_streaks(night(12))
    assert streak is not None
    assert streak.traces >= 10
    assert streak.agreement > 0.98
    assert kernel_similarity(streak.kernel, KERNEL) > 0.97
    np.testing.assert_allclose(streak.kernel.sum(), 1)
    assert streak.kernel.shape[0] % 2 == 1


def test_brightness_and_a_crop_change_no_kernel() -> None:
    image = night(12)
    first, second = find_streaks(image), find_streaks(0.5 * image[5:, 3:])
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(second.kernel, first.kernel, atol=2e-3)


@pytest.mark.parametrize("lamps", [0, 3])
def test_few_traces_are_no_kernel(lamps: int) -> None:
    assert find_streaks(night(lamps)) is None


def test_traces_that_differ_are_no_kernel() -> None:
    parts = [night(12, trajectory_kernel(21, rng=seed, width=1.0))[25 - 18 : 25 + 18, 7:43] for seed in range(12)]
    image = np.concatenate([np.concatenate(parts[row : row + 4], axis=1) for row in (0, 4, 8)])
    assert len(light_traces(image, 25)) >= 6
    assert find_streaks(image) is None


def test_a_dark_image_begins_with_its_streaks() -> None:
    dark = night(12)
    plain = blur(SCENE[:160, :200], KERNEL).astype(np.float32)
    kernels = gd.estimate_kernel(np.stack([dark, plain]), 25, options=QUICK)
    assert kernel_similarity(kernels[0], KERNEL) > 0.9
    for kernel, image in zip(kernels, (dark, plain), strict=True):
        np.testing.assert_array_equal(kernel, gd.estimate_kernel(image, 25, options=QUICK))


def test_letters_on_black_are_no_streaks() -> None:
    page = np.full((150, 150), 0.1)
    for y, x in itertools.product(range(20, 130, 30), repeat=2):
        page[y : y + 3, x : x + 3] = 0.9
    image = blur(page, KERNEL[6:15, 6:15] / KERNEL[6:15, 6:15].sum()).astype(np.float32)
    assert find_streaks(image) is not None
    settings = Settings.of(None, None, None, "two-step", None, 1.0, None, None, defects=None)
    assert with_initial(Observation.of(image, settings), settings, search=True).initial is None


def test_traces_in_an_image_without_lights_are_warned_of() -> None:
    dark = night(12)
    assert kernel_similarity(gd.streak_kernel(dark / dark.max()), KERNEL) > 0.97
    for image in (0.5 * dark / dark.max(), 0.3 + 0.7 * dark / dark.max()):  # no full scale, not dark
        with pytest.warns(UserWarning, match=r"image may show no lights \(mean 0\.\d\d and maximum"):
            gd.streak_kernel(image)


def test_the_kernel_size_holds_the_streaks() -> None:
    image = night(12)
    assert gd.estimate_kernel(image, options=QUICK).shape[0] > len(gd.streak_kernel(image))


def test_the_streaks_of_a_users_picture() -> None:
    image = night(12)
    kernel = gd.streak_kernel(image)
    np.testing.assert_array_equal(gd.streak_kernel(np.stack([image] * 3, axis=-1), channel_axis=-1).shape, kernel.shape)
    levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    assert kernel_similarity(gd.streak_kernel(levels), kernel) > 0.99
    with pytest.raises(ValueError, match="image must have 4 or more traces of lights"):
        gd.streak_kernel(night(0))
    with pytest.raises(ValueError, match="single one"):
        gd.streak_kernel(np.stack([image, image]))
    with pytest.raises(ValueError, match="max_side"):
        gd.streak_kernel(image, 8)


def test_an_initial_kernel_takes_part() -> None:
    image = blur(SCENE[:120, :120], KERNEL).astype(np.float32)
    with_initial = gd.estimate_kernel(image, initial=KERNEL, options=QUICK)
    assert with_initial.shape == KERNEL.shape
    without = gd.estimate_kernel(image, KERNEL.shape, options=QUICK)
    assert kernel_similarity(with_initial, KERNEL) > max(0.9, kernel_similarity(without, KERNEL))


def test_an_initial_kernel_takes_part_beside_rotations() -> None:
    image, kernel = blur(SCENE[:110, :110], KERNEL).astype(np.float32)[:88, :88], KERNEL[4:17, 4:17]
    results = [
        gd.deblur(image, initial=kernel, blur=model, final=None, options=QUICK) for model in ("uniform", "rotation")
    ]
    assert results[1].field is None
    np.testing.assert_array_equal(results[1].kernel, results[0].kernel)


def test_an_initial_kernel_that_cannot_be_used() -> None:
    image = night(0)
    with pytest.raises(ValueError, match=r"initial must have the kernel_size \(25, 25\), got \(21, 21\)"):
        gd.deblur(image, 25, initial=KERNEL)
    with pytest.raises(ValueError, match="initial must be one kernel"):
        gd.deblur(image, initial=np.stack([KERNEL, KERNEL]))
    with pytest.raises(ValueError, match="two initializations or more"):
        gd.deblur(image, initial=KERNEL, options=gd.TwoStepOptions(starts=("wide",)))
    with pytest.raises(ValueError, match="initial"):
        gd.deblur(image, initial=-KERNEL)
