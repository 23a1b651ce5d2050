"""Priors on the image: their steps, and their effect in the latent step, also of a user's own prior."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from laws import assert_batch_is_loop, assert_close, assert_same, assert_shift_covariant, picture
from PIL import Image, ImageDraw, ImageFont

import gpudeblur as gd
from gpudeblur.blind.latent import latent_step
from gpudeblur.numerics.arrays import array_module, to_host
from gpudeblur.priors import DarkChannel, L0Intensity, Prior
from gpudeblur.priors.dark_channel import opening
from gpudeblur.priors.protocol import Checked
from gpudeblur.synthesis import blur, linear_kernel

KERNEL = linear_kernel(4, 30, 5) * np.arange(1.0, 6)
KERNEL /= KERNEL.sum()
ENDS: dict[Any, list[float]] = {"dark": [0.0], "bright": [1.0], "both": [0.0, 1.0]}
PRIORS = [
    *(L0Intensity(which=which) for which in ENDS),
    *(DarkChannel(radius=1, which="dark"), DarkChannel(radius=1, which="bright"), DarkChannel(radius=40, which="both")),
]
each_prior = pytest.mark.parametrize("prior", PRIORS, ids=str)


@dataclass(frozen=True)
class Near:
    """A user's own prior: p(x) = |x - level|^2."""

    level: float
    weight: float = 0.1

    def step(self, latent: Any, ratio: float) -> Any:
        return (latent + ratio * self.level) / (1 + ratio)


def page() -> np.ndarray:
    """Black words on white paper, (60, 120), in [0, 1]."""
    image = Image.new("L", (120, 60), 255)
    for line in range(3):
        ImageDraw.Draw(image).text((3 + 5 * line, 20 * line), "sharp letters", 0, ImageFont.load_default(14))
    return np.asarray(image, np.float64) / 255


def blurred_page(xp: Any = np, dtype: Any = np.float64) -> tuple[Any, Any]:
    return xp.asarray(blur(page(), KERNEL, mode="wrap").astype(dtype)), xp.asarray(KERNEL.astype(dtype))


# ------------------------------------------------------------------ the steps
@pytest.mark.parametrize("which", ENDS)
def test_intensity_step_is_the_minimum(xp: Any, which: Any) -> None:
    """The objective separates into pixels: |u - x|^2 + ratio p(u), where p counts the u that are not at an end."""
    x, ends = np.random.default_rng(0).uniform(-0.5, 1.5, (2, 9, 11)), ENDS[which]
    for ratio in (1e-3, 0.04, 0.25, 0.5, 2.0):
        u = to_host(L0Intensity(which=which).step(xp.asarray(x), ratio))
        candidates = [x, *(np.full(x.shape, end) for end in ends), *(u + d for d in np.linspace(-2, 2, 401)), u]
        values = [(v - x) ** 2 + ratio * ~np.isin(v, ends) for v in candidates]
        assert (values[-1] <= np.min(values, axis=0)).all()
        assert np.isin(u, ends).any()


def test_values_at_the_threshold_are_kept(xp: Any) -> None:
    x = xp.asarray([[0.5, np.nextafter(np.float32(0.5), np.float32(0)), -0.5, 0.0]], dtype="float32")
    assert_same(L0Intensity().step(x, 0.25), np.array([[0.5, 0, -0.5, 0]]))


def test_dark_channel_by_hand(xp: Any) -> None:
    """Radius 1, periodic, ratio 0.09: a value under 0.3 that is the minimum of a square becomes 0."""
    x = np.full((7, 9), 0.9)
    x[3, 3] = 0.1  # the minimum of nine squares
    x[3, 4] = 0.2  # of those in column 5, which 0.1 does not reach
    x[2:5, 2] = 0.15, 0.25, 0.15  # 0.15 is the minimum in column 1, where 0.25 is none
    x[0, 0] = 0.35  # of nine, but above the threshold
    x[6, 8] = 0.29  # its neighbor across the borders
    x[0, 6] = -0.4  # of nine; its square is above the ratio
    expected = x.copy()
    expected[3, 3] = expected[3, 4] = expected[2, 2] = expected[4, 2] = expected[6, 8] = 0
    assert_same(DarkChannel(radius=1).step(xp.asarray(x), 0.09), expected)


@pytest.mark.parametrize("radius", [1, 2, 5, 40])
@pytest.mark.parametrize("shape", [(9, 12), (10, 7), (1, 5)])
def test_opening_marks_the_minima_of_squares(xp: Any, shape: tuple[int, int], radius: int) -> None:
    """Square by square: a pixel is marked if it is the minimum of a square that contains it."""
    x = np.round(picture(shape, dtype=np.float64) * 20)  # with ties
    offsets = np.arange(-radius, radius + 1)
    expected = np.zeros(shape, dtype=bool)
    for i, j in np.ndindex(shape):
        square = np.ix_(np.unique((i + offsets) % shape[0]), np.unique((j + offsets) % shape[1]))
        expected[square] |= x[square] == x[square].min()
    assert_same(opening(xp.asarray(x), radius) == xp.asarray(x), expected)
    assert_same(opening(xp.asarray(-x), radius, bright=True) == xp.asarray(-x), expected)


