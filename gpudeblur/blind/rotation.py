"""Blur that varies over the image because the camera rotates: weights of camera poses instead of a kernel ([Li2018] 5).

    path of poses (`rotation_path`) -> weights of the poses near it -> at full size: cut patches, then repeat
    { latent step of every patch <-> pose step for all of them } -> weights -> a kernel for every point

Within a patch the blur is a convolution with k_r = M_r w (`numerics.poses`), so that the latent step and the normal
equations are those of the uniform method, on a batch of patches. Only the weights w are common to them. The cost does
not depend on the image's size, as the number of patches is bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..images.kernel_field import KernelField
from ..numerics.arrays import Array, array_module, to_host
from ..numerics.chunks import map_in_chunks
from ..numerics.pose_paths import PosePath, path_weights
from ..numerics.poses import PoseGrid, Splatting, node_counts, node_points
from ..numerics.progress import OnProgress, subrange
from ..numerics.toeplitz import toeplitz_apply, toeplitz_spectrum, zero_lag
from .options import TwoStepOptions
from .patches import cut_patches, options_at, patch_centers, patch_corners, patch_equations, patch_side
from .rotation_path import BETA_MAX, EDGE_FRACTION, kernel_window, search_path
from .schedule import Iteration

# Latent and pose steps, and their lambda.
ITERATIONS, GRADIENT_WEIGHT = 5, 2e-4
# Steps of the pose step, and steps of the power method that bounds its operator, with a factor for what they miss.
POSE_STEPS, POWER_STEPS, BOUND_FACTOR = 80, 8, 1.1
# Weights below this share of the largest become 0. With 0.1 the roll is lost, as 8 neighbors share a path's weight;
# 0.02 and 0.045 gave 2 and 0.7 dB less on three training photographs.
WEIGHT_THRESHOLD = 0.03
# Iterations whose mean is the result, and the share of all weight below which components of it are removed. Removed in
# each iteration, they are missing for good, and kernels get gaps.
AVERAGE, WEIGHT_COMPONENT = 4, 0.03
# Poses further than this from all that have a weight at first get none, in bins.
ACTIVE_RADIUS = 2
# The search's share of the progress.
SEARCH_SHARE = 0.9


@dataclass(frozen=True)
class PoseWeights:
    """Weights (rolls, kh, kw) of the poses of `grid`, non-negative, sum 1, centered."""

    weights: Array
    grid: PoseGrid

    @property
    def active(self) -> np.ndarray:
        """Flat indices of the poses with a weight."""
        return np.flatnonzero(to_host(self.weights) > 0)

    def kernels(self, points: np.ndarray, window: tuple[int, int] | None = None) -> Array:
        """Kernels (..., kh, kw), sum 1, at `points` (..., 2); by default in a window that holds all of them."""
        active = self.active
        if window is None:
            reach = abs(self.grid.displacement(points, active)).reshape(-1, 2).max(axis=0)
            height, width = (max(k, 2 * math.ceil(r - 1e-6) + 1) for k, r in zip(self.grid.size, reach, strict=True))
            window = height, width
        weights = self.weights.reshape(-1)[array_module(self.weights).asarray(active)]
        kernels = self.grid.splatting(points, window, active=active, like=weights).expand(weights)
        return kernels / kernels.sum(axis=(-2, -1), keepdims=True)

    def field(self) -> KernelField:
        """Kernels on nodes between which no kernel point moves by more than a pixel."""
        counts = node_counts(self.grid.poses(self.active), self.grid.shape, self.grid.focal)
        return KernelField(self.kernels(node_points(counts, self.grid.shape)), self.grid.shape)

    def center_kernel(self) -> Array:
        """The kernel in the middle of the image, of the grid's size."""
        return self.kernels(node_points((1, 1), self.grid.shape)[0, 0], self.grid.size)


def estimate_weights(
    image: Array,
    kernel: Array,
    focal: float | None,
    noise_scale: Any,
    options: TwoStepOptions,
    progress: OnProgress,
) -> PoseWeights:
    """Weights of poses that explain an image (H, W), with its uniform `kernel` (kh, kw) as one of the starts.

    Parameters
    ----------
    image : (H, W), the luminance, in [0, 1].
    kernel : (kh, kw): its size is that of the grid's shifts, and rolls move the corners as far.
    focal : focal length in pixels, positive; `math.inf` for motion in the image plane; None: estimated with the path.
    noise_scale : scalar, see `images.noise.noise_scale`.
    """
    path = search_path(image, kernel, focal, noise_scale, options, subrange(progress, 0, SEARCH_SHARE))
    weights = weights_near(path, image, (kernel.shape[0], kernel.shape[1]), noise_scale, options)
    progress(1.0)
    return weights


def weights_near(
    path: PosePath, image: Array, size: tuple[int, int], noise_scale: Any, options: TwoStepOptions
) -> PoseWeights:
    """Latent and pose steps for an image (H, W) from the weights of a path; no pose far from it gets a weight."""
    shape = (image.shape[0], image.shape[1])
    grid = PoseGrid.of(size, shape, path.focal(shape))
    weights = path_weights(path, grid).astype(image.dtype)
    weights = alternate_patches(image / noise_scale, weights, grid, ITERATIONS, options)
    weights = project_weights(drop_components(weights, WEIGHT_COMPONENT), 0.0)
    return PoseWeights(array_module(image).asarray(weights), grid)


