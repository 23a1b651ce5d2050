"""Patches of an image in which a blur that varies over it is nearly uniform: a bounded number, with texture."""

from __future__ import annotations

import math

import numpy as np

from ..numerics.arrays import Array, array_module, to_host
from ..numerics.filters import gradient

# Sides of patches: pixels at full size (with the square root of the scale), the least, and in kernels.
PATCH_SIDE, MIN_PATCH_SIDE, PATCH_KERNELS = 144, 64, 4
MAX_PATCHES = 48


def patch_side(shape: tuple[int, int], size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Sides of the patches of an image of `shape` at `scale`: many kernels, and not larger than the image."""
    side = max(MIN_PATCH_SIDE, round(PATCH_SIDE * math.sqrt(scale)), PATCH_KERNELS * max(size))
    return min(side, shape[0]), min(side, shape[1])


def patch_corners(image: Array, side: tuple[int, int]) -> np.ndarray:
    """(R, 2): upper left corners of at most MAX_PATCHES patches of an image (H, W), with strides of half a side.

    Where there are more positions, the image is divided into cells, and of each the patch with most gradient energy is
    taken.
    """
    positions = [
        np.round(np.linspace(0, n - p, 1 + math.ceil((n - p) / (p / 2)))).astype(int)
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
