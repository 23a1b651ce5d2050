"""Hyper-Laplacian deconvolution for any exponent and boundary; what 2/3 does by default is in test_nonblind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods.hyper_laplacian import (
    hyper_laplacian,
    shrink,
    shrink_half,
    shrink_power,
    shrink_two_thirds,
)
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3)
SCENE = data.camera()[100:172, 200:290] / 255
TRUE = SCENE[4:-4, 4:-4]
EXPONENTS = [0.1, 0.5, 2 / 3, 0.95]


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("beta", [0.7, 300.0])
def test_shrinking_is_the_best_of_all_values(xp: Any, exponent: float, beta: float) -> None:
    """Against brute force: no value of a fine grid has a smaller |w|^p + beta / 2 (w - v)^2."""
    unit = beta ** (-1 / (2 - exponent))
    v = np.linspace(-5, 5, 201) * unit

    def cost(w: np.ndarray) -> np.ndarray:
        return abs(w) ** exponent + beta / 2 * (w - v) ** 2

    w = to_host(shrink(xp.asarray(v), beta, exponent))
    best = np.min([cost(share * v) for share in np.linspace(0, 1, 2001)], axis=0)
    assert (cost(w) <= best * (1 + 1e-6)).all()
    assert_close(w, -w[::-1], atol=1e-12 * unit)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_table_agrees_with_the_closed_forms(xp: Any, dtype: str) -> None:
    """Everywhere but at the jump itself, where 0 and the minimum beside it are as good."""
    v = np.linspace(-3, 3, 4001)
    for exponent, closed in ((0.5, shrink_half), (2 / 3, shrink_two_thirds)):
        table = to_host(shrink_power(xp.asarray(v.astype(dtype)), 1.3, exponent))
        exact = to_host(closed(xp.asarray(v), 1.3))
        assert table.dtype == dtype
        same = (table == 0) == (exact == 0)
        assert (~same).sum() <= 2
        assert_close(table[same], exact[same], atol=3e-7)


@pytest.mark.parametrize("exponent", [0.5, 0.8])
def test_zero_stays_zero_and_the_large_stays_large(xp: Any, exponent: float) -> None:
    out = to_host(shrink(xp.asarray(np.array([0.0, -0.0, 1e30, -1e30])), 2.0, exponent))
    assert_same(out[:2], np.zeros(2))
    assert_close(out[2:], np.array([1e30, -1e30]), rtol=1e-9)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("boundary", ["unknown", "liu-jia"])
def test_every_exponent_restores(xp: Any, exponent: float, boundary: str) -> None:
    blurred = blur(SCENE, KERNEL, noise_sigma=5e-3, rng=0)
    out = to_host(hyper_laplacian(xp.asarray(blurred), xp.asarray(KERNEL), exponent=exponent, weight=None,
                                  boundary=boundary))  # fmt: skip
    inner = (slice(9, -9), slice(9, -9))
    assert psnr(out[inner], TRUE[inner]) > psnr(blurred[inner], TRUE[inner]) + 3


def test_the_unknown_boundary_is_the_best_at_the_border(xp: Any) -> None:
    blurred, kernel = xp.asarray(blur(SCENE, KERNEL, noise_sigma=2e-3, rng=0)), xp.asarray(KERNEL)
    border = np.ones(TRUE.shape, dtype=bool)
    border[8:-8, 8:-8] = False
    quality = {
        mode: psnr(to_host(hyper_laplacian(blurred, kernel, weight=2e-4, boundary=mode))[border], TRUE[border])
        for mode in ("unknown", "liu-jia", "taper", "wrap")
    }
    assert quality["unknown"] > 1.5 + max(quality["liu-jia"], quality["taper"], quality["wrap"])


def test_the_general_loop_is_the_fast_path(xp: Any) -> None:
    """A weight a picture takes the loop that all exponents share; one weight, that of CUDA graphs."""
    blurred = xp.asarray(blur(SCENE, KERNEL, noise_sigma=5e-3, rng=0))
    fast = hyper_laplacian(blurred[None], xp.asarray(KERNEL), weight=3e-4)
    general = hyper_laplacian(blurred[None], xp.asarray(KERNEL), weight=xp.asarray([3e-4]))
    assert_close(general, fast, atol=1e-10)
