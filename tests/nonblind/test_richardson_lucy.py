"""Richardson-Lucy: laws of the step, what each option is for, and that nothing is ever NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_adjoint, assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur.metrics import psnr
from gpudeblur.nonblind.expectation_maximization import convolutions, em_iterations
from gpudeblur.nonblind.methods.richardson_lucy import richardson_lucy
from gpudeblur.nonblind.specs import FILTER_BOUNDARIES as BOUNDARIES
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import kernel_to_grid
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
SCENE = data.camera()[100:196, 200:310] / 255
TRUE = SCENE[5:-5, 5:-5]
SHARP: dict[str, Any] = {"discrepancy": 0.0}  # the steps that were asked for, whatever the noise
in_every_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)


def blurred_picture(noise: float = 0.0, dtype: str = "float64") -> np.ndarray:
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=0).astype(dtype)


def reblur(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x * k of a periodic x."""
    return np.fft.irfft2(np.fft.rfft2(kernel_to_grid(kernel, x.shape)) * np.fft.rfft2(x), x.shape)


# ---- laws


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_light_is_kept(xp: Any, accelerated: bool, dtype: str) -> None:
    u = blurred_picture(0.01, dtype)
    arrays = xp.asarray(u), xp.asarray(KERNEL.astype(dtype))
    out = richardson_lucy(*arrays, boundary="wrap", accelerated=accelerated, num_iter=7, **SHARP)
    np.testing.assert_allclose(float(out.sum()), u.sum(), rtol=1e-5 if dtype == "float32" else 1e-12)


def test_dark_borders_keep_the_light_of_an_unknown_boundary(xp: Any) -> None:
    u = np.zeros((40, 45))
    u[15:25, 20:30] = TRUE[:10, :10]
    out = richardson_lucy(xp.asarray(reblur(u, KERNEL)), xp.asarray(KERNEL), num_iter=20, **SHARP)
    np.testing.assert_allclose(float(out.sum()), u.sum(), rtol=1e-3)


