"""Priors on the picture: their steps, and what the latent step makes of them, a user's own among them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from laws import assert_batch_is_loop, assert_close, assert_same, assert_shift_covariant, picture
from PIL import Image, ImageDraw, ImageFont

from gpudeblur.blind.latent import latent_step
from gpudeblur.numerics.arrays import array_module, to_host
from gpudeblur.priors import DarkChannel, L0Intensity, Prior
from gpudeblur.priors.dark_channel import opening
from gpudeblur.synthesis import blur, linear_kernel

KERNEL = linear_kernel(4, 30, 5) * np.arange(1, 6)
KERNEL /= KERNEL.sum()
ENDS = ("dark", "bright", "both")
PRIORS = [
    *(L0Intensity(of=of) for of in ENDS),
    *(DarkChannel(radius=radius, of=of) for of in ENDS for radius in (1, 40)),
]
each_prior = pytest.mark.parametrize("prior", PRIORS, ids=str)


@dataclass(frozen=True)
class Near:
    """A user's own prior: p(x) = |x - level|^2."""

    level: float
    weight: float = 0.1

    def step(self, latent: Any, ratio: float) -> Any:
        return (latent + ratio * self.level) / (1 + ratio)


def text(lines: int = 3) -> np.ndarray:
    """Black words on white paper, (20 lines, 120), in [0, 1]."""
    page = Image.new("L", (120, 20 * lines), 255)
    font = ImageFont.load_default(14)
    for line in range(lines):
        ImageDraw.Draw(page).text((3 + 5 * line, 20 * line), "sharp letters", 0, font)
    return np.asarray(page, np.float64) / 255


# ------------------------------------------------------------------ the steps
@pytest.mark.parametrize("of", ENDS)
@pytest.mark.parametrize("ratio", [1e-3, 0.04, 0.25, 0.5, 2.0])
def test_the_step_of_the_intensity_prior_is_the_minimum(xp: Any, of: Any, ratio: float) -> None:
    """The objective falls apart into pixels: |u - x|^2 + ratio p(u), p counting the u that are not (both) ends."""
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (2, 9, 11))
    u = to_host(L0Intensity(of=of).step(xp.asarray(x), ratio))
    ends = {"dark": [0.0], "bright": [1.0], "both": [0.0, 1.0]}[of]

    def value(u: np.ndarray) -> np.ndarray:
        return (u - x) ** 2 + ratio * ~np.isin(u, ends)

    others = [x, *(np.full(x.shape, end) for end in ends), *(u + d for d in np.linspace(-2, 2, 401))]
    assert (value(u) <= np.min([value(other) for other in others], axis=0)).all()
    assert np.isin(u, ends).any()


def test_the_threshold_itself_is_kept(xp: Any) -> None:
    x = xp.asarray(np.float32([[0.5, np.nextafter(np.float32(0.5), np.float32(0)), -0.5, 0.0]]))
    assert_same(L0Intensity().step(x, 0.25), np.float32([[0.5, 0, -0.5, 0]]))


def test_the_dark_channel_by_hand(xp: Any) -> None:
    """Radius 1 on a torus, ratio 0.09: what is under 0.3 and the minimum of a square goes to 0."""
    x = np.full((7, 9), 0.9)
    x[3, 3] = 0.1  # the minimum of nine squares
    x[3, 4] = 0.2  # of those in column 5, which 0.1 does not reach
    x[2:5, 2] = 0.15, 0.25, 0.15  # 0.15 is the minimum in column 1, where 0.25 is none
    x[0, 0] = 0.35  # of nine, but it is no dark one
    x[6, 8] = 0.29  # beside it across the borders
    x[0, 6] = -0.4  # of nine; its square is over the ratio
    expected = x.copy()
    expected[3, 3] = expected[3, 4] = expected[2, 2] = expected[4, 2] = expected[6, 8] = 0
    assert_same(DarkChannel(radius=1).step(xp.asarray(x), 0.09), expected)


