"""Pixels that are not valid: they do not count, whatever their value, and the rest is as good as without them."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from laws import assert_batch_is_loop, assert_close, assert_same
from scipy import ndimage
from skimage import data

import gpudeblur as gd
from gpudeblur import nonblind
from gpudeblur.images.noise import noise_sigma_under
from gpudeblur.metrics import psnr
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.saturation import fill_unobserved, project_on_data
from gpudeblur.nonblind.specs import METHOD_SPECS
from gpudeblur.nonblind.splitting import Augmented, shrink_isotropic, solve
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.boundary import crop
from gpudeblur.numerics.inpainting import inpaint
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3)
SHARP = data.camera()[100:188, 190:300] / 255
BLURRED = blur(SHARP, KERNEL, noise_sigma=5e-3, rng=0)
SHARP = SHARP[4:-4, 4:-4]
MASK = np.ones(BLURRED.shape, bool)  # a column, and blocks of half a kernel: 2.2 % are not valid
MASK[:, 60] = False
for _y, _x in ((15, 20), (40, 80), (60, 30), (30, 45), (55, 90)):
    MASK[_y : _y + 4, _x : _x + 4] = False
SPOILED = np.where(MASK, BLURRED, np.nan)
FIELD = gd.KernelField(np.broadcast_to(KERNEL, (2, 2, 9, 9)), shape=BLURRED.shape)
in_every_method = pytest.mark.parametrize("method", sorted(METHOD_SPECS))


def error(result: Any, where: np.ndarray) -> float:
    """In dB, away from the border of the image."""
    inner = np.zeros(MASK.shape, bool)
    inner[8:-8, 8:-8] = True
    return float(10 * np.log10(((to_host(result) - SHARP)[inner & where] ** 2).mean()))


# ---- every method


@in_every_method
def test_holes_cost_nothing_away_from_them(xp: Any, method: str) -> None:
    """Less than 0.5 dB more than half a kernel from them, and about 3 dB in them."""
    kernel = xp.asarray(KERNEL)
    options: dict[str, Any] = {"method": method, "noise_sigma": 5e-3} if method != "wiener" else {"method": method}
    complete = gd.deconvolve(xp.asarray(BLURRED), kernel, **options)
    result = gd.deconvolve(xp.asarray(SPOILED), kernel, mask="nan", **options)
    away = ndimage.minimum_filter(MASK, 2 * 4 + 1)
    assert error(result, away) < error(complete, away) + 0.5
    assert error(result, MASK) < error(complete, MASK) + 1
    assert error(result, ~MASK) < error(complete, ~MASK) + 3.5


@in_every_method
def test_the_values_under_the_mask_do_not_matter(xp: Any, method: str) -> None:
    kernel, mask = xp.asarray(KERNEL), xp.asarray(MASK)
    given = [xp.asarray(np.where(MASK, BLURRED, value)) for value in (np.nan, 0, 1, -9999, np.inf)]
    results = [gd.deconvolve(image, kernel, method=method, mask=mask) for image in given]
    results.append(gd.deconvolve(given[0], kernel, method=method, mask="nan"))
    for result in results[1:]:
        assert_same(result, results[0])
    function = getattr(nonblind, method.replace("-", "_"))
    results = [function(image, kernel, mask=mask) for image in given]
    results.append(function(given[0], kernel, mask="nan"))
    for result in results[1:]:
        assert_same(result, results[0])


@in_every_method
def test_a_mask_of_valid_pixels_changes_nothing(xp: Any, method: str) -> None:
    image, kernel = xp.asarray(BLURRED), xp.asarray(KERNEL)
    plain = gd.deconvolve(image, kernel, method=method)
    for mask in (xp.asarray(MASK | True), "nan"):
        assert_same(gd.deconvolve(image, kernel, method=method, mask=mask), plain)
    function = getattr(nonblind, method.replace("-", "_"))
    assert_same(function(image, kernel, mask=xp.asarray(MASK | True)), function(image, kernel))


@in_every_method
def test_a_stack_is_a_loop(method: str) -> None:
    """Bit for bit, also of a complete image beside one with holes, and of one with holes beside a saturated one."""
    stack = np.stack([SPOILED, BLURRED, np.minimum(3 * BLURRED, 1)])[:, :60, :72]
    assert_batch_is_loop(lambda u: gd.deconvolve(u, KERNEL, method=method, mask="nan"), stack)
    alone = gd.deconvolve(stack[1], KERNEL, method=method)
    assert_same(gd.deconvolve(stack, KERNEL, method=method, mask="nan")[1], alone)


@pytest.mark.parametrize("method", ["sparse", "richardson-lucy"])
def test_a_field_takes_masks(xp: Any, method: str) -> None:
    complete = gd.deconvolve(xp.asarray(BLURRED), FIELD.to(xp), method=method, noise_sigma=5e-3)
    result = gd.deconvolve(xp.asarray(SPOILED), FIELD.to(xp), method=method, noise_sigma=5e-3, mask="nan")
    assert error(result, MASK) < error(complete, MASK) + 1
    assert error(result, ~MASK) < error(complete, ~MASK) + 3.5
    function = getattr(nonblind, method.replace("-", "_"))
    assert error(function(xp.asarray(SPOILED), FIELD.to(xp), mask="nan"), MASK) < error(complete, MASK) + 1


def test_a_field_in_a_stack_is_a_loop() -> None:
    stack = np.stack([SPOILED, BLURRED, np.minimum(3 * BLURRED, 1)])
    assert_batch_is_loop(lambda u: gd.deconvolve(u, FIELD, mask="nan"), stack)
    calls: list[float] = []
    nonblind.sparse(SPOILED, FIELD, mask="nan", callback=calls.append)
    assert calls == sorted(calls)
    assert calls[-1] == 1


@pytest.mark.parametrize("method", ["tv", pytest.param("sparse", marks=pytest.mark.slow)])
def test_tiles_take_their_part_of_the_mask(xp: Any, method: str) -> None:
    scene = data.camera()[:200, 100:360] / 255
    given, mask = blur(scene, KERNEL, noise_sigma=5e-3, rng=0), np.ones((192, 252), bool)
    mask[:, 100] = mask[40:48, 20:28] = mask[120:, 180:] = False  # the last is a tile without a valid pixel
    image, arrays = xp.asarray(np.where(mask, given, np.nan)), (xp.asarray(KERNEL),)
    weight = METHOD_SPECS[method].weight_rule.weight(5e-3)  # type: ignore[union-attr]
    options: dict[str, Any] = {"method": method, "mask": "nan"}
    whole = to_host(gd.deconvolve(image, *arrays, weight=weight, **options))
    parts = to_host(gd.deconvolve(image, *arrays, weight=weight, tile=70, **options))
    near = ndimage.maximum_filter(mask, 9)
    near[:10] = near[-10:] = near[:, :10] = near[:, -10:] = False
    assert np.sqrt(((whole - parts)[near] ** 2).mean()) < 2e-3
    automatic = gd.deconvolve(image, *arrays, tile=70, **options)
    assert psnr(to_host(automatic)[:100], scene[4:-4, 4:-4][:100]) > psnr(whole[:100], scene[4:-4, 4:-4][:100]) - 0.5


LARGE = data.camera()[:200, 100:360] / 255
LARGE_MASK = np.ones((192, 252), bool)
LARGE_MASK[:, 100] = LARGE_MASK[40:48, 20:28] = LARGE_MASK[120:, 180:] = False
LARGE_KERNEL_FIELD = gd.KernelField(
    np.stack([[KERNEL, KERNEL[::-1]], [KERNEL.T, KERNEL[:, ::-1]]]).copy(), shape=LARGE_MASK.shape
)


@pytest.mark.parametrize(
    ("form", "kernel", "method"),
    [
        ("color", KERNEL, "tv"),
        ("stack", KERNEL, "tv"),
        pytest.param("stack of kernels", np.stack([KERNEL, KERNEL.T]), "tv", marks=pytest.mark.slow),
        pytest.param("color", KERNEL, "epll", marks=pytest.mark.slow),
        pytest.param("color", KERNEL, "hyper-laplacian", marks=pytest.mark.slow),
        pytest.param("gray", LARGE_KERNEL_FIELD, "sparse", marks=pytest.mark.slow),
        pytest.param("color", LARGE_KERNEL_FIELD, "sparse", marks=pytest.mark.slow),
    ],
)
def test_tiles_of_colors_stacks_and_fields_equal_the_whole(form: str, kernel: Any, method: str) -> None:
    """Each image and channel with its own mask."""
    center = KERNEL if isinstance(kernel, gd.KernelField) else kernel
    one = blur(LARGE, KERNEL, noise_sigma=5e-3, rng=0)
    two = blur(LARGE[:, ::-1], center[1] if center.ndim > 2 else KERNEL, noise_sigma=5e-3, rng=1)
    masks = np.stack([LARGE_MASK, LARGE_MASK[::-1, ::-1]])
    images = np.where(masks, np.stack([one, two]), np.nan)
    options: dict[str, Any] = {"method": method, "noise_sigma": 5e-3, "mask": "nan"}
    if form == "gray":
        images, masks = images[0], masks[0]
    elif form == "color":
        images, masks = (np.moveaxis(array[[0, 1, 0]], 0, -1) for array in (images, masks))
        options["channel_axis"] = -1
    whole, parts = (gd.deconvolve(images, kernel, tile=tile, **options) for tile in (None, 70))
    axes = (0, 1) if form in ("gray", "color") else (1, 2)
    near = ndimage.maximum_filter(masks, [9 if axis in axes else 1 for axis in range(masks.ndim)])
    for axis in axes:
        near[(slice(None),) * axis + (slice(0, 10),)] = near[(slice(None),) * axis + (slice(-10, None),)] = False
    assert np.isfinite(parts).all()
    assert np.sqrt(((whole - parts)[near] ** 2).mean()) < 2e-3


# ---- what is shared by them


def test_project_on_data_leaves_out_what_is_not_valid(xp: Any) -> None:
    blurred, light = np.array([1.0, 1, 0.4, 0.4, 1]), np.array([0.7, 3, 3, 3, 0.2])
    saturated, mask = np.array([1, 1, 0, 0, 1], bool), np.array([1, 1, 1, 0, 0], bool)
    arrays = (xp.asarray(a) for a in (blurred, light, saturated, mask))
    assert_same(project_on_data(*arrays), np.array([1.0, 3, 0.4, 3, 0.2]))


@pytest.mark.slow
def test_the_solution_is_a_minimum_of_the_masked_misfit(xp: Any) -> None:
    """From two first iterates, after many passes; no step lowers it."""
    part, weight = (slice(10, 42), slice(10, 50)), 1e-3
    blurred, mask = BLURRED[part], MASK[part]
    solutions = [
        to_host(
            solve(
                xp.asarray(start), xp.asarray(KERNEL), Augmented(shrink_isotropic), weight=weight, betas=[5.0] * 3000,
                mask=xp.asarray(mask), return_padded=True,
            )
        )
        for start in (inpaint(blurred, mask), np.where(mask, blurred, 0))
    ]  # fmt: skip

    def objective(u: np.ndarray) -> float:
        reblurred = to_host(fill_unobserved(xp.asarray(np.zeros((0, 0))), xp.asarray(KERNEL), xp.asarray(u)))
        misfit = (crop(reblurred, blurred.shape) - blurred)[mask]
        gradient = np.hypot(np.roll(u, -1, 1) - u, np.roll(u, -1, 0) - u)
        return float((misfit**2).sum() / 2 + weight * gradient.sum())

    minimum, random = objective(solutions[0]), np.random.default_rng(0)
    assert abs(objective(solutions[1]) - minimum) < 1e-4
    for step in (random.normal(size=solutions[0].shape), np.ones(solutions[0].shape), -solutions[0]):
        for size in (1e-2, -1e-2):
            assert objective(solutions[0] + size * step) > minimum - 1e-4


@pytest.mark.parametrize("noise", [2.5e-3, 1e-2, 5e-2])
def test_the_noise_is_that_of_the_valid_pixels(xp: Any, noise: float) -> None:
    blurred = blur(data.camera()[:200, 100:300] / 255, KERNEL, noise_sigma=noise, rng=0)
    mask = np.ones(blurred.shape, bool)
    mask[40:100, 60:120] = mask[:, 30] = False  # a tenth, in the middle
    filled = inpaint(xp.asarray(np.where(mask, blurred, np.nan)), xp.asarray(mask))
    complete = float(noise_sigma_under(xp.asarray(blurred), xp.asarray(KERNEL)))
    assert float(noise_sigma_under(filled, xp.asarray(KERNEL), xp.asarray(mask))) == pytest.approx(complete, rel=0.2)
    everywhere = xp.asarray(mask | True)
    assert float(noise_sigma_under(xp.asarray(blurred), xp.asarray(KERNEL), everywhere)) == complete


def test_saturated_pixels_beside_holes(xp: Any) -> None:
    """A lamp of 20 times full scale, and a hole that looks like another."""
    scene = 0.5 * data.camera()[100:188, 190:300] / 255
    scene[40:42, 30:32] = 20
    light = blur(scene, KERNEL, noise_sigma=5e-3, rng=0)
    given, mask = np.minimum(light, 1), MASK & (light < 0)
    mask = MASK.copy()
    mask[50:56, 70:76] = False
    given[50:56, 70:76] = 1
    result = to_host(gd.deconvolve(xp.asarray(given), xp.asarray(KERNEL), mask=xp.asarray(mask)))
    sharp = scene[4:-4, 4:-4]
    assert result[34:39, 24:29].max() > 3
    away = ndimage.minimum_filter(mask, 9) & ~ndimage.maximum_filter(sharp > 1, 15)
    assert ((result - sharp)[away] ** 2).mean() < 5e-4
    function = nonblind.tv(
        xp.asarray(given), xp.asarray(KERNEL), saturated=xp.asarray(given >= 1), mask=xp.asarray(mask)
    )
    assert ((to_host(function) - sharp)[away] ** 2).mean() < 5e-4


def test_richardson_lucy_interpolates_what_no_valid_pixel_saw(xp: Any) -> None:
    mask = np.ones(BLURRED.shape, bool)
    mask[20:50, 40:70] = False
    result = to_host(
        gd.deconvolve(xp.asarray(BLURRED), xp.asarray(KERNEL), method="richardson-lucy", mask=xp.asarray(mask))
    )
    around = result[10:60, 30:80][mask[10:60, 30:80]]
    assert around.min() <= result[20:50, 40:70].min()
    assert result[30:40, 50:60].min() > 0.05


# ---- pictures and masks of all kinds


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float64"])
def test_dtypes_and_one_mask_for_a_stack(xp: Any, dtype: str) -> None:
    top = np.iinfo(dtype).max if dtype.startswith("u") else 1
    stack = (np.stack([BLURRED, BLURRED[::-1, ::-1]]).clip(0, 1) * top).astype(dtype)
    stack[:, ~MASK] = top
    image, kernel, mask = xp.asarray(stack), xp.asarray(KERNEL), xp.asarray(MASK)
    result = gd.deconvolve(image, kernel, mask=mask)
    assert result.dtype == dtype
    assert error(result[0] / top, MASK) < -29
    close = {"atol": 1 if top > 1 else 1e-3}
    assert_close(gd.deconvolve(image, kernel, mask=xp.stack([mask, mask])), result, **close)
    assert_close(gd.deconvolve(image[1], kernel, mask=mask), result[1], **close)


def test_channels_share_a_mask_but_not_nan(xp: Any) -> None:
    """The planes are those of gray images; NaN in one channel leaves the others valid."""
    color, kernel = np.stack([SPOILED, BLURRED, 0.5 * BLURRED], axis=-1), xp.asarray(KERNEL)
    options: dict[str, Any] = {"channel_axis": -1, "mask": "nan", "gamma": 1.5}
    result = gd.deconvolve(xp.asarray(color), kernel, **options)
    for channel in range(3):
        plane = gd.deconvolve(xp.asarray(color[..., channel]), kernel, mask="nan", gamma=1.5)
        assert_close(result[..., channel], plane, atol=1e-6 if xp is np else 1e-3)
    mask = xp.asarray(MASK)
    result = gd.deconvolve(xp.asarray(color), kernel, channel_axis=-1, mask=mask)
    for channel in range(3):
        plane = gd.deconvolve(xp.asarray(color[..., channel]), kernel, mask=mask)
        assert_close(result[..., channel], plane, atol=1e-6 if xp is np else 1e-3)


@pytest.mark.parametrize("function", [gd.deconvolve, nonblind.tv])
def test_a_masked_array_brings_its_mask(function: Any) -> None:
    masked = np.ma.masked_invalid(SPOILED)
    result = function(masked, KERNEL)
    assert isinstance(result, np.ma.MaskedArray)
    assert_same(result.mask, ~MASK)
    assert_same(result.data, function(SPOILED, KERNEL, mask="nan"))
    complete: Any = function(np.ma.MaskedArray(BLURRED), KERNEL)
    assert_same(complete.data, function(BLURRED, KERNEL))
    assert not complete.mask.any()
    assert type(function(SPOILED, KERNEL, mask="nan")) is np.ndarray


def test_a_masked_array_with_channels() -> None:
    color = np.stack([SPOILED, BLURRED, BLURRED], axis=-1)
    result: Any = gd.deconvolve(np.ma.masked_invalid(color), KERNEL, channel_axis=-1)
    assert_same(result.data, gd.deconvolve(color, KERNEL, channel_axis=-1, mask="nan"))
    assert_same(result.mask, np.isnan(color))


# ---- what is refused


ONES = MASK | True
FEW = np.zeros(MASK.shape, bool)
FEW[:8, :10] = True  # 80 of the 81 pixels of the kernel


@pytest.mark.parametrize(
    ("image", "options", "kind", "message"),
    [
        (SPOILED, {}, ValueError, "NAME must be finite, got nan at index (0, 60) (160 bad pixels); mask='nan' leaves "
         "such pixels out"),
        (SPOILED, {"mask": ONES}, ValueError, "NAME must be finite, got nan at index (0, 60) (160 bad pixels); mask & "
         "isfinite(NAME) leaves such pixels out"),
        (BLURRED, {"mask": "inf"}, ValueError, "mask must be a bool array, 'nan' or None, got 'inf'"),
        (BLURRED, {"mask": True}, TypeError, "mask must be a NumPy or CuPy array, got bool"),
        (BLURRED, {"mask": MASK.astype("uint8")}, TypeError, "mask must have dtype bool, True where NAME is valid, got "
         "uint8; mask != 0 is bool"),
        (BLURRED, {"mask": MASK[1:]}, ValueError, "mask must be like NAME, shape (80, 102), got shape (79, 102)"),
        (BLURRED, {"mask": ~ONES}, ValueError, "mask must be True at some pixel of each image, got none; True is "
         "valid, try ~mask"),
        (np.stack([BLURRED, BLURRED]), {"mask": np.stack([~ONES, ONES])}, ValueError, "mask must be True at some pixel "
         "of each image, got none in 1 of 2 planes"),
        (np.stack([BLURRED, BLURRED]), {"mask": ONES[None]}, ValueError, "mask must be like NAME, shape (2, 80, 102) "
         "or (80, 102), got shape (1, 80, 102)"),
        (BLURRED, {"mask": FEW}, ValueError, "mask must have at least as many valid pixels as the kernel, 9 x 9 = 81, "
         "got 80; crop the kernel's empty border"),
        (np.ma.MaskedArray(BLURRED, mask=~MASK), {"mask": MASK}, ValueError, "mask must be left out for a masked "
         "array, got both"),
        (np.ma.MaskedArray(SPOILED, mask=FEW), {}, ValueError, "NAME must be finite, got nan at index (0, 60) (160 bad "
         "pixels); numpy.ma.masked_invalid(NAME) masks such pixels too"),
    ],
)  # fmt: skip
def test_bad_masks_are_refused(image: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    for function, name in ((gd.deconvolve, "image"), (nonblind.tv, "blurred")):
        with pytest.raises(kind, match=re.escape(message.replace("NAME", name))):
            function(image, KERNEL, **options)


def test_a_mask_has_no_channels() -> None:
    color, mask = np.stack([BLURRED] * 3, axis=-1), np.stack([MASK] * 3, axis=-1)
    message = (
        "shape (80, 102), got shape (80, 102, 3); leave the channels out, for instance by mask.all(axis=channel_axis)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        gd.deconvolve(color, KERNEL, channel_axis=-1, mask=mask)


def test_a_mask_needs_the_unknown_boundary() -> None:
    for method in sorted({*METHODS} - {"sparse", "pnp"}):
        with pytest.raises(ValueError, match="boundary must be 'unknown' with a mask, got 'edge'; leave it out"):
            gd.deconvolve(BLURRED, KERNEL, method=method, boundary="edge", mask=MASK)
        function = getattr(nonblind, method.replace("-", "_"))
        assert "mask" in inspect.signature(function).parameters
        with pytest.raises(ValueError, match="boundary must be 'unknown' with mask, got 'wrap'; leave out one of them"):
            function(BLURRED, KERNEL, boundary="wrap", mask=MASK)
    with pytest.raises(ValueError, match="boundary must be 'unknown' with a mask, got 'wrap'"):
        gd.deconvolve(np.ma.masked_invalid(SPOILED), KERNEL, boundary="wrap")
    with pytest.raises(TypeError, match="mask is no option of unsupervised_wiener"):
        nonblind.unsupervised_wiener(BLURRED, KERNEL, mask=MASK)  # type: ignore[call-arg]
