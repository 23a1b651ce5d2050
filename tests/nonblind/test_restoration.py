"""The drop-ins: scikit-image's results on the same input, what is beyond them, what is refused; the dispatching."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import skimage
from cuda_on_cpu import device
from laws import assert_close, assert_same
from skimage import data
from skimage import restoration as reference

from gpudeblur.metrics import psnr
from gpudeblur.nonblind import scikit_image as dropin
from gpudeblur.nonblind import scikit_image_backend
from gpudeblur.numerics.arrays import to_host

ROOT = Path(__file__).parents[2]
PICTURES = [((40,), (5,)), ((37, 40), (5, 7)), ((33, 32), (1, 3)), ((24, 31), (3, 9)), ((9, 14, 15), (3, 3, 5))]
EVEN = [((39,), (4,)), ((37, 40), (4, 6)), ((12, 9, 10), (2, 3, 4))]
PLAIN: dict[str, dict[str, Any]] = {"richardson_lucy": {}, "wiener": {"balance": 0.1}, "unsupervised_wiener": {}}
QUICK: dict[str, dict[str, Any]] = {**PLAIN, "richardson_lucy": {"num_iter": 5}, "unsupervised_wiener": {"rng": 0}}
in_every_function = pytest.mark.parametrize("name", PLAIN)


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    """Even sides and transfer functions have warnings of dropin, which have tests of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "psf (has an even side|is real and has the shape)")
        yield


def case(shape: tuple[int, ...], size: tuple[int, ...], dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(sum(shape))
    psf = random.random(size)
    return random.random(shape).astype(dtype), (psf / psf.sum()).astype(dtype)


def check(result: Any, expected: np.ndarray) -> None:
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert_close(result, expected, rtol=1e-5, atol=1e-5)


def restored(name: str, *args: Any, **options: Any) -> Any:
    """The picture alone, of the one function that gives its chains as well."""
    out = getattr(dropin, name)(*args, **options)
    return out[0] if isinstance(out, tuple) else out


# ---- as scikit-image


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "size"), PICTURES)
@pytest.mark.parametrize(
    "options", [{}, {"clip": False}, {"num_iter": 3}, {"filter_epsilon": 0.4}, {"filter_epsilon": 1e-3, "clip": False}]
)
def test_richardson_lucy_matches_scikit_image(
    xp: Any, shape: tuple[int, ...], size: tuple[int, ...], dtype: str, options: dict[str, Any]
) -> None:
    image, psf = case(shape, size, dtype)
    options = {"num_iter": 20, **options}
    result = dropin.richardson_lucy(xp.asarray(image), xp.asarray(psf), **options)
    check(result, reference.richardson_lucy(image, psf, **options))


LARGE = [((12, 33), (15, 3)), ((20, 21), (41, 51)), ((7,), (20,)), ((1, 9), (3, 1))]  # sides of the psf too


@pytest.mark.parametrize(
    ("shape", "size", "dtype", "args"),
    [
        *((*sides, dtype, (count, False)) for sides in EVEN for dtype, count in (("float32", 5), ("float64", 20))),
        *((*sides, "float64", (10,)) for sides in LARGE),
    ],
)
def test_richardson_lucy_matches_scikit_image_for_even_and_large_sides(
    xp: Any, shape: tuple[int, ...], size: tuple[int, ...], dtype: str, args: tuple[Any, ...]
) -> None:
    """Their steps diverge for even sides: after many in float32 they are not even their own in float64."""
    image, psf = case(shape, size, dtype)
    result = dropin.richardson_lucy(xp.asarray(image), xp.asarray(psf), *args)
    check(result, reference.richardson_lucy(image, psf, *args))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "size"), [*PICTURES, *EVEN])
