"""`deblur` as a whole: what it recovers, and what it promises about its input and its output."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur import TwoStepOptions
from gpudeblur.blind.confidence import blend_weight
from gpudeblur.blind.options import STARTS
from gpudeblur.blind.parts import RESULT_SIGNALS
from gpudeblur.metrics import kernel_similarity, scores
from gpudeblur.nonblind.final import FINALS, restore, result_signals
from gpudeblur.numerics import chunks
from gpudeblur.numerics.arrays import to_host
from gpudeblur.priors import L0Intensity
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
SMALL_KERNEL = trajectory_kernel(9, rng=3)
CAMERA = data.camera() / 255
ASTRONAUT = data.astronaut() / 255
# Fast, where a test is not about quality: with one initialization, and with all.
QUICK = TwoStepOptions(iterations=1, finest_iterations=1, kernel_iterations=10, starts=("wide",))
ALL_STARTS = dataclasses.replace(QUICK, starts=tuple(STARTS))
SIGNALS = ("confidence", "border_mass", "spectral_match", "energy", "gradient_gain", "agreement")


@functools.cache
def _blurred(size: int, color: bool) -> np.ndarray:
    if color:
        planes = np.moveaxis(ASTRONAUT[60 : 68 + size, 200 : 208 + size], -1, 0)
        return np.moveaxis(blur(planes, SMALL_KERNEL), 0, -1)
    return blur(CAMERA[100 : 108 + size, 180 : 188 + size], SMALL_KERNEL)


def photo(size: int = 40, *, color: bool = False, dtype: str = "float32") -> np.ndarray:
    """A small blurred image, (size, size) or (size, size, 3), a fresh copy."""
    image = _blurred(size, color)
    if np.dtype(dtype).kind == "u":
        image = np.round(np.clip(image, 0, 1) * np.iinfo(dtype).max)
    return image.astype(dtype)


@functools.cache
def quick_result() -> gd.BlindResult:
    return gd.deblur(photo(), 9, options=QUICK)


def stack_of(n: int = 3, size: int = 40) -> np.ndarray:
    """Different images of one size; the second is constant."""
    corners = [(100 + 30 * i, 150 + 40 * i) for i in range(n)]
    images = [blur(CAMERA[y : y + size + 8, x : x + size + 8], SMALL_KERNEL) for y, x in corners]
    images[1] = np.full((size, size), 0.5)
    return np.stack(images).astype(np.float32)


def check_kernel(kernel: Any, shape: tuple[int, ...]) -> None:
    kernel = to_host(kernel)
    assert kernel.shape == shape
    assert kernel.dtype.kind == "f"
    assert (kernel >= 0).all()
    np.testing.assert_allclose(kernel.sum((-2, -1)), 1, rtol=1e-5)


# ---- what it recovers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "kernel"),
    [((100, 180), KERNEL), ((60, 130), trajectory_kernel(11, rng=5)), ((100, 180), linear_kernel(7, 30, 11))],
)
def test_an_unknown_blur_is_found_and_undone(xp: Any, at: tuple[int, int], kernel: np.ndarray) -> None:
    scene = CAMERA[at[0] : at[0] + 128, at[1] : at[1] + 128]
    blurred, true = blur(scene, kernel), scene[5:-5, 5:-5]
    result = gd.deblur(xp.asarray(blurred), 13)
    assert isinstance(result.image, xp.ndarray)
    assert isinstance(result.kernel, xp.ndarray)
    check_kernel(result.kernel, (13, 13))
    assert kernel_similarity(to_host(result.kernel), kernel) > 0.85
    assert scores(to_host(result.image), true).psnr > scores(blurred, true).psnr + 3
    assert result.info["confidence"] > 0.7


@pytest.mark.slow
def test_every_channel_of_a_color_image_is_restored(xp: Any) -> None:
    scene = np.moveaxis(ASTRONAUT[:138, 130:268], -1, 0)
    blurred, true = np.moveaxis(blur(scene, KERNEL), 0, -1), scene[:, 5:-5, 5:-5]
    result = gd.deblur(xp.asarray(blurred), 13, channel_axis=-1)
    assert kernel_similarity(to_host(result.kernel), KERNEL) > 0.8
    restored = to_host(result.image)
    for plane in range(3):
        before, after = (scores(image[..., plane], true[plane]).psnr for image in (blurred, restored))
        assert after > before + 1


@pytest.mark.slow
def test_a_rectangular_kernel_size_is_height_and_width(xp: Any) -> None:
    line, options = linear_kernel(9, 0, 9), TwoStepOptions(starts=("wide", "compact"))
    blurred = blur(CAMERA[100:220, 180:310], line)
    for image, size, true in ((blurred, (5, 15), line), (np.ascontiguousarray(blurred.T), (15, 5), line.T)):
        kernel = gd.estimate_kernel(xp.asarray(image), size, options=options)
        check_kernel(kernel, size)
        assert kernel_similarity(to_host(kernel), true) > 0.8


@pytest.mark.slow
def test_the_kernel_is_found_in_spite_of_noise(xp: Any) -> None:
    blurred = blur(CAMERA[100:240, 180:320], KERNEL, noise_sigma=0.01, rng=0)
    assert kernel_similarity(to_host(gd.estimate_kernel(xp.asarray(blurred), 13)), KERNEL) > 0.8


@pytest.mark.parametrize("final", FINALS)
def test_deblur_restores_with_the_estimated_kernel(xp: Any, final: str) -> None:
    image, options = photo(24, color=True), dataclasses.replace(QUICK, strength=1, dtype="float64")
    result = gd.deblur(xp.asarray(image), 7, channel_axis=-1, final=final, options=options)
    kernel = gd.estimate_kernel(xp.asarray(image), 7, channel_axis=-1, options=options)
    assert_same(result.kernel, kernel)
    planes = np.moveaxis(image, -1, 0).astype(float)
    assert_close(result.image, np.moveaxis(to_host(restore(xp.asarray(planes), kernel, final)), 0, -1), atol=1e-6)


def test_all_restorations_differ_and_sparse_is_the_default(xp: Any) -> None:
    image, options = xp.asarray(photo()), dataclasses.replace(QUICK, strength=1)
    images = {final: gd.deblur(image, 11, options=options, final=final).image for final in FINALS}
    for first, second in itertools.combinations(images.values(), 2):
        assert float(abs(first - second).max()) > 0.01
    assert_same(gd.deblur(image, 11, options=options).image, images["sparse"])


# ---- stacks


@pytest.mark.parametrize(
    ("options", "dtype"),
    [(QUICK, "float32"), *(pytest.param(ALL_STARTS, d, marks=pytest.mark.slow) for d in ("float32", "float64"))],
)
def test_a_stack_equals_a_loop_bit_for_bit_on_numpy(
    xp: Any, options: TwoStepOptions, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks of two, as many as a cache holds here. One image is constant, and comes back as it is."""
    monkeypatch.setattr(chunks, "CACHE_PIXELS", 2 * 52 * 52)
    stack, options = xp.asarray(stack_of()), dataclasses.replace(options, dtype=dtype)
    fractions: list[float] = []
    result = gd.deblur(stack, 9, options=options, callback=lambda _, done: fractions.append(done))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert result.image.shape == stack.shape
    check_kernel(result.kernel, (3, 9, 9))
    for i in range(3):
        alone = gd.deblur(stack[i], 9, options=options)
        if xp is np:
            assert_same(result.kernel[i], alone.kernel)
            assert_same(result.image[i], alone.image)
            info: dict[str, Any] = dict(result.info)
            of_image: dict[str, Any] = dict(alone.info)
            for name in (*SIGNALS, "residual", *RESULT_SIGNALS, "strength"):
                assert info[name][i] == of_image[name]
        else:  # sums in another order; thresholds make more of it
            assert kernel_similarity(result.kernel[i], alone.kernel) > 0.99
    assert_close(result.image[1], stack[1], atol=1e-4)
    textured, constant, _ = result.info["energy"]
    assert constant < -20 < -12 < textured < 0


