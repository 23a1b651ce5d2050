"""Blur by a rotating camera: laws of the pose step and of patches, and what `deblur(blur="rotation")` keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same, picture
from skimage import data

import gpudeblur as gd
from gpudeblur.blind.patches import (
    MAX_PATCHES,
    cut_patches,
    options_at,
    patch_centers,
    patch_corners,
    patch_equations,
    patch_side,
)
from gpudeblur.blind.rotation import (
    PoseWeights,
    active_poses,
    drop_components,
    estimate_weights,
    pose_step,
    project_weights,
)
from gpudeblur.blind.rotation_choice import FIELD_MARGIN, score_patches
from gpudeblur.blind.rotation_path import PathLevel, PathScale, path_step, random_controls
from gpudeblur.blind.schedule import Iteration
from gpudeblur.numerics.pose_paths import PathKernels, PosePath
from gpudeblur.numerics.poses import PoseGrid, node_points
from gpudeblur.numerics.toeplitz import toeplitz_apply, toeplitz_nnls, toeplitz_spectrum, zero_lag
from gpudeblur.synthesis import blur, blur_by_poses, gaussian_process_kernel, pose_path

SHAPE = (90, 130)
GRID = PoseGrid((7, 7), 5, SHAPE, 100.0)
POINTS = node_points((2, 3), SHAPE).reshape(-1, 2)
WINDOW = (9, 9)
PATHS = PathKernels(POINTS, SHAPE, WINDOW, 5, 48)
TRUE_PATH = PosePath(1.2 * np.random.default_rng(4).standard_normal((5, 3)), 0.9)
TRUE_PATH = PosePath(TRUE_PATH.control - (PATHS.basis @ TRUE_PATH.control).mean(axis=0), 0.9)
FAST = gd.TwoStepOptions(starts=("sparse",), iterations=3, finest_iterations=3)


def weights_of(grid: PoseGrid, seed: int = 0) -> np.ndarray:
    """A few poses, as a path has."""
    random = np.random.default_rng(seed)
    weights = np.where(random.random(grid.lattice) < 0.1, random.random(grid.lattice), 0)
    weights[tuple(side // 2 for side in grid.lattice)] = 1
    return weights / weights.sum()


def autocorrelations(count: int) -> np.ndarray:
    """(count, 17, 17): autocorrelations of random gradients."""
    power = abs(np.fft.rfft2(np.random.default_rng(2).normal(size=(count, 32, 32)))) ** 2
    lags = np.fft.fftshift(np.fft.irfft2(power, (32, 32)), axes=(-2, -1))
    return lags[:, 8:25, 8:25]


def equations(weights: np.ndarray, kernel_weight: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) without noise: b_r = (A_r + gamma a_r(0)) M_r w."""
    a = autocorrelations(len(POINTS))
    spectrum, grid = toeplitz_spectrum(a)
    kernels = GRID.expand(weights, POINTS, WINDOW)
    b = toeplitz_apply(spectrum, grid, kernels) + kernel_weight * zero_lag(a)[:, None, None] * kernels
    return a, b


def objective(a: np.ndarray, b: np.ndarray, weights: np.ndarray, kernel_weight: float) -> float:
    spectrum, grid = toeplitz_spectrum(a)
    kernels = GRID.splatting(POINTS, WINDOW).expand(weights)
    normal = toeplitz_apply(spectrum, grid, kernels) + kernel_weight * zero_lag(a)[:, None, None] * kernels
    return float((kernels * normal).sum() / 2 - (b * kernels).sum())


def test_the_true_weights_are_a_fixed_point() -> None:
    weights = weights_of(GRID)
    for kernel_weight in (0.0, 3e-3):
        a, b = equations(weights, kernel_weight)
        solution = pose_step(a, b, weights.ravel(), GRID.splatting(POINTS, WINDOW), kernel_weight, 30)
        assert_close(solution, weights.ravel(), atol=1e-12)