@pytest.mark.parametrize("options", [{}, {"clip": False}, {"is_real": False, "clip": False}, {"reg": True}])
def test_wiener_matches_scikit_image(
    xp: Any, shape: tuple[int, ...], size: tuple[int, ...], dtype: str, options: dict[str, Any]
) -> None:
    image, psf = case(shape, size, dtype)
    options, reference_options = dict(options), dict(options)
    if "reg" in options:
        reg = np.random.default_rng(1).random((3,) * len(shape))
        reg += np.flip(reg)  # symmetric: its transfer function is real, and reference is right
        options["reg"], reference_options["reg"] = xp.asarray(reg), reg
    result = dropin.wiener(xp.asarray(image), xp.asarray(psf), 0.05, **options)
    check(result, reference.wiener(image, psf, 0.05, **reference_options))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "size"), [((32, 40), (5, 5)), ((31, 27), (4, 3)), ((24, 24), (3, 6))])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": False, "user_params": {"threshold": 1e-3, "burnin": 3, "min_num_iter": 8}},
        {"user_params": {"max_num_iter": 17, "min_num_iter": 40}},
        {"user_params": {"burnin": 0}},
        {"reg": np.array([[0, 1.0, 0], [1, -5, 1], [0, 1, 0]])},
    ],
)
def test_unsupervised_wiener_matches_scikit_image_with_the_same_rng(
    xp: Any, shape: tuple[int, int], size: tuple[int, int], dtype: str, options: dict[str, Any]
) -> None:
    image, psf = case(shape, size, dtype)
    mine = {key: xp.asarray(value) if key == "reg" else value for key, value in options.items()}
    result, chains = dropin.unsupervised_wiener(xp.asarray(image), xp.asarray(psf), rng=3, **mine)
    expected, reference_chains = reference.unsupervised_wiener(image, psf, rng=np.random.default_rng(3), **options)
    check(result, expected)
    for name, chain in reference_chains.items():
        assert all(isinstance(value, int | float) for value in chains[name])
        np.testing.assert_allclose(chains[name], chain, rtol=2e-5)


@pytest.mark.parametrize("side", [24, 25])
def test_unsupervised_wiener_matches_on_square_whole_spectra(xp: Any, side: int) -> None:
    image, psf = case((side, side), (5, 3))
    result, _ = dropin.unsupervised_wiener(xp.asarray(image), xp.asarray(psf), is_real=False, rng=3)
    check(result, reference.unsupervised_wiener(image, psf, is_real=False, rng=3)[0])


def test_the_users_callback_sees_the_same_samples(xp: Any) -> None:
    image, psf = case((20, 25), (3, 5))
    mine: list[np.ndarray] = []
    yours: list[np.ndarray] = []
    params = {"max_num_iter": 20}
    dropin.unsupervised_wiener(
        xp.asarray(image), xp.asarray(psf), rng=0, user_params={**params, "callback": lambda x: mine.append(to_host(x))}
    )
    reference.unsupervised_wiener(image, psf, rng=0, user_params={**params, "callback": yours.append})
    np.testing.assert_allclose(mine, yours, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "bool", "float16", ">f4", ">f8", "longdouble"])
def test_dtypes_match_scikit_image(dtype: str) -> None:
    """Integers keep their values: they are not read as fractions."""
    image, psf = case((30, 31), (5, 5))
    image = (image > 0.5).astype(dtype) if dtype == "bool" else (image * 12).astype(dtype)
    check(dropin.richardson_lucy(image, psf, 4, False), reference.richardson_lucy(image, psf, 4, False))
    check(dropin.wiener(image, psf, 0.1, clip=False), reference.wiener(image, psf, 0.1, clip=False))
    options: dict[str, Any] = {"user_params": {"max_num_iter": 20}, "clip": False, "rng": 1}
    expected = reference.unsupervised_wiener(image, psf, **options)[0]
    check(restored("unsupervised_wiener", image, psf, **options), expected)


def test_read_only_views_and_fortran_order(xp: Any) -> None:
    image, psf = case((30, 34), (5, 5))
    for view in (image[::2, ::-1], np.asfortranarray(image), image.T):
        view.flags.writeable = False
        on_device = xp.asarray(view)
        for name, more in (("richardson_lucy", (4,)), ("wiener", (0.1,))):
            expected = getattr(reference, name)(view, psf, *more)
            check(getattr(dropin, name)(on_device, xp.asarray(psf), *more), expected)
        assert_same(on_device, view)


def test_a_dynamic_range_of_a_million(xp: Any) -> None:
    image, psf = case((30, 34), (5, 5))
    image[::7, ::5] *= 1e6
    with pytest.warns(UserWarning, match=r"values up to 9\.\d+e\+05: clip=True cuts the result at 1; pass clip="):
        dropin.richardson_lucy(xp.asarray(image), xp.asarray(psf), 3)
    result = dropin.richardson_lucy(xp.asarray(image), xp.asarray(psf), 10, clip=False)
    assert_close(result, reference.richardson_lucy(image, psf, 10, clip=False), rtol=1e-5, atol=1e-5 * 1e6)


