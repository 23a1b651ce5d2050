"""L0 deconvolution, and TV without ringing by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods.l0 import l0
from gpudeblur.nonblind.methods.ringing import bilateral, ringing_suppressed
from gpudeblur.nonblind.methods.tv import tv
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3)


def steps(noise: float = 5e-3) -> tuple[np.ndarray, np.ndarray]:
    """(sharp, blurred): flat blocks, as text and drawings have them."""
    sharp = np.kron(np.random.default_rng(1).integers(0, 4, (8, 9)) / 3, np.ones((10, 10)))
    return sharp[4:-4, 4:-4], blur(sharp, KERNEL, noise_sigma=noise, rng=0)


def photograph(noise: float = 5e-3) -> tuple[np.ndarray, np.ndarray]:
    scene = data.camera()[100:172, 200:290] / 255
    return scene[4:-4, 4:-4], blur(scene, KERNEL, noise_sigma=noise, rng=0)


def test_flat_pictures_come_out_flat(xp: Any) -> None:
    """Better than by TV, and with few gradients."""
    sharp, blurred = steps(0.01)
    given, kernel = xp.asarray(blurred), xp.asarray(KERNEL)
    flat = to_host(l0(given, kernel, weight=3e-4))
    assert psnr(flat, sharp) > psnr(to_host(tv(given, kernel)), sharp) + 1
    assert (np.hypot(*gradient(flat)) > 0.02).mean() < 1.5 * (np.hypot(*gradient(sharp)) > 0.02).mean()


def test_a_larger_weight_leaves_fewer_edges(xp: Any) -> None:
    _, blurred = photograph()
    counts = [
        float((np.hypot(*gradient(to_host(l0(xp.asarray(blurred), xp.asarray(KERNEL), weight=weight)))) > 0.02).mean())
        for weight in (1e-4, 1e-3, 1e-2)
    ]
    assert counts[0] > 1.25 * counts[1] > 1.25 * 1.25 * counts[2]


# ---- the bilateral filter


@pytest.mark.parametrize("shape", [(12, 15), (2, 9, 7), (1, 6), (5, 1)])
def test_the_bilateral_filter_is_its_definition(xp: Any, shape: tuple[int, ...]) -> None:
    u = np.random.default_rng(0).random(shape)
    out = to_host(bilateral(xp.asarray(u), sigma=1.5, range_sigma=0.3))
    h, w = shape[-2:]
    for y, x in np.ndindex(h, w):
        rows, columns = np.ogrid[max(0, y - 3) : min(h, y + 4), max(0, x - 3) : min(w, x + 4)]
        near = u[..., rows, columns]
        weight = np.exp(
            -((rows - y) ** 2 + (columns - x) ** 2) / 4.5 - (near - u[..., y : y + 1, x : x + 1]) ** 2 / 0.18
        )
        mean = (weight * near).sum((-2, -1)) / weight.sum((-2, -1))
        np.testing.assert_allclose(out[..., y, x], mean, rtol=1e-10)


def test_the_bilateral_filter_keeps_edges_and_smooths_between(xp: Any) -> None:
    u = np.where(np.arange(40) < 20, 0.0, 1.0) + 0.02 * np.random.default_rng(0).normal(size=(30, 40))
    out = to_host(bilateral(xp.asarray(u), sigma=3.0, range_sigma=0.1))
    assert np.abs(out[:, 20] - out[:, 19]).min() > 0.95
    assert out[:, :20].std() < 0.3 * u[:, :20].std()


def test_no_suppression_is_tv(xp: Any) -> None:
    arrays = xp.asarray(photograph()[1]), xp.asarray(KERNEL)
    assert_same(ringing_suppressed(*arrays, suppression=0.0, weight=1e-3), tv(*arrays, weight=1e-3))


def test_with_a_wrong_kernel_less_is_left_of_the_ringing(xp: Any) -> None:
    """A ghost in the kernel: the flat blocks ring under TV."""
    sharp, blurred = steps(2e-3)
    wrong = KERNEL + 0.15 * KERNEL.T[::-1]
    arrays = xp.asarray(blurred), xp.asarray(wrong / wrong.sum())
    ringing = to_host(tv(*arrays, weight=1e-4))
    less = to_host(ringing_suppressed(*arrays, weight=1e-4, flat_weight=3e-4))
    assert psnr(less, sharp) > psnr(ringing, sharp) + 1


@pytest.mark.parametrize("weight", [1.0, 1e4])
def test_a_large_weight_keeps_the_mean(xp: Any, weight: float) -> None:
    """Gradients sum to 0 in a periodic image: what rounding leaves of their sum must not be weighted."""
    _, blurred = photograph()
    given = xp.asarray(blurred.astype(np.float32))
    flat = to_host(l0(given, xp.asarray(KERNEL.astype(np.float32)), weight=weight, boundary="wrap"))
    assert abs(flat.mean(dtype=np.float64) - blurred.mean()) < 1e-6
