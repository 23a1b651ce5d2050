"""The signals behind the confidence, and that it is low where it has to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage import data

import gpudeblur as gd
from gpudeblur.blind.confidence import (
    blend_weight,
    border_mass,
    confidence,
    gradient_gain,
    result_signals,
    spectral_match,
)
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (data.camera() / 255).astype(np.float32)
KERNEL = trajectory_kernel(17, rng=5).astype(np.float32)


def test_border_mass(xp: Any) -> None:
    kernel = xp.zeros((2, 9, 11))
    kernel[:, 4, 5] = 3
    kernel[1, 0, 5] = 1  # the outermost row
    kernel[1, 1, 3] = 2  # the next
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
    usual = {"border_mass": 0.0, "spectral_match": 0.6, "gradient_gain": 1.4, "agreement": 0.9}

    def value(kernel: Any = spread, **changes: float) -> float:
        numbers = {name: xp.full(1, number) for name, number in (usual | changes).items()}
        return float(confidence(kernel, **numbers)[0])

    assert 0.7 < value() <= 1
    assert value(border_mass=0.3) < value() - 0.05
    assert value(spectral_match=-0.2) < value() - 0.1
    assert value(gradient_gain=8) < value() - 0.05
    assert value(agreement=0.4) < value() - 0.1
    assert value(one) == 0
    assert 0 <= value(border_mass=1, spectral_match=-1, gradient_gain=1e30, agreement=0) < 1e-3


def test_strength_is_what_confidence_and_the_result_deserve(xp: Any) -> None:
    usual = {"confidence": 0.7, "unknowns": 0.005, "ringing": 1e-3, "change": 0.3, "overshoot": 0.01}

    def value(**changes: float) -> float:
        return float(blend_weight(**{name: xp.asarray(number) for name, number in (usual | changes).items()}))

    assert value() == value(confidence=1) == 1  # what is sure is handed out whole
    shares = [value(confidence=trust) for trust in (0.2, 0.35, 0.5, 0.65)]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.9
    rings = [value(ringing=beyond) for beyond in (1e-4, 4e-3, 1e-1, 10)]
    assert rings == sorted(rings, reverse=True)
    assert rings[-1] < 0.1
    assert value(confidence=0.5, change=0.03) < value(confidence=0.5)  # little change for so much ringing
    assert 0 <= value(confidence=0, ringing=1e30, change=1e30, overshoot=1e30) < 1e-6


def test_strength_is_wary_of_what_overshoots_in_small_pictures(xp: Any) -> None:
    def value(unknowns: float, overshoot: float) -> float:
        given = (0.9, unknowns, 1e-4, 1.0, overshoot)
        return float(blend_weight(*(xp.asarray(number) for number in given)))

    assert value(0.01, 10) == value(0.06, 4e-3) == 1
    np.testing.assert_allclose([value(0.03, 0.016), value(0.06, 0.4)], [0.5, 0.1], rtol=1e-6)
    assert 0.5 < value(0.024, 0.016) < 1


def test_result_signals_are_what_lies_beyond_and_what_changed(xp: Any) -> None:
    blurred = np.zeros((2, 4, 5))
    blurred[:, :2] = 0.8  # variance 0.16
    sharp = blurred.copy()
    sharp[1, 0, 0], sharp[1, 3, 4], sharp[1, 0, 1] = 1.5, -1, 0.3
    beyond = np.array([0.5**2 + 1, 0.7**2 + 1 + 0.5**2, 0.7**2 + 1]) / 20 / 0.16
    found = result_signals(xp.asarray(sharp), xp.asarray(blurred))
    np.testing.assert_allclose([to_host(one) for one in found], np.stack([0 * beyond, beyond], 1), rtol=1e-12)
    clipped = np.zeros((2, 4, 5), bool)
    clipped[1, 0, 3] = True
    ringing, _, overshoot = result_signals(xp.asarray(sharp), xp.asarray(blurred), xp.asarray(clipped))
    dark = [0, 1 / 20 / 0.16]  # lamps may be brighter than what was seen
    np.testing.assert_allclose([to_host(ringing), to_host(overshoot)], [dark, dark], rtol=1e-12)
    flat = xp.full((3, 3), 0.5)
    assert not any(float(one) for one in result_signals(flat, flat))


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
