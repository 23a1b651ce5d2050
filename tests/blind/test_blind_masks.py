"""Pixels that are not valid, and an unknown kernel: their values are not read, and the kernel is as good."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from laws import assert_same
from scipy import ndimage
from skimage import data

import gpudeblur as gd
from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings
from gpudeblur.images.noise import noise_sigma
from gpudeblur.metrics import kernel_similarity
from gpudeblur.nonblind.final import FINALS, residual_mse, restore, result_signals
from gpudeblur.numerics.arrays import masked_mean, to_host
from gpudeblur.numerics.inpainting import inpaint
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=9)
SHARP = data.camera()[40:176, 20:156] / 255
BLURRED = blur(SHARP, KERNEL, noise_sigma=4e-3, rng=0)
MASK = np.ones(BLURRED.shape, bool)  # a column, and blocks: 2.3 % are not valid
MASK[:, 50] = False
for _y, _x in ((15, 20), (40, 80), (100, 30), (70, 90)):
    MASK[_y : _y + 8, _x : _x + 8] = False
SPOILED = np.where(MASK, BLURRED, np.nan)
FIELD = gd.KernelField(np.broadcast_to(KERNEL, (2, 2, 9, 9)), shape=BLURRED.shape).prepared(np.dtype(float))
FAST = gd.TwoStepOptions(starts=("wide",))
EVERYWHERE = np.ones_like(MASK)


def refuses(error: type[Exception], message: str) -> Any:
    return pytest.raises(error, match=re.escape(message))


def observe(image: Any, mask: Any = None, *, channel_axis: int | None = None, kernel_size: int = 9) -> Observation:
    settings = Settings.of(kernel_size, channel_axis, None, "two-step", None, 1.0, None, None)
    return Observation.of(image, settings, mask)


# ---- what it is for


def test_the_kernel_is_as_good_as_from_the_complete_image() -> None:
    complete, holes = gd.deblur(BLURRED, 9), gd.deblur(SPOILED, 9, mask="nan")
    zeros = gd.estimate_kernel(np.where(MASK, BLURRED, 0), 9, defects=None)
    similarity = kernel_similarity(holes.kernel, KERNEL)
    assert similarity > kernel_similarity(complete.kernel, KERNEL) - 0.05
    assert similarity > kernel_similarity(zeros, KERNEL) + 0.05
    assert np.isfinite(holes.image).all()
    assert abs(holes.info["residual"] - complete.info["residual"]) < 5e-4


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 0.5])
def test_values_that_are_not_valid_are_not_read(value: float) -> None:
    result = gd.deblur(np.where(MASK, BLURRED, value), 9, mask=MASK, options=FAST)
    expected = gd.deblur(SPOILED, 9, mask="nan", options=FAST)
    assert_same(result.image, expected.image)
    assert_same(result.kernel, expected.kernel)
    assert_same(gd.estimate_kernel(np.where(MASK, BLURRED, value), 9, mask=MASK, options=FAST), expected.kernel)


@pytest.mark.parametrize("kernel_size", [9, None])
def test_a_mask_without_holes_changes_nothing(kernel_size: int | None) -> None:
    image = BLURRED[:90, :90]
    expected = gd.deblur(image, kernel_size, options=FAST)
    for mask in (EVERYWHERE[:90, :90], "nan"):
        result = gd.deblur(image, kernel_size, mask=mask, options=FAST)
        assert_same(result.image, expected.image)
        assert_same(result.kernel, expected.kernel)
        info: dict[str, Any] = dict(expected.info)
        assert all(value == info[name] for name, value in result.info.items() if not name.startswith("seconds"))


@pytest.mark.parametrize("final", FINALS)
def test_in_a_stack_each_image_has_its_own_mask(final: str) -> None:
    masks = np.stack([EVERYWHERE, MASK])
    stack = gd.deblur(np.stack([BLURRED, SPOILED]), 9, mask=masks, final=final, options=FAST)
    singles = (
        gd.deblur(BLURRED, 9, final=final, options=FAST),
        gd.deblur(SPOILED, 9, mask=MASK, final=final, options=FAST),
    )
    for i, single in enumerate(singles):
        assert_same(stack.image[i], single.image)
        assert_same(stack.kernel[i], single.kernel)
        for name in ("confidence", "residual", "strength"):
            assert stack.info[name][i] == single.info[name]


@pytest.mark.parametrize(("final", "kernel"), [*((name, KERNEL) for name in FINALS), ("sparse", FIELD)])
def test_the_restoration_leaves_the_mask_out(final: str, kernel: Any) -> None:
    """With the same kernel, the pixels more than a kernel away from the holes hardly change."""
    filled = inpaint(np.where(MASK, BLURRED, 0), MASK)
    complete, holes = restore(BLURRED, kernel, final), restore(filled, kernel, final, mask=MASK)
    away = ndimage.minimum_filter(MASK, 19)
    away[:18] = away[-18:] = away[:, :18] = away[:, -18:] = False
    assert abs(holes - complete)[away].mean() < abs(complete - BLURRED)[away].mean() / 5
    near = MASK & ~ndimage.minimum_filter(MASK, 9)
    filled_only = restore(filled, kernel, final)
    error, without = (((image - SHARP[4:-4, 4:-4])[near] ** 2).mean() for image in (holes, filled_only))
    assert error < 0.8 * without  # in narrow holes an interpolation is good, too


def test_one_mask_serves_a_stack() -> None:
    images = np.stack([BLURRED, BLURRED[::-1]])
    one, each = (gd.deblur(images, 9, mask=mask, options=FAST) for mask in (MASK, np.stack([MASK, MASK])))
    assert_same(one.image, each.image)


def test_masked_arrays_come_back_masked() -> None:
    image = np.ma.masked_invalid(SPOILED)
    result, expected = gd.deblur(image, 9, options=FAST), gd.deblur(SPOILED, 9, mask=MASK, options=FAST)
    assert isinstance(result.image, np.ma.MaskedArray)
    assert_same(result.image.data, expected.image)
    assert_same(result.image.mask, ~MASK)
    assert not isinstance(result.kernel, np.ma.MaskedArray)
    assert gd.deblur(image, 9, final=None, options=FAST).image is None


def test_integers_and_colors() -> None:
    color = np.round(255 * np.stack([BLURRED, BLURRED**2, BLURRED[::-1]], axis=-1).clip(0, 1)).astype(np.uint8)
    spoiled = np.where(MASK[..., None], color, 255).astype(np.uint8)
    result = gd.deblur(spoiled, 9, mask=MASK, channel_axis=-1, options=FAST)
    assert result.image.dtype == np.uint8
    assert result.image.shape == color.shape
    assert_same(result.image, gd.deblur(color, 9, mask=MASK, channel_axis=-1, options=FAST).image)


def test_opacity_has_no_mask() -> None:
    color = np.stack([SPOILED, BLURRED**2, BLURRED[::-1], np.ones_like(BLURRED)], axis=-1)
    color[:20, :20, 3] = 0
    for mask in (MASK, "nan"):
        result = gd.deblur(color, 9, mask=mask, channel_axis=-1, options=FAST).image
        assert_same(result[..., :3], gd.deblur(color[..., :3], 9, mask=mask, channel_axis=-1, options=FAST).image)
        assert_same(result[..., 3], color[..., 3])


def test_with_rotations() -> None:
    """The uniform kernel and the field are estimated from the filled image, and the final restoration has the mask."""
    results = [
        gd.deblur(np.where(MASK, BLURRED, value), 9, mask=MASK, blur="rotation", options=FAST) for value in (0, np.nan)
    ]
    assert_same(results[0].image, results[1].image)
    assert np.isfinite(results[0].image).all()


# ---- the parts


def test_the_observation_is_filled_and_keeps_the_mask(xp: Any) -> None:
    observed = observe(xp.asarray(SPOILED), "nan")
    assert_same(observed.valid, MASK[None, None])
    filled = inpaint(xp.asarray(np.where(MASK, BLURRED, 0).astype(np.float32)), xp.asarray(MASK))
    assert_same(observed.image[0, 0], filled)
    assert_same(observed.luminance[0], filled)
    assert observe(xp.asarray(BLURRED)).valid is None
    assert observe(xp.asarray(BLURRED), "nan").valid is None
    pair = observe(xp.asarray(np.stack([BLURRED, SPOILED])), "nan")
    assert_same(pair.subset(np.array([1])).valid, MASK[None, None])


def test_each_channel_has_its_own_nan() -> None:
    image = np.stack([SPOILED, BLURRED, BLURRED], axis=-1)
    observed = observe(image, "nan", channel_axis=-1)
    assert_same(observed.valid, np.stack([MASK, EVERYWHERE, EVERYWHERE])[None])
    assert_same(observed.image[0, 1], BLURRED.astype(np.float32))


def test_filled_pixels_are_not_saturated() -> None:
    image = np.where(BLURRED > 0.5, 1, BLURRED)
    observed = observe(image, MASK)
    assert observed.saturated is not None
    assert observed.saturated.any()
    assert not observed.saturated[0, 0][~MASK].any()


def test_filled_pixels_do_not_lower_the_noise(xp: Any) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0.5, 0.02, (3, 60, 50))
    mask = np.ones(image.shape, bool)
    mask[1, 5:55, 5:35] = False
    mask[2] = False
    mask[2, ::2, ::2] = True  # no four pixels
    filled = inpaint(xp.asarray(image), xp.asarray(mask))
    sigma, without = to_host(noise_sigma(filled, xp.asarray(mask))), to_host(noise_sigma(filled))
    np.testing.assert_allclose(sigma[:2], 0.02, rtol=0.1)
    assert without[1] < 0.01
    assert_same(sigma[[0, 2]], without[[0, 2]])


def test_means_over_a_mask(xp: Any) -> None:
    values, mask = (
        xp.asarray([[1.0, 2.0, 6.0], [5.0, np.nan, 7.0]]),
        xp.asarray([[True, True, True], [True, False, True]]),
    )
    assert_same(masked_mean(values, mask), np.array([3.0, 6.0]))
    assert_same(masked_mean(values, mask & False), np.array([0.0, 0.0]))
    assert_same(masked_mean(values, None), values.mean(axis=-1))


def test_the_measures_of_a_result_leave_the_mask_out(xp: Any) -> None:
    image, sharp = np.full((20, 30), 0.5), np.full((20, 30), 0.5)
    image[:, ::2] = 0.25
    sharp[:, ::2] = 0.25
    delta, mask = xp.ones((1, 1)), np.ones((20, 30), bool)
    sharp[4:8, 10:20], mask[4:8, 10:20] = 7, False
    image, sharp, mask = (xp.asarray(array) for array in (image, sharp, mask))
    assert float(residual_mse(image, sharp, delta)) > 1
    assert float(residual_mse(image, sharp, delta, mask=mask)) < 1e-12
    assert float(result_signals(sharp, image)[0]) > 1
    assert [float(signal) for signal in result_signals(sharp, image, None, mask)] == [0, 0, 0]


# ---- what is refused


@pytest.mark.parametrize("function", [gd.deblur, gd.estimate_kernel])
def test_refusals(function: Any) -> None:
    with refuses(ValueError, "(384 bad pixels); mask='nan' leaves such pixels out"):
        function(SPOILED[:, :100], 9)
    with refuses(ValueError, "mask must be a bool array, 'nan' or None, got 'inf'"):
        function(SPOILED, 9, mask="inf")
    with refuses(TypeError, "mask must have dtype bool, True where image is valid, got float64; mask != 0 is bool"):
        function(BLURRED, 9, mask=MASK.astype(float))
    with refuses(ValueError, "mask must be like image, shape (128, 128), got shape (128, 127)"):
        function(BLURRED, 9, mask=MASK[:, 1:])
    with refuses(ValueError, "mask must be True at some pixel of each image, got none; True is valid, try ~mask"):
        function(BLURRED, 9, mask=MASK & False)
    with refuses(ValueError, "mask must be left out for a masked array, got both"):
        function(np.ma.masked_invalid(SPOILED), 9, mask=MASK)
    few = np.zeros_like(MASK)
    few[:8, :8] = True
    message = (
        "mask must have at least as many valid pixels as the kernel, 9 x 9 = 81, got 64; use a smaller kernel_size"
    )
    with refuses(ValueError, message):
        function(BLURRED, 9, mask=few)