def test_a_stack_may_have_two_leading_axes(xp: Any) -> None:
    stack = xp.asarray(stack_of(4)).reshape(2, 2, 40, 40)
    result = gd.deblur(stack, 9, options=QUICK)
    flat = gd.deblur(stack.reshape(4, 40, 40), 9, options=QUICK)
    check_kernel(result.kernel, (2, 2, 9, 9))
    assert result.info["confidence"].shape == (2, 2)
    assert_close(result.kernel.reshape(4, 9, 9), flat.kernel, atol=1e-6)
    assert_close(result.image.reshape(4, 40, 40), flat.image, atol=1e-5)


def test_a_stack_of_color_images_equals_a_loop(xp: Any) -> None:
    stack = xp.asarray(np.stack([photo(color=True), photo(color=True)[::-1, :, ::-1]]))
    result = gd.deblur(stack, 9, channel_axis=-1, options=QUICK)
    check_kernel(result.kernel, (2, 9, 9))
    close = assert_same if xp is np else functools.partial(assert_close, atol=1e-5)
    for i in range(2):
        alone = gd.deblur(stack[i], 9, channel_axis=-1, options=QUICK)
        close(result.kernel[i], alone.kernel)
        close(result.image[i], alone.image)


# ---- input and output


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_the_result_has_the_dtype_of_the_input(xp: Any, dtype: str) -> None:
    image = photo(dtype=dtype)
    result = gd.deblur(xp.asarray(image), 11, options=QUICK)
    assert result.image.dtype == dtype
    assert result.image.shape == image.shape
    assert result.kernel.dtype == np.float32


