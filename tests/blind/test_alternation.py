"""The alternation of latent and kernel steps: one iteration, and all scales but the finest."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from laws import assert_same
from skimage.data import camera

from gpudeblur.blind.alternation import alternate, coarse_to_fine
from gpudeblur.blind.kernel_projection import initial_kernel, project
from gpudeblur.blind.kernel_step import (
    ROUNDING_GRADIENT,
    has_gradients,
    kernel_step,
    normal_equations,
    select_edges,
    selection_window,
    window_pixels,
)
from gpudeblur.blind.latent import latent_step
from gpudeblur.blind.options import STARTS, TwoStepOptions
from gpudeblur.blind.schedule import Iteration, Scale
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics import chunks
from gpudeblur.numerics.arrays import Workspace, to_host
from gpudeblur.numerics.boundary import pad_liu_jia
from gpudeblur.numerics.chunks import map_in_chunks
from gpudeblur.numerics.fourier import rfft2
from gpudeblur.numerics.progress import subrange
from gpudeblur.priors import L0Intensity
from gpudeblur.synthesis import blur, trajectory_kernel

QUICK = TwoStepOptions(iterations=2, kernel_iterations=10)


def ignore(_: float) -> None:
    """A progress that nobody listens to."""


def photo(side: int = 40, kernel_size: int = 9, seed: int = 1) -> np.ndarray:
    sharp = camera()[100:, 180:][: side + kernel_size - 1, : side + kernel_size - 1] / 255
    return blur(sharp, trajectory_kernel(kernel_size, rng=seed)).astype(np.float32)


# ---- one iteration


def test_an_iteration_is_a_latent_step_then_a_kernel_step(xp: Any) -> None:
    """With the numbers of the scale; the radius of the smooth prior is a quarter of the kernel's longer side."""
    prior = L0Intensity(weight=2e-3)
    options = dataclasses.replace(QUICK, smooth_weight=0.3, beta_rate=3.0, gradient_weight=8e-3, prior=prior)
    scale = Scale((9, 13), (40, 40), 1.0, (Iteration(4e-3, 0.3, threshold=0.1),), smooth_sigma=0.7, beta_max=20.0)
    blurred = pad_liu_jia(xp.asarray(photo()[None]), (8, 12))
    start = initial_kernel(scale.size, 1, xp, "float32")
    kernel, a, b = alternate(blurred, start, scale, options, ignore)

    latent = latent_step(
        blurred,
        start,
        gradient_weight=4e-3,
        smooth_weight=0.3,
        smooth_sigma=0.7,
        smooth_radius=3,
        beta_rate=3.0,
        beta_max=20.0,
        prior=prior,
        prior_weight=1e-3,  # mu, halved as lambda is
    )
    window, buffers = selection_window(scale.shape, scale.size), Workspace(blurred)
    selected = select_edges(latent, window, 0.3)
    equations = normal_equations(selected, latent, rfft2(blurred), scale.size)
    assert_same(a, equations[0])
    assert_same(b, equations[1])
    expected = kernel_step(a, b, start, window_pixels(window), options, buffers)
    assert_same(kernel, project(expected, share=0.1, component=options.kernel_component))


def test_rounding_errors_are_no_gradients(xp: Any) -> None:
    a = xp.zeros((3, 5, 7))
    a[:, 2, 3] = 100 * ROUNDING_GRADIENT**2 * xp.asarray([0.0, 0.9, 1.1])
    assert to_host(has_gradients(a, 100)).tolist() == [False, False, True]


# ---- all scales but the finest


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ((9, 13), "float64"),
        *(pytest.param(size, "float32", marks=pytest.mark.slow) for size in ((3, 3), (15, 5), (31, 31))),
    ],
)
@pytest.mark.parametrize("name", STARTS)
def test_every_initialization_gives_kernels(xp: Any, name: str, size: tuple[int, int], dtype: str) -> None:
    """Of images without gradients deltas, whatever is beside them in the stack."""
    stack = xp.asarray(np.stack([photo(32), np.full((32, 32), 0.3), np.zeros((32, 32))]).astype(dtype))
    kernel = coarse_to_fine(stack, size, QUICK.of_start(name), ignore)
    assert kernel.shape == (3, *size)
    assert kernel.dtype == dtype
    kernel = to_host(kernel)
    assert (kernel >= 0).all()
    np.testing.assert_allclose(kernel.sum(axis=(-2, -1)), 1, atol=1e-5)
    assert kernel[0].max() < 0.9
    delta = np.zeros(size)
    delta[size[0] // 2, size[1] // 2] = 1
    for constant in kernel[1:]:
        np.testing.assert_array_equal(constant, delta)


def test_the_coarse_kernel_is_close_to_the_true_one(xp: Any) -> None:
    image = xp.asarray(photo(200, 13))[None]
    kernel = to_host(coarse_to_fine(image, (13, 13), TwoStepOptions(), ignore))[0]
    assert kernel_similarity(kernel, trajectory_kernel(13, rng=1)) > 0.75


def test_options_of_the_finest_scale_do_not_matter_here(xp: Any) -> None:
    stack = xp.asarray(photo()[None])
    others: dict[str, Any] = {
        "finest_iterations": 9,
        "finest_gradient_weight": (1.0, 1.0),
        "refine": False,
        "finest_candidates": 1,
    }
    changed = dataclasses.replace(QUICK, **others, starts=("text",))
    assert_same(coarse_to_fine(stack, (9, 9), changed, ignore), coarse_to_fine(stack, (9, 9), QUICK, ignore))


# ---- progress and chunks


def test_a_subrange_is_a_part_of_the_progress() -> None:
    fractions: list[float] = []
    progress = subrange(fractions.append, 0.5, 0.25)
    progress(0)
    subrange(progress, 0.5, 0.5)(0.5)
    progress(1)
    assert fractions == [0.5, 0.6875, 0.75]


@pytest.mark.parametrize("together", [1, 2, 3, 7, 100])
def test_chunks_are_the_whole_bit_for_bit(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(chunks, "CACHE_PIXELS", together * 12)
    rng, sizes = np.random.default_rng(0), []
    images, kernels = rng.random((7, 3, 4)), rng.random((7, 5))

    def function(images: np.ndarray, kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(images))
        return np.fft.fft2(images), kernels.cumsum(axis=-1)

    results = map_in_chunks(function, images, kernels)
    assert sizes == [together] * (7 // together) + ([7 % together] if 7 % together else [])
    for result, expected in zip(results, function(images, kernels), strict=True):
        assert result.tobytes() == expected.tobytes()


def test_an_image_larger_than_the_cache_is_one_chunk() -> None:
    large = np.zeros((2, 1, chunks.CACHE_PIXELS + 1), np.float32)
    (lengths,) = map_in_chunks(lambda stack: (stack.shape[:1] * np.ones(len(stack)),), large)
    assert lengths.tolist() == [1, 1]