@pytest.mark.parametrize("radius", [1, 2, 5, 40])
@pytest.mark.parametrize("shape", [(9, 12), (10, 7), (1, 5)])
def test_the_opening_marks_the_minima_of_squares(xp: Any, shape: tuple[int, int], radius: int) -> None:
    """Square by square: a pixel is marked if it is the minimum of one that holds it."""
    x = np.round(picture(shape, dtype=np.float64) * 20)  # with ties
    h, w = shape
    offsets = np.arange(-radius, radius + 1)
    expected = np.zeros(shape, dtype=bool)
    for i, j in np.ndindex(shape):
        square = np.ix_(np.unique((i + offsets) % h), np.unique((j + offsets) % w))
        expected[square] |= x[square] == x[square].min()
    assert_same(opening(xp.asarray(x), radius) == xp.asarray(x), expected)
    assert_same(opening(xp.asarray(-x), radius, bright=True) == xp.asarray(-x), expected)


def test_bright_is_dark_of_the_negative(xp: Any) -> None:
    x = xp.asarray(np.round(picture((2, 15, 18), dtype=np.float64) * 16) / 16)  # 1 - x is exact
    for prior in (L0Intensity, lambda of="dark": DarkChannel(radius=2, of=of)):
        assert_same(prior(of="bright").step(x, 0.2), 1 - prior().step(1 - x, 0.2))
        once = prior(of="bright").step(prior().step(x, 0.2), 0.2)
        assert_same(prior(of="both").step(x, 0.2), once)


def test_a_larger_radius_finds_fewer_minima(xp: Any) -> None:
    x = xp.asarray(picture((40, 50)))
    zeros = [int((DarkChannel(radius=radius).step(x, 1.0) == 0).sum()) for radius in (1, 3, 9)]
    assert zeros[0] > 2 * zeros[1] > 4 * zeros[2] > 0


@each_prior
@pytest.mark.parametrize("shape", [(2, 20, 31), (3, 1, 7), (2, 2, 5, 4)])
def test_a_step_of_a_batch_is_a_loop(xp: Any, prior: Prior, shape: tuple[int, ...]) -> None:
    stack = picture(shape)
    stack[0], stack[1, ..., 0, 0] = 0.3, np.nan
    assert_batch_is_loop(lambda x: prior.step(x, 0.2), xp.asarray(stack))
    before = xp.asarray(stack)
    prior.step(before, 0.2)
    assert_same(before, stack)


@each_prior
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_keeps_the_dtype_and_shifts_with_the_picture(xp: Any, prior: Prior, dtype: str) -> None:
    x = xp.asarray(picture((2, 20, 31), dtype=dtype))
    assert prior.step(x, 0.2).dtype == dtype
    assert_shift_covariant(lambda x: prior.step(x, 0.2), x, (5, -3))


# ------------------------------------------------------------------ in the latent step
OPTIONS = {"gradient_weight": 2e-3, "smooth_weight": 4e-3, "smooth_sigma": 0.6, "smooth_radius": 2, "beta_max": 1e2}


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("eta_max", [8.0, 0.05])
def test_the_closed_form_zeroes_its_own_gradient(xp: Any, smooth: float, eta_max: float) -> None:
    """One pass from x = B, where beta is 2 lambda, and eta 2 mu or its end; all gradients are under the threshold.

    |x * k - B|^2 + beta |grad x|^2 + eta |x - u|^2 is quadratic, so that central differences are exact. With alpha, and
    a smoothing that does nothing, alpha |grad x - grad B|^2 is in it as well.
    """
    random = np.random.default_rng(0)
    blurred, prior = 0.1 * picture((21, 24), dtype=np.float64), Near(level=0.7, weight=0.15)
    beta, eta = 0.2, min(0.3, eta_max)
    u = (blurred + 0.15 / eta * 0.7) / (1 + 0.15 / eta)

    def value(x: np.ndarray) -> float:
        total = ((blur(x, KERNEL, mode="wrap") - blurred) ** 2).sum() + eta * ((x - u) ** 2).sum()
        for axis in (0, 1):
            dx, db = (np.roll(a, -1, axis) - a for a in (x, blurred))
            total += beta * (dx**2).sum() + smooth * ((dx - db) ** 2).sum()
        return float(total)

    rest = {"smooth_weight": smooth, "smooth_sigma": 1e-3, "beta_max": 0.3, "eta_max": eta_max}
    x = to_host(latent_step(xp.asarray(blurred), xp.asarray(KERNEL), gradient_weight=0.1, prior=prior, **rest))
    for _ in range(8):
        direction = random.normal(size=x.shape)
        assert abs(value(x + direction) - value(x - direction)) < 1e-9 * value(np.zeros(x.shape))
        assert abs(value(blurred + direction) - value(blurred - direction)) > 1e-4 * value(np.zeros(x.shape))


