"""The signals behind the confidence, and that it is low where the kernel cannot be known."""

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
    spectral_match,
)
from gpudeblur.nonblind.final import result_signals
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

CAMERA = (data.camera() / 255).astype(np.float32)
KERNEL = trajectory_kernel(17, rng=5).astype(np.float32)


def test_border_mass_counts_the_outermost_pixels(xp: Any) -> None:
    kernel = xp.zeros((2, 9, 11))
    kernel[:, 4, 5] = 3
    kernel[1, 0, 5] = 1  # the outermost row
    kernel[1, 1, 3] = 2  # the next
    np.testing.assert_allclose(to_host(border_mass(kernel)), [0, 1 / 6])


def test_the_spectrum_matches_the_true_kernel_alone(xp: Any) -> None:
    blurred = xp.asarray(np.stack([blur(CAMERA[:240, :301], KERNEL), blur(CAMERA[200:440, :301], KERNEL)]))
    true = to_host(spectral_match(blurred, xp.asarray(np.stack([KERNEL] * 2))))
    turned = to_host(spectral_match(blurred, xp.asarray(np.stack([KERNEL.T] * 2))))
    assert (true > 0.5).all()
    assert (turned < true - 0.2).all()
    alone = to_host(spectral_match(blurred[1:], xp.asarray(KERNEL[None])))
    np.testing.assert_allclose(alone, true[1:], rtol=1e-4)
    brighter = to_host(spectral_match(0.3 * blurred + 0.2, xp.asarray(np.stack([KERNEL] * 2))))
    np.testing.assert_allclose(brighter, true, rtol=1e-2)
    constant = spectral_match(xp.full((1, 64, 64), 0.5, dtype="float32"), xp.asarray(KERNEL[None]))
    assert abs(float(constant[0])) < 0.2


def test_gradient_gain_is_measured_inside_the_window(xp: Any) -> None:
    image = xp.asarray(CAMERA[None, :64, :80])
    window = (5, 50, 7, 60)
    np.testing.assert_allclose(to_host(gradient_gain(3 * image, image, window)), 3, rtol=1e-5)
    elsewhere = image.copy()
    elsewhere[:, 52:] = 7
    np.testing.assert_allclose(to_host(gradient_gain(elsewhere, image, window)), 1, rtol=1e-5)


def test_each_signal_changes_the_confidence(xp: Any) -> None:
    spread, delta = xp.full((1, 9, 9), 1 / 81), xp.zeros((1, 9, 9))
    delta[:, 4, 4] = 1
    usual = {"border_mass": 0.0, "spectral_match": 0.6, "gradient_gain": 1.4, "agreement": 0.9}

    def value(kernel: Any = spread, **changes: float) -> float:
        numbers = {name: xp.full(1, number) for name, number in (usual | changes).items()}
        return float(confidence(kernel, **numbers)[0])

    assert 0.7 < value() <= 1
    assert value(border_mass=0.3) < value() - 0.05
    assert value(spectral_match=-0.2) < value() - 0.1
    assert value(gradient_gain=8) < value() - 0.05
    assert value(agreement=0.4) < value() - 0.1
    assert value(delta) == 0
    assert 0 <= value(border_mass=1, spectral_match=-1, gradient_gain=1e30, agreement=0) < 1e-3


def test_strength_rises_with_confidence_and_falls_with_ringing(xp: Any) -> None:
    usual = {"confidence": 0.7, "unknowns": 0.005, "ringing": 1e-3, "change": 0.3, "overshoot": 0.01}

    def value(**changes: float) -> float:
        return float(blend_weight(**{name: xp.asarray(number) for name, number in (usual | changes).items()}))

    assert value() == value(confidence=1) == 1  # a certain result is not blended
    strengths = [value(confidence=c) for c in (0.2, 0.35, 0.5, 0.65)]
    assert strengths == sorted(strengths)
    assert strengths[0] < 0.05
    assert strengths[-1] > 0.9
    strengths = [value(ringing=r) for r in (1e-4, 4e-3, 1e-1, 10)]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[-1] < 0.1
    assert value(confidence=0.5, change=0.03) < value(confidence=0.5)  # little change for so much ringing
    assert 0 <= value(confidence=0, ringing=1e30, change=1e30, overshoot=1e30) < 1e-6