# ---- where they are wrong


def transfer(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    grid = np.zeros(shape)
    grid[tuple(map(slice, kernel.shape))] = kernel
    return np.fft.rfftn(np.roll(grid, [-(s // 2) for s in kernel.shape], range(len(shape))))


def asymmetric() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sharp, psf, blurred, periodic)."""
    sharp, psf = data.camera()[100:164, 200:272] / 255, np.zeros((7, 7))
    psf[0, 2:], psf[1:5, 6] = 1, 2
    psf /= psf.sum()
    return sharp, psf, np.fft.irfft2(np.fft.rfft2(sharp) * transfer(psf, sharp.shape), sharp.shape)


def test_issue_7363_a_complex_transfer_function_is_used_whole(xp: Any) -> None:
    sharp, psf, blurred = asymmetric()
    otf = transfer(psf, sharp.shape)
    result = to_host(dropin.wiener(xp.asarray(blurred), xp.asarray(otf), 1e-6))
    assert_close(result, reference.wiener(blurred, psf, 1e-6), atol=1e-8)
    assert psnr(result, sharp) > 40 > 20 > psnr(reference.wiener(blurred, otf, 1e-6), sharp)
    both = (dropin.unsupervised_wiener(xp.asarray(blurred), xp.asarray(k), rng=0)[0] for k in (psf, otf))
    assert_close(*both, atol=1e-8)


def test_issue_7363_a_real_transfer_function_warns() -> None:
    image, psf = case((20, 24), (3, 3))
    psf = (psf + psf[::-1, ::-1]) / 2
    otf = transfer(psf, image.shape)
    with pytest.warns(UserWarning, match=r"psf is real and has the shape of a transfer function, \(20, 13\): it"):
        result = dropin.wiener(image, otf.real, 0.1)
    check(result, reference.wiener(image, otf.real, 0.1))
    check(result, reference.wiener(image, otf, 0.1))
    check(result, dropin.wiener(image, psf, 0.1))


@pytest.mark.parametrize("reg", [np.array([[1.0, -1]]), np.array([[0, 0, 0], [0, 1, -1], [0, 0, 0.0]])])
def test_issue_7363_a_lopsided_reg_is_what_the_formula_says(xp: Any, reg: np.ndarray) -> None:
    sharp, psf, blurred = asymmetric()
    otf, penalty = transfer(psf, sharp.shape), transfer(reg, sharp.shape)
    quotient = otf.conj() * np.fft.rfft2(blurred) / (abs(otf) ** 2 + 0.1 * abs(penalty) ** 2)
    formula = np.fft.irfft2(quotient, sharp.shape)
    for given in (reg, penalty):
        result = dropin.wiener(xp.asarray(blurred), xp.asarray(psf), 0.1, xp.asarray(given), clip=False)
        assert_close(result, formula, atol=1e-10)
    assert np.abs(reference.wiener(blurred, psf, 0.1, reg, clip=False) - formula).max() > 0.01


@pytest.mark.parametrize(("shape", "is_real", "factor"), [((33, 64), True, 2), ((24, 64), False, 0.0164)])
def test_the_chains_know_half_a_spectrum_from_a_whole_one(shape: tuple[int, int], is_real: bool, factor: float) -> None:
    """The noise is the added one; scikit-image is off by two for a square half, and far off for a non-square whole."""
    ramp = np.cos(np.arange(shape[1]) * np.pi / 16)[None, :] * np.ones(shape)
    image = ramp + np.random.default_rng(0).normal(0, 0.1, shape)
    params = {"max_num_iter": 150, "min_num_iter": 140}
    result, expected = (
        np.mean(m.unsupervised_wiener(image, np.ones((1, 1)), None, params, is_real, False, rng=0)[1]["noise"][80:])
        for m in (dropin, reference)
    )
    assert expected / result == pytest.approx(factor, rel=0.1)
    assert result == pytest.approx(100, rel=0.3)


def test_even_sides_diverge_with_a_warning_without_a_boundary(xp: Any) -> None:
    scene = data.camera()[100:220, 200:310] / 255
    psf = np.ones((8, 8)) / 64
    blurred = scipy.signal.convolve(scene, psf, mode="same")
    with pytest.warns(UserWarning, match=r"psf has an even side \(8 x 8\): .* pad it in front with one zero, or"):
        wrong = dropin.richardson_lucy(xp.asarray(blurred), xp.asarray(psf), 100, False)
    padded = np.pad(psf, ((1, 0), (1, 0)))
    middle = (slice(15, -15), slice(15, -15))
    odd = dropin.richardson_lucy(xp.asarray(blurred), xp.asarray(padded), 100, False)
    right = dropin.richardson_lucy(xp.asarray(blurred), xp.asarray(psf), 100, False, boundary="unknown")
    quality = [psnr(to_host(x)[middle], scene[middle]) for x in (wrong, odd, right)]
    assert quality[2] > quality[0] + 5
    assert quality[1] > quality[0] + 1


# ---- beyond


@in_every_function
@pytest.mark.parametrize("boundary", [None, "wrap", "edge"])
def test_channels_and_stacks_are_as_one_by_one(xp: Any, name: str, boundary: str | None) -> None:
    random = np.random.default_rng(0)
    stack, psfs = random.random((2, 20, 25, 3)), random.random((2, 3, 5))
    psfs /= psfs.sum(axis=(1, 2), keepdims=True)

    def call(image: np.ndarray, psf: np.ndarray, **options: Any) -> np.ndarray:
        image, psf = (xp.asarray(np.ascontiguousarray(a)) for a in (image, psf))
        return to_host(restored(name, image, psf, boundary=boundary, **QUICK[name], **options))

    each = np.array([[call(stack[i, ..., c], psfs[i]) for c in range(3)] for i in range(2)])
    one = np.array([[call(stack[i, ..., c], psfs[0]) for c in range(3)] for i in range(2)])
    assert_close(call(stack, psfs, channel_axis=-1, batch=1), np.moveaxis(each, 1, -1), atol=1e-10)
    assert_close(call(stack, psfs[0], channel_axis=-1, batch=1), np.moveaxis(one, 1, -1), atol=1e-10)
    assert_close(call(stack[0], psfs[0], channel_axis=2), np.moveaxis(one[0], 0, -1), atol=1e-10)
    assert_close(call(np.moveaxis(stack[0], -1, 1), psfs[0], channel_axis=1), np.moveaxis(one[0], 0, 1), atol=1e-10)
    assert_close(call(stack[..., 0], psfs, batch=1), each[:, 0], atol=1e-10)
    assert_close(call(np.moveaxis(stack, -1, 0), psfs[0], batch=2), np.moveaxis(one, 1, 0), atol=1e-10)


def test_the_chains_of_a_stack_have_a_number_a_plane() -> None:
    image, psf = case((20, 24), (3, 3))
    stack = np.stack([image, image.T[:20, :20].repeat(2, 1)[:, :24]])
    chains = dropin.unsupervised_wiener(stack, psf, rng=0, batch=1)[1]
    alone = dropin.unsupervised_wiener(image, psf, rng=0)[1]
    assert chains["noise"][-1].shape == (2,)
    np.testing.assert_allclose([value[0] for value in chains["noise"][1 : len(alone["noise"])]], alone["noise"][1:])


@pytest.mark.parametrize(
    ("function", "least", "more"),
    [
        ("richardson_lucy", 20, {"num_iter": 30}),
        ("wiener", 20, {"balance": 1e-3}),
        ("unsupervised_wiener", 15, {"rng": 0}),
    ],
)
def test_a_boundary_repairs_the_borders(xp: Any, function: str, least: int, more: dict[str, Any]) -> None:
    scene = data.camera()[60:188, 150:290] / 255
    psf = np.zeros((11, 11))
    psf[:, 3], psf[10, 3:] = 1, 1
    psf /= psf.sum()
    blurred = scipy.signal.convolve(scene, psf, mode="valid")
    true, border = scene[5:-5, 5:-5], np.ones(blurred.shape, bool)
    border[15:-15, 15:-15] = False
    result = {}
    for boundary in (None, "wrap", "reflect", "edge", "unknown"):
        if function == "unsupervised_wiener" and boundary == "unknown":
            continue
        out = restored(function, xp.asarray(blurred), xp.asarray(psf), boundary=boundary, **more)
        result[boundary] = psnr(to_host(out)[border], true[border])
    assert min(result["reflect"], result["edge"]) > max(result[None], result["wrap"]) + 4
    assert result["edge"] > least
    if "unknown" in result:
        assert result["unknown"] > result["reflect"]
        assert result["unknown"] > psnr(blurred[border], true[border])
    if function != "richardson_lucy":
        assert result[None] == result["wrap"]


@pytest.mark.filterwarnings("ignore:psf sums to 4, and is not scaled:UserWarning")
@pytest.mark.parametrize("boundary", ["wrap", "reflect", "edge"])
def test_boundaries_in_one_and_three_axes_and_a_psf_of_any_sum(xp: Any, boundary: str) -> None:
    options: dict[str, Any] = {"clip": False, "boundary": boundary}
    for shape, size in (((40,), (5,)), ((9, 14, 15), (3, 2, 5))):
        image = 0.2 + 0.5 * case(shape, size)[0]
        for scale in (1, 4):
            arrays = xp.asarray(image), xp.asarray(case(shape, size)[1] * scale)
            outs = dropin.richardson_lucy(*arrays, 5, **options), dropin.wiener(*arrays, 0.5 * scale**2, **options)
            for out in outs:
                assert out.shape == shape
                np.testing.assert_allclose(float(out.mean()) * scale, image.mean(), rtol=0.05)


def test_without_a_rng_the_result_is_as_good(xp: Any) -> None:
    _, psf, blurred = asymmetric()
    blurred += np.random.default_rng(0).normal(0, 0.01, blurred.shape)
    for dtype in (np.float32, np.float64):
        u, k = xp.asarray(blurred.astype(dtype)), xp.asarray(psf.astype(dtype))
        free, given = (to_host(dropin.unsupervised_wiener(u, k, rng=rng)[0]) for rng in (None, 0))
        assert free.dtype == dtype
        assert psnr(free, given) > 30


@pytest.mark.parametrize("boundary", [None, pytest.param("unknown", marks=pytest.mark.slow), "edge", "wrap"])
def test_the_device_path_on_a_device_of_numpy(request: pytest.FixtureRequest, boundary: str | None) -> None:
    """No implicit conversion, nothing mixed, and no waiting but for the checks and new plans."""
    pytest.importorskip("cupy", reason="gpudeblur.numerics.device needs it; no GPU is needed")
    cpu_kernel = request.getfixturevalue("cpu_kernel")
    image, psf = case((24, 31), (5, 3), np.float32)
    stack = np.stack([image, image[::-1]])
    for name, more in {**QUICK, "richardson_lucy": {"num_iter": 4, "filter_epsilon": 0.1}}.items():
        if boundary == "unknown" and name == "unsupervised_wiener":
            continue
        options = {"batch": 1, "boundary": boundary, **more}
        expected = restored(name, stack, psf, **options)
        with device.installed(cpu_kernel) as cupy:
            cupy.random = type("random", (), {"Generator": type("Generator", (), {})})
            result = restored(name, cupy.asarray(stack), cupy.asarray(psf), **options)
            waits = device.counts["waits"] - device.counts["plans"]  # each new plan waits once, for its tables
            np.testing.assert_allclose(result.get(), expected, rtol=1e-5, atol=1e-6)
        assert name == "unsupervised_wiener" or waits <= 8


# ---- refused


IMAGE, PSF = case((20, 24), (5, 5))
TOO_LARGE = "psf must not exceed the picture, got 5 x 5 for a picture of 4"
NO_SAMPLE = "user_params must have a max_num_iter of at least burnin + 2, got 16 and a burnin of 15; no sample is left"
WRONG_VALUES: list[tuple[Any, Any, dict[str, Any], str]] = [
    (IMAGE, np.zeros((3, 3)), {}, "psf must "),
    (IMAGE, PSF + np.nan, {}, "psf must be finite, got nan at index (0, 0) (25 bad pixels); set "),
    (IMAGE * np.inf, PSF, {}, "image must be finite, got inf at index (0, 0) (480 bad pixels); inpaint it"),
    (IMAGE, PSF[0], {}, "psf must have the 2 axes of the picture, got 1 (shape (5,)) for an image"),
    (IMAGE, PSF[None], {}, "psf must have the 2 axes of the picture, got 3 (shape (1, 5, 5)) for an image"),
    (IMAGE[:0], PSF, {}, "image must not be empty, got shape (0, 24); every side must be at least 1"),
    (IMAGE, PSF[:, :0], {}, "psf must not be empty, got shape (5, 0); every side must be at least 1"),
    (np.zeros((20, 24, 0)), PSF, {"channel_axis": -1}, "image must not be empty, got shape (20, 24, 0)"),
    (IMAGE, PSF, {"boundary": "mirror"}, "boundary must be one of "),
    (IMAGE, PSF, {"channel_axis": 2}, "channel_axis must be between -2 and 1, got 2; use -1 for (M, N, C)"),
    (IMAGE, PSF, {"batch": 2}, "batch must leave image an axis of space, got 2 for shape (20, 24)"),
    (IMAGE, PSF, {"batch": -1}, "batch must be at least 0, got -1; it is the number of leading axes"),
]
WRONG_TYPES: list[tuple[Any, Any, dict[str, Any], str]] = [
    (IMAGE + 0j, PSF, {}, "image must have an integer or float dtype, got complex128; convert it"),
    (IMAGE.astype(object), PSF, {}, "image must have an integer or float dtype, got object"),
    (IMAGE, PSF.astype(str), {}, "psf must have a real or complex dtype, got <U"),
    (IMAGE.tolist(), PSF, {}, "image must be a NumPy or CuPy array, got list; convert it with"),
    (IMAGE, None, {}, "psf must be a NumPy or CuPy array, got NoneType"),
    (IMAGE, PSF, {"channel_axis": 1.0}, "channel_axis must be an integer, got 1.0 (float)"),
    (IMAGE, PSF, {"batch": "1"}, "batch must be an integer, got '1' (str); round it"),
]


@in_every_function
@pytest.mark.parametrize(("kind", "cases"), [(ValueError, WRONG_VALUES), (TypeError, WRONG_TYPES)])
def test_what_every_function_refuses(name: str, kind: type[Exception], cases: list[Any]) -> None:
    for image, psf, options, message in cases:
        with pytest.raises(kind, match=re.escape(message)):
            getattr(dropin, name)(image, psf, **PLAIN[name], **options)


@in_every_function
def test_a_negative_psf_and_values_that_clip_cuts_are_warned_of(name: str) -> None:
    psf, bright = PSF - 0.3 * PSF.max(), np.full((12, 12), 200, np.uint8)
    psf[2, 2] += 1
    psf /= psf.sum()
    function, options = getattr(dropin, name), PLAIN[name]
    with pytest.warns(UserWarning, match=r"psf has negative values, down to -0\.0\d+: no blur has; cut them off"):
        function(IMAGE, psf, **options)
    with pytest.warns(UserWarning, match="image has values up to 200: clip=True cuts the result at 1; pass clip="):
        function(bright, PSF, **options)
    function(bright, PSF, **options, clip=False)


@in_every_function
def test_the_sum_the_floor_and_the_origin_of_a_psf_are_warned_of(name: str) -> None:
    image = np.random.default_rng(0).random((40, 40))
    function, options = getattr(dropin, name), PLAIN[name]
    psf = np.pad(np.outer([1.0, 2, 1], [1.0, 2, 1]), 6) / 16
    with pytest.warns(
        UserWarning, match=r"^psf sums to 2, and is not scaled, as in scikit-image: .* psf / psf\.sum\(\)"
    ):
        function(image, 2 * psf, **options)
    with pytest.warns(UserWarning, match=r"^psf has its values around its corners, .*numpy\.fft\.fftshift\(psf\) puts"):
        function(image, np.fft.ifftshift(psf), **options)
    counts = (psf + 0.01) / (psf + 0.01).sum()
    with pytest.warns(
        UserWarning, match=r'^psf has a floor, .*; if it is the offset of the camera or the sky, give floor="a'
    ):
        function(image, counts, **options)
    with pytest.warns(UserWarning, match=r"^psf sums to 0\.\d+, and is not scaled"):
        function(image, counts, **options, floor="auto")
    with pytest.raises(TypeError, match=r"^floor must be a number, got 'x' \(str\)"):
        function(image, psf, **options, floor="x")


def test_a_volume_without_its_floor() -> None:
    volume = np.random.default_rng(0).random((9, 20, 20))
    psf = np.pad(np.ones((3, 3, 3)) / 27, ((1, 1), (3, 3), (3, 3)))
    expected = dropin.richardson_lucy(volume, psf, 5)
    for floor in ("auto", 0.001):
        assert_close(dropin.richardson_lucy(volume, psf + 0.001, 5, floor=floor), expected)
    with pytest.warns(UserWarning, match=r"^psf has a floor"), pytest.warns(UserWarning, match=r"^psf sums to 1\."):
        dropin.richardson_lucy(volume, psf + 0.001, 5)


@pytest.mark.parametrize("boundary", [None, "unknown", "edge", "wrap"])
def test_negative_values_of_richardson_lucy(xp: Any, boundary: str | None) -> None:
    image, psf = 0.2 + 0.6 * case((20, 24), (3, 3))[0], case((20, 24), (3, 3))[1]
    options: dict[str, Any] = {"clip": False, "boundary": boundary}
    message = (
        r"^image has negative values, down to -0\.\d+, .*; give offset=0\.\d+ or more, which is added before and sub"
    )
    with pytest.warns(UserWarning, match=message):
        dropin.richardson_lucy(xp.asarray(image - 0.5), xp.asarray(psf), 5, **options)
    expected = dropin.richardson_lucy(xp.asarray(image), xp.asarray(psf), 5, **options)
    result = dropin.richardson_lucy(xp.asarray(image - 0.5), xp.asarray(psf), 5, offset=0.5, **options)
    assert_close(to_host(result), to_host(expected) - 0.5, atol=1e-9)
    with pytest.raises(ValueError, match=r"^offset must be at least 0, and finite, got -1"):
        dropin.richardson_lucy(image, psf, offset=-1)


@pytest.mark.parametrize(
    ("name", "args", "options", "kind", "message"),
    [
        ("richardson_lucy", (IMAGE, PSF, 0), {}, ValueError, "num_iter must be at least 1, got 0; 30 is usual"),
        ("richardson_lucy", (IMAGE, PSF, 2.5), {}, TypeError, "num_iter must be an integer, got 2.5 (float); round it"),
        ("richardson_lucy", (IMAGE, PSF + 0j), {}, TypeError, "psf must have an integer or float dtype, got"),
        ("richardson_lucy", (IMAGE, -PSF), {}, ValueError, "psf must have a positive sum, got -1; a blur keeps"),
        ("richardson_lucy", (IMAGE[:4], PSF), {"boundary": "wrap"}, ValueError, "psf must not exceed the picture"),
        ("wiener", (IMAGE[:4], PSF, 0.1), {}, ValueError, TOO_LARGE),
        ("unsupervised_wiener", (IMAGE[:4], PSF), {}, ValueError, TOO_LARGE),
        ("wiener", (IMAGE, PSF, "much"), {}, TypeError, "balance must be a number, got 'much' (str)"),
        ("wiener", (IMAGE, PSF + 0j, 1), {}, ValueError, "psf must have the shape of a transfer function, (20, 13)"),
        ("wiener", (IMAGE, PSF, 1, PSF + 0j), {}, ValueError, "reg must have the shape of a transfer function, (20,"),
        ("wiener", (IMAGE, PSF, 1, PSF[0]), {}, ValueError, "reg must have the 2 axes of the picture and fit into it"),
        ("wiener", (IMAGE, PSF, 1), {"is_real": False, "boundary": "edge"}, ValueError, "boundary must be None or"),
        ("unsupervised_wiener", (IMAGE[0], PSF[0]), {}, ValueError, "image must have 2 axes of space, (M, N), got 1"),
        ("unsupervised_wiener", (IMAGE, PSF), {"boundary": "unknown"}, ValueError, "one of 'wrap', 'reflect', 'edge'"),
        ("unsupervised_wiener", (IMAGE, PSF, None, {"max_num_iter": 16}), {}, ValueError, NO_SAMPLE),
    ],
)
def test_what_one_function_refuses(
    name: str, args: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        getattr(dropin, name)(*args, **options)


def test_user_params_that_do_not_exist_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="user_params has no max_iter: ignored; it has burnin, callback, max_num_iter"):
        dropin.unsupervised_wiener(IMAGE, PSF, user_params={"max_iter": 5})


# ---- dispatching


def test_the_configuration_names_the_backend() -> None:
    import tomllib

    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["skimage_backends"] == {"gpudeblur": scikit_image_backend.__name__}
    assert points["skimage_backend_infos"] == {"gpudeblur": f"{scikit_image_backend.__name__}:information"}


def test_which_functions_scikit_image_dispatches() -> None:
    """0.26 asks for two metrics only; when this fails, the deconvolution may have come, and the text must follow."""
    version = importlib.metadata.version("scikit-image")
    if not version.startswith("0.26."):
        pytest.skip(f"scikit-image is {version}")
    package = Path(skimage.__file__).parent
    asked = {
        (str(path.relative_to(package)), name)
        for path in package.rglob("*.py")
        for name in re.findall(r"^@dispatchable\ndef (\w+)", path.read_text(), re.MULTILINE)
    }
    file = os.path.join("metrics", "simple_metrics.py")
    assert asked == {(file, "mean_squared_error"), (file, "normalized_root_mse")}


DISPATCHED = """
import sys, types, warnings
import numpy as np
class ndarray(np.ndarray):
    def __array_function__(self, function, types, args, kwargs): raise TypeError("Implicit conversion")
cupy = types.ModuleType("cupy")
cupy.ndarray = ndarray
sys.modules["cupy"] = cupy
import skimage.metrics
from skimage.util import _backends
assert "gpudeblur" in _backends.all_backends(), _backends.all_backends()
assert not {"torch", "cupyx"} & {*sys.modules}
random = np.random.default_rng(0)
a, b = random.random((2, 9, 7))
with warnings.catch_warnings():
    warnings.simplefilter("error")
    expected = [skimage.metrics.mean_squared_error(a, b)]
    expected += [skimage.metrics.normalized_root_mse(a, b, normalization=n) for n in ("euclidean", "min-max", "mean")]
with warnings.catch_warnings(record=True) as calls:
    warnings.simplefilter("always")
    x, y = a.view(ndarray), b.view(ndarray)
    result = [skimage.metrics.mean_squared_error(x, y)]
    result += [skimage.metrics.normalized_root_mse(x, y, normalization=n) for n in ("euclidean", "min-max", "mean")]
np.testing.assert_allclose(result, expected, rtol=1e-12)
assert len(calls) == 4 and "dispatched to the 'gpudeblur' backend" in str(calls[0].message), calls
# The deconvolution as a later scikit-image may have it: marked.
from skimage.restoration import deconvolution
from gpudeblur.nonblind import scikit_image
calls = []
scikit_image.richardson_lucy = lambda *args, **kwargs: calls.append((args, kwargs)) or "dropin"
marked = _backends.dispatchable(deconvolution.richardson_lucy)
assert marked(a, np.ones((3, 3)) / 9, num_iter=2).shape == a.shape and not calls
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert marked(x, y, num_iter=2) == "dropin" and calls[0][1] == {"num_iter": 2}
print("done")
"""


@pytest.mark.slow
def test_scikit_image_hands_cupy_arrays_over_and_keeps_numpys(tmp_path: Path) -> None:
    """By the entry points of this tree, put where an installation puts them."""
    info = tmp_path / "gpudeblur_tree-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpudeblur-tree\nVersion: 0\n")
    name = scikit_image_backend.__name__
    (info / "entry_points.txt").write_text(
        f"[skimage_backends]\ngpudeblur = {name}\n[skimage_backend_infos]\ngpudeblur = {name}:information\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment.pop("SKIMAGE_NO_DISPATCHING", None)
    done = subprocess.run(
        [sys.executable, "-c", DISPATCHED], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "done", done.stderr


def test_the_backend_wants_cupy_arrays_only(xp: Any) -> None:
    u = xp.ones((3, 3))
    assert scikit_image_backend.can_has("skimage.restoration:wiener", u, u, balance=1) is (xp is not np)
    assert scikit_image_backend.can_has("skimage.restoration:wiener", image=u, psf=u, balance=1) is (xp is not np)
    assert scikit_image_backend.get_implementation("skimage.restoration:wiener") is dropin.wiener
    with pytest.raises(ValueError, match="images must have the same dimensions, got "):
        scikit_image_backend.mean_squared_error(u, u[:2])
    with pytest.raises(ValueError, match="normalization must be 'euclidean', 'min-max' or 'mean', got 'max'"):
        scikit_image_backend.normalized_root_mse(u, u, normalization="max")


@pytest.mark.slow
def test_the_import_loads_no_heavy_library() -> None:
    code = "import sys, gpudeblur.nonblind.scikit_image; print({'torch', 'cupy', 'cupyx', 'skimage'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