def test_eta_grows_with_beta_up_to_its_end(xp: Any) -> None:
    """A pass each: eta is 2 mu, 2 mu rate, ... and stays at eta_max; the prior is told mu / eta."""
    ratios: list[float] = []

    class Listener:
        weight = 0.03

        def step(self, latent: Any, ratio: float) -> Any:
            ratios.append(ratio)
            return latent

    arrays = xp.asarray(text()), xp.asarray(KERNEL)
    passes = {"gradient_weight": 0.01, "beta_rate": 4.0, "beta_max": 6.0}
    latent_step(*arrays, **passes, prior=Listener(), eta_max=1.0)
    np.testing.assert_allclose(ratios, [0.03 / eta for eta in (0.06, 0.24, 0.96, 1.0, 1.0)])
    ratios.clear()
    latent_step(*arrays, **passes, prior=Listener(), prior_weight=0.1)
    np.testing.assert_allclose(ratios, [0.1 / eta for eta in (0.2, 0.8, 2.0, 2.0, 2.0)])
    ratios.clear()
    Listener.eta_max = 0.02  # type: ignore[attr-defined]
    latent_step(*arrays, **passes, prior=Listener())
    np.testing.assert_allclose(ratios, [1.5] * 5)
    ratios.clear()
    latent_step(*arrays, **passes, prior=Listener(), eta_max=1.0)  # what the caller says counts for more
    np.testing.assert_allclose(ratios, [0.03 / eta for eta in (0.06, 0.24, 0.96, 1.0, 1.0)])


@pytest.mark.parametrize("end", [0, -1, None, "2", float("nan"), 1e-40])
def test_a_bad_end_of_eta_is_refused(end: Any) -> None:
    """0 was a division by zero, None a TypeError, NaN no end and 1e-40 pictures that are NaN."""

    @dataclass(frozen=True)
    class Held:
        weight: float = 0.1
        eta_max: Any = 2.0

        def step(self, latent: Any, ratio: float) -> Any:
            return latent

    page, kernel = blur(text(), KERNEL, mode="wrap").astype(np.float32), KERNEL.astype(np.float32)
    rest: dict[str, Any] = {"gradient_weight": 0.01, "beta_max": 1.0}
    with pytest.raises(ValueError, match=r"^prior\.eta_max must be a number of at least 1e-12, got .*; leave it out"):
        latent_step(page, kernel, **rest, prior=Held(eta_max=end))
    if end is not None:
        with pytest.raises(ValueError, match=r"^eta_max must be a number of at least 1e-12, got "):
            latent_step(page, kernel, **rest, prior=Held(), eta_max=end)
    smallest = latent_step(page, kernel, **rest, prior=DarkChannel(weight=1.0), eta_max=1e-12)
    assert np.isfinite(smallest).all()


def test_a_users_prior_draws_the_picture_to_where_it_is_small(xp: Any) -> None:
    arrays = xp.asarray(blur(text(), KERNEL, mode="wrap")), xp.asarray(KERNEL)
    distances = [
        float((latent_step(*arrays, **OPTIONS, prior=Near(0.5, weight)) - 0.5).std()) for weight in (0, 0.03, 0.3, 3)
    ]
    assert distances[0] > 1.01 * distances[1] > 1.1 * distances[2] > 1.2 * distances[3]