@pytest.mark.parametrize("prior", [L0Intensity, lambda which="dark": DarkChannel(radius=2, which=which)])
def test_bright_is_dark_of_the_negative(xp: Any, prior: Any) -> None:
    x = xp.asarray(np.round(picture((2, 15, 18), dtype=np.float64) * 16) / 16)  # 1 - x is exact
    assert_same(prior(which="bright").step(x, 0.2), 1 - prior().step(1 - x, 0.2))
    assert_same(prior(which="both").step(x, 0.2), prior(which="bright").step(prior().step(x, 0.2), 0.2))


@each_prior
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_of_a_batch_is_a_loop_and_shifts_with_the_image(xp: Any, prior: Prior, dtype: str) -> None:
    for shape in ((2, 20, 31), (3, 1, 7), (2, 2, 5, 4)):
        stack = picture(shape, dtype=dtype)
        assert_shift_covariant(lambda x: prior.step(x, 0.2), xp.asarray(stack), (5, -3))
        stack[0], stack[1, ..., 0, 0] = 0.3, np.nan
        x = xp.asarray(stack.copy())
        assert_batch_is_loop(lambda x: prior.step(x, 0.2), x)
        assert_same(x, stack)
        assert prior.step(x, 0.2).dtype == dtype


# ------------------------------------------------------------------ in the latent step
OPTIONS: dict[str, Any] = {
    "gradient_weight": 2e-3,
    "smooth_weight": 4e-3,
    "smooth_sigma": 0.6,
    "smooth_radius": 2,
    "beta_max": 1e2,
}


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("eta_max", [8.0, 0.05])
def test_closed_form_zeroes_its_own_gradient(xp: Any, smooth: float, eta_max: float) -> None:
    """One pass from x = B, where beta is 2 lambda and eta min(2 mu, eta_max); all gradients are under the threshold.

    |x * k - B|^2 + beta |grad x|^2 + eta |x - u|^2 is quadratic, so central differences are exact. With alpha, and a
    smoothing that does nothing, it also contains alpha |grad x - grad B|^2.
    """
    random = np.random.default_rng(0)
    blurred, prior = 0.1 * picture((21, 24), dtype=np.float64), Near(level=0.7, weight=0.15)
    beta, eta = 0.2, min(0.3, eta_max)
    u = (blurred + 0.15 / eta * 0.7) / (1 + 0.15 / eta)

    def objective(x: np.ndarray) -> float:
        total = ((blur(x, KERNEL, mode="wrap") - blurred) ** 2).sum() + eta * ((x - u) ** 2).sum()
        for axis in (0, 1):
            dx, db = (np.roll(a, -1, axis) - a for a in (x, blurred))
            total += beta * (dx**2).sum() + smooth * ((dx - db) ** 2).sum()
        return float(total)

    options: dict[str, Any] = {"gradient_weight": 0.1, "smooth_weight": smooth, "smooth_sigma": 1e-3, "beta_max": 0.3}
    x = to_host(latent_step(xp.asarray(blurred), xp.asarray(KERNEL), prior=prior, eta_max=eta_max, **options))
    scale = objective(np.zeros(x.shape))
    for _ in range(8):
        direction = random.normal(size=x.shape)
        assert abs(objective(x + direction) - objective(x - direction)) < 1e-9 * scale
        assert abs(objective(blurred + direction) - objective(blurred - direction)) > 1e-4 * scale


def test_eta_grows_with_beta_up_to_eta_max(xp: Any) -> None:
    """A pass each: eta is 2 mu, 2 mu rate, ... up to eta_max; the prior receives mu / eta."""
    prior = SimpleNamespace(weight=0.03)
    arrays = xp.asarray(page()), xp.asarray(KERNEL)

    def ratios(**options: Any) -> list[float]:
        prior.step = Mock(side_effect=lambda latent, ratio: latent)
        latent_step(*arrays, gradient_weight=0.01, beta_rate=4.0, beta_max=6.0, prior=prior, **options)
        return [call.args[1] for call in prior.step.call_args_list]

    expected = [0.03 / eta for eta in (0.06, 0.24, 0.96, 1.0, 1.0)]
    np.testing.assert_allclose(ratios(eta_max=1.0), expected)
    np.testing.assert_allclose(ratios(prior_weight=0.1), [0.1 / eta for eta in (0.2, 0.8, 2.0, 2.0, 2.0)])
    prior.eta_max = 0.02
    np.testing.assert_allclose(ratios(), [1.5] * 5)
    np.testing.assert_allclose(ratios(eta_max=1.0), expected)  # the caller's overrides the prior's


