"""`region`: the kernel of a part of the image, the whole image restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur.synthesis import blur, trajectory_kernel

FAST = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2)
REGION = np.s_[20:120, 30:140]


def picture() -> np.ndarray:
    """(162, 192)."""
    scene = blur(data.camera()[100:270, 120:320] / 255, trajectory_kernel(9, rng=1), noise_sigma=0.003, rng=0)
    return np.asarray(scene, dtype=np.float32)


@pytest.mark.parametrize("kernel_size", [11, None])
def test_the_kernel_is_that_of_the_region(kernel_size: int | None) -> None:
    image = picture()
    result = gd.deblur(image, kernel_size, region=REGION, options=FAST)
    expected = gd.deblur(image[REGION], kernel_size, options=FAST)
    assert_same(result.kernel, expected.kernel)
    assert result.info["confidence"] == expected.info["confidence"]
    assert_same(gd.estimate_kernel(image, kernel_size, region=REGION, options=FAST), result.kernel)
    assert result.image.shape == image.shape
    assert abs(result.image - image).mean(axis=0).min() > 0  # restored beyond the region, too


def test_the_whole_image_as_region_is_none() -> None:
    image = picture()
    whole, expected = (gd.deblur(image, 11, region=region, options=FAST) for region in (np.s_[:, :], "all"))
    assert_same(whole.kernel, expected.kernel)
    assert_same(whole.image, expected.image)


def test_a_region_within_a_border_and_a_stack() -> None:
    image = picture()
    framed = np.pad(image, ((20, 20), (0, 0)))
    with pytest.warns(UserWarning, match="constant border"):
        result = gd.deblur(framed, 11, region=np.s_[0:140, 30:140], options=FAST)
    assert_same(result.kernel, gd.deblur(image, 11, region=np.s_[0:120, 30:140], options=FAST).kernel)
    stack = gd.deblur(np.stack([image, image[::-1].copy()]), 11, region=REGION, options=FAST)
    alone = gd.deblur(image, 11, region=REGION, options=FAST)
    assert_same(stack.kernel[0], alone.kernel)
    assert_close(stack.image[0], alone.image, atol=1e-6)


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        ((0, 10), TypeError, r"^region must be two slices, of rows and of columns, got \(0, 10\)"),
        (np.s_[10:60], TypeError, "^region must be two slices"),
        (np.s_[::2, :], ValueError, "^region must have integers as ends and no step"),
        (np.s_[0.5:9, :], ValueError, "^region must have integers as ends"),
        (np.s_[0:1000, :], ValueError, "^region must lie inside the image, 162 x 192"),
        (np.s_[60:60, :], ValueError, "^region must lie inside the image"),
        (None, TypeError, "^region must be two slices"),
        ("some", TypeError, "^region must be two slices"),
        (np.s_[10:18, :], ValueError, "^kernel_size must not exceed the region, got .* for a region of 8 x 192"),
        (np.s_[60:66, :], ValueError, "^kernel_size must"),
    ],
)
def test_bad_regions(region: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gd.deblur(picture(), 11, region=region, options=FAST)


def test_rotation_has_no_region() -> None:
    with pytest.raises(ValueError, match=r"^region must be 'all' for blur='rotation'"):
        gd.deblur(picture(), 11, region=REGION, blur="rotation")
