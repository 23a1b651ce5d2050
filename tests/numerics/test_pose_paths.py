"""Paths of poses: the kernels that they make, their derivatives, and paths through kernels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from laws import assert_close
from scipy.ndimage import center_of_mass, gaussian_filter

from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics.pose_paths import (
    PathKernels,
    PosePath,
    bend_of,
    kernel_path,
    path_weights,
    shortest_path,
    spline_basis,
)
from gpudeblur.numerics.poses import PoseGrid, displacement, node_points
from gpudeblur.synthesis import gaussian_process_kernel

SHAPE = (90, 130)
POINTS = node_points((2, 3), SHAPE).reshape(-1, 2)


def path(seed: int = 0, count: int = 6, bend: float = 0.8) -> PosePath:
    return PosePath(2 * np.random.default_rng(seed).standard_normal((count, 3)), bend)


def test_the_basis_sums_to_one_and_keeps_lines() -> None:
    basis = spline_basis(7, 50)
    assert_close(basis.sum(axis=1), np.ones(50))
    assert_close(basis[[0, -1]], np.eye(7)[[0, -1]])


@pytest.mark.parametrize("focal", [150.0, 1e9])
def test_displacements_are_those_of_small_poses(focal: float) -> None:
    """To first order: a path of one pose puts the kernel's centre of mass at the negative displacement."""
    pose = np.array([0.3, -0.2, 0.4])
    control = np.tile(pose, (5, 1))
    kernels = PathKernels(POINTS, SHAPE, (9, 9), 5, 16)
    estimate = kernels.kernels(kernels.places(PosePath(control, bend_of(focal, SHAPE))))
    offsets = np.indices((9, 9)).reshape(2, -1) - 4
    exact = displacement(
        PoseGrid((9, 9), 9, SHAPE).step * pose[None, 2:] * [0, 0, 1] + [*pose[:2], 0], POINTS, SHAPE, focal
    )
    assert_close(estimate.reshape(6, -1) @ offsets.T, -exact[0], atol=0.01)


def test_derivatives() -> None:
    kernels = PathKernels(POINTS, SHAPE, (21, 19), 6, 40)
    images, start = np.random.default_rng(1).standard_normal((6, 21, 19)), path()
    by_control, by_bend = kernels.gradient(kernels.places(start), images)

    def value(of: PosePath) -> float:
        return float((images * kernels.kernels(kernels.places(of))).sum())

    step = 1e-6
    for index in itertools.product(range(6), range(3)):
        offset = np.zeros((6, 3))
        offset[index] = step
        ends = [value(replace(start, control=start.control + sign * offset)) for sign in (1, -1)]
        assert by_control[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
    ends = [value(replace(start, bend=start.bend + sign * step)) for sign in (1, -1)]
    assert by_bend == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_what_is_outside_the_window_is_missing() -> None:
    kernels = PathKernels(POINTS, SHAPE, (5, 5), 6, 40)
    far = PosePath(np.tile([100.0, 0, 0], (6, 1)), 0.0)
    places = kernels.places(far)
    assert kernels.kernels(places).sum() == 0
    by_control, by_bend = kernels.gradient(places, np.ones((6, 5, 5)))
    assert not by_control.any()
    assert by_bend == 0


@pytest.mark.parametrize("bend", [0.0, 1.0])
def test_weights_of_a_path_make_its_kernels(bend: float) -> None:
    smooth = path(3, 6, bend)
    grid = PoseGrid((21, 21), 21, SHAPE, smooth.focal(SHAPE))
    weights = path_weights(smooth, grid)
    assert weights.sum() == pytest.approx(1)
    kernels = PathKernels(POINTS, SHAPE, (21, 21), 6, 400)
    centered = replace(smooth, control=smooth.control - (kernels.basis @ smooth.control).mean(axis=0))
    expected = kernels.kernels(kernels.places(centered))
    estimate = grid.expand(weights, POINTS, (21, 21))
    for a, b in zip(estimate, expected, strict=True):
        assert kernel_similarity(a, b) > 0.85  # the weights are linear between poses, which smooths the kernels
        assert_close(np.array(center_of_mass(a)), np.array(center_of_mass(b)), atol=0.05)


def test_resampling_and_scaling() -> None:
    coarse = path(4, 5)
    fine = coarse.resampled(14)
    assert_close(fine.samples(50), coarse.samples(50), atol=0.2)
    assert_close(fine.resampled(14).control, fine.control, atol=1e-9)
    assert_close(coarse.scaled(0.5).samples(9), coarse.samples(9) / 2)
    assert_close(coarse.samples(30).mean(axis=0), np.zeros(3), atol=1e-12)


def test_focal_lengths_and_bends() -> None:
    assert PosePath(np.zeros((4, 3)), 0.0).focal(SHAPE) == math.inf
    assert PosePath(np.zeros((4, 3)), bend_of(200.0, SHAPE)).focal(SHAPE) == pytest.approx(200)
    assert bend_of(math.inf, SHAPE) == 0


def test_the_shortest_path_orders_points_along_a_line() -> None:
    line = np.array([[3.0, 0], [0, 0], [1, 0.1], [4, 0], [2, -0.1]])
    order = shortest_path(line)
    assert list(line[order, 0]) in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])


@pytest.mark.parametrize("seed", range(3))
def test_a_path_through_a_kernel_makes_it(seed: int) -> None:
    kernel = gaussian_process_kernel(21, rng=seed)
    through = PosePath(kernel_path(kernel, 8, 6), 0.0)
    assert not through.control[:, 2].any()
    kernels = PathKernels(POINTS[:1], SHAPE, (31, 31), 8, 200)
    estimate = kernels.kernels(kernels.places(through))[0]
    assert kernel_similarity(gaussian_filter(estimate, 1), gaussian_filter(kernel, 1)) > 0.7
