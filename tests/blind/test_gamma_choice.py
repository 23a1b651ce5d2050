"""gamma="auto"."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur.blind import parts, region
from gpudeblur.blind.observation import Observation
from gpudeblur.images.defects import DefectWarning
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


def test_a_rotation_has_the_gamma_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poses are estimated from the image in that light."""
    seen: list[np.ndarray] = []

    def rotations(images: Observation, *_: object) -> None:
        seen.append(images.luminance)
        raise gd.Stopped

    monkeypatch.setattr(parts, "choose_rotations", rotations)
    with pytest.raises(gd.Stopped):
        gd.deblur(PHOTO, 13, gamma="auto", blur="rotation", options=QUICK)
    np.testing.assert_allclose(seen[0][0], PHOTO**2.2, rtol=1e-5)


def test_images_that_share_a_kernel_have_one_gamma() -> None:
    info = gd.deblur(
        np.stack([PHOTO, STORED, PHOTO]), 13, gamma="auto", shared_kernel=True, final=None, options=QUICK
    ).info
    assert len(set(info["gamma"].tolist())) == 1


def test_borders_and_large_images_are_decided_by_what_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack with two kinds of border, and patches instead of whole images."""
    framed = np.zeros((2, 150, 150), np.float32)
    framed[0, 5:133, 5:133], framed[1, 12:140, 3:131] = PHOTO, STORED
    with pytest.warns(DefectWarning):
        assert gd.deblur(framed, 13, gamma="auto", final=None, options=QUICK).info["gamma"].tolist() == [2.2, 1.0]
    monkeypatch.setattr(region, "MAX_PIXELS", 100 * 100)
    monkeypatch.setattr(region, "PATCH_SIDE", 100)
    images = np.stack([PHOTO, STORED])
    assert gd.deblur(images, 13, gamma="auto", final=None, options=QUICK).info["gamma"].tolist() == [2.2, 1.0]
