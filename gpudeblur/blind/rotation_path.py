"""The path of the camera that explains an image: coarse to fine, from several starts, by the score that ranks kernels.

    short random paths, paths through the uniform kernel -> for each scale: cut patches, then for each path repeat
    { latent step of every patch <-> path step for all of them } -> the best ones -> path

Weights of poses (`rotation`) are convex in the pose step but lose the roll at coarse scales; a path keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..images.noise import divide_by_noise
from ..images.rotation_blur import matern_factor
from ..numerics.arrays import Array, array_module, to_host
from ..numerics.chunks import map_in_chunks
from ..numerics.pose_paths import PathKernels, PosePath, bend_of, kernel_path, spline_basis
from ..numerics.progress import OnProgress
from ..numerics.resample import resample, scaled_shape
from ..numerics.toeplitz import toeplitz_apply, toeplitz_spectrum, zero_lag
from .options import TwoStepOptions
from .patches import cut_patches, options_at, patch_centers, patch_corners, patch_equations, patch_side
from .schedule import Iteration
from .selection import score_kernels


@dataclass(frozen=True)
class PathScale:
    """One scale of the search."""

    scale: float
    count: int  # control points
    iterations: int
    gradient_weight: tuple[float, float]  # lambda of the first and of the last iteration
    keep: int  # paths that go on


SCALES = (
    PathScale(0.22, 5, 6, (8e-3, 3.5e-3), 12),
    PathScale(0.35, 6, 6, (4e-3, 1.3e-3), 6),
    PathScale(0.5, 9, 5, (1.3e-3, 5e-4), 3),
    PathScale(0.71, 11, 5, (1e-3, 2.5e-4), 1),
    PathScale(1.0, 14, 7, (1e-3, 1e-4), 1),
)
EDGE_FRACTION, BETA_MAX = 0.2, 60.0
# Pixels at full size that kernels in patches are wider on each side than in the middle, where the blur is shorter.
WINDOW_MARGIN = 3
# Samples of a path at full size, and at least.
SAMPLES, MIN_SAMPLES = 128, 48
# Steps of L-BFGS in a path step, evaluations beyond them, and its tolerance.
PATH_STEPS, EXTRA_EVALUATIONS, TOLERANCE = 15, 8, 1e-6
# Lengths and rolls of the random starts, as shares of the kernel's side, and how many there are of each pair.
LENGTHS, ROLLS, DRAWS = (0.13, 0.29), (0.03, 0.16), 3
# The paths through the uniform kernel start at the second scale, from so many masses each.
KERNEL_CENTERS = (4, 6)
# (longer side / focal length)^2 of the starts where no focal length is given, and its bound: fisheyes are beyond.
START_BEND, MAX_BEND = 0.7, 4.0


class PathLevel:
    """An image (H, W) at one scale, cut into patches, for paths."""

    def __init__(self, image: Array, size: tuple[int, int], noise_scale: Any, numbers: PathScale) -> None:
        scale, shape = numbers.scale, scaled_shape((image.shape[0], image.shape[1]), numbers.scale)
        picture = resample(image, shape)
        self.numbers, self.noise_scale = numbers, noise_scale if scale == 1 else 1.0
        self.window = kernel_window(size, scale)
        side = patch_side(shape, self.window, scale)
        corners = patch_corners(picture, side)
        xp = array_module(picture)
        self.patches = cut_patches(picture, corners, side)
        self.noise_scales = xp.full(len(corners), self.noise_scale, dtype=picture.dtype)
        self.scaled = divide_by_noise(self.patches, self.noise_scales)
        samples = max(MIN_SAMPLES, round(SAMPLES * scale))
        self.paths = PathKernels(patch_centers(corners, side), shape, self.window, numbers.count, samples)

    def kernels(self, paths: Sequence[PosePath]) -> Array:
        """Of the patches for each path, (paths * R, kh, kw), sum 1; the paths in pixels of this scale."""
        kernels = np.concatenate([self.paths.kernels(self.paths.places(path)) for path in paths])
        kernels /= np.maximum(kernels.sum(axis=(-2, -1), keepdims=True), 1e-6)
        return array_module(self.patches).asarray(kernels.astype(self.patches.dtype))

    def alternate(self, paths: Sequence[PosePath], fixed_bend: bool, options: TwoStepOptions) -> list[PosePath]:
        """Latent and path steps from each of `paths`, in pixels at full size, as are the results."""
        numbers, xp, count = self.numbers, array_module(self.patches), len(paths)
        scaled = [path.resampled(numbers.count).scaled(numbers.scale) for path in paths]
        patches, options = xp.concatenate([self.scaled] * count), options_at(numbers.scale, options)
        for weight in np.geomspace(*numbers.gradient_weight, numbers.iterations):
            step = Iteration(float(weight), EDGE_FRACTION)

            def equations(patch: Array, kernel: Array, step: Iteration = step) -> tuple[Array, Array]:
                return patch_equations(patch, kernel, step, BETA_MAX, options)

            a, b = map(to_host, map_in_chunks(equations, patches, self.kernels(scaled)))  # waits for a device
            scaled = [
                path_step(a_of_path, b_of_path, path, self.paths, options.kernel_weight, fixed_bend)
                for a_of_path, b_of_path, path in zip(np.split(a, count), np.split(b, count), scaled, strict=True)
            ]
        return [path.scaled(1 / numbers.scale) for path in scaled]

    def scores(self, paths: Sequence[PosePath]) -> np.ndarray:
        """Mean score of the patches for each path."""
        xp, scale, count = array_module(self.patches), self.numbers.scale, len(paths)
        kernels = self.kernels([path.resampled(self.numbers.count).scaled(scale) for path in paths])
        patches, noise = xp.concatenate([self.scaled] * count), xp.concatenate([self.noise_scales] * count)
        return to_host(score_kernels(patches, kernels, noise).score.reshape(count, -1).mean(axis=1))


def kernel_window(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Of kernels of `size` at full size, at `scale`, in patches; odd."""
    height, width = (
        max(3, 2 * math.ceil((k * scale - 1) / 2 - 1e-9) + 1) + 2 * max(1, round(WINDOW_MARGIN * scale)) for k in size
    )
    return height, width