def test_float_images_are_not_clipped(xp: Any) -> None:
    sharp = gd.deblur(xp.asarray(photo() * 3 - 1), 9, options=QUICK).image
    assert float(sharp.min()) < -0.5
    assert float(sharp.max()) > 1.1


def test_the_precision_is_that_of_the_options(xp: Any) -> None:
    image = xp.asarray(photo(dtype="float64"))
    for dtype in ("float32", "float64"):
        result = gd.deblur(image, 11, options=dataclasses.replace(QUICK, dtype=dtype))
        assert result.kernel.dtype == result.info["dtype"] == dtype
        assert result.image.dtype == np.float64
    single, double = (gd.deconvolve(image, xp.asarray(SMALL_KERNEL), dtype=d) for d in ("float32", "float64"))
    assert 0 < float(abs(single - double).max()) < 1e-3


def test_the_channel_axis_may_be_anywhere(xp: Any) -> None:
    image = photo(color=True)
    expected = gd.deblur(xp.asarray(image), 11, channel_axis=-1, options=QUICK)
    for axis, moved in ((2, 2), (0, 0), (1, 1)):
        turned = np.ascontiguousarray(np.moveaxis(image, -1, moved))
        result = gd.deblur(xp.asarray(turned), 11, channel_axis=axis, options=QUICK)
        assert_same(result.kernel, expected.kernel)
        assert_same(result.image, np.moveaxis(to_host(expected.image), -1, moved))


def test_an_image_with_one_channel_is_a_gray_image(xp: Any) -> None:
    image = photo()
    result = gd.deblur(xp.asarray(image[..., None]), 11, channel_axis=-1, options=QUICK)
    expected = gd.deblur(xp.asarray(image), 11, options=QUICK)
    assert_close(result.kernel, expected.kernel, atol=1e-6)
    assert_close(result.image[..., 0], expected.image, atol=1e-5)


