"""The whole method through its public functions: what it recovers, and what it promises about its input and output."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur import TwoStepOptions
from gpudeblur.blind import alternation, schedule, two_step
from gpudeblur.blind.confidence import blend_weight, result_signals
from gpudeblur.blind.options import STARTS
from gpudeblur.metrics import kernel_similarity, psnr, scores
from gpudeblur.nonblind import final as nonblind
from gpudeblur.nonblind.final import FINALS
from gpudeblur.numerics import chunks
from gpudeblur.numerics.arrays import to_host
from gpudeblur.priors import L0Intensity
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
CAMERA = data.camera() / 255
ASTRONAUT = data.astronaut() / 255
# Fast where a test is not about quality.
QUICK = TwoStepOptions(iterations=2, finest_iterations=2, kernel_iterations=10, starts=("wide",))


@functools.cache
def _blurred(size: int, colour: bool) -> np.ndarray:
    kernel = trajectory_kernel(9, rng=3)
    if colour:
        planes = np.moveaxis(ASTRONAUT[60 : 68 + size, 200 : 208 + size], -1, 0)
        return np.moveaxis(blur(planes, kernel), 0, -1)
    return blur(CAMERA[100 : 108 + size, 180 : 188 + size], kernel)


def photo(size: int = 64, *, colour: bool = False, dtype: str = "float32") -> np.ndarray:
    """A small blurred picture, (size, size) or (size, size, 3), a fresh copy."""
    u = _blurred(size, colour)
    if np.dtype(dtype).kind == "u":
        u = np.round(np.clip(u, 0, 1) * np.iinfo(dtype).max)
    return u.astype(dtype)


def stack_of(n: int = 3, size: int = 48) -> np.ndarray:
    """Different pictures of one size; the second is constant."""
    kernel = trajectory_kernel(9, rng=3)
    corners = [(100 + 30 * i, 150 + 40 * i) for i in range(n)]
    pictures = [blur(CAMERA[y : y + size + 8, x : x + size + 8], kernel) for y, x in corners]
    pictures[1] = np.full((size, size), 0.5)
    return np.stack(pictures).astype(np.float32)


def check_kernel(kernel: Any, shape: tuple[int, ...]) -> None:
    kernel = to_host(kernel)
    assert kernel.shape == shape
    assert kernel.dtype.kind == "f"
    assert (kernel >= 0).all()
    np.testing.assert_allclose(kernel.sum((-2, -1)), 1, rtol=1e-5)


# ---- what it recovers


@pytest.mark.parametrize(
    ("at", "kernel"),
    [((100, 180), KERNEL), ((60, 130), trajectory_kernel(11, rng=5)), ((100, 180), linear_kernel(7, 30, 11))],
)
def test_a_known_blur_is_found_and_undone(xp: Any, at: tuple[int, int], kernel: np.ndarray) -> None:
    (y, x), size = at, 160
    scene = CAMERA[y : y + size, x : x + size]
    blurred, true = blur(scene, kernel), scene[5:-5, 5:-5]
    result = gd.deblur(xp.asarray(blurred), 13)
    assert isinstance(result.image, xp.ndarray)
    assert isinstance(result.kernel, xp.ndarray)
    check_kernel(result.kernel, (13, 13))
    assert kernel_similarity(result.kernel, kernel) > 0.85
    assert scores(result.image, true).psnr > scores(blurred, true).psnr + 3


def test_in_colour(xp: Any) -> None:
    scene = np.moveaxis(ASTRONAUT[:170, 130:300], -1, 0)
    blurred, true = np.moveaxis(blur(scene, KERNEL), 0, -1), scene[:, 5:-5, 5:-5]
    result = gd.deblur(xp.asarray(blurred), 13, channel_axis=-1)
    assert kernel_similarity(result.kernel, KERNEL) > 0.8
    for plane in range(3):
        before, after = (scores(image[..., plane], true[plane]).psnr for image in (blurred, result.image))
        assert after > before + 1


def test_a_rectangular_kernel(xp: Any) -> None:
    """(height, width): a horizontal line fits into 5 x 15."""
    line = linear_kernel(9, 0, 9)
    blurred = blur(CAMERA[100:220, 180:310], line)
    kernel = gd.estimate_kernel(xp.asarray(blurred), (5, 15))
    check_kernel(kernel, (5, 15))
    assert kernel_similarity(kernel, line) > 0.8
    turned = gd.estimate_kernel(xp.asarray(np.ascontiguousarray(blurred.T)), (15, 5))
    check_kernel(turned, (15, 5))
    assert kernel_similarity(turned, line.T) > 0.8


def test_noise_is_survived(xp: Any) -> None:
    blurred = blur(CAMERA[100:260, 180:340], KERNEL, noise_sigma=0.01, rng=0)
    assert kernel_similarity(gd.estimate_kernel(xp.asarray(blurred), 13), KERNEL) > 0.8


def test_the_pieces_make_the_whole(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """deblur = estimate_kernel, then deconvolve with what it found (all of it, where one is not cautious or wary).

    In double precision: under the small weight of a picture without noise, the kernel's rounding in float32 shows.
    """
    u, options = xp.asarray(photo(colour=True)), dataclasses.replace(QUICK, cautious=False, dtype="float64")
    monkeypatch.setattr(nonblind, "KERNEL_ERROR", 0.0)
    for final, more in FINALS.items():
        result = gd.deblur(u, 11, channel_axis=-1, final=final, options=options)
        assert_same(result.kernel, gd.estimate_kernel(u, 11, channel_axis=-1, options=options))
        sharp = gd.deconvolve(u, result.kernel, method=final, channel_axis=-1, dtype="float64", **more)
        assert_close(result.image, sharp, atol=1e-4)


def test_all_restorations_differ(xp: Any) -> None:
    u, options = xp.asarray(photo()), dataclasses.replace(QUICK, cautious=False)
    images = {final: gd.deblur(u, 11, options=options, final=final).image for final in FINALS}
    for first, second in itertools.combinations(images.values(), 2):
        assert float(abs(first - second).max()) > 0.01
    assert_same(gd.deblur(u, 11, options=options).image, images["sparse"])  # the default


# ---- stacks


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stack_equals_a_loop(xp: Any, dtype: str) -> None:
    """Bit for bit on NumPy. One of its pictures is constant, and disturbs nobody."""
    stack, options = xp.asarray(stack_of()), TwoStepOptions(dtype=dtype)
    result = gd.deblur(stack, 9, options=options)
    assert result.image.shape == stack.shape
    check_kernel(result.kernel, (3, 9, 9))
    for i in range(3):
        alone = gd.deblur(stack[i], 9, options=options)
        if xp is np:
            assert_same(result.kernel[i], alone.kernel)
            assert_same(result.image[i], alone.image)
            for name in ("confidence", "border_mass", "spectral_match", "gradient_gain", "residual"):
                assert result.info[name][i] == alone.info[name]
        else:  # sums in another order; thresholds make more of it
            assert kernel_similarity(result.kernel[i], alone.kernel) > 0.99
    assert_close(result.image[1], stack[1], atol=1e-4)


def test_a_stack_of_stacks_in_gray(xp: Any) -> None:
    stack = xp.asarray(stack_of(4)).reshape(2, 2, 48, 48)
    result = gd.deblur(stack, 9, options=QUICK)
    flat = gd.deblur(stack.reshape(4, 48, 48), 9, options=QUICK)
    check_kernel(result.kernel, (2, 2, 9, 9))
    assert_close(result.kernel.reshape(4, 9, 9), flat.kernel, atol=1e-6)
    assert_close(result.image.reshape(4, 48, 48), flat.image, atol=1e-5)


def test_a_stack_in_colour(xp: Any) -> None:
    stack = xp.asarray(np.stack([photo(48, colour=True), photo(48, colour=True)[::-1, :, ::-1]]))
    result = gd.deblur(stack, 9, channel_axis=-1, options=QUICK)
    check_kernel(result.kernel, (2, 9, 9))
    for i in range(2):
        alone = gd.deblur(stack[i], 9, channel_axis=-1, options=QUICK)
        close = assert_same if xp is np else functools.partial(assert_close, atol=1e-5)
        close(result.kernel[i], alone.kernel)
        close(result.image[i], alone.image)


def test_deconvolve_takes_one_kernel_or_one_a_picture(xp: Any) -> None:
    stack = xp.asarray(stack_of())
    kernels = xp.asarray(np.stack([trajectory_kernel(9, rng=i) for i in range(3)]))
    each, shared = gd.deconvolve(stack, kernels), gd.deconvolve(stack, kernels[2])
    for i in range(3):
        assert_close(each[i], gd.deconvolve(stack[i], kernels[i]), atol=1e-5)
        assert_close(shared[i], gd.deconvolve(stack[i], kernels[2]), atol=1e-5)
    colour = xp.asarray(np.stack([photo(48, colour=True)] * 3))
    out = gd.deconvolve(colour, kernels, channel_axis=-1)
    assert_close(out[1, ..., 2], gd.deconvolve(colour[1, ..., 2], kernels[1]), atol=1e-5)


# ---- in and out


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_the_dtype_that_came_goes_back(xp: Any, dtype: str) -> None:
    u = photo(dtype=dtype)
    result = gd.deblur(xp.asarray(u), 11, options=QUICK)
    assert result.image.dtype == dtype
    assert result.image.shape == u.shape
    assert result.kernel.dtype == np.float32
    kernel = xp.asarray(trajectory_kernel(9, rng=3))
    sharp = to_host(gd.deconvolve(xp.asarray(u), kernel))
    assert sharp.dtype == dtype
    top = np.iinfo(dtype).max if u.dtype.kind == "u" else 1
    expected = np.clip(to_host(gd.deconvolve(xp.asarray(photo(dtype="float64")), kernel)), 0, 1)
    assert psnr(np.clip(sharp.astype(float) / top, 0, 1), expected) > 40


def test_floats_are_not_clipped(xp: Any) -> None:
    u = xp.asarray(photo() * 3 - 1)
    out = gd.deconvolve(u, xp.asarray(trajectory_kernel(9, rng=3)))
    assert float(out.min()) < -0.9
    assert float(out.max()) > 1.2


def test_the_precision_is_that_of_the_options(xp: Any) -> None:
    u = xp.asarray(photo(dtype="float64"))
    single, double = (gd.deblur(u, 11, options=dataclasses.replace(QUICK, dtype=d)) for d in ("float32", "float64"))
    assert (single.kernel.dtype, double.kernel.dtype) == (np.float32, np.float64)
    assert (single.info["dtype"], double.info["dtype"]) == ("float32", "float64")
    assert single.image.dtype == double.image.dtype == np.float64
    kernel = xp.asarray(trajectory_kernel(9, rng=3))
    single, double = (gd.deconvolve(u, kernel, dtype=d) for d in ("float32", "float64"))
    assert 0 < float(abs(single - double).max()) < 1e-3


@pytest.mark.parametrize(("axis", "moved"), [(-1, 2), (2, 2), (0, 0), (1, 1)])
def test_the_channels_may_be_anywhere(xp: Any, axis: int, moved: int) -> None:
    u = photo(colour=True)
    expected = gd.deblur(xp.asarray(u), 11, channel_axis=-1, options=QUICK)
    turned = np.ascontiguousarray(np.moveaxis(u, -1, moved))
    result = gd.deblur(xp.asarray(turned), 11, channel_axis=axis, options=QUICK)
    assert_same(result.kernel, expected.kernel)
    assert_same(result.image, np.moveaxis(to_host(expected.image), -1, moved))


def test_a_gray_picture_with_a_channel_is_the_gray_picture(xp: Any) -> None:
    u = photo()
    result = gd.deblur(xp.asarray(u[..., None]), 11, channel_axis=-1, options=QUICK)
    expected = gd.deblur(xp.asarray(u), 11, options=QUICK)
    assert_close(result.kernel, expected.kernel, atol=1e-6)
    assert_close(result.image[..., 0], expected.image, atol=1e-5)


def test_gamma_is_undone_and_done_again(xp: Any) -> None:
    """The linear picture v and its encoding v ** (1 / 2.2) have one kernel, and results that encode each other."""
    options = dataclasses.replace(QUICK, dtype="float64")
    u = photo(dtype="float64")
    linear, encoded = xp.asarray(u), xp.asarray(u ** (1 / 2.2))
    expected = gd.deblur(linear, 11, options=options)
    result = gd.deblur(encoded, 11, gamma=2.2, options=options)
    assert_close(result.kernel, expected.kernel, atol=1e-9)
    assert_close(abs(result.image) ** 2.2, abs(to_host(expected.image)), atol=1e-9)
    assert_same(gd.estimate_kernel(encoded, 11, gamma=2.2, options=options), result.kernel)
    kernel = xp.asarray(trajectory_kernel(9, rng=3))
    sharp = gd.deconvolve(encoded, kernel, gamma=2.2, dtype="float64")
    assert_close(abs(sharp) ** 2.2, abs(to_host(gd.deconvolve(linear, kernel, dtype="float64"))), atol=1e-9)
    assert float(abs(sharp - gd.deconvolve(encoded, kernel, dtype="float64")).max()) > 1e-3


def test_layouts_and_byte_orders_do_not_matter() -> None:
    u = photo()
    expected = gd.deblur(u, 11, options=QUICK)
    wide = np.zeros((64, 128), np.float32)
    wide[:, ::2] = u
    swapped = u.astype(">f4")
    for same in (wide[:, ::2], np.asfortranarray(u), u[::-1, ::-1].copy()[::-1, ::-1], swapped):
        result = gd.deblur(same, 11, options=QUICK)
        assert_same(result.kernel, expected.kernel)
        assert_same(result.image, expected.image)
    assert result.image.dtype == swapped.dtype


def test_the_input_is_never_modified(xp: Any) -> None:
    for colour, dtype in ((False, "float32"), (True, "float32"), (False, "uint8")):
        u, kernel = xp.asarray(photo(colour=colour, dtype=dtype)), xp.asarray(trajectory_kernel(9, rng=3))
        before = u.copy(), kernel.copy()
        channel_axis = -1 if colour else None
        if xp is np:
            u.flags.writeable = kernel.flags.writeable = False
        for final in FINALS:
            result = gd.deblur(u, 11, channel_axis=channel_axis, final=final, gamma=1.5, options=QUICK)
            sharp = gd.deconvolve(u, kernel, channel_axis=channel_axis, method=final)
        assert_same(u, before[0])
        assert_same(kernel, before[1])
        result.image[...] = 0  # the results are the user's, and share nothing with the input
        sharp[...] = 0
        assert_same(u, before[0])


def test_the_scale_of_a_known_kernel_does_not_matter(xp: Any) -> None:
    u, kernel = xp.asarray(photo()), xp.asarray(trajectory_kernel(9, rng=3))
    assert_close(gd.deconvolve(u, 255 * kernel), gd.deconvolve(u, kernel), atol=1e-5)
    box = xp.ones((3, 3))
    assert_close(gd.deconvolve(u, box.astype("uint8")), gd.deconvolve(u, box / 9), atol=1e-5)


def test_the_report(xp: Any) -> None:
    info = gd.deblur(xp.asarray(photo()), 11, final="hyper-laplacian", options=QUICK).info
    assert info["backend"] == ("numpy" if xp is np else "cupy")
    assert (info["method"], info["final"]) == ("two-step", "hyper-laplacian")
    assert 0 < info["seconds_kernel"] < info["seconds"]


# ---- every option


# Options of which each one matters, whatever the defaults are.
BASE = TwoStepOptions(
    gradient_weight=8e-3,
    gradient_weight_decay=1.1,
    finest_iterations=2,
    finest_gradient_weight=(1e-3, 1e-4),
    starts=("wide",),
    finest_candidates=2,
    gradient_weight_min=1e-4,
    smooth_weight=4e-3,
    smooth_sigma=0.3,
    prior=None,
    beta_rate=2.0,
    beta_max=60.0,
    iterations=4,
    scale_ratio=0.7,
    smallest_kernel=7,
    support_margin=6,
    edge_fraction=(0.1, 0.2),
    kernel_solver="nnls",
    kernel_iterations=20,
    kernel_weight=3e-3,
    iteration_threshold=(0.0, 0.0),
    kernel_threshold=0.05,
    finest_threshold=0.03,
    kernel_component=0.03,
    refine=True,
    refine_weight=1e-3,
    refine_beta=0.1,
    cautious=True,
    dtype="float32",
)
CHANGES: list[tuple[str, Any]] = [
    ("gradient_weight", 3e-2),
    ("gradient_weight_decay", 1.0),
    ("finest_iterations", 5),
    ("finest_gradient_weight", (1e-2, 1e-4)),
    ("finest_gradient_weight", (1e-3, 1e-3)),
    ("starts", ("compact",)),
    ("starts", ("wide", "relaxed", "sparse")),
    ("iteration_threshold", (0.3, 0.01)),
    ("iteration_threshold", (0.01, 0.3)),
    ("finest_threshold", 0.2),
    ("gradient_weight_min", 5e-3),
    ("smooth_weight", 0.0),
    ("smooth_sigma", 3.0),
    ("prior", L0Intensity(which="both")),
    ("beta_rate", 4.0),
    ("beta_max", 5.0),
    ("finest_beta_max", 5.0),
    ("iterations", 8),
    ("scale_ratio", 0.5),
    ("smallest_kernel", 3),
    ("support_margin", 0),
    ("edge_fraction", (0.4, 0.2)),
    ("edge_fraction", (0.1, 0.5)),
    ("kernel_solver", "cg"),
    ("kernel_iterations", 5),
    ("kernel_weight", 0.1),
    ("kernel_threshold", 0.3),
    ("kernel_component", 0.5),
    ("refine", False),
    ("refine_weight", 0.1),
    ("refine_beta", 0.8),
    ("dtype", "float64"),
]


@functools.cache
def base_kernel() -> np.ndarray:
    return gd.estimate_kernel(photo(), 11, options=BASE)


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_every_option_matters(name: str, value: Any) -> None:
    kernel = gd.estimate_kernel(photo(), 11, options=dataclasses.replace(BASE, **{name: value}))
    check_kernel(kernel, (11, 11))
    if name == "dtype":
        assert (base_kernel().dtype, kernel.dtype) == (np.float32, np.float64)
    else:
        assert abs(kernel - base_kernel()).max() > 1e-3 * base_kernel().max()


def test_no_option_is_left_out() -> None:
    assert {field.name for field in dataclasses.fields(TwoStepOptions)} == {name for name, _ in CHANGES} | {
        "finest_candidates", "cautious", "finest_prior",  # have tests of their own
    }  # fmt: skip


def test_the_schedule_of_the_latent_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """lambda decays down the whole pyramid, and has its own course at the end; the smooth prior grows (seed 0)."""
    calls: list[dict[str, Any]] = []
    step = alternation.latent_step

    def recorded(blurred: Any, kernel: Any, **options: Any) -> Any:
        calls.append({"size": kernel.shape[-2:]} | options)
        return step(blurred, kernel, **options)

    monkeypatch.setattr(alternation, "latent_step", recorded)
    options = dataclasses.replace(BASE, smallest_kernel=3, gradient_weight_min=4e-3)
    gd.deblur(photo(), (11, 7), options=options)
    scales = schedule.schedule((64, 64), (11, 7), options)
    assert scales[-1].size == (17, 13)  # 11 x 7 with the margin
    assert [scale.size for scale in scales] == sorted(scale.size for scale in scales)
    calls, last = calls[: -options.finest_iterations], calls[-options.finest_iterations :]
    sizes = [scale.size for scale in scales[:-1] for _ in range(options.iterations)]
    assert [call["size"] for call in calls] == sizes
    assert [call["smooth_radius"] for call in calls] == [max(1, max(size) // 4) for size in sizes]
    levels = np.repeat(np.arange(1, len(scales)), options.iterations)
    np.testing.assert_allclose([call["smooth_sigma"] for call in calls], options.smooth_sigma * levels)
    expected = options.gradient_weight / options.gradient_weight_decay ** np.arange(len(calls))
    expected = np.maximum(expected, options.gradient_weight_min)
    assert 1 < (expected == options.gradient_weight_min).sum() < len(calls) * 3 / 4
    np.testing.assert_allclose([call["gradient_weight"] for call in calls], expected)
    assert {call["size"] for call in last} == {(13, 9)}
    assert (last[0]["gradient_weight"], last[-1]["gradient_weight"]) == pytest.approx(options.finest_gradient_weight)
    assert {call["smooth_weight"] for call in last} == {0.0}
    assert {call["smooth_weight"] for call in calls} == {options.smooth_weight}
    assert {call["beta_rate"] for call in calls + last} == {options.beta_rate}
    assert {call["beta_max"] for call in calls} == {options.beta_max}
    assert {call["beta_max"] for call in last} == {options.finest_beta_max}


def test_a_start_stands_for_its_changes_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TwoStepOptions] = []
    begin = two_step.start
    monkeypatch.setattr(two_step, "start", lambda *a: seen.append(a[2]) or begin(*a))  # type: ignore[func-returns-value]
    gd.estimate_kernel(photo(48), 9, options=dataclasses.replace(QUICK, starts=tuple(STARTS)))
    assert seen == [dataclasses.replace(QUICK, starts=tuple(STARTS), **STARTS[name]) for name in STARTS]


def test_finalists_are_finished_in_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Any] = []
    finish = two_step._finish
    monkeypatch.setattr(two_step, "_finish", lambda *a: ends.append(a[3].iteration_threshold[1]) or finish(*a))
    for finest_candidates in (1, 2, 5):
        ends.clear()
        options = dataclasses.replace(QUICK, starts=("wide", "text"), finest_candidates=finest_candidates)
        gd.estimate_kernel(photo(48), 9, options=options)
        assert ends == [0.0, 0.1] * min(2, finest_candidates)


@pytest.mark.parametrize("channel_axis", [None, -1])
def test_a_cautious_result_is_mixed_with_the_blurred_picture(channel_axis: int | None) -> None:
    """As much of the restoration as the confidence and what it makes of the picture allow."""
    u = photo(colour=channel_axis is not None)
    bold = gd.deblur(u, 11, channel_axis=channel_axis, options=dataclasses.replace(QUICK, cautious=False))
    gentle = gd.deblur(u, 11, channel_axis=channel_axis, options=QUICK)
    assert "strength" not in bold.info
    planes = (bold.image, u) if channel_axis is None else (np.moveaxis(a, -1, 0) for a in (bold.image, u))
    seen = [np.asarray(one.mean()) for one in result_signals(*planes)]
    share = gentle.info["strength"]
    assert 0 < share < 1
    known = np.asarray(bold.info["confidence"]), np.asarray(11**2 / (u.shape[0] * u.shape[1]))
    assert share == pytest.approx(float(blend_weight(*known, *seen)), rel=1e-3)
    assert_close(gentle.image, u + share * (bold.image - u), atol=1e-6)


def test_a_picture_of_one_value_comes_back_as_it_is() -> None:
    flat = np.full((64, 64), 0.5, np.float32)
    assert_close(gd.deblur(flat, 11, options=QUICK).image, flat, atol=1e-6)


def test_no_options_are_the_default_ones() -> None:
    assert_same(gd.estimate_kernel(photo(48), 9), gd.estimate_kernel(photo(48), 9, options=TwoStepOptions()))


# ---- the callback


def runs() -> dict[str, Callable[..., Any]]:
    kernel = trajectory_kernel(9, rng=3)
    return {
        "deblur": lambda **more: gd.deblur(photo(), 11, options=QUICK, **more),
        "deblur, fast": lambda **more: gd.deblur(photo(), 11, options=QUICK, final="hyper-laplacian", **more),
        "estimate_kernel": lambda **more: gd.estimate_kernel(photo(), 11, options=QUICK, **more),
        "deconvolve": lambda **more: gd.deconvolve(photo(), kernel, **more),
    }


STAGES = {
    "deblur": ["kernel", "restoration"],
    "deblur, fast": ["kernel", "restoration"],
    "estimate_kernel": ["kernel"],
    "deconvolve": ["restoration"],
}
in_every_run = pytest.mark.parametrize("run", sorted(STAGES))


@in_every_run
def test_progress_rises_to_one_in_the_order_of_the_stages(run: str) -> None:
    calls: list[tuple[str, float]] = []
    runs()[run](callback=lambda stage, fraction: calls.append((stage, fraction)))
    stages, fractions = [stage for stage, _ in calls], [fraction for _, fraction in calls]
    assert list(dict.fromkeys(stages)) == STAGES[run]
    assert stages == sorted(stages)  # "kernel" before "restoration", without a way back
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 1
    assert fractions[-1] == 1
    assert fractions.count(1) <= 2
    if run == "deblur":
        assert max(fraction for stage, fraction in calls if stage == "kernel") < 1


@in_every_run
def test_a_callback_that_returns_true_stops_the_run(run: str) -> None:
    for stage in STAGES[run]:
        calls: list[tuple[str, float]] = []

        def callback(name: str, fraction: float, stage: str = stage, calls: list = calls) -> bool:
            calls.append((name, fraction))
            return name == stage

        with pytest.raises(gd.Stopped) as why:
            runs()[run](callback=callback)
        name, fraction = calls[-1]
        assert [name for name, _ in calls].count(stage) == 1
        # The message says what the callback was told.
        assert str(why.value) == f"stopped by the callback in stage {name!r} at {fraction:.0%} of the run"


def test_a_callback_that_returns_something_else_does_not() -> None:
    for value in (None, False, 0, 1, "go on"):
        check_kernel(gd.estimate_kernel(photo(48), 9, options=QUICK, callback=lambda *_, v=value: v), (9, 9))


def test_an_error_in_the_callback_comes_through() -> None:
    def callback(stage: str, fraction: float) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gd.deblur(photo(48), 9, options=QUICK, callback=callback)


def test_a_callback_changes_nothing() -> None:
    assert_same(gd.deblur(photo(), 11, callback=lambda *_: None).image, gd.deblur(photo(), 11).image)


# ---- where nothing can be known


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("final", FINALS)
def test_a_constant_picture_gives_a_delta_and_itself(xp: Any, value: float, dtype: str, final: str) -> None:
    top = 255 if dtype == "uint8" else 1
    u = xp.full((40, 46), value * top).astype(dtype)
    result = gd.deblur(u, 9, final=final, options=QUICK)
    check_kernel(result.kernel, (9, 9))
    assert_close(result.image.astype("float64"), u.astype("float64"), atol=1e-5 * top)
    assert float(result.kernel.max()) > 0.5


def test_a_sharp_picture_stays_what_it_is(xp: Any) -> None:
    sharp = CAMERA[100:196, 180:276]
    result = gd.deblur(xp.asarray(sharp), 11)
    check_kernel(result.kernel, (11, 11))
    assert bool(xp.isfinite(result.image).all())
    # A kernel smaller than any real blur of this size: most of its mass within a pixel or two of one place.
    kernel = to_host(result.kernel)
    windows = [kernel[y : y + 5, x : x + 5].sum() for y in range(7) for x in range(7)]
    assert max(windows) > 0.9


@pytest.mark.parametrize(
    ("shape", "size"),
    [((32, 32), 9), ((32, 32), 31), ((31, 33), (31, 33)), ((9, 40), (3, 39)), ((3, 3), 3), ((5, 6), (5, 3))],
)
@pytest.mark.parametrize("final", FINALS)
def test_small_pictures_give_finite_answers(shape: tuple[int, int], size: Any, final: str) -> None:
    u = photo()[: shape[0], : shape[1]]
    result = gd.deblur(u, size, final=final)
    check_kernel(result.kernel, size if isinstance(size, tuple) else (size, size))
    assert result.image.shape == shape
    assert np.isfinite(result.image).all()


# ---- confidence and residual


def confidence(image: Any, size: int) -> np.ndarray:
    value = np.asarray(gd.deblur(image, size).info["confidence"], dtype=float)
    assert ((value >= 0) & (value <= 1)).all()
    return value


def test_the_confidence_of_each_picture_of_a_stack_is_its_own() -> None:
    blurred = blur(CAMERA[100:230, 180:310], KERNEL)
    both = confidence(np.stack([blurred, np.full((120, 120), 0.5)]), 13)
    assert both.shape == (2,)
    assert both[0] > 0.5 > both[1]
    np.testing.assert_allclose(confidence(blurred, 13), both[0], rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_picture_has_a_low_confidence(value: float) -> None:
    assert confidence(np.full((48, 48), value), 9) < 0.5


def test_a_sharp_picture_has_a_low_confidence() -> None:
    assert confidence(CAMERA[100:196, 180:276], 11) < 0.5


def test_a_picture_of_32_pixels_has_a_low_confidence() -> None:
    assert confidence(photo()[:32, :32], 31) < 0.5


def test_the_residual_is_the_rms_of_what_the_result_leaves_unexplained() -> None:
    """B - x * k, one number a picture."""
    pictures = np.stack([photo(), photo()[::-1]])
    options = TwoStepOptions(cautious=False)
    result = gd.deblur(pictures, 11, options=options)
    residual = to_host(result.info["residual"])
    assert residual.shape == (2,)
    for u, image, kernel, value in zip(pictures, result.image, result.kernel, residual, strict=True):
        inside = blur(image, kernel) - u[5:-5, 5:-5]
        assert 0.3 * value < np.sqrt((inside**2).mean()) < 3 * value
    noise = 0.05 * np.random.default_rng(0).normal(size=pictures.shape).astype(np.float32)
    worse = gd.deblur(pictures + noise, 11, options=options)
    assert (to_host(worse.info["residual"]) > 1.5 * residual).all()


# ---- devices


def test_the_cpu_is_where_numpy_arrays_are() -> None:
    u = photo(48)
    expected, result = (gd.deblur(u, 9, options=QUICK, device=device) for device in (None, "cpu"))
    assert_same(result.image, expected.image)
    assert expected.info["backend"] == result.info["backend"] == "numpy"


def test_auto_says_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)  # as if it were not installed
    result = gd.deblur(photo(48), 9, options=QUICK, device="auto")
    assert result.info["backend"] == "numpy"
    assert isinstance(result.image, np.ndarray)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_the_gpu_gives_numpy_arrays_back(cupy: Any, device: str) -> None:
    u = photo(96)
    expected, result = (gd.deblur(u, 11, device=where) for where in ("cpu", device))
    assert result.info["backend"] == "cupy"
    assert isinstance(result.image, np.ndarray)
    assert isinstance(result.kernel, np.ndarray)
    assert kernel_similarity(result.kernel, expected.kernel) > 0.99
    kernel = trajectory_kernel(9, rng=3)
    assert_close(gd.deconvolve(u, kernel, device=device), gd.deconvolve(u, kernel), atol=5e-3)
    check_kernel(gd.estimate_kernel(u, 11, device=device), (11, 11))
    back = gd.deblur(cupy.asarray(u), 11, device="cpu")
    assert isinstance(back.image, cupy.ndarray)
    assert isinstance(back.kernel, cupy.ndarray)
    assert back.info["backend"] == "numpy"


# ---- arguments; pictures and kernels that are refused are in test_bad_input_api.py

KNOWN = ", ".join(map(repr, FINALS))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"final": "magic"}, f"final must be one of {KNOWN}, got 'magic'"),
        ({"final": True}, f"final must be one of {KNOWN}, got True"),
        ({"method": "magic"}, "method must be one of 'two-step', got 'magic'"),
        ({"device": "gpu"}, "device must be None, 'cpu', 'cuda' or 'auto', got 'gpu'"),
        ({"device": 0}, "device must be None, 'cpu', 'cuda' or 'auto', got 0"),
        *(
            ({"gamma": value}, f"gamma must be a positive number, got {value!r}; 1 is linear, photos have about 2.2")
            for value in (0, -2.2, float("nan"), float("inf"), "2.2", None)
        ),
    ],
)
def test_arguments_that_are_refused(more: dict[str, Any], message: str) -> None:
    refused = functools.partial(pytest.raises, ValueError, match=f"^{re.escape(message)}$")
    with refused():
        gd.deblur(photo(48), 9, **more)
    if "final" not in more:
        with refused():
            gd.estimate_kernel(photo(48), 9, **more)
    if "gamma" in more or "device" in more:
        with refused():
            gd.deconvolve(photo(48), np.ones((3, 3)), **more)


def test_arguments_of_deconvolve_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^method must be one of 'tv', .*, got 'two-step'$"):
        gd.deconvolve(photo(48), np.ones((3, 3)), method="two-step")
    with pytest.raises(ValueError, match=r"^dtype must be one of 'float32', 'float64', got 'float16'$"):
        gd.deconvolve(photo(48), np.ones((3, 3)), dtype="float16")


def test_there_are_no_other_arguments() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'iterations'"):
        gd.deblur(photo(48), 9, iterations=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional argument"):
        gd.deblur(photo(48), 9, None)  # type: ignore[misc]


def test_there_is_an_energy_for_each_picture() -> None:
    """Its logarithm a pixel (`choice.KernelScores`)."""
    pictures = np.stack([photo(96), np.full((96, 96), 0.5, dtype=np.float32)])
    textured, constant = gd.deblur(pictures, 13, options=QUICK).info["energy"]
    assert -12 < textured < 0
    assert constant < -20


def test_no_restoration_leaves_the_kernel_and_what_is_known_about_it(xp: Any) -> None:
    picture = xp.asarray(photo())
    found, whole = (gd.deblur(picture, 11, options=QUICK, final=final) for final in (None, "hyper-laplacian"))
    assert found.image is None
    assert found.info["final"] is None
    assert found.info.keys() == whole.info.keys() - {"residual", "strength"}
    assert_same(found.kernel, whole.kernel)


def test_few_pictures_at_a_time_are_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On NumPy a stack goes through a scale as many pictures at a time as a cache holds: no bit changes by that."""
    stack, told = stack_of(5), []
    whole = gd.deblur(stack, 9, options=QUICK, final=None)
    monkeypatch.setattr(chunks, "CACHE_PIXELS", 2 * 60 * 60)
    parts = gd.deblur(stack, 9, options=QUICK, final=None, callback=lambda _, done: told.append(done))
    assert_same(parts.kernel, whole.kernel)
    for name in ("confidence", "border_mass", "spectral_match", "energy", "gradient_gain", "agreement"):
        assert_same(parts.info[name], whole.info[name])
    assert told == sorted(told)
    assert len(told) > 2 * 2 * QUICK.iterations
    assert told[-1] == 1
