"""The latent step and its smooth prior: closed forms, what each parameter does, and the laws that every step keeps."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from laws import assert_close, assert_same, picture

from gpudeblur.blind import latent
from gpudeblur.blind.latent import dt_smooth_map, latent_step
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient, gradient_adjoint
from gpudeblur.numerics.fourier import rfft2
from gpudeblur.synthesis import blur, linear_kernel

# A stroke that is stronger at one end: not symmetric.
KERNEL = linear_kernel(4, 30, 5) * np.arange(1.0, 6)
KERNEL = KERNEL / KERNEL.sum()
OPTIONS: dict[str, Any] = {
    "gradient_weight": 2e-3,
    "smooth_weight": 4e-3,
    "smooth_sigma": 0.6,
    "smooth_radius": 2,
    "beta_max": 1e3,
}
in_odd_and_even_shapes = pytest.mark.parametrize("shape", [(30, 24), (21, 27)])


def blocks(shape: tuple[int, ...] = (30, 24), noise: float = 0.01) -> np.ndarray:
    """Flat blocks with steps of a third, a little noise: (..., H, W)."""
    random = np.random.default_rng(0)
    levels = np.round(random.random((*shape[:-2], 4, 4)) * 3) / 3
    flat = levels[..., np.arange(shape[-2])[:, None] * 4 // shape[-2], np.arange(shape[-1]) * 4 // shape[-1]]
    return flat + noise * random.normal(size=shape)


def blurred_blocks(shape: tuple[int, ...] = (30, 24), noise: float = 0.01) -> np.ndarray:
    random = np.random.default_rng(1)
    return blur(blocks(shape, 0), KERNEL, mode="wrap") + noise * random.normal(size=shape)


def edge_count(image: Any, threshold: float = 1e-2) -> int:
    gx, gy = gradient(to_host(image))
    return int((gx**2 + gy**2 > threshold**2).sum())


# ---- the closed form


@in_odd_and_even_shapes
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_delta_and_a_tiny_weight_change_nothing(xp: Any, shape: tuple[int, int], dtype: str) -> None:
    image, delta = xp.asarray(picture(shape, dtype=dtype)), xp.zeros((5, 3), dtype=dtype)
    delta[2, 1] = 1
    out = latent_step(image, delta, gradient_weight=1e-12, smooth_weight=1e-12, beta_max=1e-6)
    assert out.dtype == dtype
    assert_close(out, image, atol=1e-5)


def split_objective(blurred: np.ndarray, weights: tuple[float, float], sigma: float, radius: int) -> Callable:
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


@in_odd_and_even_shapes
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_closed_form_zeroes_its_own_gradient(xp: Any, shape: tuple[int, int], alpha: float) -> None:
    """One pass, with beta = 2 lambda = 0.2. The objective is quadratic, so central differences are exact."""
    random = np.random.default_rng(0)
    blurred = blocks(shape, 0.05)
    blurred[5:7, 5:7] += 2  # a few gradients over the threshold of 0.5, most under it
    value = split_objective(blurred, (0.2, alpha), sigma=0.8, radius=1)
    rest: dict[str, Any] = {
        "smooth_weight": alpha,
        "smooth_sigma": 0.8,
        "smooth_radius": 1,
        "beta_rate": 2.0,
        "beta_max": 0.3,
    }
    x = to_host(latent_step(xp.asarray(blurred), xp.asarray(KERNEL), gradient_weight=0.1, **rest))
    directions = random.normal(size=(8, *shape))
    slopes, elsewhere = (np.array([value(at + d) - value(at - d) for d in directions]) for at in (x, blurred))
    assert np.abs(slopes).max() < 1e-9 * value(np.zeros(shape))
    assert np.abs(elsewhere).max() > 1e-3 * value(np.zeros(shape))


def test_the_objective_counts_edges_and_misfit(xp: Any) -> None:
    """A step of height 1 in a 6 x 8 image has 2 x 6 gradients (there and back); a delta kernel blurs nothing."""
    step, delta = np.zeros((6, 8)), np.zeros((3, 3))
    step[:, 4:], delta[1, 1] = 1, 1
    blurred_hat = rfft2(xp.asarray(step + 0.1))
    residual = latent.residual(xp.asarray(step), xp.asarray(delta), blurred_hat)
    value = latent.objective(xp.asarray(step), residual, gradient_weight=0.25, threshold=0.5)
    assert float(value) == pytest.approx(0.01 * 48 + 0.25 * 12)


# ---- what each parameter does


def test_the_true_kernel_sharpens(xp: Any) -> None:
    true, blurred = blocks(noise=0), blurred_blocks(noise=0.002)
    out = to_host(latent_step(xp.asarray(blurred), xp.asarray(KERNEL), gradient_weight=2e-3))
    assert ((out - true) ** 2).mean() < 0.1 * ((blurred - true) ** 2).mean()


def test_a_larger_gradient_weight_leaves_fewer_edges(xp: Any) -> None:
    arrays = xp.asarray(blurred_blocks()), xp.asarray(KERNEL)
    counts = [edge_count(latent_step(*arrays, gradient_weight=weight)) for weight in (1e-5, 1e-3, 0.3)]
    assert counts[0] > 1.5 * counts[1] > 3 * counts[2]


def test_a_smaller_beta_rate_takes_more_passes(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """beta = 2 lambda, 2 lambda rate, ... below beta_max: the passes are counted at the closed form."""
    weights: list[float] = []
    solve = latent.spectral_solve

    def count(*arguments: Any) -> Any:
        weights.append(arguments[3])
        return solve(*arguments)

    monkeypatch.setattr(latent, "spectral_solve", count)
    arrays, outs = (xp.asarray(blurred_blocks()), xp.asarray(KERNEL)), []
    for rate, expected in ((4.0, [0.02, 0.08, 0.32]), (2.0, [0.02, 0.04, 0.08, 0.16, 0.32, 0.64])):
        weights.clear()
        outs.append(latent_step(*arrays, gradient_weight=0.01, beta_rate=rate, beta_max=1.0))
        np.testing.assert_allclose(weights, expected)
    assert float(abs(outs[0] - outs[1]).max()) > 1e-3


# ---- laws


@in_odd_and_even_shapes
def test_a_latent_step_commutes_with_shifts_and_offsets(xp: Any, shape: tuple[int, int]) -> None:
    image, kernel = blurred_blocks(shape), xp.asarray(KERNEL)

    def step(u: np.ndarray) -> Any:
        return latent_step(xp.asarray(u), kernel, **OPTIONS)

    out = to_host(step(image))
    assert_close(step(np.roll(image, (7, -5), (0, 1))), np.roll(out, (7, -5), (0, 1)), atol=1e-9)
    assert_close(step(image + 3), out + 3, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_latent_step_of_a_stack_equals_a_loop(xp: Any, dtype: str) -> None:
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
    shared = latent_step(xp.asarray(stack), xp.asarray(kernels[0, 0]), **OPTIONS)  # one kernel for all
    assert_close(shared[0], latent_step(xp.asarray(stack[0]), xp.asarray(kernels[0, 0]), **OPTIONS), atol=1e-6)


def test_the_spectrum_may_come_from_the_caller(xp: Any) -> None:
    image, kernel = xp.asarray(blurred_blocks()), xp.asarray(KERNEL)
    spectrum = rfft2(image)
    before = image.copy(), kernel.copy(), spectrum.copy()
    out = latent_step(image, kernel, blurred_hat=spectrum, **OPTIONS)
    assert_same(out, latent_step(image, kernel, **OPTIONS))
    for array, copy in zip((image, kernel, spectrum), before, strict=True):
        assert_same(array, copy)


# ---- the smooth prior

in_every_shape = pytest.mark.parametrize("shape", [(2, 37, 31), (1, 20, 64), (2, 3, 16, 15)])
smooth_map = functools.partial(dt_smooth_map, sigma=0.8, radius=1)


@in_every_shape
def test_without_edges_it_is_the_laplacian_of_the_smooth_image(xp: Any, shape: tuple[int, ...]) -> None:
    image = picture(shape, dtype=np.float64)
    out = dt_smooth_map(xp.asarray(image), 100.0, sigma=1.3, radius=2)
    smooth = scipy.ndimage.gaussian_filter(image, (0,) * (image.ndim - 2) + (1.3, 1.3), mode="wrap", truncate=4)
    assert_close(out, gradient_adjoint(*gradient(smooth)), atol=1e-12)


@pytest.mark.parametrize("radius", [1, 3])
def test_it_is_zero_within_the_radius_of_an_edge(xp: Any, radius: int) -> None:
    """One bright pixel on gentle waves: t is set at it, above it and left of it. Outside the squares it is not 0."""
    y, x = np.indices((40, 50))
    image = 0.05 * np.sin(2 * np.pi * y / 40) * np.cos(2 * np.pi * x / 50)
    image[20, 25] += 1
    nonzero = to_host(dt_smooth_map(xp.asarray(image), 0.25, sigma=0.3, radius=radius)) != 0
    t = np.zeros(image.shape, dtype=bool)
    t[20, 24:26] = t[19, 25] = True
    t = scipy.ndimage.binary_dilation(t, np.ones((2 * radius + 1,) * 2))
    assert not nonzero[t].any()
    assert nonzero[~scipy.ndimage.binary_dilation(t, np.ones((3, 3)))].mean() > 0.9


def test_each_image_may_have_a_threshold_of_its_own(xp: Any) -> None:
    images = xp.asarray(picture((2, 20, 30)))
    out = smooth_map(images, xp.asarray([0.3, 1.2], dtype=np.float32))
    for i, threshold in enumerate((0.3, 1.2)):
        assert_close(out[i], smooth_map(images[i], threshold), atol=1e-7)
    assert bool((out[0] != smooth_map(images[0], 1.2)).any())
