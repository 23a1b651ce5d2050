"""Networks as priors: what a step promises, and that it reaches the picture."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

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

from gpudeblur.networks import weights  # noqa: E402
from gpudeblur.networks.classifier import training  # noqa: E402
from gpudeblur.networks.classifier.network import (  # noqa: E402
    CHECKSUMS,
    FOLDER,
    Classifier,
    load_classifier,
)

QUICK = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2)


class Far(torch.nn.Module):
    """f(x) = |x - 1|^2 / 2: a step towards 1 everywhere, with a known minimum."""

    def forward(self, x: Any) -> Any:
        return 0.5 * ((x - 1) ** 2).sum(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network that is not trained: a function like any other."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    training.write_classifier(path, Classifier((4, 4, 4, 4, 4)).initialise(3))
    return path


@pytest.fixture(scope="module")
def blurred() -> np.ndarray:
    sharp = data.camera()[100:220, 150:290] / np.float32(255)
    return blur(sharp.astype(np.float32), trajectory_kernel(9, rng=2))


def pictures(*lead: int) -> np.ndarray:
    return np.random.default_rng(4).random((*lead, 17, 20)).astype(np.float32)


# ------------------------------------------------------------------ gradient steps
def test_descend_reaches_the_minimum_in_closed_form() -> None:
    """argmin |u - x|^2 + (ratio / 2) |u - 1|^2 is (x + ratio / 2) / (1 + ratio / 2)."""
    x, ratio = pictures(2), 0.4
    u = gradient_steps(lambda u: u - 1, x, ratio, 0.5, 60)
    np.testing.assert_allclose(u, (x + 0.5 * ratio) / (1 + 0.5 * ratio), rtol=1e-5)
    np.testing.assert_allclose(EnergyPrior(Far(), rate=0.5, steps=60).step(x, ratio), u, rtol=1e-5)


@pytest.mark.parametrize("times", [1, 2, 3, 7])
def test_a_gradient_that_is_held_is_steps_with_the_same_gradient(times: int) -> None:
    """Asked so many times, and between them what a loop of single steps with the old gradient does."""
    x, ratio, rate, asked = pictures(2), 0.4, 0.1, []

    def slope(u: np.ndarray) -> np.ndarray:
        asked.append(u)
        return u**3

    found = gradient_steps(slope, x, ratio, rate, 7, times)
    assert len(asked) == times
    u, held, new = x, None, [7 * number // times for number in range(times)]
    for step in range(7):
        held = u**3 if step in new else held
        u = u - rate * ((u - x) + 0.5 * ratio * held)
    np.testing.assert_allclose(found, u, atol=1e-6)
    np.testing.assert_array_equal(
        EnergyPrior(Far(), steps=7, gradients=9).step(x, ratio), EnergyPrior(Far(), steps=7).step(x, ratio)
    )


def test_large_pictures_are_shown_halved(random_weights: Path) -> None:
    """The gradient is that of f of the means of blocks: equal within a block, also of one that the border cuts."""
    x = np.random.default_rng(0).random((2, 71, 83)).astype(np.float32)
    whole = DiscriminativePrior(weights=random_weights, downsample_above=None, rate=1.0, steps=1)
    assert DiscriminativePrior(weights=random_weights).downsample_above == 128
    halved = replace(whole, downsample_above=36)
    moved = (halved.step(x, 1e3) - x)[:, ::2, ::2]
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        other = (halved.step(x, 1e3) - x)[:, dy::2, dx::2]
        h, w = other.shape[1:]
        np.testing.assert_allclose(moved[:, :h, :w], other, atol=1e-6)
    small = x[:, :70, :82].reshape(2, 35, 2, 41, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(
        (halved.step(x[:, :70, :82], 1e3) - x[:, :70, :82])[:, ::2, ::2],
        (whole.step(small, 1e3) - small) / 4,
        atol=1e-6,
    )
    np.testing.assert_array_equal(replace(whole, downsample_above=71).step(x, 0.3), whole.step(x, 0.3))


@pytest.mark.parametrize("shape", [(7, 9), (10, 7), (5, 12)])
def test_a_block_that_the_border_cuts_is_the_mean_of_what_it_has(shape: tuple[int, int]) -> None:
    """f of the means, by hand; and its gradient is that of the means, shared by the pixels that there are."""
    x = np.random.default_rng(0).random((2, *shape))

    def cubes(means: Any) -> Any:
        return (means**3).sum(dim=(1, 2, 3))

    rows, columns = (range(0, length, 2) for length in shape)
    slope = np.zeros_like(x)
    for top in rows:
        for left in columns:
            block = (slice(None), slice(top, top + 2), slice(left, left + 2))
            mean = x[block].mean(axis=(1, 2), keepdims=True)
            slope[block] = 3 * mean**2 / x[0][block[1:]].size
    halved = functools.partial(on_half_size, cubes)
    np.testing.assert_allclose(bridge.gradient(halved, x), slope, rtol=1e-12)


def test_without_coupling_the_pull_is_a_share_of_the_weights() -> None:
    """One pass: x moves by 1 - (1 - rate)^steps of what lambda df / dx asks for, whatever the gradients asked for."""
    x, kernel = pictures().astype(np.float64), np.array([[0.0, 0.7, 0.3]])
    slope = np.random.default_rng(1).random(x.shape)
    fixed = torch.from_numpy(slope)
    passes: dict[str, Any] = {"gradient_weight": 0.01, "beta_max": 0.03}

    def moved(**options: Any) -> np.ndarray:
        prior = EnergyPrior(lambda u: (fixed * u).sum(dim=(1, 2, 3)), 0.03, eta_max=1e-6, **options)
        return latent_step(x, kernel, **passes, prior=prior) - latent_step(x, kernel, **passes)

    whole = moved(rate=1.0, steps=1)
    curvature = abs(psf_to_otf(kernel, x.shape)) ** 2 + 0.02 * gradient_spectrum(x.shape, x.dtype)
    asked = irfft2(rfft2(-0.015 * slope) / curvature, x.shape) / x.size
    np.testing.assert_allclose(whole, asked, atol=1e-4 * abs(asked).max())
    for gradients in (1, None):
        np.testing.assert_allclose(moved(gradients=gradients), (1 - 0.9**10) * whole, atol=1e-4 * abs(asked).max())


def test_every_option_of_the_steps_matters() -> None:
    x, prior = pictures(), EnergyPrior(Far())
    usual = prior.step(x, 0.3)
    for change in ({"rate": 0.2}, {"steps": 4}):
        assert abs(replace(prior, **change).step(x, 0.3) - usual).max() > 1e-3
    assert abs(prior.step(x, 0.1) - usual).max() > 1e-3


def test_the_step_does_not_write_to_its_picture(random_weights: Path) -> None:
    x = pictures(2)
    before = x.copy()
    for prior in (EnergyPrior(Far()), DiscriminativePrior(weights=random_weights), DenoiserPrior(lambda p, s: p)):
        prior.step(x, 0.3)
        np.testing.assert_array_equal(x, before)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"weight": -1}, "weight must be a finite number, not negative, got -1"),
    ({"rate": 0}, r"rate must be a number in \(0, 1\], got 0; leave it out for 0.1"),
    ({"rate": "1"}, "rate must be a number"),
    ({"steps": 0}, "steps must be an integer of at least 1, got 0; leave it out for 10"),
    ({"steps": 2.5}, "steps must be an integer"),
    ({"eta_max": 0}, "eta_max must be a number of at least 1e-12, got 0; leave it out for the default"),
    ({"eta_max": 1e-40}, "eta_max must be a number of at least 1e-12, got 1e-40"),
    ({"gradients": 0}, "gradients must be an integer of at least 1, or None, got 0; None is one for each step"),
    ({"gradients": True}, "gradients must be an integer"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_bad_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyPrior(Far(), **change)
    with pytest.raises(ValueError, match=message):
        DiscriminativePrior(**change)


@pytest.mark.parametrize("downsample_above", [31, 64.0, True])
def test_a_bad_limit_is_refused(downsample_above: Any) -> None:
    with pytest.raises(
        ValueError, match=f"downsample_above must be an integer of at least 32, or None, got {downsample_above}"
    ):
        DiscriminativePrior(downsample_above=downsample_above)


def test_bad_networks_are_refused() -> None:
    for kind in (EnergyPrior, DenoiserPrior):
        with pytest.raises(ValueError, match=r"module must be callable, got 3; pass a torch.nn.Module"):
            kind(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_sigma must be a positive number, got 0"):
        DenoiserPrior(Far(), max_sigma=0)


# ------------------------------------------------------------------ the classifier
def test_the_classifier_takes_any_size_and_each_picture_by_itself() -> None:
    network = Classifier((4, 4, 4, 4, 4)).initialise(0).double()
    for shape in ((1, 1), (5, 3), (32, 47), (64, 64)):
        x = torch.rand(3, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            together = network(x)
            alone = torch.cat([network(one[None]) for one in x])
            np.testing.assert_allclose(network(x + 0.2).numpy(), together.numpy(), rtol=1e-9)  # brightness is no blur
        np.testing.assert_allclose(together.numpy(), alone.numpy(), rtol=1e-12)
        assert ((together > 0) & (together < 1)).all()
    with pytest.raises(ValueError, match="channels must be 5 positive numbers"):
        Classifier((3, 4))


def test_the_gradient_is_that_of_the_probability(random_weights: Path) -> None:
    prior = DiscriminativePrior(weights=random_weights)
    x, d = pictures().astype(np.float64), np.random.default_rng(2).standard_normal((17, 20))
    slope = (x - prior_step(prior, x)) * 2 / 1e-3
    e = 1e-6
    numeric = (prior.probability(x + e * d) - prior.probability(x - e * d)) / (2 * e)
    np.testing.assert_allclose((slope * d).sum(), numeric, rtol=1e-5)


def prior_step(prior: DiscriminativePrior, x: np.ndarray) -> np.ndarray:
    """One whole step: x - (ratio / 2) df / dx."""
    return replace(prior, rate=1.0, steps=1).step(x, 1e-3)


def test_a_stack_is_a_loop_and_a_bad_picture_stays_alone(random_weights: Path) -> None:
    prior, x = DiscriminativePrior(weights=random_weights, weight=1.0), pictures(2, 2)
    x[1, 0] = 0.5  # constant
    x[0, 1, 3, 3] = np.nan
    found = prior.step(x, 0.5)
    for place in ((0, 0), (1, 0), (1, 1)):
        np.testing.assert_allclose(found[place], prior.step(x[place], 0.5), atol=1e-6)
    f = prior.probability(x)
    assert f.shape == (2, 2)
    np.testing.assert_allclose(f[1, 1], prior.probability(x[1, 1]), rtol=1e-5)


def test_what_probability_takes(random_weights: Path) -> None:
    prior = DiscriminativePrior(weights=random_weights)
    half = pictures().astype(np.float16)
    assert prior.probability(half).dtype == np.float32
    with pytest.raises(ValueError, match=r"pictures must be floats \(..., H, W\), got 'shape \(3, 3\), uint8'"):
        prior.probability(np.zeros((3, 3), np.uint8))


def test_without_torch_a_prior_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="needs PyTorch"):
        DiscriminativePrior()


# ------------------------------------------------------------------ weights
def test_the_weights_of_the_package_load_and_tell_blurred_from_clear() -> None:
    sharp = (data.camera()[100:400, 100:400] / 255).astype(np.float32)
    kernel = trajectory_kernel(21, rng=5)
    soft = blur(sharp, kernel)
    noise = 0.01 * np.random.default_rng(0).standard_normal(soft.shape).astype(np.float32)
    clear, soft = sharp[10:-10, 10:-10] + noise, soft + noise
    prior = DiscriminativePrior()
    f = prior.probability(np.stack([clear, soft]))
    assert f[0] < 0.1 * f[1]
    assert f[1] > 0.5


def test_what_ships_is_small_and_has_its_card() -> None:
    for name in CHECKSUMS:
        file = FOLDER / name
        assert file.stat().st_size < 5e6
        card = file.with_suffix(".md").read_text()
        assert CHECKSUMS[name] in card
        assert "research" in card


def test_other_files_are_refused(tmp_path: Path, random_weights: Path) -> None:
    def load(data: bytes, **more: Any) -> None:
        (tmp_path / "w.safetensors").write_bytes(data)
        load_classifier(tmp_path / "w.safetensors", **more)

    good = random_weights.read_bytes()
    load(good)
    with pytest.raises(ValueError, match=r"must have SHA-256 abc, got [0-9a-f]{64}; get a fresh copy"):
        load(good, checksum="abc")
    with pytest.raises(ValueError, match="must be safetensors, got a damaged file"):
        load(good[:-9])
    with pytest.raises(ValueError, match="must be safetensors, got a damaged file"):
        load(b"")
    torch.save({"a": torch.zeros(2)}, tmp_path / "p.pt")
    with pytest.raises(ValueError, match="must be safetensors, got a pickle, which can run code"):
        load((tmp_path / "p.pt").read_bytes())
    with pytest.raises(ValueError, match=r"must be those of a Classifier, got \['x'\]"):
        load(weights.pack({"x": torch.zeros(2)}))
    tensors, _ = weights.unpack(random_weights)
    with pytest.raises(ValueError, match=r"must hold layers.1.bias of shape \(4,\), got \(5,\)"):
        load(weights.pack({**tensors, "layers.1.bias": torch.zeros(5)}))
    with pytest.raises(ValueError, match=r"must hold layers.2.bias .* got nothing"):
        load(weights.pack({name: one for name, one in tensors.items() if name != "layers.2.bias"}))
    with pytest.raises(ValueError, match=r"must hold a Classifier alone, got \['more'\]"):
        load(weights.pack({**tensors, "more": torch.zeros(2)}))
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "none.safetensors")


# ------------------------------------------------------------------ denoisers
def test_a_denoiser_is_asked_with_the_sigma_of_the_split() -> None:
    asked = []

    def denoiser(p: Any, sigma: float) -> Any:
        asked.append(sigma)
        return p

    for ratio in (0.5, 0.02):
        DenoiserPrior(denoiser).step(pictures(), ratio)
    DenoiserPrior(denoiser, max_sigma=0.05).step(pictures(), 0.02)
    np.testing.assert_allclose(asked, [0.2, 0.1, 0.05])


# ------------------------------------------------------------------ in the method
def test_the_latent_step_follows_the_prior(blurred: np.ndarray) -> None:
    """With a prior for white, the picture gets brighter; with none, or weight 0, it does not."""

    def latent(prior: Any) -> np.ndarray:
        return latent_step(blurred, trajectory_kernel(9, rng=2, dtype=np.float32), gradient_weight=4e-3, prior=prior)

    plain = latent(None)
    assert latent(EnergyPrior(Far(), weight=0.05)).mean() > plain.mean() + 0.01
    np.testing.assert_array_equal(latent(EnergyPrior(Far(), weight=0.0)), plain)


def test_deblur_takes_a_prior(blurred: np.ndarray, random_weights: Path) -> None:
    prior = DiscriminativePrior(weights=random_weights, weight=10.0, steps=2)
    plain = gd.estimate_kernel(blurred, 9, options=QUICK)
    found = gd.estimate_kernel(blurred, 9, options=QUICK, prior=prior)
    np.testing.assert_array_equal(found, gd.estimate_kernel(blurred, 9, options=replace(QUICK, prior=prior)))
    assert abs(found - plain).max() > 1e-4
    last = gd.estimate_kernel(blurred, 9, options=replace(QUICK, finest_prior=True), prior=prior)
    assert abs(last - found).max() > 1e-5
    result = gd.deblur(blurred, 9, final=None, options=QUICK, prior=prior)
    np.testing.assert_array_equal(result.kernel, found)
    with gd.deblur_batch([blurred], 9, final=None, options=QUICK, prior=prior, device="cpu") as results:
        np.testing.assert_allclose(next(results).kernel, found, atol=1e-5)


def test_a_prior_is_given_once(blurred: np.ndarray) -> None:
    one, two = EnergyPrior(Far()), EnergyPrior(Far(), weight=1.0)
    with pytest.raises(ValueError, match="prior must be given once"):
        gd.deblur(blurred, 9, prior=one, options=replace(QUICK, prior=two))
    with pytest.raises(ValueError, match="prior must have a weight and a step"):
        gd.deblur(blurred, 9, prior="discriminative")  # type: ignore[arg-type]


def test_what_a_network_does_wrong_comes_through_deblur(blurred: np.ndarray) -> None:
    with pytest.raises(ValueError, match="module must return the shape that it gets"):
        gd.deblur(blurred, 9, options=QUICK, prior=DenoiserPrior(lambda p, sigma: p[..., ::2]))


def test_a_prior_that_may_not_be_replayed_is_not(blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """All starts are one CUDA graph, the finest scale another; each only where the prior that it uses allows it."""
    from gpudeblur.blind import two_step

    asked: list[bool] = []

    def spy(key: Any, function: Any, *arrays: Any, report: Any, capturable: bool = True) -> Any:
        asked.append(capturable)
        return function(*arrays, report=report)

    monkeypatch.setattr(two_step, "replayed", spy)
    denoiser = DenoiserPrior(lambda picture, sigma: picture)
    for prior, finest_prior, expected in (
        (None, False, [True, True]),
        (gd.priors.DarkChannel(), True, [True, True]),
        (denoiser, False, [False, True]),
        (denoiser, True, [False, False]),
    ):
        asked.clear()
        gd.estimate_kernel(blurred, 9, options=replace(QUICK, prior=prior, finest_prior=finest_prior))
        assert asked == expected
