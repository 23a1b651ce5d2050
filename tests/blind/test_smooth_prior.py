"""The local smooth prior: where its map is zero, what it is elsewhere, and the laws that every step keeps."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
import scipy.ndimage
from laws import assert_close, assert_same, picture

from gpudeblur.blind.latent import dt_smooth_map
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient, gradient_adjoint

SHAPES = [(2, 37, 31), (1, 20, 64), (2, 3, 16, 15)]
in_every_shape = pytest.mark.parametrize("shape", SHAPES)


@in_every_shape
def test_without_edges_it_is_the_laplacian_of_the_smoothed_picture(xp: Any, shape: tuple[int, ...]) -> None:
    u = picture(shape, dtype=np.float64)
    out = dt_smooth_map(xp.asarray(u), 100.0, sigma=1.3, radius=2)
    sigmas = (0,) * (u.ndim - 2) + (1.3, 1.3)
    smooth = scipy.ndimage.gaussian_filter(u, sigmas, mode="wrap", truncate=4)
    assert_close(out, gradient_adjoint(*gradient(smooth)), atol=1e-12)


@in_every_shape
def test_edges_everywhere_leave_nothing(xp: Any, shape: tuple[int, ...]) -> None:
    out = dt_smooth_map(xp.asarray(picture(shape)), 0.0, sigma=1.3, radius=0)
    assert out.shape == shape
    assert not out.any()


@pytest.mark.parametrize("radius", [1, 3])
def test_nothing_happens_within_the_radius_of_an_edge(xp: Any, radius: int) -> None:
    """One bright pixel on gentle waves: t is set at it, above it and left of it. Outside the squares all goes on."""
    y, x = np.indices((40, 50))
    u = 0.05 * np.sin(2 * np.pi * y / 40) * np.cos(2 * np.pi * x / 50)
    u[20, 25] += 1
    out = to_host(dt_smooth_map(xp.asarray(u), 0.25, sigma=0.3, radius=radius)) != 0
    t = np.zeros(u.shape, dtype=bool)
    t[20, 24:26] = t[19, 25] = True
    t = scipy.ndimage.binary_dilation(t, np.ones((2 * radius + 1,) * 2))
    assert not out[t].any()
    assert out[~scipy.ndimage.binary_dilation(t, np.ones((3, 3)))].mean() > 0.9


def test_a_larger_sigma_smooths_more(xp: Any) -> None:
    u = xp.asarray(np.random.default_rng(0).normal(size=(40, 50)))
    energies = [float((dt_smooth_map(u, 1e3, sigma=s, radius=1) ** 2).sum()) for s in (0.3, 0.9, 2.7)]
    assert energies[0] > 2 * energies[1] > 4 * energies[2]


def test_the_threshold_and_the_radius_shrink_the_smooth_part(xp: Any) -> None:
    u = xp.asarray(np.random.default_rng(0).normal(size=(60, 70)))

    def flat(threshold: float, radius: int) -> int:
        return int((dt_smooth_map(u, threshold, sigma=0.5, radius=radius) != 0).sum())

    assert flat(12.0, 1) > 1.2 * flat(8.0, 1) > 0
    assert flat(12.0, 1) > 1.2 * flat(12.0, 3) > 0


def test_the_threshold_may_be_one_number_a_picture(xp: Any) -> None:
    u = xp.asarray(picture((2, 20, 30)))
    out = dt_smooth_map(u, xp.asarray(np.float32([0.3, 1.2])), sigma=0.5, radius=1)
    for i, threshold in enumerate((0.3, 1.2)):
        assert_close(out[i], dt_smooth_map(u[i], threshold, sigma=0.5, radius=1), atol=1e-7)
    assert bool((out[0] != dt_smooth_map(u[0], 1.2, sigma=0.5, radius=1)).any())


@in_every_shape
def test_it_is_a_divergence_and_sums_to_zero(xp: Any, shape: tuple[int, ...]) -> None:
    out = dt_smooth_map(xp.asarray(picture(shape, dtype=np.float64)), 0.6, sigma=0.8, radius=1)
    assert float(abs(out).max()) > 1e-3
    assert_close(out.sum((-2, -1)), np.zeros(shape[:-2]), atol=1e-10)


@in_every_shape
def test_shifting_the_picture_shifts_the_result(xp: Any, shape: tuple[int, ...]) -> None:
    def split(u: Any) -> Any:
        return dt_smooth_map(u, 0.6, sigma=0.8, radius=1)

    laws.assert_shift_covariant(split, xp.asarray(picture(shape)), (5, -3))


def test_a_constant_picture_gives_nothing(xp: Any) -> None:
    assert not dt_smooth_map(xp.full((2, 9, 12), 0.5), 0.1, sigma=1.0, radius=1).any()


def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any) -> None:
    stack = picture((4, 20, 30))
    stack[1, 3, 4], stack[2] = np.nan, 0

    def split(u: Any) -> Any:
        return dt_smooth_map(u, 0.6, sigma=0.8, radius=1)

    laws.assert_batch_is_loop(split, xp.asarray(stack))
    assert split(xp.asarray(stack))[3].any()


def test_the_input_is_left_alone(xp: Any) -> None:
    u = xp.asarray(picture((20, 30)))
    before = u.copy()
    dt_smooth_map(u, 0.6, sigma=0.8, radius=1)
    assert_same(u, before)