def path_step(
    autocorrelation: np.ndarray,
    correlation: np.ndarray,
    path: PosePath,
    paths: PathKernels,
    kernel_weight: float,
    fixed_bend: bool,
) -> PosePath:
    """The path near `path` with the least sum_r k_r^T (A_r + gamma a_r(0)) k_r / 2 - b_r^T k_r, by L-BFGS; centered.

    The objective is that of `rotation.pose_step`, for the kernels k_r of a path.

    Parameters
    ----------
    autocorrelation : (R, 2 kh - 1, 2 kw - 1), A_r.
    correlation : (R, kh, kw), b_r.
    kernel_weight : gamma, a fraction of the energy of the selected gradients.
    fixed_bend : keep the bend of `path`.
    """
    from scipy.optimize import minimize

    energy = zero_lag(autocorrelation).astype(np.float64)
    total = energy.sum()
    if not total > 0:
        return path
    spectrum, grid = toeplitz_spectrum(autocorrelation.astype(np.float64) / total)
    spectrum += kernel_weight * (energy / total)[:, None, None] / (grid[0] * grid[1])
    rhs = correlation.astype(np.float64) / total

    def evaluate(values: np.ndarray) -> tuple[float, np.ndarray]:
        places = paths.places(_unpacked(values))
        kernels = paths.kernels(places)
        product = toeplitz_apply(spectrum, grid, kernels)
        by_control, by_bend = paths.gradient(places, product - rhs)
        value = (kernels * (0.5 * product - rhs)).sum()
        return float(value), np.append(by_control.ravel(), 0.0 if fixed_bend else by_bend)

    bounds = [(None, None)] * path.control.size + [(0.0, MAX_BEND)]
    limits = {"maxiter": PATH_STEPS, "maxfun": PATH_STEPS + EXTRA_EVALUATIONS, "maxcor": 20, "ftol": TOLERANCE}
    start = np.append(path.control.ravel(), path.bend)
    solution = minimize(evaluate, start, jac=True, method="L-BFGS-B", bounds=bounds, options=limits)
    path = _unpacked(solution.x)
    mean = (paths.basis @ path.control).mean(axis=0)
    return PosePath(path.control - mean, path.bend)


def _unpacked(values: np.ndarray) -> PosePath:
    return PosePath(values[:-1].reshape(-1, 3), float(values[-1]))


def random_controls(count: int, side: int) -> list[np.ndarray]:
    """Control points (count, 3) of the random starts for kernels of `side`, the same for all images."""
    rng, samples = np.random.default_rng(0), 64
    factor, basis = matern_factor(np.linspace(0, 1, samples), 0.3), spline_basis(count, samples)
    controls = []
    for length in LENGTHS:
        for roll in ROLLS:
            for _ in range(DRAWS):
                path = factor @ rng.standard_normal((samples, 3))
                spans = np.ptp(path, axis=0)
                path *= np.array([length, length, roll]) * side / np.array([*[spans[:2].max()] * 2, spans[2]])
                controls.append(np.linalg.lstsq(basis, path - path.mean(axis=0), rcond=None)[0])
    return controls


def search_path(
    image: Array,
    kernel: Array,
    focal: float | None,
    noise_scale: Any,
    options: TwoStepOptions,
    progress: OnProgress,
    scales: Sequence[PathScale] = SCALES,
) -> PosePath:
    """The path with the best score, for an image (H, W) with its uniform `kernel` (kh, kw); in pixels at full size."""
    size, host = (kernel.shape[0], kernel.shape[1]), to_host(kernel).astype(np.float64)
    bend = START_BEND if focal is None else bend_of(focal, (image.shape[0], image.shape[1]))
    paths = [PosePath(control, bend) for control in random_controls(scales[0].count, max(size))]
    for index, numbers in enumerate(scales):
        level = PathLevel(image, size, noise_scale, numbers)
        if index == min(1, len(scales) - 1):
            paths += [PosePath(kernel_path(host, numbers.count, centers), bend) for centers in KERNEL_CENTERS]
        paths = level.alternate(paths, focal is not None, options)
        if numbers.keep < len(paths):
            order = np.argsort(-level.scores(paths), kind="stable")
            paths = [paths[i] for i in order[: numbers.keep]]
        progress((index + 1) / len(scales))
    return paths[0]