@pytest.mark.parametrize("smooth_weight", [0.0, 4e-3])
def test_weight_0_is_no_prior(xp: Any, smooth_weight: float) -> None:
    arrays, options = blurred_page(xp), OPTIONS | {"smooth_weight": smooth_weight}
    plain = latent_step(*arrays, **options)
    assert_same(latent_step(*arrays, **options, prior=L0Intensity(weight=0)), plain)
    assert_same(latent_step(*arrays, **options, prior=L0Intensity(), prior_weight=0.0), plain)
    assert_same(latent_step(*arrays, **options, prior_weight=0.1, eta_max=1.0), plain)
    assert_close(latent_step(*arrays, **options, prior=L0Intensity(weight=1e-14)), plain, atol=1e-6)
    smallest_eta = latent_step(*blurred_page(xp, np.float32), **options, prior=DarkChannel(weight=1.0), eta_max=1e-12)
    assert bool(xp.isfinite(smallest_eta).all())


@pytest.mark.parametrize("which", ENDS)
def test_intensity_prior_restores_a_page_better(xp: Any, which: Any) -> None:
    """It is closer to the truth, and more of it is within 1 % of the ends of the prior."""
    noise = 0.05 * np.random.default_rng(0).normal(size=page().shape)
    blurred, kernel = blurred_page(xp)

    def measure(**options: Any) -> tuple[float, int]:
        x = to_host(latent_step(blurred + xp.asarray(noise), kernel, gradient_weight=8e-3, beta_max=60.0, **options))
        return float(((x - page()) ** 2).mean()), int((np.abs(x[..., None] - ENDS[which]) < 0.01).any(axis=-1).sum())

    plain, restored = measure(), measure(prior=L0Intensity(8e-3, which=which))
    assert restored[0] < 0.9 * plain[0]
    assert restored[1] > 1.1 * plain[1]


def test_dark_channel_prior_darkens_the_minima(xp: Any) -> None:
    blurred, kernel = blurred_page(xp)

    def darkness(weight: float) -> float:
        prior = DarkChannel(weight, radius=3)
        x = latent_step(0.1 + 0.9 * blurred, kernel, gradient_weight=8e-3, beta_max=60.0, prior=prior)
        return float(abs(opening(x, 3)[xp.asarray(page() < 0.5)]).mean())

    assert darkness(0) > 1.1 * darkness(8e-3) > 2 * darkness(0.1)


@each_prior
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_equals_a_loop_and_leaves_its_input(xp: Any, prior: Prior, dtype: str) -> None:
    stack = blurred_page()[0][:30] * np.linspace(0.5, 1, 4)[:, None, None]
    stack[1], stack[2, 3, 4] = 0.5, np.nan
    images, kernel = xp.asarray(stack.astype(dtype)), xp.asarray(KERNEL.astype(dtype))
    options = OPTIONS | {"prior": prior, "prior_weight": 8e-3}
    result = latent_step(images, kernel, **options)
    assert_same(images, stack.astype(dtype))
    for i in range(4):
        alone = latent_step(images[i], kernel, **options)
        if xp is np:
            assert_same(result[i], alone)
        else:  # a batched cuFFT may sum in another order, which a threshold can amplify
            assert (abs(to_host(result[i]) - to_host(alone)) > 1e-3).mean() < 0.01
    assert bool(xp.isnan(result[2]).all())
    assert not bool(xp.isnan(result[xp.asarray([0, 1, 3])]).any())
    assert result.dtype == dtype


# ------------------------------------------------------------------ errors
def test_invalid_options_are_refused() -> None:
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (
            L0Intensity,
            {"weight": -1e-9},
            "weight must be non-negative, and finite, got -1e-09; 0 switches the prior of",
        ),
        (L0Intensity, {"weight": float("nan")}, "weight must be non-negative, and finite, got nan"),
        (DarkChannel, {"weight": "much"}, "weight must be a number, got 'much' (str); 0 switches"),
        (L0Intensity, {"which": "grey"}, "which must be one of 'dark', 'bright', 'both', got 'grey'"),
        (DarkChannel, {"which": None}, "which must be one of 'dark', 'bright', 'both', got None"),
        (DarkChannel, {"radius": 0}, "radius must be at least 1, got 0; for single pixels use L0Intensity"),
        (DarkChannel, {"radius": 1.5}, "radius must be an integer, got 1.5"),
    ]
    for prior, options, message in refused:
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            prior(**options)


@dataclass(frozen=True)
class Own:
    """A user's prior with whatever it says and returns."""

    result: Any = None
    weight: Any = 0.1
    eta_max: Any = 1.0
    replayable: bool = True

    def step(self, latent: Any, ratio: float) -> Any:
        return self.result(latent)