@pytest.mark.parametrize("smooth_weight", [0.0, 4e-3])
def test_no_weight_is_no_prior(xp: Any, smooth_weight: float) -> None:
    arrays = xp.asarray(blur(text(), KERNEL, mode="wrap")), xp.asarray(KERNEL)
    options = OPTIONS | {"smooth_weight": smooth_weight}
    plain = latent_step(*arrays, **options)
    assert_same(latent_step(*arrays, **options, prior=L0Intensity(weight=0)), plain)
    assert_same(latent_step(*arrays, **options, prior=L0Intensity(), prior_weight=0.0), plain)
    assert_same(latent_step(*arrays, **options, prior_weight=0.1, eta_max=1.0), plain)
    tiny = latent_step(*arrays, **options, prior=L0Intensity(weight=1e-14))
    assert_close(tiny, plain, atol=1e-6)


@pytest.mark.parametrize("of", ENDS)
def test_the_intensity_prior_knows_ink_from_paper(xp: Any, of: Any) -> None:
    """A rendered page comes nearer to the truth, and more of it within 1 % of the ends that the prior knows."""
    sharp, ends = text(), {"dark": [0.0], "bright": [1.0], "both": [0.0, 1.0]}[of]
    noise = 0.05 * np.random.default_rng(0).normal(size=sharp.shape)
    arrays = xp.asarray(blur(sharp, KERNEL, mode="wrap") + noise), xp.asarray(KERNEL)

    def judged(**rest: Any) -> tuple[float, int]:
        x = to_host(latent_step(*arrays, gradient_weight=8e-3, beta_max=60.0, **rest))
        return float(((x - sharp) ** 2).mean()), int((np.abs(x[..., None] - ends) < 0.01).any(axis=-1).sum())

    plain, found = judged(), judged(prior=L0Intensity(8e-3, of=of))
    assert found[0] < 0.9 * plain[0]
    assert found[1] > 1.1 * plain[1]


def test_the_dark_channel_prior_makes_the_minima_darker(xp: Any) -> None:
    sharp = text()
    arrays = xp.asarray(0.1 + 0.9 * blur(sharp, KERNEL, mode="wrap")), xp.asarray(KERNEL)

    def darkness(weight: float) -> float:
        prior = DarkChannel(weight, radius=3)
        x = latent_step(*arrays, gradient_weight=8e-3, beta_max=60.0, prior=prior)
        return float(abs(opening(x, 3)[xp.asarray(sharp < 0.5)]).mean())

    assert darkness(0) > 1.1 * darkness(8e-3) > 2 * darkness(0.1)


@each_prior
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, prior: Prior, dtype: str) -> None:
    stack = blur(text(), KERNEL, mode="wrap") * np.linspace(0.5, 1, 4)[:, None, None]
    stack[1], stack[2, 3, 4] = 0.5, np.nan
    stack, kernel = xp.asarray(stack.astype(dtype)), xp.asarray(KERNEL.astype(dtype))
    options = OPTIONS | {"prior": prior, "prior_weight": 8e-3}
    out = latent_step(stack, kernel, **options)
    for i in range(4):
        alone = latent_step(stack[i], kernel, **options)
        if xp is np:
            assert_same(out[i], alone)
        else:  # a batched cuFFT may add in another order, and a threshold may tell
            off = abs(to_host(out[i]) - to_host(alone)) > 1e-3
            assert off.mean() < 0.01
    assert bool(xp.isnan(out[2]).all())
    assert not bool(xp.isnan(out[xp.asarray([0, 1, 3])]).any())
    assert out.dtype == dtype


@each_prior
def test_the_input_is_left_alone(xp: Any, prior: Prior) -> None:
    u = xp.asarray(blur(text(), KERNEL, mode="wrap"))
    before = u.copy()
    latent_step(u, xp.asarray(KERNEL), **OPTIONS, prior=prior)
    assert_same(u, before)