def test_the_objective_falls_to_the_true_weights() -> None:
    weights = weights_of(GRID)
    a, b = equations(weights)
    start = np.full(weights.size, 1 / weights.size)
    splatting = GRID.splatting(POINTS, WINDOW)
    solutions = [start] + [pose_step(a, b, start, splatting, 0.0, steps) for steps in range(10, 101, 10)]
    values = [objective(a, b, solution, 0.0) for solution in solutions]
    assert values == sorted(values, reverse=True)
    least = objective(a, b, weights.ravel(), 0.0)
    assert values[-1] - least < 1e-3 * (values[0] - least)
    assert solutions[-1].min() >= 0


def test_one_roll_in_the_plane_is_the_uniform_kernel_step() -> None:
    """Poses without roll and focal length are a kernel; equations of all patches add up."""
    grid = PoseGrid(WINDOW, 1, SHAPE)
    a, b = equations(weights_of(GRID))
    start = np.full(WINDOW, 1 / 81)
    ridge = 3e-3 * zero_lag(a).sum()
    uniform = toeplitz_nnls(a.sum(axis=0), b.sum(axis=0), start, ridge, 3000)
    poses = pose_step(a, b, start.ravel(), grid.splatting(POINTS), 3e-3, 3000)
    assert_close(poses.reshape(WINDOW), uniform, atol=1e-6)


def test_scaling_and_flat_patches_leave_the_weights() -> None:
    a, b = equations(weights_of(GRID))
    start = np.full(math.prod(GRID.lattice), 1.0)
    solution = pose_step(a, b, start, GRID.splatting(POINTS, WINDOW), 3e-3, 20)
    assert_close(pose_step(4 * a, 4 * b, start, GRID.splatting(POINTS, WINDOW), 3e-3, 20), solution, atol=1e-12)
    a, b = (np.concatenate([array, np.zeros_like(array[:1])]) for array in (a, b))
    more = GRID.splatting(np.concatenate([POINTS, [[3.0, 4.0]]]), WINDOW)
    assert_close(pose_step(a, b, start, more, 3e-3, 20), solution, atol=1e-12)
    assert_same(pose_step(0 * a, 0 * b, start, more, 3e-3, 20), start)