def test_checked_prior_acts_as_the_prior(xp: Any) -> None:
    """It has the same numbers and result, is equal for equal priors, and is not wrapped twice."""
    prior = DarkChannel(radius=2)
    checked, x = Checked(prior), xp.asarray(picture((2, 20, 31)))
    assert_same(checked.step(x, 0.2), prior.step(x, 0.2))
    assert (checked.weight, checked.eta_max, checked.replayable) == (prior.weight, 2.0, True)
    assert (Checked(Own()).eta_max, Checked(Own(replayable=False)).replayable) == (1.0, False)
    assert Checked(checked) == checked == Checked(DarkChannel(radius=2)) != Checked(DarkChannel(radius=3))
    assert hash(checked) == hash(Checked(DarkChannel(radius=2)))
    arrays = blurred_page(xp)
    assert_same(latent_step(*arrays, **OPTIONS, prior=checked), latent_step(*arrays, **OPTIONS, prior=prior))


@pytest.mark.parametrize("value", [-1, None, "2", float("nan"), 1e-40])
def test_checked_prior_refuses_bad_numbers(value: Any) -> None:
    """An eta_max of NaN never bounded eta, and 1e-40 made images NaN."""
    with pytest.raises((ValueError, TypeError), match=r"^prior\.eta_max must be .*, got .*; leave it out"):
        Checked(Own(eta_max=value))
    with pytest.raises((ValueError, TypeError), match=r"^prior\.weight must be .*, got .*; 0 switches the prior off"):
        Checked(Own(weight=-1 if value == 1e-40 else value))


def test_checked_prior_refuses_a_bad_result() -> None:
    x = page()
    with pytest.raises(ValueError, match=re.escape("Own.step must return shape (60, 120), its argument's, got (59, ")):
        Checked(Own(lambda latent: latent[1:])).step(x, 0.1)
    with pytest.raises(TypeError, match=r"all NumPy or all CuPy, got numpy\.ndarray, builtins\.list"):
        Checked(Own(lambda latent: [1.0])).step(x, 0.1)


def test_estimation_checks_its_prior() -> None:
    for prior, message in (
        (Own(weight=-1), r"^prior[._]weight must .*, got -1"),
        (Own(eta_max=0), r"^prior\.eta_max must be .*, got 0; leave it out"),
        (Own(lambda latent: latent[..., 1:]), r"^Own\.step must return shape"),
    ):
        with pytest.raises(ValueError, match=message):
            gd.estimate_kernel(page(), 9, prior=prior)


# ------------------------------------------------------------------ on a device
def assert_device_agrees(cupy: Any, prior: Prior) -> None:
    """The first passes, because later a threshold can amplify rounding."""
    stack = picture((2, 20, 31))
    assert_same(prior.step(cupy.asarray(stack), 0.2), prior.step(stack, 0.2))
    options: dict[str, Any] = {"gradient_weight": 0.01, "smooth_weight": 0.02, "beta_max": 0.05}
    options |= {"prior": prior, "prior_weight": 0.03}
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-4)):
        arrays = blurred_page(dtype=dtype)
        result, expected = latent_step(*map(cupy.asarray, arrays), **options), latent_step(*arrays, **options)
        assert array_module(result) is cupy
        differs = (abs(to_host(result) - expected) > tolerance).mean()
        # One darkest pixel that rounding exchanges for another changes all of its neighborhood.
        assert differs < (0.01 if dtype is np.float64 else 0.03)
    assert abs(expected - latent_step(*arrays, **(options | {"prior": None}))).max() > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("prior", [*PRIORS, Near(0.5)], ids=str)
def test_device_agrees(cupy: Any, prior: Prior) -> None:
    assert_device_agrees(cupy, prior)


@pytest.mark.slow
@pytest.mark.parametrize("prior", [PRIORS[2], PRIORS[-1], Near(0.5)], ids=str)
def test_simulated_device_agrees(cpu_kernel: Any, prior: Prior) -> None:
    """On launches built for the CPU: no copy, no wait, and two transforms per pass, as without a prior."""
    pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda.source needs it; no GPU is needed")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    from cuda_on_cpu import device

    with device.installed(cpu_kernel) as cupy:
        assert_device_agrees(cupy, prior)
        arrays = tuple(map(cupy.asarray, blurred_page(dtype=np.float32)))

        def costs(**options: Any) -> dict[str, int]:
            device.counts.clear()
            latent_step(*arrays, gradient_weight=0.01, beta_max=1.0, **options)
            return {name: device.counts[name] for name in ("transforms", "waits", "uploads")}

        costs()
        assert costs(prior=prior) == costs()
        assert device.counts["waits"] == device.counts["uploads"] == 0
