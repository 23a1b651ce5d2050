"""Networks as priors: what a step promises, and that it reaches the result."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.data import camera

import gpudeblur as gd
from gpudeblur.blind.latent import latent_step
from gpudeblur.networks import bridge
from gpudeblur.numerics.fourier import irfft2, psf_to_otf, rfft2
from gpudeblur.numerics.spectra import gradient_spectrum
from gpudeblur.priors import DenoiserPrior, DiscriminativePrior, EnergyPrior
from gpudeblur.priors.learned import gradient_steps, on_half_size
from gpudeblur.synthesis import blur, trajectory_kernel

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks.classifier.network import Classifier  # noqa: E402
from gpudeblur.networks.classifier.training import write_classifier  # noqa: E402

QUICK = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2)


def white(x: Any) -> Any:
    """f(x) = |x - 1|^2 / 2, with a known minimum."""
    return 0.5 * ((x - 1) ** 2).sum(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small untrained network: a function like any other."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    write_classifier(path, Classifier((4, 4, 4, 4, 4)).initialize(3))
    return path


@pytest.fixture(scope="module")
def blurred() -> np.ndarray:
    return blur((camera()[100:180, 150:250] / 255).astype(np.float32), trajectory_kernel(9, rng=2))


def images(*lead: int) -> np.ndarray:
    return np.random.default_rng(4).random((*lead, 17, 20)).astype(np.float32)


# ------------------------------------------------------------------ gradient steps
def test_gradient_steps_reach_the_minimum_in_closed_form() -> None:
    """argmin |u - x|^2 + (ratio / 2) |u - 1|^2 is (x + ratio / 2) / (1 + ratio / 2)."""
    x, ratio = images(2), 0.4
    u = gradient_steps(lambda u: u - 1, x, ratio, 0.5, 60, 60)
    np.testing.assert_allclose(u, (x + 0.5 * ratio) / (1 + 0.5 * ratio), rtol=1e-5)
    np.testing.assert_allclose(EnergyPrior(white, rate=0.5, steps=60).step(x, ratio), u, rtol=1e-5)
    np.testing.assert_allclose(EnergyPrior(white).value(x), 0.5 * ((x - 1) ** 2).sum(axis=(-2, -1)), rtol=1e-5)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7])
def test_reused_gradients_are_steps_with_the_same_gradient(evaluations: int) -> None:
    """What a loop of single steps does that evaluates the gradient in some of them."""
    x, ratio, rate, calls = images(2), 0.4, 0.1, list[np.ndarray]()

    def cube(u: np.ndarray) -> np.ndarray:
        calls.append(u)
        return u**3

    result = gradient_steps(cube, x, ratio, rate, 7, evaluations)
    assert len(calls) == evaluations
    u, gradient = x, x
    for step in range(7):
        if step in [7 * index // evaluations for index in range(evaluations)]:
            gradient = u**3
        u = u - rate * ((u - x) + 0.5 * ratio * gradient)
    np.testing.assert_allclose(result, u, atol=1e-6)
    prior = EnergyPrior(white, steps=7)
    np.testing.assert_array_equal(replace(prior, gradients=9).step(x, ratio), prior.step(x, ratio))


def test_large_images_are_reduced_for_the_classifier(random_weights: Path) -> None:
    """The gradient is that of f of the means over 2 x 2 pixels."""
    x = np.random.default_rng(0).random((2, 70, 82)).astype(np.float32)
    whole = DiscriminativePrior(weights=random_weights, downsample_above=None, rate=1.0, steps=1)
    halved, reduced = replace(whole, downsample_above=36), x.reshape(2, 35, 2, 41, 2).mean(axis=(2, 4))
    expected = (whole.step(reduced, 1e3) - reduced).repeat(2, axis=-2).repeat(2, axis=-1) / 4
    np.testing.assert_allclose(halved.step(x, 1e3) - x, expected, atol=1e-6)
    np.testing.assert_array_equal(replace(whole, downsample_above=70).step(x, 0.3), whole.step(x, 0.3))


@pytest.mark.parametrize("shape", [(7, 9), (10, 7), (5, 12)])
def test_half_size_at_the_border_is_the_mean_of_fewer_pixels(shape: tuple[int, int]) -> None:
    """The gradient of the sum of cubes of the means, each shared by the pixels of its block."""
    x = np.random.default_rng(0).random((2, *shape))
    expected = np.zeros_like(x)
    for top, left in np.ndindex((shape[0] + 1) // 2, (shape[1] + 1) // 2):
        block = (slice(None), slice(2 * top, 2 * top + 2), slice(2 * left, 2 * left + 2))
        expected[block] = 3 * x[block].mean(axis=(1, 2), keepdims=True) ** 2 / x[0][block[1:]].size
    module = functools.partial(on_half_size, lambda means: (means**3).sum(dim=(1, 2, 3)))
    np.testing.assert_allclose(bridge.gradient(module, x), expected, rtol=1e-12)


def test_uncoupled_prior_moves_the_image_by_its_weight() -> None:
    """One pass: x moves by 1 - (1 - rate)^steps of what lambda df / dx demands, for any number of evaluations."""
    x, kernel = images().astype(np.float64), np.array([[0.0, 0.7, 0.3]])
    slope = np.random.default_rng(1).random(x.shape)
    tensor = torch.from_numpy(slope)
    options: dict[str, Any] = {"gradient_weight": 0.01, "beta_max": 0.03}

    def displacement(**steps: Any) -> np.ndarray:
        prior = EnergyPrior(lambda u: (tensor * u).sum(dim=(1, 2, 3)), 0.03, eta_max=1e-6, **steps)
        return latent_step(x, kernel, **options, prior=prior) - latent_step(x, kernel, **options)

    whole = displacement(rate=1.0, steps=1)
    curvature = abs(psf_to_otf(kernel, x.shape)) ** 2 + 0.02 * gradient_spectrum(x.shape, x.dtype)
    expected = irfft2(rfft2(-0.015 * slope) / curvature, x.shape) / x.size
    np.testing.assert_allclose(whole, expected, atol=1e-4 * abs(expected).max())
    for gradients in (1, None):
        result = displacement(gradients=gradients)
        np.testing.assert_allclose(result, (1 - 0.9**10) * whole, atol=1e-4 * abs(expected).max())


BOTH = DiscriminativePrior, functools.partial(EnergyPrior, white)
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"weight": -1}, "weight must be non-negative, and finite, got -1; 0 switches the prior off"),
    ({"rate": 0}, "rate must be in (0, 1], and finite, got 0"),
    ({"rate": "1"}, "rate must be a number, got '1'"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"steps": 2.5}, "steps must be an integer, got 2.5"),
    ({"eta_max": 1e-40}, "eta_max must be at least 1e-12, and finite, got 1e-40"),
    ({"gradients": 0}, "gradients must be at least 1, got 0; None is one for each step"),
    ({"gradients": True}, "gradients must be an integer, got True"),
]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    *((prior, change, message) for prior in BOTH for change, message in OPTIONS),
    *((DiscriminativePrior, {"downsample_above": n}, "downsample_above must be") for n in (31, 64.0, True)),
    *(
        (kind, {"module": 3}, "module must be callable, got 3; pass a torch.nn.Module")
        for kind in (EnergyPrior, DenoiserPrior)
    ),
    (DenoiserPrior, {"module": white, "max_sigma": 0}, "max_sigma must be positive, and finite, got 0"),
]


@pytest.mark.parametrize(("prior", "options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_options_are_refused(prior: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        prior(**options)


# ------------------------------------------------------------------ the classifier
def test_step_follows_the_gradient_of_the_probability(random_weights: Path) -> None:
    """One step of rate 1 is x - (ratio / 2) df / dx."""
    prior = DiscriminativePrior(weights=random_weights, rate=1.0, steps=1)
    x, d = images().astype(np.float64), np.random.default_rng(2).standard_normal((17, 20))
    gradient, e = (x - prior.step(x, 1e-3)) * 2 / 1e-3, 1e-6
    numeric = (prior.probability(x + e * d) - prior.probability(x - e * d)) / (2 * e)
    np.testing.assert_allclose((gradient * d).sum(), numeric, rtol=1e-5)


def test_stack_is_a_loop_and_a_nan_image_stays_alone(random_weights: Path) -> None:
    """And what a step is given stays as it is."""
    prior, x = DiscriminativePrior(weights=random_weights, weight=1.0), images(2, 2)
    x[1, 0] = 0.5  # constant
    x[0, 1, 3, 3] = np.nan
    before = x.copy()
    result, f = prior.step(x, 0.5), prior.probability(x)
    for other in (EnergyPrior(white), DenoiserPrior(lambda batch, sigma: batch)):
        other.step(x[1], 0.3)
    np.testing.assert_array_equal(x, before)
    assert f.shape == (2, 2)
    for index in ((0, 0), (1, 0), (1, 1)):
        np.testing.assert_allclose(result[index], prior.step(x[index], 0.5), atol=1e-6)
        np.testing.assert_allclose(f[index], prior.probability(x[index]), rtol=1e-5)


def test_probability_checks_its_images(random_weights: Path) -> None:
    prior = DiscriminativePrior(weights=random_weights)
    assert prior.probability(images().astype(np.float16)).dtype == np.float32
    with pytest.raises(ValueError, match=r"images must be floats \(..., H, W\), got shape \(3, 3\), uint8"):
        prior.probability(np.zeros((3, 3), np.uint8))


def test_without_torch_a_prior_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="needs PyTorch"):
        DiscriminativePrior()


def test_weights_of_the_package_separate_blurred_from_clear() -> None:
    sharp = (camera()[100:400, 100:400] / 255).astype(np.float32)
    soft = blur(sharp, trajectory_kernel(21, rng=5))
    noise = 0.01 * np.random.default_rng(0).standard_normal(soft.shape).astype(np.float32)
    f = DiscriminativePrior().probability(np.stack([sharp[10:-10, 10:-10], soft]) + noise)
    assert f[0] < 0.1 * f[1]
    assert f[1] > 0.5


# ------------------------------------------------------------------ denoisers
def test_denoiser_gets_the_sigma_of_the_splitting() -> None:
    sigmas = []

    def denoiser(batch: Any, sigma: float) -> Any:
        sigmas.append(sigma)
        return batch

    for ratio in (0.5, 0.02):
        DenoiserPrior(denoiser).step(images(), ratio)
    DenoiserPrior(denoiser, max_sigma=0.05).step(images(), 0.02)
    np.testing.assert_allclose(sigmas, [0.2, 0.1, 0.05])


# ------------------------------------------------------------------ in the method
def test_latent_step_follows_the_prior(blurred: np.ndarray) -> None:
    """A prior for white brightens the image; without a prior, or with weight 0, it stays."""

    def latent(prior: Any) -> np.ndarray:
        return latent_step(blurred, trajectory_kernel(9, rng=2, dtype=np.float32), gradient_weight=4e-3, prior=prior)

    plain = latent(None)
    assert latent(EnergyPrior(white, weight=0.05)).mean() > plain.mean() + 0.01
    np.testing.assert_array_equal(latent(EnergyPrior(white, weight=0.0)), plain)


@pytest.mark.slow
def test_every_public_function_takes_a_prior(blurred: np.ndarray, random_weights: Path) -> None:
    prior = DiscriminativePrior(weights=random_weights, weight=10.0, steps=2)
    kernel = gd.estimate_kernel(blurred, 9, options=QUICK, prior=prior)
    np.testing.assert_array_equal(kernel, gd.estimate_kernel(blurred, 9, options=replace(QUICK, prior=prior)))
    assert abs(kernel - gd.estimate_kernel(blurred, 9, options=QUICK)).max() > 1e-4
    finest = gd.estimate_kernel(blurred, 9, options=replace(QUICK, finest_prior=True), prior=prior)
    assert abs(kernel - finest).max() > 1e-5
    np.testing.assert_array_equal(gd.deblur(blurred, 9, final=None, options=QUICK, prior=prior).kernel, kernel)
    with gd.deblur_batch([blurred], 9, final=None, options=QUICK, prior=prior, device="cpu") as results:
        batched: Any = next(results).kernel
        np.testing.assert_allclose(batched, kernel, atol=1e-5)


def test_deblur_checks_its_prior(blurred: np.ndarray) -> None:
    options = replace(QUICK, prior=EnergyPrior(white, weight=1.0))
    with pytest.raises(ValueError, match="prior must be given once"):
        gd.deblur(blurred, 9, prior=EnergyPrior(white), options=options)
    with pytest.raises(ValueError, match="prior must have a weight and a step"):
        gd.deblur(blurred, 9, prior="discriminative")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="module must return the shape that it gets"):
        gd.deblur(blurred, 9, options=QUICK, prior=DenoiserPrior(lambda batch, sigma: batch[..., ::2]))


def test_unreplayable_prior_is_not_replayed(blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """All starts are one CUDA graph, the finest scale another; each only if the prior that it uses allows it."""
    from gpudeblur.blind import two_step

    recorded: list[bool] = []

    def spy(key: Any, function: Any, *arrays: Any, report: Any, capturable: bool = True) -> Any:
        recorded.append(capturable)
        return function(*arrays, report=report)

    monkeypatch.setattr(two_step, "replayed", spy)
    denoiser = DenoiserPrior(lambda batch, sigma: batch)
    for prior, finest_prior, expected in (
        (None, False, [True, True]),
        (gd.priors.DarkChannel(), True, [True, True]),
        (denoiser, False, [False, True]),
        (denoiser, True, [False, False]),
    ):
        recorded.clear()
        gd.estimate_kernel(blurred, 9, options=replace(QUICK, prior=prior, finest_prior=finest_prior))
        assert recorded == expected
