"""Patches of large images, and images of a stack, that share a kernel; restoration in tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur.blind import region
from gpudeblur.blind.observation import Observation
from gpudeblur.blind.options import Settings
from gpudeblur.blind.region import cut_patches, patch_corners
from gpudeblur.blind.two_step import two_step
from gpudeblur.nonblind import tiles
from gpudeblur.synthesis import blur, trajectory_kernel

FAST = gd.TwoStepOptions(starts=("wide", "compact"), iterations=2, finest_iterations=2)
SIZE = (9, 9)


def picture() -> np.ndarray:
    """(192, 232)."""
    kernel = trajectory_kernel(9, rng=1)
    return np.asarray(blur(data.camera()[100:300, 120:360] / 255, kernel, noise_sigma=0.003, rng=0), dtype=np.float32)


@pytest.fixture
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that `picture` is large."""
    monkeypatch.setattr(region, "MAX_PIXELS", 3 * 64 * 64)
    monkeypatch.setattr(region, "PATCH_SIDE", 64)


def observe(images: np.ndarray, patches: int | None) -> Observation:
    settings = Settings.of(9, None, None, "two-step", None, 1.0, None, FAST, defects=None)
    return replace(Observation.of(images, settings), patches=patches)


def kernel_of(images: np.ndarray, patches: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return two_step(observe(images, patches), SIZE, FAST, lambda _: None)


def test_copies_of_a_patch_have_its_kernel() -> None:
    patch = picture()[:60, :64]
    alone, signals = kernel_of(patch[None], None)
    together, joint_signals = kernel_of(np.stack([patch] * 3), 3)
    assert together.shape == alone.shape
    assert_close(together, alone, atol=1e-5)
    for name, values in signals.items():
        assert_close(joint_signals[name], values, rtol=1e-3)


def test_the_order_of_patches_does_not_matter_and_groups_are_apart() -> None:
    image = picture()
    patches = np.stack([image[i : i + 56, i : i + 64] for i in (0, 60, 100, 130)])
    kernel, signals = kernel_of(patches, 4)
    turned, turned_signals = kernel_of(patches[[2, 0, 3, 1]], 4)
    assert_close(turned, kernel, atol=1e-4)
    assert_close(turned_signals["energy"], signals["energy"], rtol=1e-4)
    pairs, pair_signals = kernel_of(patches, 2)
    second, second_signals = kernel_of(patches[2:], 2)
    assert_same(pairs[1], second[0])
    assert_same(pair_signals["confidence"][1:], second_signals["confidence"])


def test_patches_are_strong_apart_and_usable() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((200, 300), dtype=np.float32)
    image[:, :150] = rng.random((200, 150))  # the left half has edges in all directions, the right half in one
    image[:, 150:] = np.arange(150) % 10 / 5
    unusable = np.zeros(image.shape, dtype=bool)
    unusable[:100, :100] = True
    corners = patch_corners(image, unusable, (40, 40), 5)
    assert (corners[:, 1] <= 140).all()
    assert ((corners[:, 0] >= 90) | (corners[:, 1] >= 90)).all()
    distances = abs(corners[:, None] - corners).max(axis=-1) + 1000 * np.eye(len(corners))
    assert distances.min() >= 40
    assert len(patch_corners(np.zeros_like(image), None, (40, 40), 5)) == 1


def test_a_large_image(small_patches: None) -> None:
    """Near the true kernel; in a stack as alone."""
    image = picture()
    stack = gd.deblur(np.stack([image[:, ::-1].copy(), image]), 9, options=FAST, final=None)
    alone = gd.deblur(image, 9, options=FAST, final=None)
    assert_same(stack.kernel[1], alone.kernel)
    assert stack.info["confidence"][1] == alone.info["confidence"]
    assert gd.metrics.kernel_similarity(alone.kernel, trajectory_kernel(9, rng=1)) > 0.7


def test_the_size_of_a_kernel_in_a_large_image(small_patches: None) -> None:
    kernel = gd.estimate_kernel(picture(), options=FAST)
    assert 7 <= kernel.shape[-1] <= 17
    assert gd.metrics.kernel_similarity(kernel, trajectory_kernel(9, rng=1)) > 0.7


def test_patches_are_bounded_and_of_the_image(small_patches: None) -> None:
    observed = observe(picture()[None], None)
    patches = cut_patches(observed, SIZE)
    assert patches.shape == (64, 64)
    assert len(patches) == patches.patches == 3
    assert_same(patches.noise_scale, np.repeat(observed.noise_scale, 3))


def test_a_shared_kernel(small_patches: None) -> None:
    image = picture()[:64, :80]
    stack = np.stack([image, np.ascontiguousarray(picture()[128:, 152:])])
    result = gd.deblur(stack, 9, options=FAST, shared_kernel=True)
    assert_same(result.kernel[0], result.kernel[1])
    assert result.image.shape == stack.shape
    assert result.info["confidence"].shape == (2,)
    pair = gd.estimate_kernel(np.stack([image, image]), 9, options=FAST, shared_kernel=True)
    assert_close(pair[1], gd.estimate_kernel(image, 9, options=FAST), atol=1e-5)
    with pytest.raises(TypeError, match=r"^shared_kernel must be True or False, got 1"):
        gd.deblur(stack, 9, shared_kernel=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^shared_kernel must be False for blur='rotation'"):
        gd.deblur(stack, 9, shared_kernel=True, blur="rotation")


def test_a_region_without_edges() -> None:
    image = picture()
    image[:50, :50] = 0.5
    with pytest.raises(ValueError, match=r"^region must have edges"):
        gd.estimate_kernel(image, 9, region=np.s_[:50, :50], defects=None)


def test_a_large_image_is_restored_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.stack([picture()[:110]] * 2, axis=-1)
    image[50:60, 30:40] = 1.0  # saturated
    whole = gd.deblur(image, 9, channel_axis=-1, options=FAST)
    monkeypatch.setattr(tiles, "HOST_MEMORY", 22 * 4 * 120 * 200)
    tiled = gd.deblur(image, 9, channel_axis=-1, options=FAST)
    assert_same(tiled.kernel, whole.kernel)
    difference = (tiled.image - whole.image)[10:-10, 10:-10]
    assert 0 < np.sqrt((difference**2).mean()) < 2e-3
    assert tiled.info["strength"] == pytest.approx(whole.info["strength"], rel=0.02)