def test_strength_falls_with_overshoot_in_small_images_of_doubtful_kernels(xp: Any) -> None:
    def value(unknowns: float, overshoot: float, confidence: float = 0.5) -> float:
        return float(blend_weight(*(xp.asarray(number) for number in (confidence, unknowns, 0.0, 1.0, overshoot))))

    assert value(0.01, 10) == value(0.06, 4e-3) == value(0.06, 0.4, confidence=0.65) == 1
    np.testing.assert_allclose([value(0.03, 0.016), value(0.06, 0.4)], [0.5, 0.1], rtol=1e-6)
    assert 0.5 < value(0.024, 0.016) < 1
    assert 0.1 < value(0.06, 0.4, confidence=0.6) < 1


def test_result_signals_measure_ringing_change_and_overshoot(xp: Any) -> None:
    blurred = np.zeros((2, 4, 5))
    blurred[:, :2] = 0.8  # variance 0.16
    sharp = blurred.copy()
    sharp[1, 0, 0], sharp[1, 3, 4], sharp[1, 0, 1] = 1.5, -1, 0.3
    beyond = np.array([0.5**2 + 1, 0.7**2 + 1 + 0.5**2, 0.7**2 + 1]) / 20 / 0.16
    signals = result_signals(xp.asarray(sharp), xp.asarray(blurred))
    np.testing.assert_allclose([to_host(signal) for signal in signals], np.stack([0 * beyond, beyond], 1), rtol=1e-12)
    saturated = np.zeros((2, 4, 5), bool)
    saturated[1, 0, 3] = True
    ringing, _, overshoot = result_signals(xp.asarray(sharp), xp.asarray(blurred), xp.asarray(saturated))
    dark = [0, 1 / 20 / 0.16]  # lights may be brighter than the observed image
    np.testing.assert_allclose([to_host(ringing), to_host(overshoot)], [dark, dark], rtol=1e-12)
    flat = xp.full((3, 3), 0.5)
    assert not any(float(signal) for signal in result_signals(flat, flat))


def unknowable(name: str) -> np.ndarray:
    """An image that says nothing of a blur: sharp, or without an edge."""
    if name == "noise":
        return np.random.default_rng(0).random((96, 96)).astype(np.float32)
    if name == "ramp":
        return np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    if name == "constant":
        return np.full((48, 48), 0.5, dtype=np.float32)
    if name == "small":  # hardly larger than its kernel
        return blur(CAMERA[100:140, 180:220], trajectory_kernel(9, rng=3))
    return (getattr(data, name)() / 255).astype(np.float32)[:128, :128]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        *(("camera", 25, 0.5), ("page", 15, 0.5), ("coins", 15, 0.5), ("gravel", 15, 0.5), ("grass", 15, 0.5)),
        *(("noise", 25, 0.1), ("ramp", 13, 0.1), ("constant", 9, 0.5), ("small", 31, 0.5)),
    ],
)
def test_a_kernel_that_cannot_be_known_is_not_trusted(name: str, size: int, limit: float) -> None:
    assert 0 <= gd.deblur(unknowable(name), size, final="hyper-laplacian").info["confidence"] < limit


@pytest.mark.slow
def test_the_kernel_of_a_sharp_image_is_nearly_a_delta() -> None:
    result = gd.deblur(CAMERA[100:196, 180:276], 11, final="hyper-laplacian")
    assert result.info["confidence"] < 0.5
    assert max(result.kernel[y : y + 5, x : x + 5].sum() for y in range(7) for x in range(7)) > 0.9
