"""Input that is odd but may be meant: computed, with a warning where it is likely a slip."""

from __future__ import annotations

import numpy as np
import pytest

import gpudeblur as gd


def test_floats_that_look_like_8_bits_are_warned_of() -> None:
    picture = np.random.default_rng(0).random((40, 50)) * 255
    with pytest.warns(UserWarning, match=r"^image has values up to 25\d.*divide by the white level \(255 for 8 bits\)"):
        gd.estimate_kernel(picture, 3)


def test_negative_kernels() -> None:
    kernel = np.full((3, 3), 1 / 8)
    kernel[1, 1] = -0.1
    with pytest.warns(UserWarning, match=r"^kernel has negative values, down to -0\.1: no blur has"):
        gd.deconvolve(np.zeros((40, 50)), kernel)
    with pytest.raises(ValueError, match=r"^kernel must have a positive sum, got -9; change its sign$"):
        gd.deconvolve(np.zeros((40, 50)), -np.ones((3, 3)))


@pytest.mark.parametrize("scale", [1e-300, 1e-50, 1e300])
def test_kernels_of_any_scale(scale: float) -> None:
    picture = np.random.default_rng(0).random((40, 50))
    box = np.ones((3, 3))
    np.testing.assert_allclose(gd.deconvolve(picture, box * scale), gd.deconvolve(picture, box), rtol=1e-4)
