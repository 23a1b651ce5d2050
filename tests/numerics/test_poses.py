"""Laws of poses: the homography, kernels from weights of poses, and the adjoint."""

from __future__ import annotations

import math

import numpy as np
import pytest
from laws import assert_close, inner, pose_grids

from gpudeblur.numerics.poses import (
    PoseGrid,
    candidates,
    corner_radius,
    displacement,
    node_counts,
    node_points,
    rotation_matrices,
)

SHAPE = (60, 91)
GRIDS = [PoseGrid((7, 9), 5, SHAPE, 70.0), PoseGrid((5, 5), 3, SHAPE), PoseGrid.of((5, 3), (1, 1), 9.0)]
POINTS = node_points((3, 4), SHAPE)


def weights_of(grid: PoseGrid, seed: int = 0, lead: tuple[int, ...] = ()) -> np.ndarray:
    random = np.random.default_rng(seed).random((*lead, *grid.lattice))
    return random / random.sum(axis=(-3, -2, -1), keepdims=True)


def delta(lattice: tuple[int, ...]) -> np.ndarray:
    return np.pad(np.ones([1] * len(lattice)), [(side // 2, side // 2) for side in lattice])


def test_rotations_are_rotations() -> None:
    poses = np.array([[3.0, -2.0, 0.3], [0, 0, 0], [0, 0, 0.1]])
    matrices = rotation_matrices(poses, 5.0)
    assert_close(matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-12)
    assert_close(matrices[1], np.eye(3))
    assert_close(
        matrices[2][:2, :2], np.array([[math.cos(0.1), -math.sin(0.1)], [math.sin(0.1), math.cos(0.1)]]), atol=1e-12
    )


@pytest.mark.parametrize("focal", [50.0, math.inf])
def test_displacement_to_first_order(focal: float) -> None:
    """dx = u (1 + x^2/f^2) + v x y / f^2 - phi y, and dy likewise."""
    small = 1e-4
    u, v, roll = pose = small * np.array([2.0, -1.0, 0.03])
    y, x = (POINTS - (np.array(SHAPE) - 1) / 2).transpose(2, 0, 1)
    dx = u * (1 + x**2 / focal**2) + v * x * y / focal**2 - roll * y
    dy = v * (1 + y**2 / focal**2) + u * x * y / focal**2 + roll * x
    moved = displacement(pose[None], POINTS, SHAPE, focal)[0]
    assert_close(moved, np.stack([dy, dx], axis=-1), atol=1e-3 * small)


def test_a_long_focal_length_is_motion_in_the_plane() -> None:
    poses = np.array([[2.0, -1.0, 0.0], [0.0, 0.0, 0.05]])
    assert_close(*(displacement(poses, POINTS, SHAPE, focal) for focal in (1e7, math.inf)), atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_collect_is_the_adjoint_of_expand(grid: PoseGrid) -> None:
    weights = weights_of(grid)
    kernels = np.random.default_rng(1).random((*POINTS.shape[:-1], *grid.size))
    left, right = inner(grid.expand(weights, POINTS), kernels), inner(weights, grid.collect(kernels, POINTS))
    assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_pose_in_the_middle_blurs_nothing(grid: PoseGrid) -> None:
    assert_close(grid.expand(delta(grid.lattice), POINTS), np.broadcast_to(delta(grid.size), (3, 4, *grid.size)))


def test_without_roll_in_the_plane_the_weights_are_the_kernel() -> None:
    grid = PoseGrid((7, 5), 1, SHAPE)
    weights = weights_of(grid)
    assert_close(grid.expand(weights, POINTS), np.broadcast_to(weights[0], (3, 4, 7, 5)))


def test_kernels_have_the_sum_of_the_weights_inside_the_window() -> None:
    grid = GRIDS[0]
    weights = weights_of(grid)
    assert_close(grid.expand(weights, POINTS, (31, 31)).sum(axis=(-2, -1)), np.ones((3, 4)))
    assert grid.expand(weights, POINTS).sum(axis=(-2, -1)).min() < 0.999


def test_a_shift_of_all_poses_shifts_each_kernel() -> None:
    grid = PoseGrid((9, 9), 5, SHAPE)
    weights = np.zeros(grid.lattice)
    weights[:, 3:6, 3:6] = weights_of(grid)[:, 3:6, 3:6]
    kernels, shifted = (grid.expand(w, POINTS, (21, 21)) for w in (weights, np.roll(weights, 1, axis=2)))
    assert_close(shifted, np.roll(kernels, 1, axis=-1), atol=1e-15)


def test_roll_turns_the_corners_by_a_pixel_a_bin() -> None:
    grid = PoseGrid((5, 5), 3, SHAPE)
    assert np.linalg.norm(grid.displacement(np.zeros((1, 2)))[-1] - [-2, -2]) == pytest.approx(1, rel=0.02)


def test_a_batch_equals_a_loop_and_active_poses_equal_the_rest_at_zero() -> None:
    grid = GRIDS[0]
    weights = weights_of(grid, lead=(2,))
    kernels = grid.expand(weights, POINTS)
    for i in range(2):
        np.testing.assert_array_equal(kernels[i], grid.expand(weights[i], POINTS))
    active = np.flatnonzero(weights[0] > 0.5 * weights[0].max())
    sparse = np.zeros(weights[0].size)
    sparse[active] = weights[0].ravel()[active]
    part = grid.splatting(POINTS, active=active).expand(sparse[active])
    assert_close(part, grid.expand(sparse.reshape(grid.lattice), POINTS), atol=1e-15)


def test_kernels_move_by_at_most_a_pixel_between_nodes() -> None:
    grid = PoseGrid((9, 9), 9, SHAPE, 80.0)
    nodes = node_points(node_counts(grid.poses(), SHAPE, 80.0), SHAPE)
    moved = grid.displacement(nodes)
    for axis in (1, 2):
        assert 0.6 < np.linalg.norm(np.diff(moved, axis=axis), axis=-1).max() <= 1.1
    assert node_counts(np.array([[3.0, 1.0, 0.0]]), SHAPE, math.inf) == (1, 1)
    assert_close(node_points((1, 2), (5, 7)), np.array([[[2.0, 0], [2, 6]]]))
    assert corner_radius((1, 1)) == 1


@pytest.mark.parametrize(("grid", "window"), [*pose_grids()])
def test_no_pose_is_missed_among_the_candidates(grid: PoseGrid, window: tuple[int, int]) -> None:
    """What a CUDA kernel looks at for a pixel has every pose that reaches it, and few others."""
    points = node_points((3, 3), grid.shape).reshape(-1, 2)
    lines = candidates(grid, points, window)[:, :, None].astype(np.float64)  # (R, rolls, 1, 2, 4)
    d = -grid.displacement(points).reshape(grid.rolls, -1, len(points), 2).transpose(2, 0, 1, 3)
    bins = np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), axis=-1).reshape(-1, 2)
    for offset in np.stack(np.meshgrid([-0.999, 0, 0.999], [-0.999, 0, 0.999]), axis=-1).reshape(-1, 2):
        pixel = d + offset + np.array(window) // 2  # anything within a pixel of the pose
        middle = lines[..., 0] + lines[..., 1] * pixel[..., :1] + lines[..., 2] * pixel[..., 1:]
        assert (abs(middle - bins) <= lines[..., 3]).all()
    if min(grid.shape) > 12:
        assert lines[..., 3].max() < 2