def alternate_patches(
    image: Array, weights: np.ndarray, grid: PoseGrid, iterations: int, options: TwoStepOptions
) -> np.ndarray:
    """Latent and pose steps: weights (rolls, kh, kw) for an image (H, W), as `noise.divide_by_noise` gives it.

    The result is the mean of the last AVERAGE iterations. Poses further than ACTIVE_RADIUS bins from those that have a
    weight at the beginning keep none.
    """
    xp, window = array_module(image), kernel_window(grid.size, 1.0)
    side = patch_side(grid.shape, window, 1.0)
    corners = patch_corners(image, side)
    patches = cut_patches(image, corners, side)
    active = active_poses(weights)
    splatting = grid.splatting(patch_centers(corners, side), window, active=active, like=image)
    options = options_at(1.0, options)
    step, history = Iteration(GRADIENT_WEIGHT, EDGE_FRACTION, WEIGHT_THRESHOLD), []

    def equations(patch: Array, kernel: Array) -> tuple[Array, Array]:
        return patch_equations(patch, kernel, step, BETA_MAX, options)

    for _ in range(iterations):
        flat = xp.asarray(weights.reshape(-1)[active], dtype=image.dtype)
        a, b = map_in_chunks(equations, patches, splatting.expand(flat))
        flat = pose_step(a, b, flat, splatting, options.kernel_weight, POSE_STEPS)
        solution = np.zeros_like(weights)
        solution.reshape(-1)[active] = to_host(flat)  # waits for a device
        weights = project_weights(solution, WEIGHT_THRESHOLD)
        history.append(weights)
    return np.mean(history[-AVERAGE:], axis=0)


def active_poses(weights: np.ndarray) -> np.ndarray:
    """Flat indices of the poses within ACTIVE_RADIUS bins of a weight."""
    from scipy.ndimage import maximum_filter

    near = maximum_filter(weights >= WEIGHT_THRESHOLD * weights.max(), 2 * ACTIVE_RADIUS + 1, mode="constant")
    return np.flatnonzero(near)


def pose_step(
    autocorrelation: Array,
    correlation: Array,
    weights: Array,
    splatting: Splatting,
    kernel_weight: float,
    steps: int,
) -> Array:
    """argmin_{w >= 0} sum_r (M_r w)^T (A_r + gamma a_r(0)) (M_r w) / 2 - b_r^T M_r w, from `weights` (T,).

    [Li2018] eq. 17 on gradients, with kernels that are constant in a patch, by accelerated projected gradients
    ([Beck2009]). A patch weighs as much as its selected gradients; a flat one nothing.

    Parameters
    ----------
    autocorrelation : (R, 2 kh - 1, 2 kw - 1), A_r.
    correlation : (R, kh, kw), b_r.
    splatting : M.
    kernel_weight : gamma, a fraction of the energy of the selected gradients.
    """
    xp = array_module(correlation, weights)
    spectrum, grid = toeplitz_spectrum(autocorrelation)
    spectrum += kernel_weight * zero_lag(autocorrelation)[:, None, None] / (grid[0] * grid[1])

    def apply(w: Array) -> Array:
        return splatting.collect(toeplitz_apply(spectrum, grid, splatting.expand(w)))

    rhs = splatting.collect(correlation)
    tiny = float(np.finfo(weights.dtype).tiny)
    vector = xp.maximum(rhs, 0)
    for _ in range(POWER_STEPS):
        vector = apply(vector / xp.maximum(xp.sqrt((vector * vector).sum()), tiny))
    bound = BOUND_FACTOR * xp.sqrt((vector * vector).sum())
    step = 1 / xp.maximum(bound, tiny)
    start = y = weights
    t = 1.0
    for _ in range(steps):
        new = xp.maximum(y - step * (apply(y) - rhs), 0)
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = new + ((t - 1) / t_next) * (new - weights)
        weights, t = new, t_next
    return xp.where(bound > tiny, weights, start)


def drop_components(weights: np.ndarray, share: float) -> np.ndarray:
    """26-connected components with less than the fraction `share` of the sum become 0; the heaviest always stays."""
    from scipy.ndimage import label

    labels, count = label(weights > 0, structure=np.ones((3, 3, 3), dtype=bool))
    mass = np.bincount(labels.ravel(), weights=weights.ravel(), minlength=count + 1)
    keep = (mass >= share * mass.sum()) | (mass == mass.max())
    return np.where(keep[labels], weights, 0)


def project_weights(weights: np.ndarray, threshold: float) -> np.ndarray:
    """Weights (rolls, kh, kw) of a solution: small ones 0, sum 1, their center of mass in the middle bin."""
    weights = np.where(weights >= threshold * weights.max(), np.maximum(weights, 0), 0)
    total = weights.sum()
    if not total > 0 or not np.isfinite(total):
        weights = np.zeros_like(weights)
        weights[tuple(side // 2 for side in weights.shape)] = 1
        return weights
    for axis, side in enumerate(weights.shape):
        profile = weights.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
        shift = round(float(profile @ (np.arange(side) - side // 2) / profile.sum()))
        weights = np.roll(weights, -shift, axis)
        lost = slice(side - shift, side) if shift > 0 else slice(0, -shift)
        weights[(slice(None),) * axis + (lost,)] = 0
    return weights / weights.sum()
