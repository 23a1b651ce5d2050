"""Patches of an image in which a blur that varies over it is nearly uniform: a bounded number, with texture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..numerics.arrays import Array, Workspace, array_module, to_host
from ..numerics.boundary import pad_liu_jia
from ..numerics.filters import gradient
from ..numerics.fourier import rfft2
from ..numerics.toeplitz import zero_lag
from .kernel_step import normal_equations, select_edges, selection_window
from .latent import latent_step
from .options import TwoStepOptions
from .schedule import Iteration

# Sides of patches: pixels at full size, and at least so many kernels.
PATCH_SIDE, PATCH_KERNELS = 144, 3
# From one patch to the next, in sides.
PATCH_STRIDE = 0.75
# Rate of beta in the latent step. With 2, as in the uniform method, fields are 0.5 dB worse, with 4 most are wrong.
BETA_RATE = 1.5
MAX_PATCHES = 48
# The lambda at which a prior has its own weight; it decays with lambda.
PRIOR_GRADIENT_WEIGHT = 4e-3


def patch_side(shape: tuple[int, int], size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Sides of the patches of an image of `shape` at `scale`: many kernels, and not larger than the image."""
    side = max(round(PATCH_SIDE * scale), PATCH_KERNELS * max(size))
    return min(side, shape[0]), min(side, shape[1])


def patch_corners(image: Array, side: tuple[int, int]) -> np.ndarray:
    """(R, 2): upper left corners of at most MAX_PATCHES patches of an image (H, W), with strides of PATCH_STRIDE.

    Where there are more positions, the image is divided into cells, and of each the patch with most gradient energy is
    taken.
    """
    positions = [
        np.round(np.linspace(0, n - p, 1 + math.ceil((n - p) / (PATCH_STRIDE * p)))).astype(int)
        for n, p in zip(image.shape, side, strict=True)
    ]
    rows, columns = (len(position) for position in positions)
    if rows * columns <= MAX_PATCHES:
        return np.stack(np.meshgrid(*positions, indexing="ij"), axis=-1).reshape(-1, 2)
    energy = _energies(image, positions, side)
    cell_rows = min(rows, max(1, MAX_PATCHES // columns, int(math.sqrt(MAX_PATCHES * rows / columns))))
    cell_columns = min(columns, MAX_PATCHES // cell_rows)
    corners = []
    for row_cell in np.array_split(np.arange(rows), cell_rows):
        for column_cell in np.array_split(np.arange(columns), cell_columns):
            part = energy[np.ix_(row_cell, column_cell)]
            row, column = np.unravel_index(np.argmax(part), part.shape)
            corners.append((positions[0][row_cell[row]], positions[1][column_cell[column]]))
    return np.array(corners)


def _energies(image: Array, positions: list[np.ndarray], side: tuple[int, int]) -> np.ndarray:
    """Sum of |D B|^2 in the patch at each position, (rows, columns). Waits for a device once."""
    gx, gy = gradient(image)
    energy = to_host(gx * gx + gy * gy).astype(np.float64)
    total = np.pad(energy.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    (top, left), (bottom, right) = positions, [p + s for p, s in zip(positions, side, strict=True)]
    inside = total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)]
    return inside + total[np.ix_(top, left)]


def cut_patches(image: Array, corners: np.ndarray, side: tuple[int, int]) -> Array:
    """(R, *side): the patches of an image (H, W) at these corners."""
    xp = array_module(image)
    rows = xp.asarray(corners[:, 0, None] + np.arange(side[0]))
    columns = xp.asarray(corners[:, 1, None] + np.arange(side[1]))
    return image[rows[:, :, None], columns[:, None, :]]


def patch_centers(corners: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """(R, 2): (row, column) of the patches' middles."""
    return corners + (np.array(side) - 1) / 2


def options_at(scale: float, options: TwoStepOptions) -> TwoStepOptions:
    """`options` at a scale of the image: at full size a prior is used with `finest_prior` only."""
    return options if scale < 1 or options.finest_prior else replace(options, prior=None)


def patch_equations(
    patches: Array, kernels: Array, iteration: Iteration, beta_max: float, options: TwoStepOptions
) -> tuple[Array, Array]:
    """The latent step of patches (R, P, P) with kernels (R, kh, kw), and the normal equations (11) of each.

    A patch with NaN has equations of 0, and no say.
    """
    size = kernels.shape[-2], kernels.shape[-1]
    blurred = pad_liu_jia(patches, (size[0] - 1, size[1] - 1))
    blurred_hat, buffers = rfft2(blurred), Workspace(blurred)
    prior, weight = options.prior, None
    if prior is not None:
        weight = prior.weight * iteration.gradient_weight / PRIOR_GRADIENT_WEIGHT
    latent = latent_step(
        blurred,
        kernels,
        blurred_hat=blurred_hat,
        gradient_weight=iteration.gradient_weight,
        beta_rate=BETA_RATE,
        beta_max=beta_max,
        prior=prior,
        prior_weight=weight,
        buffers=buffers,
    )
    window = selection_window((patches.shape[-2], patches.shape[-1]), size)
    selected = select_edges(latent, window, iteration.edge_fraction, buffers=buffers)
    a, b = normal_equations(selected, latent, blurred_hat, size, buffers=buffers)
    xp = array_module(a)
    finite = xp.isfinite(zero_lag(a))[:, None, None]
    return xp.where(finite, a, 0), xp.where(finite, b, 0)