def test_gamma_is_decoded_and_encoded_again(xp: Any) -> None:
    """The linear image v and its encoding v ** (1 / 2.2) have one kernel, and results that encode each other."""
    image, options = photo(dtype="float64"), dataclasses.replace(QUICK, dtype="float64", strength=1)
    linear, encoded = xp.asarray(image), xp.asarray(image ** (1 / 2.2))
    expected = gd.deblur(linear, 11, options=options)
    result = gd.deblur(encoded, 11, gamma=2.2, options=options)
    assert_close(result.kernel, expected.kernel, atol=1e-9)
    assert_close(abs(result.image) ** 2.2, abs(to_host(expected.image)), atol=1e-9)
    assert_same(gd.estimate_kernel(encoded, 11, gamma=2.2, options=options), result.kernel)
    assert float(abs(result.image - gd.deblur(encoded, 11, options=options).image).max()) > 1e-3


def test_memory_layout_and_byte_order_do_not_matter() -> None:
    image, expected = photo(), quick_result()
    strided = np.zeros((40, 80), np.float32)
    strided[:, ::2] = image
    swapped = image.astype(">f4")
    for same in (strided[:, ::2], np.asfortranarray(image), image[::-1, ::-1].copy()[::-1, ::-1], swapped):
        result = gd.deblur(same, 9, options=QUICK)
        assert_same(result.kernel, expected.kernel)
        assert_same(result.image, expected.image)
    assert result.image.dtype == swapped.dtype


@pytest.mark.parametrize(("color", "dtype"), [(False, "float32"), (True, "float32"), (False, "uint8")])
def test_the_input_is_never_modified(xp: Any, color: bool, dtype: str) -> None:
    image = xp.asarray(photo(24, color=color, dtype=dtype))
    before = image.copy()
    if xp is np:
        image.flags.writeable = False
    for final in FINALS:
        axis = -1 if color else None
        result = gd.deblur(image, 7, channel_axis=axis, final=final, gamma=1.5, options=QUICK)
        result.image[...] = 0  # the result shares no memory with the input
        assert_same(image, before)


def test_info_reports_the_run(xp: Any) -> None:
    info = gd.deblur(xp.asarray(photo()), 11, final="hyper-laplacian", options=QUICK).info
    assert info["backend"] == ("numpy" if xp is np else "cupy")
    assert (info["method"], info["final"]) == ("two-step", "hyper-laplacian")
    assert info["kernel_size"] == (11, 11)
    assert 0 < info["seconds_kernel"] < info["seconds"]


def test_without_a_restoration_there_are_kernel_and_signals(xp: Any) -> None:
    image = xp.asarray(photo())
    result, whole = (gd.deblur(image, 11, options=QUICK, final=final) for final in (None, "hyper-laplacian"))
    assert result.image is None
    assert result.info["final"] is None
    assert result.info.keys() == whole.info.keys() - {"residual", "ringing", "change", "overshoot", "strength"}
    assert_same(result.kernel, whole.kernel)


# ---- every option

# The first value of each is that of a base, with which the others are compared, whatever the defaults are.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "starts": (("wide",), ("compact",), ("compact", "text")),
    "dtype": ("float32", "float64"),
    "gradient_weight": (8e-3, 3e-2),
    "gradient_weight_decay": (1.1, 1.0),
    "gradient_weight_min": (1e-4, 7.5e-3),
    "smooth_weight": (4e-3, 0.0),
    "smooth_sigma": (0.3, 3.0),
    "prior": (None, L0Intensity(which="both")),
    "beta_rate": (2.0, 4.0),
    "beta_max": (60.0, 5.0),
    "iterations": (3, 6),
    "scale_ratio": (0.7, 0.5),
    "smallest_kernel": (7, 3),
    "finest_beta_max": (1e3, 5.0),
    "finest_iterations": (2, 5),
    "finest_gradient_weight": ((1e-3, 1e-4), (1e-2, 1e-4), (1e-3, 1e-3)),
    "finest_threshold": (0.03, 0.2),
    "support_margin": (6, 0),
    "edge_fraction": ((0.1, 0.2), (0.4, 0.2), (0.1, 0.5)),
    "kernel_solver": ("nnls", "cg"),
    "kernel_iterations": (20, 5),
    "kernel_weight": (3e-3, 0.1),
    "iteration_threshold": ((0.0, 0.0), (0.3, 0.01), (0.01, 0.3)),
    "kernel_threshold": (0.05, 0.3),
    "kernel_component": (0.03, 0.5),
    "refine": (True, False),
    "refine_weight": (1e-3, 0.1),
    "refine_beta": (0.1, 0.8),
}


