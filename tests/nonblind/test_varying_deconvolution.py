"""Deconvolution with a field of kernels: against a single kernel, in stacks, tiles and colors; bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_batch_is_loop, assert_close, assert_same, peak_on_numpy
from skimage import data

import gpudeblur as gd
from gpudeblur.images.noise import noise_sigma_under
from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods.sparse import derivatives
from gpudeblur.nonblind.specs import METHOD_SPECS, METHODS
from gpudeblur.nonblind.tiles import _field_arrays, _tile_that_fits
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import fast_size
from gpudeblur.numerics.varying_blur import VaryingBlur
from gpudeblur.synthesis import linear_kernel, trajectory_kernel

VARYING = sorted(name for name, spec in METHOD_SPECS.items() if spec.varying)
SIDE = 13
SCENE = data.camera()[:172, 150:332] / 255
SHAPE = (160, 170)
TRUE = SCENE[6:-6, 6:-6]
SMALL = (slice(60), slice(70))


def turning_field(shape: tuple[int, int] = SHAPE, counts: tuple[int, int] = (5, 6), xp: Any = np) -> gd.KernelField:
    """Lines whose angle and length change smoothly over the image."""
    kernels = np.zeros((*counts, SIDE, SIDE))
    for i, j in np.ndindex(counts):
        y, x = (at / max(1, count - 1) for at, count in zip((i, j), counts, strict=True))
        kernels[i, j] = linear_kernel(5 + 3 * x + 2 * y, 10 + 50 * y + 30 * x, SIDE)
    return gd.KernelField(xp.asarray(kernels), shape)


def blurred_picture(noise: float = 0.003, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    field = turning_field(shape)
    operator = VaryingBlur(field.kernels, field.positions, shape, np.float64)
    blurred = operator.blur(SCENE[: shape[0] + SIDE - 1, : shape[1] + SIDE - 1])
    return blurred + noise * np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("method", VARYING)
def test_a_field_restores_more_than_its_central_kernel(xp: Any, method: str) -> None:
    blurred, field = xp.asarray(blurred_picture()), turning_field(xp=xp)
    sharp = to_host(gd.deconvolve(blurred, field, method=method))
    uniform = to_host(gd.deconvolve(blurred, field.centre, method=method))
    assert sharp.dtype == np.float64
    assert psnr(sharp, TRUE) > psnr(to_host(blurred), TRUE) + 3
    assert psnr(sharp, TRUE) > psnr(uniform, TRUE) + 1.5


@pytest.mark.parametrize("method", VARYING)
@pytest.mark.parametrize("saturation", [None, 0.8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_field_of_one_kernel_is_that_kernel(xp: Any, method: str, saturation: float | None, dtype: str) -> None:
    kernel = xp.asarray(trajectory_kernel(SIDE, rng=3))
    blurred = xp.asarray(blurred_picture()[SMALL])
    field = gd.KernelField(kernel[None, None], (60, 70))
    options: dict[str, Any] = {"method": method, "saturation": saturation, "dtype": dtype}
    varying, uniform = (gd.deconvolve(blurred, k, **options) for k in (field, kernel))
    if xp is np or dtype == "float32":
        assert_same(varying, uniform)
    else:  # CuPy sums the kernels of a field in another order
        assert_close(varying, uniform, atol=1e-10)


@pytest.mark.parametrize("method", VARYING)
@pytest.mark.parametrize("saturation", [None, 0.8])
def test_equal_kernels_are_one_kernel(xp: Any, method: str, saturation: float | None) -> None:
    """Up to rounding; the first iterates of "pnp", and in saturated images those of "sparse", differ too."""
    kernel = trajectory_kernel(SIDE, rng=3)
    kernel[0, 0] = kernel[-1, -1] = 1e-3  # a field leaves out zeros at the border, and the grid is another one then
    blurred = xp.asarray(blurred_picture()[SMALL])
    field = gd.KernelField(xp.asarray(np.broadcast_to(kernel, (3, 4, SIDE, SIDE)).copy()), (60, 70))
    options: dict[str, Any] = {"method": method, "saturation": saturation, "dtype": "float64", "noise_sigma": 0.01}
    varying, uniform = (to_host(gd.deconvolve(blurred, k, **options)) for k in (field, xp.asarray(kernel)))
    if method == "pnp" or (method == "sparse" and saturation is not None):
        assert np.sqrt(((varying - uniform) ** 2).mean()) < 0.03
    else:
        assert_close(varying, uniform, atol=1e-3 if method == "richardson-lucy" else 1e-8)


def test_sparse_solves_its_equations(xp: Any) -> None:
    """The first solve, quadratic, by dense matrices: each row of K is the kernel at its pixel."""
    (h, w), grid, weight, random = (11, 13), (14, 16), 0.02, np.random.default_rng(1)
    field, blurred = gd.KernelField(random.random((2, 3, 3, 3)), (h, w)), random.random((h, w))
    rows = np.zeros((h, w, *grid))
    for i, j in np.ndindex(h, w):
        rows[i, j, i : i + 3, j : j + 3] = field.at((i, j))[::-1, ::-1]
    K = rows.reshape(h * w, -1)
    units = np.eye(grid[0] * grid[1]).reshape(-1, *grid)
    D = np.concatenate([part.reshape(len(units), -1) for part in derivatives(units)], axis=1).T
    expected = np.linalg.solve(K.T @ K + weight * D.T @ D, K.T @ blurred.ravel()).reshape(grid)[1 : 1 + h, 1 : 1 + w]
    out = METHODS["sparse"](xp.asarray(blurred), field.to(xp), weight=weight, reweightings=0, iterations=80)
    assert_close(out, expected, atol=1e-8)


def test_the_default_method(xp: Any) -> None:
    blurred, field = xp.asarray(blurred_picture()[SMALL]), turning_field((60, 70), xp=xp)
    assert_same(gd.deconvolve(blurred, field), gd.deconvolve(blurred, field, method="sparse"))
    assert_same(gd.deconvolve(blurred, field.centre), gd.deconvolve(blurred, field.centre, method="tv"))


@pytest.mark.parametrize("method", VARYING)
@pytest.mark.parametrize("saturation", [None, 0.7])
def test_a_stack_with_a_field_is_a_loop(method: str, saturation: float | None) -> None:
    field = turning_field((60, 70))
    stack = np.stack([blurred_picture(noise)[SMALL] for noise in (0.0, 0.01, 0.03)]).astype(np.float32)
    stack[1] *= 0.6  # nothing saturated
    assert_batch_is_loop(lambda u: gd.deconvolve(u, field, method=method, saturation=saturation), stack)


@pytest.mark.parametrize("method", VARYING)
def test_images_that_are_odd_disturb_no_other(method: str) -> None:
    """NaN, which only the steps let in, a constant and zeros."""
    field = turning_field((60, 70))
    stack = np.stack([blurred_picture()[SMALL]] * 4).astype(np.float32)
    stack[1], stack[2, 30, 30], stack[3] = 0.5, np.nan, 0
    options: dict[str, Any] = {"noise_sigma": 0.01} if method == "richardson-lucy" else {"weight": 1e-3}
    out = METHODS[method](stack, field, **options)
    assert_same(out[0], METHODS[method](stack[0], field, **options))
    assert_close(out[1], np.full((60, 70), 0.5), rtol=1e-4)
    assert np.isnan(out[2]).any()
    assert_close(out[3], np.zeros((60, 70)), atol=1e-7)


@pytest.mark.parametrize("method", sorted({*VARYING} - {"pnp"}))  # which restores the channels together
def test_channels_share_the_field(xp: Any, method: str) -> None:
    field = turning_field((60, 70), xp=xp)
    color = np.stack([blurred_picture(noise)[SMALL] for noise in (0.0, 0.01, 0.03)], axis=-1)
    options: dict[str, Any] = {"method": method, "gamma": 2.2, "noise_sigma": 0.01, "dtype": "float64"}
    out = gd.deconvolve(xp.asarray(color), field, channel_axis=-1, **options)
    for c in range(3):
        alone = gd.deconvolve(xp.asarray(color[..., c].copy()), field, **options)
        assert_close(out[..., c], alone, atol=1e-12 if xp is np else 1e-6)
    integers = xp.asarray((np.clip(color, 0, 1) * 255).round().astype(np.uint8))
    assert gd.deconvolve(integers, field, channel_axis=-1, **options).dtype == np.uint8


def test_saturated_lamps(xp: Any) -> None:
    """The one-sided misfit, with a field too: without it a lamp rings."""
    field, scene = turning_field((60, 70)), SCENE[: 60 + SIDE - 1, : 70 + SIDE - 1] * 0.3
    scene[38:41, 40:43] = 20
    blurred = VaryingBlur(field.kernels, field.positions, (60, 70), np.float64).blur(scene).clip(0, 1)
    true, dark = scene[6:-6, 6:-6], scene[6:-6, 6:-6] < 1
    errors = {}
    for saturation in ("auto", None):
        sharp = gd.deconvolve(xp.asarray(blurred), field.to(xp), noise_sigma=0.003, saturation=saturation)
        errors[saturation] = np.sqrt(((to_host(sharp) - true)[dark] ** 2).mean())
    assert errors["auto"] < errors[None] / 2


def test_tiles_are_the_whole(xp: Any) -> None:
    part = (slice(None), slice(20, 90))
    blurred, field = xp.asarray(blurred_picture().astype(np.float32)[part]), turning_field(xp=xp).crop(part)
    weight, true = 2e-3, TRUE[part]
    whole = to_host(gd.deconvolve(blurred, field, weight=weight))
    tiled = to_host(gd.deconvolve(blurred, field, weight=weight, tile=100))
    difference = (tiled - whole)[10:-10, 10:-10]
    # More than for one kernel (2e-4): after 8 steps, tiles are nearer to the solution, as the mean power is of fewer
    # kernels.
    assert np.sqrt((difference**2).mean()) < 2e-3
    assert psnr(tiled, true) > psnr(whole, true) - 0.05
    assert_same(gd.deconvolve(blurred, field, weight=weight, tile=1000), gd.deconvolve(blurred, field, weight=weight))
    automatic = to_host(gd.deconvolve(blurred, field, tile=100))
    assert psnr(automatic, true) > psnr(to_host(gd.deconvolve(blurred, field)), true) - 0.3


def test_progress_and_stop() -> None:
    blurred, field, calls = blurred_picture()[SMALL], turning_field((60, 70)), list[float]()
    for method in VARYING:
        calls.clear()
        gd.deconvolve(blurred, field, method=method, callback=lambda _, fraction: calls.append(fraction))
        assert calls == sorted(calls)
        assert calls[-1] == 1
        with pytest.raises(gd.Stopped):
            gd.deconvolve(blurred, field, method=method, callback=lambda stage, fraction: True)


def test_functions_of_nonblind_take_a_field() -> None:
    blurred, field = blurred_picture()[SMALL], turning_field((60, 70))
    same = gd.nonblind.sparse(blurred, field), gd.deconvolve(blurred, field, dtype="float64")
    assert_same(*same)
    assert abs(gd.nonblind.sparse(blurred, field, exponent=1.5) - same[0]).max() > 0.01
    assert gd.nonblind.richardson_lucy(blurred, field, num_iter=3).min() >= 0
    with pytest.raises(
        TypeError, match="kernel must be an array for tv, got a KernelField; use sparse, pnp or richardson_lu"
    ):
        gd.nonblind.tv(blurred, field)
    with pytest.raises(ValueError, match="kernel must be a KernelField of the picture's shape"):
        gd.nonblind.sparse(blurred[1:], field)


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_the_noise_under_a_field(xp: Any, sigma: float) -> None:
    assert float(noise_sigma_under(xp.asarray(blurred_picture(sigma)), turning_field(xp=xp))) == pytest.approx(
        sigma, rel=0.15
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tv"}, "method for a KernelField must be one of 'sparse', 'pnp', 'richardson-lucy', got 'tv'"),
        ({"method": "magic"}, "method must be one of 'tv', .* got 'magic'"),
        ({"boundary": "wrap", "method": "richardson-lucy"}, "boundary must be 'unknown' for a KernelField, got 'wrap'"),
        ({"tile": 64, "method": "richardson-lucy"}, "method with tile must be one of"),
        ({"channel_axis": 0}, r"kernel must be a KernelField of the picture's shape, \(60, 70\), got \(60, 71\)"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    image = np.zeros((3, 60, 70)) if "channel_axis" in options else np.zeros((60, 71))
    with pytest.raises(ValueError, match=message):
        gd.deconvolve(image, turning_field((60, 71)), **options)


def test_a_field_of_another_shape_names_both() -> None:
    message = r"kernel must be a KernelField of the picture's shape, \(60, 70\), got \(160, 170\); make one with that"
    with pytest.raises(ValueError, match=message):
        gd.deconvolve(np.zeros((60, 70)), turning_field())
    with pytest.raises(ValueError, match="kernel must not exceed the picture, got 13 x 13 for a picture of 8 x 9"):
        gd.deconvolve(np.zeros((8, 9)), turning_field((8, 9)))
    with pytest.raises(TypeError, match=r"image must be a NumPy or CuPy array, got list"):
        gd.deconvolve([[0.0]], turning_field())


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 2), (5, 5), (20, 20), (40, 40)])
def test_arrays_of_a_field_are_measured(counts: tuple[int, int]) -> None:
    """At least what is used, and not much more: `tile="auto"` relies on it."""
    u, field = (
        np.random.default_rng(0).random((300, 320), dtype=np.float32),
        gd.KernelField(np.ones((*counts, 15, 15)), (300, 320)),
    )
    grid = fast_size(314) * fast_size(334)
    peak = peak_on_numpy(lambda: METHODS["sparse"](u, field, weight=1e-3, reweightings=1, iterations=2)) / 4 / grid
    live_arrays = METHOD_SPECS["sparse"].live_arrays
    assert live_arrays is not None
    estimate = live_arrays["numpy"] + _field_arrays(field, [300, 320], rows_together=False)
    assert 0.97 * peak < estimate < 1.2 * peak


def test_tiles_with_a_field_are_smaller() -> None:
    u, field = np.zeros((400, 500), np.float32), turning_field((400, 500), (20, 20))
    sides = (SIDE, SIDE)
    uniform, varying = (_tile_that_fits(u, sides, 65, "sparse", np, 10 << 20, kernel) for kernel in (None, field))
    assert 65 <= varying < uniform
