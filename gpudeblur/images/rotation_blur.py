"""Blur of a rotating camera, for tests and benches: random paths of poses, the blurred image, the kernels of a path.

The names are public in `gpudeblur.synthesis`. Poses are those of `numerics.poses`: (u, v, phi), pixels and radians.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numerics.poses import corner_radius, displacement, node_counts, node_points, splat
from .checks import as_integer, check_focal, check_number, check_rule, random_generator
from .kernel_field import KernelField

# Rounding that the covariance of a path tolerates; it keeps the Cholesky factorization positive definite.
COVARIANCE_RIDGE = 1e-8


def matern_factor(times: np.ndarray, length_scale: float) -> np.ndarray:
    """Cholesky factor of Matern's covariance of order 5/2 at these times ([WangL2017] eq. 4).

    Its product with standard normal numbers is a draw of the Gaussian process.
    """
    s = math.sqrt(5.0) * np.abs(times[:, None] - times[None, :]) / length_scale
    covariance = (1 + s + s * s / 3) * np.exp(-s)
    covariance[np.diag_indices_from(covariance)] += COVARIANCE_RIDGE
    return np.linalg.cholesky(covariance)


def pose_path(
    shape: tuple[int, int],
    length: float,
    roll: float,
    *,
    rng: np.random.Generator | int,
    samples: int = 400,
    length_scale: float = 0.3,
) -> np.ndarray:
    """Random poses of a camera during an exposure: u, v and phi are independent Gaussian processes of time.

    Each has Matern's covariance of order 5/2, as in `gaussian_process_kernel`; the means are removed, then u and v are
    scaled together and phi by itself. For a hand-held phone (4000 px wide, f = 3000 px, 1.5 degrees / s, 1/8 s),
    `length` is about 10 px and `roll` 4 to 8 px; for long lenses `roll` is 15 to 30 % of `length`.

    Parameters
    ----------
    shape : (H, W)
        Of the blurred image, whose corners `roll` refers to.
    length : float
        The longer of the spans of u and v, in pixels; 0 is no shift.
    roll : float
        The span of phi times the distance of the corners from the middle, in pixels; 0 is no roll.
    rng : numpy.random.Generator or int
        Source of randomness, or the seed for one.
    samples : int
        Number of poses, evenly in time.
    length_scale : float
        Of the processes, as a fraction of the exposure.

    Returns
    -------
    ndarray, shape (samples, 3)
        u, v in pixels, along columns and rows; phi in radians. Each has mean 0.

    Raises
    ------
    TypeError, ValueError
        A parameter is out of its range.
    """
    for name, value in (("length", length), ("roll", roll)):
        check_number(name, value, "at least 0 pixels", lambda number: number >= 0)
    check_number("length_scale", length_scale, "above 0", lambda number: number > 0)
    count = as_integer(samples)
    check_rule("samples", samples, count is not None and count >= 2, "be an integer of at least 2")
    factor = matern_factor(np.linspace(0.0, 1.0, samples), length_scale)
    path = factor @ random_generator(rng).standard_normal((samples, 3))
    path -= path.mean(axis=0)
    spans = np.ptp(path, axis=0)
    path[:, :2] *= length / spans[:2].max()
    path[:, 2] *= roll / corner_radius(shape) / spans[2]
    return path


def rotation_field(
    path: np.ndarray, focal: float, shape: tuple[int, int], size: int, grid: tuple[int, int] | None = None
) -> KernelField:
    """The kernels of a path of poses over an image, for `deconvolve`.

    Parameters
    ----------
    path : ndarray, shape (samples, 3)
        Poses, from `pose_path` or a gyroscope: u, v in pixels and phi in radians.
    focal : float
        Focal length in pixels, positive; ``math.inf`` for motion in the image plane.
    shape : (H, W)
        Of the blurred image.
    size : int
        Side of the square kernels, odd; it must hold the motion everywhere in the image.
    grid : (gy, gx), optional
        Numbers of nodes; by default so many that no kernel point moves by more than a pixel from node to node, which
        costs a restoration about 0.1 dB against the exact blur.

    Returns
    -------
    KernelField
        A kernel is the mean of the bilinear deltas at c - H_t c over the poses ([Li2018] eq. 14 near a point c).

    Raises
    ------
    TypeError, ValueError
        A parameter is out of its range; the message names the size that would do.
    """
    path = _check_path(path, focal)
    side = as_integer(size)
    check_rule("size", size, side is not None and side % 2 == 1 and side > 0, "be an odd integer", "use 31")
    points = node_points(node_counts(path, shape, focal) if grid is None else grid, shape)
    reach = math.ceil(float(np.abs(displacement(path, points, shape, focal)).max()) - 1e-9)
    if 2 * reach + 1 > size:
        raise ValueError(f"size must hold the motion everywhere in the image, got {size}; use {2 * reach + 1} or more")
    deltas = splat(path, points, shape, focal, (size, size))
    kernels = np.asarray(deltas.sum(axis=0)).reshape(*points.shape[:2], size, size) / len(path)
    return KernelField(kernels, shape)


def blur_by_poses(
    sharp: np.ndarray,
    path: np.ndarray,
    focal: float,
    *,
    margin: int | None = None,
    noise_sigma: float = 0.0,
    rng: np.random.Generator | int | None = None,
) -> np.ndarray:
    """B(p) = mean_t x(H_t p) + n: each pixel by its own homography, interpolated bilinearly ([Li2018] eq. 14).

    Parameters
    ----------
    sharp : ndarray, shape (H, W)
        Float image; its middle is the principal point.
    path : ndarray, shape (samples, 3)
        Poses, from `pose_path` or a gyroscope: u, v in pixels and phi in radians.
    focal : float
        Focal length in pixels, positive; ``math.inf`` for motion in the image plane.
    margin : int, optional
        Pixels cropped from each side, so that nothing outside `sharp` is seen; by default as many as the path needs.
    noise_sigma : float
        Standard deviation of the noise, in the unit of the image.
    rng : numpy.random.Generator or int, optional
        Source of the noise, or its seed; needed when `noise_sigma` is above 0.

    Returns
    -------
    ndarray, shape (H - 2 margin, W - 2 margin), float64; the same part of `sharp` is its sharp image.

    Raises
    ------
    TypeError, ValueError
        A parameter is out of its range, or the path leaves the image at that margin.
    """
    sharp, path = np.asarray(sharp, np.float64), _check_path(path, focal)
    if sharp.ndim != 2:
        raise ValueError(f"sharp must be (H, W), got shape {sharp.shape}; blur each channel by itself")
    check_number("noise_sigma", noise_sigma, "at least 0", lambda number: number >= 0)
    if noise_sigma > 0 and rng is None:
        raise ValueError("rng must be a generator or a seed when noise_sigma is above 0, got None")
    h, w = sharp.shape
    needed = _needed_margin(path, (h, w), focal)
    margin = needed if margin is None else margin
    if margin < needed:
        raise ValueError(f"margin must be at least the path's reach, got {margin}; use {needed} or more")
    if 2 * margin >= min(h, w):
        raise ValueError(f"sharp must exceed the path's reach, {margin} pixels, got {sharp.shape}; use a shorter path")
    from scipy.ndimage import map_coordinates

    points = np.moveaxis(np.mgrid[margin : h - margin, margin : w - margin], 0, -1).astype(np.float64)
    total: Any = np.zeros(points.shape[:2])
    for pose in path:
        moved = points + displacement(pose[None], points, (h, w), focal)[0]
        total += map_coordinates(sharp, np.moveaxis(moved, -1, 0), order=1, mode="nearest")
    total /= len(path)
    if noise_sigma > 0:
        total += noise_sigma * random_generator(rng).standard_normal(total.shape)
    return total


def _needed_margin(path: np.ndarray, shape: tuple[int, int], focal: float) -> int:
    """Pixels to crop so that no pose looks outside: displacements are largest on the border of what is left."""
    margin = 0
    for _ in range(4):  # the reach shrinks with the part that is left
        rows, columns = (np.linspace(margin, side - 1 - margin, 9) for side in shape)
        points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        reach = math.ceil(float(np.abs(displacement(path, points, shape, focal)).max()) - 1e-9)
        if reach <= margin:
            break
        margin = reach
    return margin


def _check_path(path: np.ndarray, focal: float) -> np.ndarray:
    path = np.asarray(path, np.float64)
    if path.ndim != 2 or path.shape[1] != 3 or not len(path) or not np.isfinite(path).all():
        raise ValueError(f"path must be finite poses (samples, 3), got shape {path.shape}; pose_path makes one")
    check_focal(focal)
    return path
