"""Interpolation of pixels that are not valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_batch_is_loop, assert_close, assert_same

from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.inpainting import inpaint


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 13, 16), (2, 3, 33, 20)])
def test_valid_pixels_are_kept_and_the_others_are_between_them(xp: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.random(shape).astype("float32"), rng.random(shape) > 0.6
    mask[..., 0, 0] = True
    given = np.where(mask, image, np.nan)
    result = to_host(inpaint(xp.asarray(given), xp.asarray(mask)))
    assert_same(result[mask], image[mask])
    assert image[mask].min() <= result.min() <= result.max() <= image[mask].max()


def test_a_plane_is_continued(xp: Any) -> None:
    """A linear image is harmonic."""
    y, x = np.mgrid[:40, :48]
    plane, mask = 0.01 * x + 0.02 * y, np.ones((40, 48), bool)
    mask[10:19, 20:27] = mask[:, 40] = False
    assert_close(inpaint(xp.asarray(np.where(mask, plane, 9)), xp.asarray(mask)), plane, atol=0.02)


def test_without_a_valid_pixel_it_is_zero(xp: Any) -> None:
    assert_same(inpaint(xp.full((5, 6), 0.5), xp.zeros((5, 6), dtype=bool)), np.zeros((5, 6)))


def test_a_stack_is_a_loop() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((3, 20, 17)) > [[[0.3]], [[0.9]], [[-1]]]
    assert_batch_is_loop(inpaint, rng.random((3, 20, 17)), mask)
