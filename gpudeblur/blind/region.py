"""Where a kernel is estimated: in all of an image, in a part of it, or in patches of a large one.

The patches of an image share a kernel. Their normal equations are added and one kernel is solved for (`alternation`),
and the scores of a kernel are means over them (`selection`), so that the cost does not grow with the image.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..numerics.arrays import Array, array_module, to_host
from ..numerics.filters import gradient
from .observation import Observation

# Of an image of more pixels, patches are used, which have about as many pixels together.
MAX_PIXELS = 1 << 20
# Sides of patches, in pixels and in kernels, at least.
PATCH_SIDE, PATCH_KERNELS = 256, 5
# Blocks along each side of a patch, and the step from a possible patch to the next.
BLOCKS = 4
# The worth of a patch falls by e with this fraction of pixels that are saturated or not valid.
UNUSABLE_FRACTION = 0.01
# Patches with less than this fraction of the strength of the strongest are left out: sky, or fog.
MIN_STRENGTH = 0.01


def for_patches(kernel: Array, images: Array) -> Array:
    """`kernel` (n, kh, kw) for each of the `images`: as it is for (n, H, W), (n, P, kh, kw) for (n, P, H, W)."""
    if images.ndim == kernel.ndim:
        return kernel
    xp, sides = array_module(kernel), kernel.shape[-2:]
    return xp.ascontiguousarray(xp.broadcast_to(kernel[:, None], (*images.shape[:-2], *sides)))


def add_patches(equations: Array, kernel: Array) -> Array:
    """The sum of the normal equations (n, P, ...) of the patches with a `kernel` (n, kh, kw); (n, ...) as they are."""
    return equations if equations.ndim == kernel.ndim else equations.sum(axis=1)


def mean_of_patches(values: Array) -> Array:
    """(n,): `values` (n, P) of patches as their mean; (n,) as they are."""
    return values if values.ndim == 1 else values.mean(axis=1)


def patches_of(images: Array, kernel: Array) -> int:
    """P for images (n, P, H, W) with kernels (n, kh, kw), 1 for (n, H, W)."""
    return 1 if images.ndim == kernel.ndim else images.shape[1]


def per_kernel(values: Array, images: Array) -> Array:
    """`values` (n,), shaped to broadcast over images (n, H, W) or (n, P, H, W)."""
    return values.reshape(-1, *(1,) * (images.ndim - 1))


def exceeds_limit(shape: tuple[int, int]) -> bool:
    """Whether kernels of images (H, W) = `shape` are estimated on patches."""
    return shape[0] * shape[1] > MAX_PIXELS


def patch_sides(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the patches of images of `shape` for kernels of `size`."""
    side = max(PATCH_SIDE, PATCH_KERNELS * max(size))
    return min(side, shape[0]), min(side, shape[1])


def cut_patches(observed: Observation, size: tuple[int, int]) -> Observation:
    """The patches of all images of `observed`, which share a kernel of `size`. Waits for a device once an image."""
    sides = patch_sides(observed.shape, size)
    count = max(1, round(MAX_PIXELS / (sides[0] * sides[1] * len(observed))))
    windows = [
        (i, ..., slice(top, top + sides[0]), slice(left, left + sides[1]))
        for i in range(len(observed))
        for top, left in patch_corners(observed.luminance[i], _unusable(observed, i), sides, count).tolist()
    ]
    xp = observed.xp

    def cut(array: Array | None) -> Array | None:
        return None if array is None else xp.stack([array[window] for window in windows])

    saturated = cut(observed.saturated)
    if saturated is not None and not bool(saturated.any()):
        saturated = None
    scale = observed.noise_scale[xp.asarray([window[0] for window in windows])]
    patches = replace(observed, image=cut(observed.image), luminance=cut(observed.luminance), saturated=saturated)
    return replace(patches, noise_scale=scale, valid=None, patches=len(windows))


def _unusable(observed: Observation, i: int) -> Array | None:
    """Where image `i` is saturated or not valid, (H, W) bool; None: nowhere."""
    masks = [] if observed.saturated is None else [observed.saturated[i].any(axis=0)]
    masks += [] if observed.valid is None else [~observed.valid[i].all(axis=0)]
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] | masks[1]


def patch_corners(image: Array, unusable: Array | None, sides: tuple[int, int], count: int) -> np.ndarray:
    """(P, 2): upper left corners of at most `count` patches of an image (H, W), the strongest first.

    The strength of a patch is the smaller eigenvalue of the structure tensor, sum D B (D B)^T: the energy of its
    gradients in the direction that has least. Patches are as far apart as half of the spacing of `count` patches all
    over the image, so that they spread, and do not overlap. Waits for a device.

    Parameters
    ----------
    image : (H, W).
    unusable : (H, W) bool, pixels to avoid, whose gradients do not count.
    """
    shape = image.shape[-2:]
    steps = [max(1, side // BLOCKS) for side in sides]
    energies = [_window_sums(values, steps) for values in _tensor(image, unusable)]
    xx, yy, xy, bad = energies
    strength = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    worth = np.maximum(strength, 0) * np.exp(-bad / (UNUSABLE_FRACTION * sides[0] * sides[1]))
    spacing = 0.5 * math.sqrt(shape[0] * shape[1] / count)
    distances = [max(side, spacing) / step for side, step in zip(sides, steps, strict=True)]
    rows, columns = np.indices(worth.shape)
    corners: list[tuple[int, int]] = []
    strongest = worth.max()
    while len(corners) < count:
        row, column = np.unravel_index(np.argmax(worth), worth.shape)
        if corners and worth[row, column] <= MIN_STRENGTH * strongest:
            break
        at = [min(i * step, n - s) for i, step, n, s in zip((row, column), steps, shape, sides, strict=True)]
        corners.append((int(at[0]), int(at[1])))
        worth[(abs(rows - row) < distances[0]) & (abs(columns - column) < distances[1])] = -1
    return np.array(corners)


def _tensor(image: Array, unusable: Array | None) -> list[Array]:
    """[(dB/dx)^2, (dB/dy)^2, dB/dx dB/dy, unusable], (H, W) each."""
    xp = array_module(image)
    gx, gy = gradient(image)
    gx[:, -1] = 0  # they are periodic
    gy[-1] = 0
    if unusable is None:
        return [gx * gx, gy * gy, gx * gy, xp.zeros_like(image)]
    gx[unusable] = 0
    gy[unusable] = 0
    return [gx * gx, gy * gy, gx * gy, unusable.astype(image.dtype)]


def _window_sums(values: Array, steps: list[int]) -> np.ndarray:
    """The sums of `values` (H, W) over windows of BLOCKS x BLOCKS blocks of `steps` pixels, one a block."""
    rows, columns = (n // step for n, step in zip(values.shape, steps, strict=True))
    blocks = values[: rows * steps[0], : columns * steps[1]].reshape(rows, steps[0], columns, steps[1])
    total = np.pad(to_host(blocks.sum(axis=(1, 3))).astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    n, m = min(BLOCKS, rows), min(BLOCKS, columns)
    return total[n:, m:] - total[:-n, m:] - total[n:, :-m] + total[:-n, :-m]
