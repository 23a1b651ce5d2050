"""Wiener filters: the closed form zeroes its gradient, the weight is result, the sampler agrees with itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods.unsupervised_wiener import random_streams, unsupervised_wiener
from gpudeblur.nonblind.methods.wiener import PRIORS, periodic_data, prior_power, wiener
from gpudeblur.nonblind.specs import FILTER_BOUNDARIES as BOUNDARIES
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient, gradient_adjoint
from gpudeblur.numerics.fourier import kernel_to_grid
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
SCENE = data.camera()[100:196, 200:310] / 255
TRUE = SCENE[5:-5, 5:-5]
in_every_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)


def blurred_picture(noise: float = 2e-3, dtype: str = "float64") -> np.ndarray:
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=0).astype(dtype)


def otf_of(kernel: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.fft.rfft2(kernel_to_grid(kernel, shape))


def convolve(u: np.ndarray, otf: np.ndarray) -> np.ndarray:
    return np.fft.irfft2(np.fft.rfft2(u) * otf, u.shape)


# ---- laws


@pytest.mark.parametrize("shape", [(24, 30), (17, 21)])
@pytest.mark.parametrize("prior", PRIORS)
def test_the_closed_form_zeroes_its_own_gradient(xp: Any, shape: tuple[int, int], prior: str) -> None:
    """K^T (K x - B) + weight D^T D x = 0 on a periodic grid."""
    random, weight = np.random.default_rng(0), 0.03
    u, kernel = random.random(shape), random.random((5, 4))
    x = to_host(wiener(xp.asarray(u), xp.asarray(kernel), weight=weight, prior=prior, boundary="wrap"))
    otf = otf_of(kernel, shape)
    slope = convolve(convolve(x, otf) - u, otf.conj())
    penalty = x
    for _ in range({"identity": 0, "gradient": 1, "laplacian": 2}[prior]):
        penalty = gradient_adjoint(*gradient(penalty))
    assert_close(slope, -weight * penalty, atol=1e-10)


def test_an_unknown_boundary_lowers_the_masked_objective(xp: Any) -> None:
    """|x * k - B|^2 where B was seen + weight |grad x|^2, with x on the whole grid, against other continuations."""
    u, weight = blurred_picture(), 1e-3

    def objective(boundary: str) -> float:
        data, window = periodic_data(xp.asarray(u), xp.asarray(KERNEL), boundary)
        whole = to_host(wiener(data, xp.asarray(KERNEL), weight=weight, boundary="wrap"))
        error = convolve(whole, otf_of(KERNEL, whole.shape))[window] - u
        return float((error**2).sum() + weight * sum((g**2).sum() for g in gradient(whole)))

    values = {boundary: objective(boundary) for boundary in BOUNDARIES}
    assert values["unknown"] < min(values["edge"], values["reflect"]) < values["wrap"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", [wiener, lambda u, k: unsupervised_wiener(u, k, rng=0)])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, function: Any, dtype: str) -> None:
    u = blurred_picture(0.01, dtype)[:40, :44]
    stack = xp.asarray(np.stack([u, u[::-1], 0 * u, u + np.nan, u + 5 * u.max()]))
    kernel = xp.asarray(KERNEL.astype(dtype))
    with np.errstate(divide="ignore", invalid="ignore"):
        out = function(stack, kernel)
        several = function(stack, xp.broadcast_to(kernel, (5, *KERNEL.shape)).copy())
        for i in (0, 1, 2, 4):
            alone = function(stack[i], kernel)
            assert out.dtype == dtype
            assert_close(out[i], alone, atol=2e-5)
            assert_close(several[i], alone, atol=2e-5)


# ---- the weight


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1e-3, 0.01, 0.05])
def test_the_weight_that_is_found_is_nearly_the_best(xp: Any, noise: float) -> None:
    u = blurred_picture(noise)
    result = psnr(to_host(wiener(xp.asarray(u), xp.asarray(KERNEL), noise_sigma=noise)), TRUE)
    best = max(
        psnr(to_host(wiener(xp.asarray(u), xp.asarray(KERNEL), weight=10.0**e)), TRUE) for e in np.arange(-6, 0.1)
    )
    assert result > best - (2.5 if noise < 0.01 else 1)  # with little noise, what is not known at the borders counts
    assert result > psnr(u, TRUE) + 1


def test_the_priors_differ_and_each_can_do_something(xp: Any) -> None:
    u = blurred_picture(0.01)
    result = {p: psnr(to_host(wiener(xp.asarray(u), xp.asarray(KERNEL), weight=0.01, prior=p)), TRUE) for p in PRIORS}
    assert len({round(value, 2) for value in result.values()}) == 3
    assert min(result.values()) > psnr(u, TRUE)


# ---- borders, kernels, numbers


def test_borders_are_nearly_as_good_as_the_middle(xp: Any) -> None:
    u, border = blurred_picture(), np.ones(TRUE.shape, bool)
    border[10:-10, 10:-10] = False
    result = {}
    for boundary in BOUNDARIES:
        out = to_host(wiener(xp.asarray(u), xp.asarray(KERNEL), weight=1e-3, boundary=boundary))
        result[boundary] = psnr(out[border], TRUE[border]) - psnr(out[~border], TRUE[~border])
    assert result["unknown"] > -2.5
    assert result["unknown"] > max(result["edge"], result["reflect"]) > result["wrap"] + 3


@in_every_boundary
def test_a_constant_a_zero_and_a_large_picture_stay_finite(xp: Any, boundary: str) -> None:
    for dtype in ("float32", "float64"):
        kernel = xp.asarray(KERNEL.astype(dtype))
        for value in (0.0, 0.5, 1e6):
            out = wiener(xp.full((20, 25), value, dtype=dtype), kernel, boundary=boundary)
            assert_close(out, np.full((), value), rtol=1e-4)
        bright = blurred_picture(dtype=dtype)
        bright[40, 40] = 1e6
        assert bool(xp.isfinite(wiener(xp.asarray(bright), kernel, boundary=boundary)).all())
    out = wiener(xp.asarray(TRUE), xp.asarray(np.array([[1.0, -1, 0]])), weight=1e-3, boundary="wrap")  # no sum
    assert bool(xp.isfinite(out).all())


def test_the_prior_is_that_of_its_differences(xp: Any) -> None:
    for shape in ((9, 12), (8, 7)):
        d = np.zeros(shape)
        d[0, 0] = 1
        for prior, impulse in (("gradient", gradient_adjoint(*gradient(d))), ("identity", d)):
            assert_close(prior_power(shape, prior, "float64"), np.fft.rfft2(impulse).real, atol=1e-12)
    assert prior_power((6, 8), "laplacian", "float32", halved=False).shape == (6, 8)


def test_progress_of_the_sampler_rises_to_one(xp: Any) -> None:
    fractions: list[float] = []
    unsupervised_wiener(xp.asarray(blurred_picture()), xp.asarray(KERNEL), rng=0, callback=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


# ---- unsupervised


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sampler_restores_and_a_seed_repeats_it(xp: Any, dtype: str) -> None:
    u, kernel = blurred_picture(0.02, dtype), xp.asarray(KERNEL.astype(dtype))
    out = unsupervised_wiener(xp.asarray(u), kernel, rng=0)
    assert out.dtype == dtype
    assert psnr(to_host(out), TRUE) > psnr(u, TRUE) + 1
    assert_same(out, unsupervised_wiener(xp.asarray(u), kernel, rng=0))
    other = unsupervised_wiener(xp.asarray(u), kernel, rng=1)
    assert not np.array_equal(to_host(other), to_host(out))
    assert psnr(to_host(other), to_host(out)) > 30


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_random_numbers_are_normal_and_independent(xp: Any, dtype: str) -> None:
    normal, gamma = random_streams(0, xp, np.dtype(dtype))
    one, other = (to_host(normal((300, 400))).astype("float64") for _ in range(2))
    assert one.shape == (2, 300, 400)
    every = np.concatenate([one.ravel(), other.ravel()])
    moments = [np.mean(every**n) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.03)
    assert 4 < np.abs(every).max() < 7
    for a, b in ((one[0], one[1]), (one[0], other[0]), (one[0, :, 1:], one[0, :, :-1]), (one[0] ** 2, one[1] ** 2)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01
    np.testing.assert_allclose(np.mean([float(gamma(50.0)) for _ in range(500)]), 50, rtol=0.05)


def test_any_bit_generator_will_do() -> None:
    for kind in (np.random.MT19937, np.random.SFC64, np.random.Philox):
        normal, _ = random_streams(np.random.Generator(kind(0)), np, np.dtype("float32"))
        np.testing.assert_allclose(normal((200, 200)).std(axis=(1, 2)), 1, atol=0.02)
