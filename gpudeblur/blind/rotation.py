"""Blur that varies over the image because the camera rotates: weights of camera poses instead of a kernel ([Li2018] 5).

    uniform kernel -> weights of poses at the coarsest scale -> for each scale: cut patches, then repeat
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
from ..numerics.arrays import Array, Workspace, array_module, to_host
from ..numerics.boundary import pad_liu_jia
from ..numerics.chunks import map_in_chunks
from ..numerics.fourier import rfft2
from ..numerics.poses import PoseGrid, Splatting, node_counts, node_points, scale_weights
from ..numerics.progress import OnProgress
from ..numerics.resample import resample, scaled_shape
from ..numerics.toeplitz import toeplitz_apply, toeplitz_spectrum, zero_lag
from .kernel_step import normal_equations, select_edges, selection_window
from .latent import latent_step
from .options import TwoStepOptions
from .patches import cut_patches, patch_centers, patch_corners, patch_side
from .schedule import Iteration

# Scales of the image, and latent and pose steps at each. Started at the finest alone, the roll is not found.
SCALES, ITERATIONS = (0.35, 0.5, 0.71, 1.0), 5
# lambda in the first iteration, its factor from one to the next, and its end; the share of the gradients in pose steps.
GRADIENT_WEIGHT, GRADIENT_WEIGHT_FACTOR, GRADIENT_WEIGHT_MIN, EDGE_FRACTION = 4e-3, 0.8, 2e-4, 0.2
# The same from a start that knows nothing, the Gaussian of `broad_kernel`.
BROAD_SCALES, BROAD_SPREAD = (0.25, *SCALES), 1 / 8
BETA_MAX, FINEST_BETA_MAX = 60.0, 1e3
# Pixels added to the kernels' windows in patches, as the blur is longer there than in the middle.
WINDOW_MARGIN = 6
# Steps of the pose step, and steps of the power method that bounds its operator, with a factor for what they miss.
POSE_STEPS, POWER_STEPS, BOUND_FACTOR = 80, 8, 1.1
# Weights below this share of the largest become 0. With 0.1 the roll is lost, as 8 neighbors share a path's weight;
# 0.02 and 0.045 gave 2 and 0.7 dB less on three training photographs.
WEIGHT_THRESHOLD = 0.03
# Iterations of the finest scale whose mean is the result, and the share of all weight below which components of it are
# removed. Removed in each iteration, they are missing for good, and kernels get gaps.
FINEST_AVERAGE, WEIGHT_COMPONENT = 4, 0.03
# Standard deviation of the first rolls, as a share of their range.
ROLL_SPREAD = 1 / 6
# Poses further than this from all that have a weight are left out at the next scale, in bins.
ACTIVE_RADIUS = 2


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
    focal: float,
    noise_scale: Any,
    options: TwoStepOptions,
    progress: OnProgress,
    scales: tuple[float, ...] = SCALES,
) -> PoseWeights:
    """Weights of poses that explain an image (H, W), coarse to fine, from a first `kernel` (kh, kw).

    Parameters
    ----------
    image : (H, W), the luminance, in [0, 1].
    kernel : (kh, kw): its size is that of the grid's shifts, and rolls move the corners as far.
    focal : focal length in pixels, positive; `math.inf` for motion in the image plane.
    noise_scale : scalar, see `images.noise.noise_scale`.
    scales : of the image, from coarse to fine, the last one 1.
    """
    shape, size = (image.shape[0], image.shape[1]), (kernel.shape[0], kernel.shape[1])
    host = to_host(kernel)
    weights, previous = host[None], 1.0
    for level, scale in enumerate(scales):
        scaled = scaled_shape(shape, scale)
        grid = PoseGrid.of(_scaled_size(size, scale), scaled, focal * scale)
        if level == 0:
            weights = first_weights(host, scale, grid)
        else:
            weights = scale_weights(weights, scale / previous, grid.lattice)
        finest = level == len(scales) - 1
        picture = resample(image, scaled)
        picture = picture / noise_scale if finest else picture  # as `noise.divide_by_noise`
        iterations = [_iteration(level * ITERATIONS + i) for i in range(ITERATIONS)]
        beta_max, average = (FINEST_BETA_MAX, FINEST_AVERAGE) if finest else (BETA_MAX, 1)
        weights = alternate_patches(picture, weights, grid, iterations, scale, beta_max, average, options)
        previous = scale
        progress((level + 1) / len(scales))
    weights = project_weights(drop_components(weights, WEIGHT_COMPONENT), 0.0)
    return PoseWeights(array_module(image).asarray(weights), grid)


def broad_kernel(size: tuple[int, int], xp: Any, dtype: Any) -> Array:
    """A Gaussian (kh, kw) whose standard deviation is an eighth of the longer side: a start that knows nothing."""
    y, x = (np.arange(side) - side // 2 for side in size)
    kernel = np.exp(-0.5 * (y[:, None] ** 2 + x**2) / (BROAD_SPREAD * max(size)) ** 2)
    return xp.asarray((kernel / kernel.sum()).astype(dtype))


def first_weights(kernel: np.ndarray, scale: float, grid: PoseGrid) -> np.ndarray:
    """The uniform kernel at the coarsest scale times a Gaussian over the rolls."""
    small = scale_weights(kernel[None], scale, (1, *grid.size))
    rolls = np.arange(grid.rolls) - grid.rolls // 2
    spread = np.exp(-0.5 * (rolls / max(1e-6, ROLL_SPREAD * grid.rolls)) ** 2)
    return (small * (spread / spread.sum())[:, None, None]).astype(kernel.dtype)


def _scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(3, 2 * math.ceil((k * scale - 1) / 2 - 1e-9) + 1) for k in size)
    return height, width


def _iteration(number: int) -> Iteration:
    weight = max(GRADIENT_WEIGHT * GRADIENT_WEIGHT_FACTOR**number, GRADIENT_WEIGHT_MIN)
    return Iteration(weight, EDGE_FRACTION, WEIGHT_THRESHOLD)


def alternate_patches(
    image: Array,
    weights: np.ndarray,
    grid: PoseGrid,
    iterations: list[Iteration],
    scale: float,
    beta_max: float,
    average: int,
    options: TwoStepOptions,
) -> np.ndarray:
    """Latent and pose steps of one scale: weights (rolls, kh, kw) for an image (H, W) of that scale.

    The result is the mean of the last `average` iterations.

    Poses further than ACTIVE_RADIUS bins from those that have a weight at the beginning keep none.
    """
    xp = array_module(image)
    window = grid.size[0] + WINDOW_MARGIN, grid.size[1] + WINDOW_MARGIN
    side = patch_side(grid.shape, window, scale)
    corners = patch_corners(image, side)
    patches = cut_patches(image, corners, side)
    active = active_poses(weights)
    splatting = grid.splatting(patch_centers(corners, side), window, active=active, like=image)
    history: list[np.ndarray] = []
    for iteration in iterations:
        flat = xp.asarray(weights.reshape(-1)[active], dtype=image.dtype)
        kernels = splatting.expand(flat)

        def equations(patch: Array, kernel: Array, step: Iteration = iteration) -> tuple[Array, Array]:
            return patch_equations(patch, kernel, step, beta_max, options)

        a, b = map_in_chunks(equations, patches, kernels)
        flat = pose_step(a, b, flat, splatting, options.kernel_weight, POSE_STEPS)
        solution = np.zeros_like(weights)
        solution.reshape(-1)[active] = to_host(flat)  # waits for a device
        weights = project_weights(solution, iteration.threshold)
        history.append(weights)
    return np.mean(history[-average:], axis=0)


def active_poses(weights: np.ndarray) -> np.ndarray:
    """Flat indices of the poses within ACTIVE_RADIUS bins of a weight."""
    from scipy.ndimage import maximum_filter

    near = maximum_filter(weights >= WEIGHT_THRESHOLD * weights.max(), 2 * ACTIVE_RADIUS + 1, mode="constant")
    return np.flatnonzero(near)


def patch_equations(
    patches: Array, kernels: Array, iteration: Iteration, beta_max: float, options: TwoStepOptions
) -> tuple[Array, Array]:
    """The latent step of patches (R, P, P) with kernels (R, kh, kw), and the normal equations (11) of each."""
    size = kernels.shape[-2], kernels.shape[-1]
    blurred = pad_liu_jia(patches, (size[0] - 1, size[1] - 1))
    blurred_hat, buffers = rfft2(blurred), Workspace(blurred)
    prior, weight = options.prior, None
    if prior is not None:
        weight = prior.weight * iteration.gradient_weight / GRADIENT_WEIGHT
    latent = latent_step(
        blurred,
        kernels,
        blurred_hat=blurred_hat,
        gradient_weight=iteration.gradient_weight,
        beta_rate=options.beta_rate,
        beta_max=beta_max,
        prior=prior,
        prior_weight=weight,
        buffers=buffers,
    )
    window = selection_window((patches.shape[-2], patches.shape[-1]), size)
    selected = select_edges(latent, window, iteration.edge_fraction, buffers=buffers)
    return normal_equations(selected, latent, blurred_hat, size, buffers=buffers)


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
