"""The signals behind the confidence, and that it is low where it has to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur._arrays import to_host
from gpudeblur.confidence import border_mass, confidence, gradient_gain, spectral_match
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (data.camera() / 255).astype(np.float32)
KERNEL = trajectory_kernel(17, rng=5).astype(np.float32)


def test_border_mass(xp: Any) -> None:
    kernel = xp.zeros((2, 9, 11))
    kernel[:, 4, 5] = 3
    kernel[1, 2, 5] = 1  # the third row from the edge belongs to the border
    kernel[1, 3, 3] = 2  # the fourth does not
    np.testing.assert_allclose(to_host(border_mass(kernel)), [0, 1 / 6])


def test_the_spectrum_matches_the_true_kernel_and_no_other(xp: Any) -> None:
    blurred = xp.asarray(np.stack([blur(CAMERA[:240, :301], KERNEL), blur(CAMERA[200:440, :301], KERNEL)]))
    true = to_host(spectral_match(blurred, xp.asarray(np.stack([KERNEL] * 2))))
    turned = to_host(spectral_match(blurred, xp.asarray(np.stack([KERNEL.T] * 2))))
    assert (true > 0.5).all()
    assert (turned < true - 0.2).all()
    alone = to_host(spectral_match(blurred[1:], xp.asarray(KERNEL[None])))
    np.testing.assert_allclose(alone, true[1:], rtol=1e-4)
    brighter = to_host(spectral_match(0.3 * blurred + 0.2, xp.asarray(np.stack([KERNEL] * 2))))
    np.testing.assert_allclose(brighter, true, rtol=1e-2)


def test_the_spectrum_of_a_constant_matches_nothing(xp: Any) -> None:
    match = spectral_match(xp.full((1, 64, 64), 0.5, dtype="float32"), xp.asarray(KERNEL[None]))
    assert abs(float(match[0])) < 0.2


def test_gradient_gain(xp: Any) -> None:
    picture = xp.asarray(CAMERA[None, :64, :80])
    window = (5, 50, 7, 60)
    np.testing.assert_allclose(to_host(gradient_gain(3 * picture, picture, window)), 3, rtol=1e-5)
    elsewhere = picture.copy()
    elsewhere[:, 52:] = 7
    np.testing.assert_allclose(to_host(gradient_gain(elsewhere, picture, window)), 1, rtol=1e-5)


def test_each_signal_counts(xp: Any) -> None:
    spread, one = xp.full((1, 9, 9), 1 / 81), xp.zeros((1, 9, 9))
    one[:, 4, 4] = 1

    def value(border: float, match: float, gain: float, kernel: Any = spread) -> float:
        return float(confidence(*(xp.full(1, v) for v in (border, match, gain)), kernel)[0])

    usual = value(0.05, 0.6, 1.4)
    assert 0.7 < usual <= 1
    assert value(0.3, 0.6, 1.4) < usual - 0.1
    assert value(0.05, -0.2, 1.4) < usual - 0.1
    assert value(0.05, 0.6, 8) < usual - 0.1
    assert value(0.05, 0.6, 1.4, one) == 0
    assert value(0.5, 0.6, 1.4) == 0
    assert 0 <= value(1, -1, 1e30) < 1e-6


def test_a_recovered_kernel_is_trusted() -> None:
    blurred = blur(CAMERA[100:400, 100:400], KERNEL)
    assert gd.deblur(blurred, 17, final="hyper-laplacian").info["confidence"] > 0.7


@pytest.mark.parametrize("size", [15, 25])
@pytest.mark.parametrize("name", ["camera", "page", "coins", "gravel", "grass"])
def test_sharp_pictures_are_not_trusted(name: str, size: int) -> None:
    sharp = (getattr(data, name)() / 255).astype(np.float32)[:160, :160]
    assert gd.deblur(sharp, size, final="hyper-laplacian").info["confidence"] < 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_is_not_trusted(seed: int) -> None:
    noise = np.random.default_rng(seed).random((128, 128)).astype(np.float32)
    assert gd.deblur(noise, 25, final="hyper-laplacian").info["confidence"] < 0.1


def test_a_ramp_is_not_trusted() -> None:
    ramp = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    assert gd.deblur(ramp, 13, final="hyper-laplacian").info["confidence"] < 0.1
