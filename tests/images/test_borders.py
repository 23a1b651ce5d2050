"""Constant borders: what is one, what is none, and what `deblur` makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from laws import assert_same, picture
from skimage import data

import gpudeblur as gd
from gpudeblur.images.borders import border_profiles, border_windows, inside
from gpudeblur.synthesis import blur, trajectory_kernel

SCENE = picture((60, 80))
FAST = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2)


def framed(scene: np.ndarray, top: int, bottom: int, left: int, right: int, value: float = 0.0) -> np.ndarray:
    return np.pad(scene, ((top, bottom), (left, right)), constant_values=value).astype(scene.dtype)


def border_mask(image: np.ndarray, channel_axis: int | None = None) -> np.ndarray | None:
    """Where one image or a stack lies `inside` its border, (..., H, W)."""
    planes = image if channel_axis is None else np.moveaxis(image, channel_axis, -3)
    height, width = planes.shape[-2:]
    values = planes.reshape(-1, 1 if channel_axis is None else planes.shape[-3], height, width)
    windows = border_windows(*border_profiles(values.astype(np.float32)))
    return (
        None
        if windows is None
        else inside(windows, (height, width)).reshape(
            *planes.shape[: -2 if channel_axis is None else -3], height, width
        )
    )


@pytest.mark.parametrize("sides", [(12, 12, 0, 0), (0, 9, 0, 0), (5, 5, 7, 7), (0, 0, 3, 2)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bars_and_frames_are_found(sides: tuple[int, int, int, int], value: float) -> None:
    mask = border_mask(framed(SCENE, *sides, value))
    assert mask is not None
    assert_same(mask, framed(np.ones_like(SCENE), *sides) > 0)


def test_integers_channels_and_stacks() -> None:
    scene = (255 * SCENE).astype(np.uint8)
    image = np.stack([framed(scene, 8, 8, 0, 0), np.pad(scene, ((8, 8), (0, 0)), mode="reflect")])
    mask = border_mask(image)
    assert mask is not None
    assert_same(mask[0], framed(np.ones_like(SCENE), 8, 8, 0, 0) > 0)
    assert mask[1].all()
    colors = np.stack([image] * 3, axis=-1)
    by_channels = border_mask(colors, -1)
    assert by_channels is not None
    assert_same(by_channels, mask)
    assert border_mask(np.stack([image[0], image[1], image[0]], axis=-1), -1) is None


@pytest.mark.parametrize(
    "image",
    [
        SCENE,
        np.full((40, 50), 0.5, np.float32),
        framed(SCENE, 1, 0, 0, 0),  # a single line
        blur(framed(SCENE, 20, 20, 20, 20), trajectory_kernel(9, rng=0)),  # the blur went over its edge: a dark wall
        blur(data.page()[:150, :200] / 255, trajectory_kernel(9, rng=0)),
        np.zeros((5, 5)),
    ],
)
def test_what_is_no_border(image: np.ndarray) -> None:
    assert border_mask(image) is None


def test_deblur_leaves_the_border_out() -> None:
    scene = blur(data.camera()[100:250, 150:320] / 255, trajectory_kernel(9, rng=1), noise_sigma=0.003, rng=0)
    scene = scene.astype(np.float32)
    image = framed(scene, 20, 20, 0, 0)
    with pytest.warns(UserWarning, match="image has a constant border, .* give defects=None"):
        result = gd.deblur(image, 11, options=FAST)
    assert_same(result.image[:20], image[:20])
    assert_same(result.image[-20:], image[-20:])
    plain = gd.deblur(scene, 11, options=FAST)
    assert_same(result.kernel, plain.kernel)
    assert_same(result.image[20:-20], plain.image)
    with pytest.warns(UserWarning, match="constant border"):
        stack = gd.deblur(np.stack([image, np.pad(scene, ((20, 20), (0, 0)), mode="reflect")]), 11, options=FAST)
    assert_same(stack.kernel[0], result.kernel)
    assert_same(stack.image[0], result.image)
