"""Hyper-Laplacian deconvolution: its shrinkage, for any exponent and boundary."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods.hyper_laplacian import (
    dt_shrink,
    hyper_laplacian,
    shrink,
    shrink_half,
    shrink_power,
    shrink_two_thirds,
)
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient, gradient_adjoint
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [0.5, 2 / 3, 0.8])
def test_zero_stays_zero_and_the_large_stays_large(xp: Any, exponent: float, dtype: str) -> None:
    """Without a warning, also for NaN."""
    v = np.array([0, -0.0, 1e-30, -1e-30, 1e20, -1e20, np.nan], dtype=dtype)
    out = to_host(shrink(xp.asarray(v), 2.0, exponent))
    assert out.dtype == dtype
    assert_same(out[:4], np.zeros(4))
    assert_close(out[4:6], v[4:6], rtol=1e-9)


def test_shrinking_jumps_to_zero_at_its_threshold(xp: Any) -> None:
    """|v| = 2 (2 / (3 beta))^(3/4); just above, w is half of v or more."""
    beta = 20.0
    edge = 2 * (2 / (3 * beta)) ** 0.75
    out = to_host(shrink_two_thirds(xp.asarray([0.999 * edge, 1.001 * edge, -1.001 * edge, 0.0]), beta))
    assert out[0] == out[3] == 0
    assert 0.4 * edge < out[1] < edge
    assert out[2] == -out[1]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 5e-7), ("float64", 7.4e-9)])
def test_shrinking_is_the_root_to_rounding(xp: Any, dtype: str, bound: float) -> None:
    """w = u^3 with u the largest root of u^4 - |v| u + c, c = 2 / (3 beta); only |v|^(4/3) / c counts.

    Every ratio of the two from the threshold up is there, densely where w / v bends, at every size of v and beta.
    """
    ratio = np.concatenate([2 ** (4 / 3) + np.geomspace(1e-6, 1e3, 4001), np.geomspace(1e3, 1e9, 401)])
    for beta in np.geomspace(1e-6, 1e12, 19).tolist():
        unit = (2 / (3 * beta)) ** 0.75
        v = (unit * ratio**0.75).astype(dtype)
        size = v.astype(np.float64) / unit
        root = np.cbrt(size)  # of u^4 - size u + 1, from above, where the polynomial is convex
        for _ in range(12):
            root -= (root**4 - size * root + 1) / (4 * root**3 - size)
        out = to_host(shrink_two_thirds(xp.asarray(v), beta))
        assert_close(out, unit * root**3, rtol=bound)
        assert_same(-out, shrink_two_thirds(xp.asarray(-v), beta))


@pytest.mark.parametrize("shape", [(9, 7), (2, 3, 6, 5), (1, 1)])
def test_shrinking_may_overwrite_what_it_is_given(xp: Any, shape: tuple[int, ...]) -> None:
    v = xp.asarray(np.random.default_rng(0).normal(size=shape))
    for u in (v, v.swapaxes(-1, -2), v[..., ::2]):
        before, out = u.copy(), shrink_two_thirds(u, 3.0)
        assert_same(u, before)
        assert_same(shrink_two_thirds(before, 3.0, overwrite=True), out)


@pytest.mark.parametrize("shape", [(9, 7), (2, 3, 6, 5), (1, 7), (1, 1)])
def test_the_split_is_the_adjoint_of_shrunk_differences(xp: Any, shape: tuple[int, ...]) -> None:
    u = xp.asarray(np.random.default_rng(0).random(shape))
    parts = (shrink_two_thirds(g, 30.0) for g in gradient(u))
    assert_same(dt_shrink(u, 30.0), gradient_adjoint(*parts))
    assert_same(dt_shrink(u.swapaxes(-1, -2), 30.0), dt_shrink(u.swapaxes(-1, -2).copy(), 30.0))
    laws.assert_shift_covariant(lambda x: dt_shrink(x, 30.0), u, (3, 2))


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("boundary", ["unknown", "liu-jia"])
def test_every_exponent_restores(xp: Any, exponent: float, boundary: str) -> None:
    blurred = blur(SCENE, KERNEL, noise_sigma=5e-3, rng=0)
    arrays = xp.asarray(blurred), xp.asarray(KERNEL)
    out = to_host(hyper_laplacian(*arrays, exponent=exponent, boundary=boundary))
    inner = (slice(9, -9), slice(9, -9))
    assert psnr(out[inner], TRUE[inner]) > psnr(blurred[inner], TRUE[inner]) + 3


def test_the_general_loop_is_the_fast_path(xp: Any) -> None:
    """A weight a picture takes the loop that all exponents share; one weight, that of CUDA graphs."""
    blurred = xp.asarray(blur(SCENE, KERNEL, noise_sigma=5e-3, rng=0))
    fast = hyper_laplacian(blurred[None], xp.asarray(KERNEL), weight=3e-4)
    general = hyper_laplacian(blurred[None], xp.asarray(KERNEL), weight=xp.asarray([3e-4]))
    assert_close(general, fast, atol=1e-10)
