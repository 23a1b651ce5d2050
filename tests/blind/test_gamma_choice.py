"""gamma="auto"."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur.synthesis import blur, trajectory_kernel

SHARP = (data.camera() / 255)[60:200, 180:320]
KERNEL = trajectory_kernel(13, rng=3)
STORED = blur(SHARP, KERNEL).astype(np.float32)
PHOTO = (blur(SHARP**2.2, KERNEL) ** (1 / 2.2)).astype(np.float32)
QUICK = gd.TwoStepOptions(starts=("relaxed",), iterations=4, finest_iterations=3)


def test_each_image_of_a_stack_has_its_gamma_and_the_result_of_that_gamma() -> None:
    fractions: list[float] = []
    together = gd.deblur(
        np.stack([PHOTO, STORED]),
        13,
        gamma="auto",
        final="hyper-laplacian",
        options=QUICK,
        callback=lambda stage, fraction: fractions.append(fraction) if stage == "kernel" else None,
    )
    assert together.info["gamma"].tolist() == [2.2, 1.0]
    assert fractions == sorted(fractions)
    for i, (image, gamma) in enumerate(((PHOTO, 2.2), (STORED, 1.0))):
        alone = gd.deblur(image, 13, gamma=gamma, final="hyper-laplacian", options=QUICK)
        assert alone.info["gamma"] == gamma
        np.testing.assert_array_equal(together.kernel[i], alone.kernel)
        np.testing.assert_array_equal(together.image[i], alone.image)
        for name in ("confidence", "spectral_match", "strength", "residual"):
            assert together.info[name][i] == alone.info[name]
    np.testing.assert_array_equal(gd.estimate_kernel(PHOTO, 13, gamma="auto", options=QUICK), together.kernel[0])


def test_a_rotation_needs_a_number() -> None:
    with pytest.raises(ValueError, match="gamma must be a number for blur='rotation', got 'auto'"):
        gd.deblur(PHOTO, 13, gamma="auto", blur="rotation")