@functools.cache
def base_kernel(**changes: Any) -> np.ndarray:
    base = {name: values[0] for name, values in OPTIONS.items()}
    return gd.estimate_kernel(photo(32), 7, options=TwoStepOptions(**base | changes))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in OPTIONS for value in OPTIONS[name][1:]])
def test_every_option_changes_the_kernel(name: str, value: Any) -> None:
    base, kernel = base_kernel(), base_kernel(**{name: value})
    check_kernel(kernel, (7, 7))
    if name == "dtype":
        assert (str(base.dtype), str(kernel.dtype)) == ("float32", "float64")
    else:
        assert abs(kernel - base).max() > 1e-3 * base.max()


def test_no_option_is_left_out() -> None:
    others = {"finest_candidates", "strength", "finest_prior"}
    assert {field.name for field in dataclasses.fields(TwoStepOptions)} == OPTIONS.keys() | others


@pytest.mark.parametrize("axis", [None, -1])
def test_a_doubtful_result_is_blended_with_the_input(axis: int | None) -> None:
    image = photo(64, color=axis is not None)
    bold = gd.deblur(image, 11, channel_axis=axis, options=dataclasses.replace(QUICK, strength=1))
    blended = gd.deblur(image, 11, channel_axis=axis, options=QUICK)
    assert bold.info["strength"] == 1
    planes = (bold.image, image) if axis is None else (np.moveaxis(a, -1, 0) for a in (bold.image, image))
    measures = [np.asarray(values.mean()) for values in result_signals(*planes)]
    strength = blended.info["strength"]
    assert 0 < strength < 1
    unknowns = np.asarray(11**2 / 64**2)
    expected = blend_weight(np.asarray(bold.info["confidence"]), unknowns, *measures)
    assert strength == pytest.approx(float(expected), rel=1e-3)
    assert_close(blended.image, image + strength * (bold.image - image), atol=1e-6)


def test_a_strength_that_the_user_sets() -> None:
    image = photo(64)
    bold = gd.deblur(image, 11, options=dataclasses.replace(QUICK, strength=1))
    half = gd.deblur(image, 11, options=dataclasses.replace(QUICK, strength=0.25))
    assert half.info["strength"] == 0.25
    assert_close(half.image, image + 0.25 * (bold.image - image), atol=1e-6)
    with pytest.raises(ValueError, match=r"strength must be a number in \[0, 1\], got 2; leave it out"):
        TwoStepOptions(strength=2)


# ---- the callback

RUNS: dict[str, Callable[..., Any]] = {
    "deblur": functools.partial(gd.deblur, options=QUICK),
    "deblur, fast": functools.partial(gd.deblur, options=QUICK, final="hyper-laplacian"),
    "estimate_kernel": functools.partial(gd.estimate_kernel, options=QUICK),
}
in_every_run = pytest.mark.parametrize("run", sorted(RUNS))


@in_every_run
def test_progress_rises_to_one_and_true_stops_the_run_at_any_stage(run: str) -> None:
    calls: list[tuple[str, float]] = []
    stop = ""

    def callback(stage: str, fraction: float) -> bool:
        calls.append((stage, fraction))
        return stage == stop

    RUNS[run](photo(), 11, callback=callback)
    stages, fractions = [stage for stage, _ in calls], [fraction for _, fraction in calls]
    expected = ["kernel"] if run == "estimate_kernel" else ["kernel", "restoration"]
    assert list(dict.fromkeys(stages)) == expected
    assert stages == sorted(stages)  # "kernel" before "restoration", without a way back
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 1
    assert fractions[-1] == 1
    assert fractions.count(1) <= 2
    if run == "deblur":
        assert max(fraction for stage, fraction in calls if stage == "kernel") < 1
    for stop in expected:
        calls.clear()
        with pytest.raises(gd.Stopped) as error:
            RUNS[run](photo(), 11, callback=callback)
        assert [stage for stage, _ in calls].count(stop) == 1
        assert str(error.value) == f"stopped by the callback in stage {stop!r} at {calls[-1][1]:.0%} of the run"


