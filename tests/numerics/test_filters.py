"""Laws of the array primitives, on NumPy and, where there is a GPU, on CuPy (the CUDA kernels)."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
import scipy.ndimage
from laws import SHAPES, assert_batch_is_loop, assert_close, assert_same, assert_shift_covariant, picture

from gpudeblur.numerics import filters
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import irfft2, psf_to_otf, rfft2

in_every_shape = pytest.mark.parametrize("shape", SHAPES)
in_both_precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])


def noise(xp: Any, shape: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> Any:
    return xp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


@in_every_shape
def test_the_gradient_is_the_forward_difference(xp: Any, shape: tuple[int, ...]) -> None:
    u = picture(shape)
    gx, gy = filters.gradient(xp.asarray(u))
    assert_same(gx, np.roll(u, -1, -1) - u)
    assert_same(gy, np.roll(u, -1, -2) - u)


@in_every_shape
def test_gradient_and_adjoint_are_a_pair(xp: Any, shape: tuple[int, ...]) -> None:
    u, g = noise(xp, shape), (noise(xp, shape, 1), noise(xp, shape, 2))
    if shape[-2:] != (1, 1):  # there D is zero, and both sides rounding
        laws.assert_adjoint(filters.gradient, filters.gradient_adjoint, u, g)
    assert_close(filters.gradient_adjoint(*g).sum((-2, -1)), np.zeros(shape[:-2]), atol=1e-10)


@in_both_precisions
@in_every_shape
def test_dt_l0_without_a_threshold_is_the_laplacian(xp: Any, shape: tuple[int, ...], dtype: str) -> None:
    u = xp.asarray(picture(shape, dtype=dtype))
    out = filters.dt_l0(u, 0.0)
    assert out.dtype == dtype
    assert_same(out, filters.gradient_adjoint(*filters.gradient(u)))


def test_dt_l0_keeps_what_reaches_the_threshold(xp: Any) -> None:
    """A step of 0.5 has squared magnitude 0.25: kept at just that threshold, dropped above it."""
    u = xp.zeros((1, 8), dtype=xp.float32)
    u[:, 4:] = 0.5
    expected = np.array(
        [[-0.5, 0, 0, -0.5, 0.5, 0, 0, 0.5]]
    )  # D^T g: a step up between 3 and 4, one down over the wrap
    assert_same(filters.dt_l0(u, 0.25), expected)
    assert not filters.dt_l0(u, np.nextafter(np.float32(0.25), np.float32(1))).any()


@in_both_precisions
def test_shifting_the_picture_shifts_the_result(xp: Any, dtype: str) -> None:
    u = xp.asarray(picture((2, 37, 35), dtype=dtype))
    for shift in ((1, 0), (0, -1), (17, 33)):
        assert_shift_covariant(lambda v: filters.dt_l0(v, 0.1), u, shift)
        assert_shift_covariant(lambda v: filters.edge_mask(v, 0.1), u, shift)
        assert_shift_covariant(lambda v: filters.dilate(v > 0.9, 3), u, shift)
        assert_shift_covariant(lambda v: filters.dt_smooth(v, v > 0.9), u, shift)
        assert_shift_covariant(lambda v: filters.gaussian_smooth(v, 0.8), u, shift)


@in_both_precisions
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, dtype: str) -> None:
    u = picture((4, 9, 11), dtype=dtype)
    u[1, 4, 4], u[2] = np.nan, 0
    u, threshold = xp.asarray(u), xp.asarray([0.05, 0.1, 0.2, 0.3], dtype=dtype)
    mask = xp.asarray(np.random.default_rng(0).random(u.shape) < 0.3)
    assert_batch_is_loop(filters.dt_l0, u, threshold)
    assert_batch_is_loop(filters.edge_mask, u, threshold)
    assert_batch_is_loop(lambda m: filters.dilate(m, 1), mask)
    assert_batch_is_loop(filters.dt_smooth, u, mask)
    assert_batch_is_loop(lambda v: filters.gaussian_smooth(v, 0.8), u)
    data, dt_g, power = (xp.asarray(a) for a in laws.spectra((4, 9, 11)))
    assert_batch_is_loop(lambda d, g, p: filters.spectral_solve(d, g.copy(), p, 2.0, (9, 11)), data, dt_g, power)


@in_every_shape
def test_edge_mask_marks_the_gradients_that_dt_l0_keeps(xp: Any, shape: tuple[int, ...]) -> None:
    u = xp.asarray(picture(shape))
    mask = filters.edge_mask(u, 0.1)
    assert mask.dtype == np.bool_
    gx, gy = filters.gradient(u)
    assert_same(filters.dt_l0(u, 0.1), filters.gradient_adjoint(gx * mask, gy * mask))


@in_every_shape
@pytest.mark.parametrize("radius", [0, 1, 3, 9, 100])
def test_dilate_sets_a_square_around_each_pixel(xp: Any, shape: tuple[int, ...], radius: int) -> None:
    mask = np.random.default_rng(radius).random(shape) < 0.03
    out = filters.dilate(xp.asarray(mask), radius)
    assert out.dtype == np.bool_
    assert_same(out, scipy.ndimage.maximum_filter(mask, 2 * radius + 1, mode="wrap", axes=(-2, -1)))


@in_both_precisions
@in_every_shape
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7])
def test_gaussian_smooth_is_scipys_periodic_gaussian(xp: Any, shape: tuple[int, ...], sigma: float, dtype: str) -> None:
    u = picture(shape, dtype=dtype)
    out = filters.gaussian_smooth(xp.asarray(u), sigma)
    assert out.dtype == dtype
    expected = scipy.ndimage.gaussian_filter(u.astype(float), sigma, mode="wrap", truncate=4.0, axes=(-2, -1))
    assert_close(out, expected, rtol=1e-6 if dtype == "float32" else 1e-12)


@in_every_shape
def test_dt_smooth_counts_differences_between_two_unmasked_pixels(xp: Any, shape: tuple[int, ...]) -> None:
    u = xp.asarray(picture(shape))
    nothing, everything = xp.zeros(shape, dtype=bool), xp.ones(shape, dtype=bool)
    assert_same(filters.dt_smooth(u, nothing), filters.dt_l0(u, 0.0))
    assert not filters.dt_smooth(u, everything).any()
    mask = np.random.default_rng(1).random(shape) < 0.3
    gx, gy = filters.gradient(u)
    across, down = (xp.asarray(~mask & ~np.roll(mask, -1, axis)) for axis in (-1, -2))
    assert_same(filters.dt_smooth(u, xp.asarray(mask)), filters.gradient_adjoint(gx * across, gy * down))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("shape", [(16, 21), (21, 16), (9, 6)])
def test_spectral_solve_zeroes_the_gradient_of_its_objective(
    xp: Any, shape: tuple[int, int], dtype: str, tolerance: float
) -> None:
    """|x * k - B|^2 + weight |D x - g|^2, with the convolutions done in the pixel domain."""
    random, weight = np.random.default_rng(0), 0.3
    kernel, blurred = random.random((5, 3)), random.random(shape)
    kernel /= kernel.sum()
    g = random.normal(size=(2, *shape))
    target = filters.gradient_adjoint(*g)
    otf = psf_to_otf(xp.asarray(kernel, dtype=dtype), shape)
    data = otf.conj() * rfft2(xp.asarray(blurred, dtype=dtype))
    dt_g = rfft2(xp.asarray(target, dtype=dtype))
    solution = filters.spectral_solve(data, dt_g, abs(otf) ** 2, weight, shape)
    assert solution is dt_g  # in place
    x = to_host(irfft2(solution, shape)).astype(float)
    misfit = scipy.ndimage.convolve(x, kernel, mode="wrap") - blurred
    derivative = scipy.ndimage.convolve(misfit, kernel[::-1, ::-1], mode="wrap")
    derivative += weight * (filters.gradient_adjoint(*filters.gradient(x)) - target)
    assert abs(derivative).max() < tolerance


def test_spectral_solve_weighs(xp: Any) -> None:
    """No weight: data / power. Much weight: dt_g / |F D|^2."""
    data, dt_g, power = (xp.asarray(a) for a in laws.spectra((1, 6, 8)))
    light = filters.spectral_solve(data, dt_g.copy(), power, 0.0, (6, 8))
    assert_close(light, to_host(data / power) / 48, rtol=2e-6)
    heavy = to_host(filters.spectral_solve(data, dt_g.copy(), power, 1e12, (6, 8)))
    laplacian = 4 * np.sin(np.pi * np.arange(6) / 6)[:, None] ** 2 + 4 * np.sin(np.pi * np.arange(5) / 8) ** 2
    laplacian.flat[0] = np.inf
    assert_close(heavy.reshape(-1)[1:], (to_host(dt_g)[0] / laplacian / 48).reshape(-1)[1:], rtol=2e-6)


def test_mixed_arrays_are_refused(xp: Any) -> None:
    u = xp.zeros((2, 3))
    with pytest.raises(TypeError, match=r"arrays must be all NumPy or all CuPy, got .*ndarray, builtins\.list"):
        filters.dt_smooth(u, [[0]])
