"""The latent step: its closed form, what each parameter does, and the laws that every step keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from laws import assert_close, assert_same, picture

from gpudeblur.blind import latent as latent_module
from gpudeblur.blind.latent import latent_step
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient
from gpudeblur.numerics.fourier import rfft2
from gpudeblur.synthesis import blur, linear_kernel

# A stroke that is stronger at one end: not symmetric.
KERNEL = linear_kernel(4, 30, 5) * np.arange(1, 6)
KERNEL /= KERNEL.sum()


def blocks(shape: tuple[int, ...] = (30, 24), noise: float = 0.01) -> np.ndarray:
    """Flat blocks with steps of a third, a little noise: (..., H, W)."""
    random = np.random.default_rng(0)
    levels = np.round(random.random((*shape[:-2], 4, 4)) * 3) / 3
    flat = levels[..., np.arange(shape[-2])[:, None] * 4 // shape[-2], np.arange(shape[-1]) * 4 // shape[-1]]
    return flat + noise * random.normal(size=shape)


def blurred_blocks(shape: tuple[int, ...] = (30, 24), noise: float = 0.01) -> np.ndarray:
    random = np.random.default_rng(1)
    return blur(blocks(shape, 0), KERNEL, mode="wrap") + noise * random.normal(size=shape)


def jumps(u: Any, least: float = 1e-2) -> int:
    """How many pixels have a gradient."""
    gx, gy = gradient(to_host(u))
    return int((gx**2 + gy**2 > least**2).sum())


@pytest.mark.parametrize("shape", [(30, 24), (21, 27)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_delta_and_a_tiny_weight_change_nothing(xp: Any, shape: tuple[int, int], dtype: str) -> None:
    u, delta = xp.asarray(picture(shape, dtype=dtype)), xp.zeros((5, 3), dtype=dtype)
    delta[2, 1] = 1
    out = latent_step(u, delta, gradient_weight=1e-12, smooth_weight=1e-12, beta_max=1e-6)
    assert out.dtype == dtype
    assert_close(out, u, atol=1e-5)


def objective(blurred: np.ndarray, weights: tuple[float, float], sigma: float, radius: int) -> Callable:
    """x -> |x * k - B|^2 + beta |grad x - g|^2 + alpha |grad x - grad z|^2 (eq. 3, 6) with g and z of `blurred`.

    Where the dilated mask is set, g stands for grad z.
    """
    beta, alpha = weights
    forward = [lambda u, axis=axis: np.roll(u, -1, axis) - u for axis in (0, 1)]
    energy = sum(d(blurred) ** 2 for d in forward)
    edges = energy >= 0.5  # lambda / beta in the first pass, where beta is 2 lambda
    near = scipy.ndimage.binary_dilation(np.pad(edges, 20, mode="wrap"), np.ones((2 * radius + 1,) * 2))[20:-20, 20:-20]
    smooth = scipy.ndimage.gaussian_filter(blurred, sigma, mode="wrap", truncate=4)

    def value(x: np.ndarray) -> float:
        total = ((blur(x, KERNEL, mode="wrap") - blurred) ** 2).sum()
        for axis, d in enumerate(forward):
            flat = ~near & ~np.roll(near, -1, axis)
            g = edges * d(blurred)
            total += beta * ((d(x) - g) ** 2).sum() + alpha * ((d(x) - g - flat * d(smooth)) ** 2).sum()
        return float(total)

    return value


@pytest.mark.parametrize("shape", [(24, 30), (21, 27)])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_closed_form_zeroes_its_own_gradient(xp: Any, shape: tuple[int, int], alpha: float) -> None:
    """One pass, with beta = 2 lambda = 0.2. The objective is quadratic, so central differences are exact."""
    random = np.random.default_rng(0)
    blurred = blocks(shape, 0.05)
    blurred[5:7, 5:7] += 2  # a few gradients over the threshold of 0.5, most under it
    value = objective(blurred, (0.2, alpha), sigma=0.8, radius=1)
    rest = {"smooth_weight": alpha, "smooth_sigma": 0.8, "smooth_radius": 1, "beta_rate": 2.0, "beta_max": 0.3}
    x = to_host(latent_step(xp.asarray(blurred), xp.asarray(KERNEL), gradient_weight=0.1, **rest))
    slopes, elsewhere = [], []
    for _ in range(8):
        direction = random.normal(size=shape)
        slopes.append(value(x + direction) - value(x - direction))
        elsewhere.append(value(blurred + direction) - value(blurred - direction))
    assert np.abs(slopes).max() < 1e-9 * value(np.zeros(shape))
    assert np.abs(elsewhere).max() > 1e-3 * value(np.zeros(shape))


def test_the_true_kernel_sharpens(xp: Any) -> None:
    true, blurred = blocks(noise=0), blurred_blocks(noise=0.002)
    out = to_host(latent_step(xp.asarray(blurred), xp.asarray(KERNEL), gradient_weight=2e-3))
    assert ((out - true) ** 2).mean() < 0.1 * ((blurred - true) ** 2).mean()


def test_a_larger_gradient_weight_leaves_fewer_edges(xp: Any) -> None:
    arrays = xp.asarray(blurred_blocks()), xp.asarray(KERNEL)
    counts = [jumps(latent_step(*arrays, gradient_weight=weight)) for weight in (1e-5, 1e-3, 0.3)]
    assert counts[0] > 1.5 * counts[1] > 3 * counts[2]


def test_a_larger_beta_max_makes_flat_regions_flatter(xp: Any) -> None:
    """Most gradients of the blocks are noise; beta presses them to zero, as |D x|_0 wants."""
    arrays = xp.asarray(blurred_blocks()), xp.asarray(KERNEL)
    outs = [latent_step(*arrays, gradient_weight=2e-3, beta_max=beta_max) for beta_max in (1.0, 100.0, 1e5)]
    counts = [jumps(out, 1e-3) for out in outs]
    assert counts[0] > 1.3 * counts[1] > 1.3 * 1.3 * counts[2]


def test_a_smaller_beta_rate_takes_more_passes(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """beta = 2 lambda, 2 lambda rate, ... below beta_max: the passes are counted at the closed form."""
    from gpudeblur.blind import latent

    weights: list[float] = []
    solve = latent.spectral_solve
    monkeypatch.setattr(latent, "spectral_solve", lambda *a: weights.append(a[3]) or solve(*a))
    arrays = xp.asarray(blurred_blocks()), xp.asarray(KERNEL)
    fast = latent_step(*arrays, gradient_weight=0.01, beta_rate=4.0, beta_max=1.0)
    np.testing.assert_allclose(weights, [0.02, 0.08, 0.32])
    weights.clear()
    slow = latent_step(*arrays, gradient_weight=0.01, beta_rate=2.0, beta_max=1.0)
    np.testing.assert_allclose(weights, [0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
    assert float(abs(fast - slow).max()) > 1e-3


def test_the_smooth_prior_spares_gentle_slopes(xp: Any) -> None:
    """A wave with all gradients under the threshold: without the smooth prior it is flattened, with it less."""
    wave = xp.asarray(0.02 * np.sin(2 * np.pi * np.arange(40) / 10) * np.ones((40, 1)))
    delta = xp.asarray(np.pad([[1.0]], 1))
    left = []
    for alpha in (0.0, 0.5, 20.0):
        out = latent_step(wave, delta, gradient_weight=0.05, smooth_weight=alpha, beta_max=20.0)
        left.append(float(out.std() / wave.std()))
    assert 0 < left[0] < 0.99 * left[1] < 0.5 * left[2] < 0.5


@pytest.mark.parametrize("change", [{"smooth_sigma": 3.0}, {"smooth_radius": 4}, {"smooth_weight": 0.0}])
def test_every_parameter_of_the_smooth_prior_matters(xp: Any, change: dict[str, Any]) -> None:
    arrays = xp.asarray(blurred_blocks(noise=0.03)), xp.asarray(KERNEL)
    options = {"smooth_weight": 0.5, "smooth_sigma": 0.5, "smooth_radius": 1}
    first = latent_step(*arrays, gradient_weight=0.01, beta_max=1.0, **options)
    second = latent_step(*arrays, gradient_weight=0.01, beta_max=1.0, **(options | change))
    assert float(abs(first - second).max()) > 1e-3


OPTIONS = {"gradient_weight": 2e-3, "smooth_weight": 4e-3, "smooth_sigma": 0.6, "smooth_radius": 2, "beta_max": 1e3}


@pytest.mark.parametrize("shape", [(30, 24), (21, 27)])
def test_shifting_the_picture_shifts_the_result(xp: Any, shape: tuple[int, int]) -> None:
    u, kernel = blurred_blocks(shape), xp.asarray(KERNEL)
    out = to_host(latent_step(xp.asarray(u), kernel, **OPTIONS))
    moved = latent_step(xp.asarray(np.roll(u, (7, -5), (0, 1))), kernel, **OPTIONS)
    assert_close(moved, np.roll(out, (7, -5), (0, 1)), atol=1e-9)


def test_adding_a_constant_adds_it_to_the_result(xp: Any) -> None:
    u, kernel = blurred_blocks(), xp.asarray(KERNEL)
    out = to_host(latent_step(xp.asarray(u), kernel, **OPTIONS))
    assert_close(latent_step(xp.asarray(u + 3), kernel, **OPTIONS), out + 3, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, dtype: str) -> None:
    stack = blurred_blocks((2, 2, 30, 24)).astype(dtype)
    stack[0, 1], stack[1, 0], stack[1, 0, 3, 4] = 0.5, 0.2, np.nan
    kernels = np.stack([KERNEL, KERNEL.T, KERNEL[::-1], KERNEL[:, ::-1]]).reshape(2, 2, 5, 5).astype(dtype)
    out = to_host(latent_step(xp.asarray(stack), xp.asarray(kernels), **OPTIONS))
    for i in np.ndindex(2, 2):
        alone = latent_step(xp.asarray(stack[i]), xp.asarray(kernels[i]), **OPTIONS)
        if xp is np:
            assert_same(out[i], alone)
        else:  # a batched cuFFT may add in another order
            assert_close(out[i], alone, atol=1e-3 if dtype == "float32" else 1e-9)
    assert np.isnan(out[1, 0]).all()
    assert_close(out[0, 1], np.full((), 0.5), rtol=1e-5)


def test_one_kernel_serves_a_stack(xp: Any) -> None:
    stack = xp.asarray(blurred_blocks((3, 30, 24)))
    out = latent_step(stack, xp.asarray(KERNEL), **OPTIONS)
    for i in range(3):
        assert_close(out[i], latent_step(stack[i], xp.asarray(KERNEL), **OPTIONS), atol=1e-9)


def test_the_spectrum_may_come_from_the_caller(xp: Any) -> None:
    u, kernel = xp.asarray(blurred_blocks()), xp.asarray(KERNEL)
    spectrum = rfft2(u)
    before = u.copy(), kernel.copy(), spectrum.copy()
    out = latent_step(u, kernel, blurred_hat=spectrum, **OPTIONS)
    assert_same(out, latent_step(u, kernel, **OPTIONS))
    for now, then in zip((u, kernel, spectrum), before, strict=True):
        assert_same(now, then)


def test_the_objective_counts_edges_and_misfit(xp: Any) -> None:
    """A step of height 1 in a 6 x 8 picture has 2 x 6 gradients (there and back); a delta kernel blurs nothing."""
    step = np.zeros((6, 8))
    step[:, 4:] = 1
    delta = np.zeros((3, 3))
    delta[1, 1] = 1
    blurred = step + 0.1
    weights = {"gradient_weight": 0.25, "threshold": 0.5}
    found = latent_module.objective(xp.asarray(step), xp.asarray(delta), rfft2(xp.asarray(blurred)), **weights)
    assert float(found) == pytest.approx(0.01 * 48 + 0.25 * 12)