def test_an_error_in_the_callback_comes_through() -> None:
    def callback(stage: str, fraction: float) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gd.deblur(photo(), 9, options=QUICK, callback=callback)


# ---- images that say little of their blur


@pytest.mark.parametrize(("value", "dtype"), [(0.0, "uint8"), (0.4, "float32"), (1.0, "uint8")])
@pytest.mark.parametrize("final", FINALS)
def test_a_constant_image_gives_a_delta_and_itself(xp: Any, value: float, dtype: str, final: str) -> None:
    top = 255 if dtype == "uint8" else 1
    image = xp.full((30, 26), value * top).astype(dtype)
    result = gd.deblur(image, 9, final=final, options=QUICK)
    check_kernel(result.kernel, (9, 9))
    assert_close(result.image.astype("float64"), image.astype("float64"), atol=1e-5 * top)
    assert float(result.kernel.max()) > 0.5


SMALL = [((20, 20), 9), ((20, 20), 19), ((19, 21), (19, 21)), ((9, 40), (3, 39)), ((3, 3), 3), ((5, 6), (5, 3))]


@pytest.mark.parametrize(("shape", "size"), SMALL)
@pytest.mark.parametrize(
    ("final", "options"),
    [
        ("sparse", QUICK),
        *(pytest.param(final, QUICK, marks=pytest.mark.slow) for final in ("tv", "hyper-laplacian")),
        pytest.param("hyper-laplacian", ALL_STARTS, marks=pytest.mark.slow),
    ],
)
def test_small_images_give_finite_results(shape: tuple[int, int], size: Any, final: str, options: Any) -> None:
    result = gd.deblur(photo()[: shape[0], : shape[1]], size, final=final, options=options)
    check_kernel(result.kernel, size if isinstance(size, tuple) else (size, size))
    assert result.image.shape == shape
    assert np.isfinite(result.image).all()


def test_the_residual_is_the_rms_of_the_reblurred_error() -> None:
    images, options = np.stack([photo(64), photo(64)[::-1]]), dataclasses.replace(QUICK, strength=1)
    result = gd.deblur(images, 11, options=options)
    residual = result.info["residual"]
    assert residual.shape == (2,)
    for observed, sharp, kernel, value in zip(images, result.image, result.kernel, residual, strict=True):
        error = blur(sharp, kernel) - observed[5:-5, 5:-5]
        assert 0.3 * value < np.sqrt((error**2).mean()) < 3 * value
    noise = 0.05 * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    assert (gd.deblur(images + noise, 11, options=options).info["residual"] > 1.5 * residual).all()


# ---- devices


@pytest.mark.parametrize("device", [None, "cpu", "auto"])
def test_without_cupy_the_cpu_computes(monkeypatch: pytest.MonkeyPatch, device: str | None) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    result = gd.deblur(photo(), 9, options=QUICK, device=device)
    assert result.info["backend"] == "numpy"
    assert_same(result.image, quick_result().image)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_results_have_the_memory_of_the_input(cupy: Any, device: str) -> None:
    image = photo(96)
    expected, result = (gd.deblur(image, 11, device=name) for name in ("cpu", device))
    assert result.info["backend"] == "cupy"
    assert isinstance(result.image, np.ndarray)
    assert isinstance(result.kernel, np.ndarray)
    assert kernel_similarity(result.kernel, expected.kernel) > 0.99
    assert_close(gd.deconvolve(image, SMALL_KERNEL, device=device), gd.deconvolve(image, SMALL_KERNEL), atol=5e-3)
    check_kernel(gd.estimate_kernel(image, 11, device=device), (11, 11))
    back = gd.deblur(cupy.asarray(image), 11, device="cpu")
    assert isinstance(back.image, cupy.ndarray)
    assert isinstance(back.kernel, cupy.ndarray)
    assert back.info["backend"] == "numpy"