@pytest.mark.parametrize("shape", [(24,), (21, 24), (6, 9, 10)])
def test_the_correction_is_the_adjoint_of_the_blur(xp: Any, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    kernel, x, y = random.random([4, 3, 5][: len(shape)]), random.random(shape), random.random(shape)
    blur, back = convolutions(xp.asarray(kernel), shape, (1,) * len(shape))
    assert_adjoint(blur, back, xp.asarray(x), xp.asarray(y), rtol=1e-10)


@pytest.mark.parametrize(
    "options", [{}, SHARP, {"damping": 2.0}, {"tv_weight": 0.01}, {"accelerated": False}, {"boundary": "edge"}]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, options: dict[str, Any], dtype: str) -> None:
    u = blurred_picture(0.01, dtype)[:40, :44]
    stack = xp.asarray(np.stack([u, u[::-1], 0 * u, u + np.nan, u.max() - u]))
    kernel = xp.asarray(KERNEL.astype(dtype))
    out = richardson_lucy(stack, kernel, num_iter=8, **options)
    kernels = xp.asarray(np.stack([KERNEL] * 5).astype(dtype))
    same = to_host(richardson_lucy(stack, kernels, num_iter=8, **options))
    for i in (0, 1, 2, 4):
        alone = richardson_lucy(stack[i], kernel, num_iter=8, **options)
        if xp is np:
            assert_same(out[i], alone)
        assert_close(out[i], alone, atol=1e-5)
        assert_close(same[i], alone, atol=1e-5)
    assert bool(xp.isfinite(out[:3]).all())
    assert not to_host(out[2]).any()


# ---- it restores


@pytest.mark.parametrize("accelerated", [False, True])
def test_more_steps_explain_the_picture_better(xp: Any, accelerated: bool) -> None:
    u = blurred_picture()
    gains = []
    for count in (1, 10, 40):
        out = richardson_lucy(xp.asarray(u), xp.asarray(KERNEL), num_iter=count, accelerated=accelerated, **SHARP)
        gains.append(psnr(to_host(out), TRUE) - psnr(u, TRUE))
    assert gains[0] < gains[1] - 2 < gains[2] - 4


def test_acceleration_is_worth_several_times_the_steps(xp: Any) -> None:
    u, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    fast = richardson_lucy(u, kernel, num_iter=25, **SHARP)
    slow = richardson_lucy(u, kernel, num_iter=60, accelerated=False, **SHARP)
    assert psnr(to_host(fast), TRUE) > psnr(to_host(slow), TRUE)


def test_borders_are_as_good_as_the_middle_unless_periodic(xp: Any) -> None:
    u, border = blurred_picture(), np.ones(TRUE.shape, bool)
    border[10:-10, 10:-10] = False
    result = {}
    for boundary in BOUNDARIES:
        out = to_host(richardson_lucy(xp.asarray(u), xp.asarray(KERNEL), boundary=boundary, **SHARP))
        result[boundary] = psnr(out[border], TRUE[border]) - psnr(out[~border], TRUE[~border])
    assert result["unknown"] > -1.5
    assert result["unknown"] > result["reflect"] > result["wrap"] + 3
    assert result["unknown"] > result["edge"] - 1


def test_the_steps_end_where_the_noise_begins(xp: Any) -> None:
    noisy = blurred_picture(0.03)
    arrays = xp.asarray(noisy), xp.asarray(KERNEL)
    ended, known, on = (
        psnr(to_host(richardson_lucy(*arrays, num_iter=60, **more)), TRUE)
        for more in ({}, {"noise_sigma": 0.03}, SHARP)
    )
    assert ended > max(on + 5, psnr(noisy, TRUE) + 1)
    assert known > psnr(noisy, TRUE) + 1


@pytest.mark.parametrize("options", [{"damping": 3.0}, {"tv_weight": 0.005}])
def test_damping_and_total_variation_hold_the_noise_down(xp: Any, options: dict[str, Any]) -> None:
    noisy = blurred_picture(0.01)
    plain, smooth = (
        to_host(richardson_lucy(xp.asarray(noisy), xp.asarray(KERNEL), noise_sigma=0.01, **SHARP, **more))
        for more in ({}, options)
    )
    assert psnr(smooth, TRUE) > psnr(plain, TRUE) + 3
    assert np.abs(np.diff(smooth)).mean() < 0.6 * np.abs(np.diff(plain)).mean()


@pytest.mark.parametrize("size", [(4, 6), (5, 4)])
@in_every_boundary
def test_an_even_kernel_leaves_the_picture_in_its_place(xp: Any, size: tuple[int, int], boundary: str) -> None:
    kernel = np.random.default_rng(1).random(size)
    kernel /= kernel.sum()
    u, true = reblur(SCENE, kernel), SCENE
    if boundary != "wrap":
        u, true = u[5:-5, 5:-5], TRUE
    out = to_host(richardson_lucy(xp.asarray(u), xp.asarray(kernel), num_iter=40, boundary=boundary, **SHARP))
    assert psnr(out[8:-8, 8:-8], true[8:-8, 8:-8]) > psnr(u[8:-8, 8:-8], true[8:-8, 8:-8]) + 6


# ---- finite, whatever comes


@in_every_boundary
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_negative_values_and_a_large_range_stay_finite(xp: Any, boundary: str, dtype: str) -> None:
    random, kernel = np.random.default_rng(0), xp.asarray(KERNEL.astype(dtype))
    options: list[dict[str, Any]] = [{}, {"damping": 2.0}, {"tv_weight": 0.01}, {"accelerated": False}]
    stars = np.zeros((32, 40))
    stars[random.integers(32, size=9), random.integers(40, size=9)] = 10.0 ** np.arange(-2, 7)
    noise = random.normal(size=stars.shape)
    for u in (0 * stars, stars, noise, -abs(noise), stars + noise):
        for more in options:
            out = richardson_lucy(xp.asarray(u.astype(dtype)), kernel, num_iter=12, boundary=boundary, **more)
            assert bool(xp.isfinite(out).all())
            assert float(out.min()) >= 0


# ---- axes


def test_the_number_of_axes_does_not_matter(xp: Any) -> None:
    """A 2-D picture as a 3-D one of one plane."""
    u, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    flat = em_iterations(u, kernel, 2, num_iter=5, boundary="unknown")
    deep = em_iterations(u[None], kernel[None], 3, num_iter=5, boundary="unknown")
    assert_close(deep[0], flat, atol=1e-9)
    assert deep.shape == (1, *flat.shape)


# ---- negative values


def test_an_offset_is_added_before_and_subtracted_after(xp: Any) -> None:
    b = blurred_picture(0.01)
    for boundary in BOUNDARIES:
        expected = richardson_lucy(xp.asarray(b), xp.asarray(KERNEL), num_iter=5, boundary=boundary)
        result = richardson_lucy(xp.asarray(b - 0.25), xp.asarray(KERNEL), num_iter=5, boundary=boundary, offset=0.25)
        assert_close(result + 0.25, expected, atol=1e-9)


def test_the_light_of_a_sky_that_was_subtracted() -> None:
    """Half of the pixels of an empty sky are negative: cut off, they would nearly double the light."""
    rng = np.random.default_rng(3)
    stars = np.zeros((96, 96))
    stars[tuple(rng.integers(20, 76, (2, 8)))] = rng.uniform(0.5, 4, 8)
    sky = blur(stars, KERNEL, mode="wrap") + 0.005 * rng.standard_normal(stars.shape)
    message = r"^image has negative values, down to -0\.0\d+, which .* counts as 0, so that .*; give offset=0\.0\d+ or"
    with pytest.warns(UserWarning, match=message):
        cut = gd.deconvolve(sky, KERNEL, method="richardson-lucy")
    assert cut.sum() > 1.5 * stars.sum()
    with pytest.warns(UserWarning, match="^blurred has negative values"):
        gd.nonblind.richardson_lucy(sky, KERNEL, num_iter=1)
    for offset in (0.03, 0.1):
        whole = gd.deconvolve(sky, KERNEL, method="richardson-lucy", offset=offset)
        assert abs(whole.sum() - sky.sum()) < 0.03 * stars.sum()


def test_an_offset_is_for_richardson_lucy_alone() -> None:
    with pytest.raises(
        ValueError, match=r"^offset is not known to method 'tv', got 0\.1; it takes negative values, too$"
    ):
        gd.deconvolve(blurred_picture(), KERNEL, offset=0.1)
    field = gd.KernelField(KERNEL[None, None].repeat(2, 1), blurred_picture().shape)
    options: dict[str, Any] = {"method": "richardson-lucy", "iterations": 5}
    expected = gd.deconvolve(blurred_picture(), field, **options)
    assert_close(gd.deconvolve(blurred_picture() - 0.5, field, offset=0.5, **options) + 0.5, expected, atol=1e-4)