# ------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L0Intensity(-1e-9), "weight must be a finite number, not negative, got -1e-09; 0 switches"),
        (lambda: L0Intensity(float("nan")), "weight must be a finite number, not negative, got nan"),
        (lambda: DarkChannel(weight="much"), "weight must be a finite number, not negative, got 'much'"),
        (lambda: L0Intensity(of="grey"), "of must be 'dark', 'bright' or 'both', got 'grey'; leave it out for 'dark'"),
        (lambda: DarkChannel(of=None), "of must be 'dark', 'bright' or 'both', got None"),
        (lambda: DarkChannel(radius=0), "radius must be an integer of at least 1, got 0; for single pixels take L0"),
        (lambda: DarkChannel(radius=1.5), "radius must be an integer of at least 1, got 1.5"),
    ],
)
def test_an_option_that_breaks_a_rule(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_prior_that_breaks_the_contract() -> None:
    def run(prior: Any, **rest: Any) -> None:
        latent_step(text(), KERNEL, gradient_weight=0.01, prior=prior, **rest)

    with pytest.raises(ValueError, match=re.escape("prior.weight must not be negative, got -1; 0 switches the prior")):
        run(Near(0.5, weight=-1))
    with pytest.raises(ValueError, match=re.escape("prior_weight must not be negative, got nan; 0 switches")):
        run(Near(0.5), prior_weight=float("nan"))

    @dataclass
    class Wrong:
        result: Any
        weight: float = 0.1

        def step(self, latent: Any, ratio: float) -> Any:
            return self.result

    shapes = "Wrong.step must return shape (60, 120), its argument's, got (59, 120)"
    with pytest.raises(ValueError, match=re.escape(shapes)):
        run(Wrong(text()[1:]))
    with pytest.raises(TypeError, match=r"all NumPy or all CuPy, got numpy\.ndarray, builtins\.list"):
        run(Wrong([1.0]))


# ------------------------------------------------------------------ on a device
def agree(cupy: Any, prior: Prior) -> None:
    """The first passes, after which a threshold that rounding turns could tell."""
    stack = picture((2, 20, 31))
    assert_same(prior.step(cupy.asarray(stack), 0.2), prior.step(stack, 0.2))
    page, kernel = blur(text(), KERNEL, mode="wrap").astype(np.float32), KERNEL.astype(np.float32)
    options = {"gradient_weight": 0.01, "smooth_weight": 0.02, "beta_max": 0.05, "prior": prior, "prior_weight": 0.03}
    found = latent_step(cupy.asarray(page), cupy.asarray(kernel), **options)
    assert array_module(found) is cupy
    expected = latent_step(page, kernel, **options)
    assert (abs(to_host(found) - expected) > 1e-4).mean() < 0.01
    assert abs(expected - latent_step(page, kernel, **(options | {"prior": None}))).max() > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("prior", [*PRIORS, Near(0.5)], ids=str)
def test_a_device_agrees(cupy: Any, prior: Prior) -> None:
    agree(cupy, prior)


@pytest.mark.parametrize("prior", [PRIORS[0], PRIORS[2], PRIORS[-1], Near(0.5)], ids=str)
def test_the_device_path_agrees(cpu_kernel: Any, prior: Prior) -> None:
    """Through the launches, built for the CPU: no copy, no wait, and two transforms a pass as without a prior."""
    pytest.importorskip("cupy", reason="gpudeblur.numerics.cuda.source needs it; no GPU is needed")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    from cuda_on_cpu import device

    with device.installed(cpu_kernel) as cupy:
        agree(cupy, prior)
        page, kernel = (cupy.asarray(a.astype(np.float32)) for a in (text(), KERNEL))

        def costs(**rest: Any) -> dict[str, int]:
            device.counts.clear()
            latent_step(page, kernel, gradient_weight=0.01, beta_max=1.0, **rest)
            return {name: device.counts[name] for name in ("transforms", "waits", "uploads")}

        costs()
        assert costs(prior=prior) == costs()
        assert not device.counts["waits"]
        assert not device.counts["uploads"]