# ---- opacity

DISK = (np.hypot(*(np.mgrid[:40, :40] - 19.5)) < 14).astype(float)
OPACITIES = {"opaque": np.ones((40, 40)), "cut-out": DISK, "none": np.zeros((40, 40)), "even": np.full((40, 40), 0.4)}


@pytest.mark.parametrize("name", OPACITIES)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_opacity_is_kept_and_no_color(name: str, dtype: str) -> None:
    color = photo(color=True, dtype=dtype)
    scale = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    alpha = (OPACITIES[name] * scale).astype(dtype)
    expected = gd.deblur(color, 9, channel_axis=-1, options=QUICK)
    sharp = gd.deconvolve(color, SMALL_KERNEL, channel_axis=-1)
    for axis in (-1, 0):
        image = np.moveaxis(np.dstack([color, alpha]), -1, axis)
        result = gd.deblur(image, 9, channel_axis=axis, options=QUICK)
        assert_same(np.moveaxis(result.image, axis, -1)[..., :3], expected.image)
        assert_same(np.moveaxis(result.image, axis, -1)[..., 3], alpha)
        assert_same(result.kernel, expected.kernel)
        assert result.image.flags.c_contiguous
        assert_same(gd.estimate_kernel(image, 9, channel_axis=axis, options=QUICK), expected.kernel)
        whole = np.moveaxis(gd.deconvolve(image, SMALL_KERNEL, channel_axis=axis), axis, -1)
        assert_same(whole, np.dstack([sharp, alpha]))
    stack = np.stack([np.dstack([color, alpha])] * 2)
    results = list(gd.deblur_batch(stack, 9, channel_axis=-1, options=QUICK))
    assert all(r.image is not None and (r.image[..., 3] == alpha).all() for r in results)


def test_gray_with_opacity_is_gray() -> None:
    gray = photo()
    image = np.dstack([gray, OPACITIES["cut-out"].astype(gray.dtype)])
    result = gd.deblur(image, 9, channel_axis=-1, options=QUICK)
    assert_same(result.image[..., 0], quick_result().image)
    assert_same(result.image[..., 1], image[..., 1])


def test_bands_are_no_opacity() -> None:
    bands = np.dstack([photo(color=True), photo()])
    with pytest.warns(
        UserWarning, match=r"^image has 4 channels, and the last is deblurred like the others, since it is"
    ):
        sharp = gd.deconvolve(bands, SMALL_KERNEL, channel_axis=-1)
    alone = gd.deconvolve(bands[..., 3], SMALL_KERNEL)
    assert_close(sharp[..., 3], alone, atol=1e-5)
    two = gd.deconvolve(bands[..., 2:], SMALL_KERNEL, channel_axis=-1)
    assert_close(two[..., 1], alone, atol=1e-5)
    opaque = bands.copy()
    opaque[..., 3] = 1
    with pytest.raises(
        ValueError, match=r"^image must have opacity as the last of 4 channels in all pictures .* got 1 of 2"
    ):
        gd.deconvolve(np.stack([bands, opaque]), SMALL_KERNEL, channel_axis=-1)


def test_opacity_beside_a_mask() -> None:
    color, alpha = photo(color=True), OPACITIES["cut-out"].astype(np.float32)
    mask = np.ones((40, 40), bool)
    mask[10:14, 20:23] = False
    expected = gd.deconvolve(color, SMALL_KERNEL, channel_axis=-1, mask=mask)
    image = np.dstack([color, alpha])
    assert_same(gd.deconvolve(image, SMALL_KERNEL, channel_axis=-1, mask=mask), np.dstack([expected, alpha]))
    image[~mask] = np.nan
    result = gd.deconvolve(image, SMALL_KERNEL, channel_axis=-1, mask="nan")
    assert_close(result[..., :3], expected, atol=1e-5)
    assert_same(result[..., 3], image[..., 3])