def path_equations(path: PosePath) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) without noise, for the kernels of a path."""
    a = autocorrelations(len(POINTS))
    spectrum, grid = toeplitz_spectrum(a)
    return a, toeplitz_apply(spectrum, grid, PATHS.kernels(PATHS.places(path)))


def path_objective(a: np.ndarray, b: np.ndarray, path: PosePath) -> float:
    spectrum, grid = toeplitz_spectrum(a)
    kernels = PATHS.kernels(PATHS.places(path))
    return float((kernels * (toeplitz_apply(spectrum, grid, kernels) / 2 - b)).sum())


def centered(path: PosePath) -> PosePath:
    return PosePath(path.control - (PATHS.basis @ path.control).mean(axis=0), path.bend)


def test_the_true_path_is_a_fixed_point() -> None:
    a, b = path_equations(TRUE_PATH)
    found = path_step(a, b, TRUE_PATH, PATHS, 0.0, False)
    assert_close(found.control, TRUE_PATH.control, atol=1e-9)
    assert found.bend == pytest.approx(TRUE_PATH.bend)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_objective_falls_from_path_to_path(fixed: bool) -> None:
    a, b = path_equations(TRUE_PATH)
    noise = np.random.default_rng(5).standard_normal(TRUE_PATH.control.shape)
    paths = [centered(PosePath(TRUE_PATH.control + 0.4 * noise, TRUE_PATH.bend if fixed else 0.3))]
    for _ in range(4):
        paths.append(path_step(a, b, paths[-1], PATHS, 0.0, fixed))
    values = [path_objective(a, b, path) for path in paths]
    assert values == sorted(values, reverse=True)
    least = path_objective(a, b, TRUE_PATH)
    assert values[-1] - least < 0.1 * (values[0] - least)
    assert (paths[-1].bend == TRUE_PATH.bend) == fixed


def test_scaling_and_flat_patches_leave_the_path() -> None:
    a, b = path_equations(TRUE_PATH)
    start = PosePath(0.8 * TRUE_PATH.control, 0.5)
    found = path_step(a, b, start, PATHS, 3e-3, False)
    assert_close(path_step(4 * a, 4 * b, start, PATHS, 3e-3, False).control, found.control, atol=1e-9)
    more = PathKernels(np.concatenate([POINTS, [[3.0, 4.0]]]), SHAPE, WINDOW, 5, 48)
    a, b = (np.concatenate([array, np.zeros_like(array[:1])]) for array in (a, b))
    assert_close(path_step(a, b, start, more, 3e-3, False).control, found.control, atol=1e-9)
    assert path_step(0 * a, 0 * b, start, more, 3e-3, False) is start


def test_a_patch_with_nan_disturbs_no_other() -> None:
    patches = np.stack([picture((64, 64)), picture((64, 64))[::-1]])
    kernels = np.repeat(gaussian_process_kernel(7, rng=0)[None].astype(np.float32), 2, axis=0)
    step = Iteration(1e-3, 0.2)
    expected = patch_equations(patches, kernels, step, 60.0, FAST)
    patches[1, 5, 5] = np.nan
    for array, other in zip(patch_equations(patches, kernels, step, 60.0, FAST), expected, strict=True):
        assert_same(array[0], other[0])
        assert not array[1].any()


def test_random_starts_are_short_paths_and_the_same_for_all() -> None:
    controls, again = random_controls(5, 31), random_controls(5, 31)
    for control, same in zip(controls, again, strict=True):
        assert_same(control, same)
        spans = np.ptp(PosePath(control, 0.0).samples(64), axis=0)
        assert max(spans) < 0.4 * 31
    assert len({control.tobytes() for control in controls}) == len(controls)


class CountedPrior:
    """A prior that leaves the image as it is, and keeps the shapes that it saw."""

    weight, eta_max = 1e-3, 1.0

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()

    def step(self, latent: Any, strength: float) -> Any:
        self.shapes.add(latent.shape)
        return latent


def test_a_prior_sees_the_batch_of_patches() -> None:
    """[Li2018] eq. 16: the latent step under varying blur, with the prior."""
    prior = CountedPrior()
    image = disks((120, 180)).astype(np.float32)
    level = PathLevel(image, (9, 9), 1.0, PathScale(0.5, 5, 1, (1e-3, 1e-3), 1))
    options = replace(FAST, prior=prior)
    (path,) = level.alternate([PosePath(random_controls(5, 9)[0], 0.5)], False, options)
    assert np.isfinite(path.control).all()
    ((count, height, width),) = prior.shapes
    assert (count, height > level.patches.shape[1], width > level.patches.shape[2]) == (len(level.patches), True, True)
    assert options_at(0.5, options) is options
    assert options_at(1.0, options).prior is None
    assert options_at(1.0, replace(options, finest_prior=True)).prior is prior


def test_a_batch_of_paths_equals_a_loop() -> None:
    level = PathLevel(disks((120, 180)).astype(np.float32), (9, 9), 1.0, PathScale(0.5, 5, 2, (1e-3, 5e-4), 1))
    paths = [PosePath(control, 0.5) for control in random_controls(5, 9)[:3]]
    together = level.alternate(paths, False, FAST)
    for path, alone in zip(together, (level.alternate([path], False, FAST)[0] for path in paths), strict=True):
        assert_same(path.control, alone.control)
        assert path.bend == alone.bend
    assert_same(level.scores(paths), np.concatenate([level.scores([path]) for path in paths]))


def test_project_weights() -> None:
    weights = np.zeros((5, 7, 7))
    weights[1, 2, 3], weights[1, 2, 4], weights[4, 6, 6] = 1, 0.5, 0.01
    projected = project_weights(weights, 0.03)
    assert_close(projected[2, 3, 3:5], np.array([2, 1]) / 3)
    assert projected.sum() == pytest.approx(1)
    for broken in (0 * weights, np.full_like(weights, np.nan)):
        assert project_weights(broken, 0.03)[2, 3, 3] == 1


def test_small_components_are_dropped() -> None:
    weights = np.zeros((5, 7, 7))
    weights[1, 2, 3], weights[2, 3, 4], weights[4, 6, 6] = 1, 0.02, 0.02
    dropped = drop_components(weights, 0.03)
    assert_same(np.flatnonzero(dropped), np.flatnonzero(weights)[:2])
    assert_same(drop_components(0 * weights, 0.03), 0 * weights)


def test_active_poses() -> None:
    delta = np.zeros((9, 9, 9))
    delta[4, 4, 4] = 1
    assert len(active_poses(delta)) == 5**3


@pytest.mark.parametrize("shape", [(200, 300), (60, 40), (900, 1300), (70, 3000)])
def test_patches_are_inside_and_bounded(shape: tuple[int, int]) -> None:
    image = picture(shape)
    side = patch_side(shape, (15, 15), 1.0)
    corners = patch_corners(image, side)
    assert 1 <= len(corners) <= MAX_PATCHES
    assert len({tuple(corner) for corner in corners}) == len(corners)
    assert (corners >= 0).all()
    assert (corners + side <= shape).all()
    assert_same(cut_patches(image, corners, side)[-1], image[tuple(map(slice, corners[-1], corners[-1] + side))])
    assert_close(patch_centers(np.array([[0, 2]]), (5, 6)), np.array([[2, 4.5]]))


def test_of_many_patches_those_with_texture_are_taken() -> None:
    image = np.full((900, 1300), 0.5, np.float32)
    image[500:560, 700:760] = picture((60, 60))
    side = patch_side(image.shape, (15, 15), 1.0)
    corners = patch_corners(image, side)
    patches = cut_patches(image, corners, side)
    assert max(patch.std() for patch in patches) > 0
    assert len(corners) > MAX_PATCHES // 2


def disks(shape: tuple[int, int]) -> np.ndarray:
    """Disks of all sizes over each other: edges in all directions, everywhere."""
    random, (y, x) = np.random.default_rng(0), np.indices(shape)
    image = np.full(shape, 0.5)
    for _ in range(400):
        row, column = random.random(2) * shape
        radius = 3 + random.pareto(1.5) * 4
        if radius < 60:
            image[np.hypot(y - row, x - column) < radius] = random.random()
    return image


@pytest.fixture(scope="module")
def rotated() -> tuple[np.ndarray, np.ndarray, float]:
    """(image, path, focal): a camera that rolls by 10 pixels at the corner."""
    path = pose_path((200, 280), 10, 10, rng=7)
    image = blur_by_poses(disks((240, 320)), path, 280.0, margin=20, noise_sigma=0.002, rng=0)
    return image.astype(np.float32), path, 280.0


@pytest.mark.slow
def test_poses_explain_a_rotation_better_than_the_kernel_in_the_middle(rotated: Any) -> None:
    image, path, focal = rotated
    field = gd.synthesis.rotation_field(path, focal, image.shape, 31)
    kernel = field.centre[8:23, 8:23].astype(np.float32)
    reports: list[float] = []
    weights = estimate_weights(image, kernel, focal, 1.0, FAST, reports.append)
    assert reports[-1] == 1
    true = field.at(node_points((3, 3), image.shape)).reshape(9, 31, 31)
    estimate = weights.kernels(node_points((3, 3), image.shape), (31, 31)).reshape(9, 31, 31)
    similarity = gd.metrics.kernel_similarity
    poses, uniform = ([similarity(k, t) for k, t in zip(ks, true, strict=True)] for ks in (estimate, [kernel] * 9))
    assert np.mean(poses) > np.mean(uniform) + 0.02

    def repeated(points: np.ndarray) -> np.ndarray:
        return np.broadcast_to(kernel, (len(points), 15, 15))

    score, uniform_score = (score_patches(image, 1.0, k, (15, 15)).score.mean() for k in (weights.kernels, repeated))
    assert score > uniform_score + FIELD_MARGIN


@pytest.mark.slow
def test_deblur_returns_the_field(rotated: Any) -> None:
    """Also beside an image with a dead column and dust: poses still win, and the restoration does not see them."""
    image, path, focal = rotated
    options: dict[str, Any] = {"blur": "rotation", "focal": focal, "options": FAST}
    result = gd.deblur(image, 15, **options)
    assert (result.info["blur"], result.info["focal"]) == ("rotation", focal)
    assert result.info["advantage"] > FIELD_MARGIN
    assert result.image.shape == image.shape
    assert result.kernel.shape == (15, 15)
    assert result.field.shape == image.shape
    assert gd.metrics.kernel_similarity(result.kernel, result.field.centre) > 0.95
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)

    masks = np.ones((2, *image.shape), bool)
    masks[1, :, 170] = masks[1, 60:70, 90:100] = masks[1, 150:158, 230:238] = False
    stack = gd.deblur(np.where(masks, image, np.nan), 15, mask=masks, **options)
    assert_same(stack.image[0], result.image)
    assert_same(stack.field[0].kernels, result.field.kernels)
    assert list(stack.info["blur"]) == ["rotation"] * 2
    points = node_points((3, 3), image.shape)
    true = gd.synthesis.rotation_field(path, focal, image.shape, 31).at(points).reshape(9, 31, 31)
    kernels = [field.at(points) for field in stack.field]
    kernels = [k.reshape(9, *k.shape[-2:]) for k in kernels]
    complete, holes = (np.mean(list(map(gd.metrics.kernel_similarity, ks, true))) for ks in kernels)
    assert holes > complete - 0.05
    assert np.isfinite(stack.image).all()
    assert abs(stack.info["residual"][1] / stack.info["residual"][0] - 1) < 0.1


@pytest.mark.slow
def test_a_uniform_blur_keeps_the_uniform_result() -> None:
    image = blur(data.camera()[60:210, 100:300] / 255, gaussian_process_kernel(13, rng=1), noise_sigma=0.002, rng=0)
    image = image.astype(np.float32)
    uniform = gd.deblur(image, 15, options=FAST)
    result = gd.deblur(image, 15, blur="rotation", options=FAST)
    assert result.field is None
    assert result.info["blur"] == uniform.info["blur"] == "uniform"
    assert_same(result.image, uniform.image)
    assert_same(result.kernel, uniform.kernel)
    assert result.info["strength"] == uniform.info["strength"]


def test_the_kernel_in_the_middle_and_the_grid_of_a_field() -> None:
    weights = PoseWeights(weights_of(GRID), GRID)
    assert weights.center_kernel().shape == GRID.size
    field = weights.field()
    assert field.shape == SHAPE
    assert_close(field.kernels.sum(axis=(-2, -1)), np.ones(field.kernels.shape[:2]))
    delta = np.zeros(GRID.lattice)
    delta[2, 3, 3] = 1
    assert PoseWeights(delta, GRID).field().kernels.shape == (1, 1, 7, 7)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"blur": "shake"}, ValueError, "blur must be one of 'uniform', 'rotation', got 'shake'"),
        ({"focal": 300.0}, ValueError, "focal must be left out for blur='uniform', got 300.0; use blur='rotation'"),
        ({"blur": "rotation", "focal": 0}, ValueError, "focal must be positive, in pixels, got 0; leave it out"),
        ({"blur": "rotation", "focal": -2.0}, ValueError, "focal must be positive, in pixels, got -2.0"),
        ({"blur": "rotation", "focal": math.nan}, ValueError, "focal must be positive, in pixels, got nan"),
        ({"blur": "rotation", "focal": "35mm"}, TypeError, "focal must be a number, got '35mm' \\(str\\)"),
        (
            {"blur": "rotation", "focal": [300.0, 400.0]},
            TypeError,
            "focal must be one number for a whole stack, .* deblur each camera's images apart",
        ),
        (
            {"blur": "rotation", "final": "tv"},
            ValueError,
            "final must be 'sparse' or 'pnp' or None for blur='rotation', got 'tv'",
        ),
        ({"blur": "rotation"}, ValueError, r"six kernels along each side .* \(50, 200\) .* use blur='uniform'"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        gd.deblur(picture((50, 200)), 9, **options)
