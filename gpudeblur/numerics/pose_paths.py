"""Paths of camera poses: cubic B-splines of time, the blur kernels they make, and how these change with the path.

A shaken camera moves along a path, and a pose has the weight of the time spent there. A path has some 40 numbers, where
`poses.PoseGrid` has a weight for each of 30,000 poses. Everything here is small, in float64, on the host.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from .poses import PoseGrid, corner_radius

DEGREE = 3
# Samples of a path from which the weights of poses are made.
WEIGHT_SAMPLES = 800
# Samples of a kernel that are clustered, to find a path through it.
KERNEL_SAMPLES = 2000


@functools.lru_cache(maxsize=32)
def spline_basis(count: int, samples: int) -> np.ndarray:
    """(samples, count): cubic B-splines with `count` control points at times evenly from 0 to 1."""
    from scipy.interpolate import BSpline

    inner = np.linspace(0, 1, count - DEGREE + 1)
    knots = np.concatenate([np.zeros(DEGREE), inner, np.ones(DEGREE)])
    times = np.linspace(0, 1, samples)
    return np.asarray(BSpline.design_matrix(times, knots, DEGREE).toarray())


@dataclass(frozen=True)
class PosePath:
    """A path of poses over an exposure.

    Attributes
    ----------
    control : (n, 3), control points of u, v in pixels and of the roll in pixels at the corners of the image.
    bend : (longer side / focal length)^2; 0 is motion in the image plane.
    """

    control: np.ndarray
    bend: float

    def samples(self, count: int) -> np.ndarray:
        """(count, 3): the path at times evenly from 0 to 1, its mean removed."""
        path = spline_basis(len(self.control), count) @ self.control
        return path - path.mean(axis=0)

    def resampled(self, count: int) -> PosePath:
        """The nearest path with `count` control points."""
        samples = 16 * max(count, len(self.control))
        path = spline_basis(len(self.control), samples) @ self.control
        return replace(self, control=np.linalg.lstsq(spline_basis(count, samples), path, rcond=None)[0])

    def scaled(self, factor: float) -> PosePath:
        """The path for an image scaled by `factor`."""
        return replace(self, control=self.control * factor)

    def focal(self, shape: tuple[int, int]) -> float:
        """The focal length in pixels of an image of `shape`; `math.inf` without bend."""
        return max(shape) / math.sqrt(self.bend) if self.bend > 0 else math.inf


def bend_of(focal: float, shape: tuple[int, int]) -> float:
    """`PosePath.bend` of a focal length in pixels."""
    return (max(shape) / focal) ** 2


@dataclass(frozen=True)
class Places:
    """Where each sample of a path lies in the kernel at each point, rows and columns apart: see `PathKernels`."""

    poses: np.ndarray  # (T, 3)
    jacobian: np.ndarray  # (3, 2 R)
    pixel: np.ndarray  # (T, R), flat index of the upper left of the four pixels around it
    fraction: np.ndarray  # (2, T, R), distance from there
    share: np.ndarray  # (T, R), 1 / T, or 0 outside the window


class PathKernels:
    """The kernels of paths at some points of an image, and their derivatives.

    The displacement of a pose (u, v, phi) at (x, y) from the middle is that of `poses.displacement` to first order:
    dx = u (1 + x^2/f^2) + v x y / f^2 - phi y, dy = v (1 + y^2/f^2) + u x y / f^2 + phi x. A kernel is the mean of
    bilinear deltas at the negative displacements. What is outside the window is missing from its sum.

    Parameters
    ----------
    points : (R, 2), (row, column).
    shape : (H, W) of the image.
    window : (kh, kw) of the kernels, odd.
    count : control points of the paths.
    samples : of a path, the times whose poses are summed.
    """

    def __init__(
        self, points: np.ndarray, shape: tuple[int, int], window: tuple[int, int], count: int, samples: int
    ) -> None:
        y, x = (np.asarray(points, np.float64).reshape(-1, 2) - (np.array(shape) - 1) / 2).T
        radius, side, zeros, ones = corner_radius(shape), max(shape), np.zeros(len(x)), np.ones(len(x))
        self.points, self.window, self.basis = len(x), window, spline_basis(count, samples)
        # rows u, v, roll; columns dy of all points, then dx
        self._plane = np.block([[zeros, ones], [ones, zeros], [x / radius, -y / radius]])
        self._bent = np.block([[x * y, x * x], [y * y, x * y], [zeros, zeros]]) / side**2

    def places(self, path: PosePath) -> Places:
        """Where the path's samples lie."""
        (kh, kw), jacobian = self.window, self._plane + path.bend * self._bent
        poses = self.basis @ path.control
        displacement = (poses @ jacobian).reshape(-1, 2, self.points).swapaxes(0, 1)
        position = np.array([kh // 2, kw // 2])[:, None, None] - displacement
        row, column = corner = np.floor(position)
        inside = (row >= 0) & (row < kh - 1) & (column >= 0) & (column < kw - 1)
        pixel = np.where(inside, row * kw + column, 0).astype(np.intp) + np.arange(self.points) * (kh * kw)
        return Places(poses, jacobian, pixel, position - corner, inside / len(poses))

    def kernels(self, places: Places) -> np.ndarray:
        """(R, kh, kw)."""
        (kh, kw), (down, right) = self.window, places.fraction
        total = np.zeros(self.points * kh * kw)
        for offset, weight in ((0, 1 - down), (kw, down)):
            weight = weight * places.share
            for pixel, part in ((offset, 1 - right), (offset + 1, right)):
                total += np.bincount((places.pixel + pixel).ravel(), (weight * part).ravel(), minlength=total.size)
        return total.reshape(self.points, kh, kw)

    def gradient(self, places: Places, images: np.ndarray) -> tuple[np.ndarray, float]:
        """Derivatives of sum(images * kernels), images (R, kh, kw), by the control points (n, 3) and by the bend."""
        width, flat, (down, right) = self.window[1], images.reshape(-1), places.fraction
        a, b, c, d = (flat[places.pixel + offset] for offset in (0, 1, width, width + 1))
        by_row = (c - a) * (1 - right) + (d - b) * right
        by_column = (b - a) * (1 - down) + (d - c) * down
        # a kernel point is the negative displacement
        by_displacement = -np.concatenate([by_row * places.share, by_column * places.share], axis=1)
        by_pose = by_displacement @ places.jacobian.T
        by_bend = (by_displacement * (places.poses @ self._bent)).sum()
        return self.basis.T @ by_pose, float(by_bend)


def path_weights(path: PosePath, grid: PoseGrid) -> np.ndarray:
    """Weights (rolls, kh, kw) of the poses of `grid` near a path in the pixels of its image, trilinear, sum 1."""
    u, v, roll = path.samples(WEIGHT_SAMPLES).T
    position = np.stack([roll, -v, -u], axis=1) + np.array(grid.lattice) // 2
    corner, weights = np.floor(position).astype(int), np.zeros(grid.lattice)
    for offset in itertools.product((0, 1), repeat=3):
        near = corner + offset
        share = np.prod(1 - abs(position - near), axis=1)
        np.add.at(weights, tuple(np.clip(near, 0, np.array(grid.lattice) - 1).T), share)
    return weights / weights.sum()


def kernel_path(kernel: np.ndarray, count: int, centers: int) -> np.ndarray:
    """Control points (count, 3), without roll, of a path through a kernel (kh, kw): a shortest one through its masses.

    The masses are `centers` means of clusters of about one weight.
    """
    from scipy.cluster.vq import kmeans2

    rng, width = np.random.default_rng(0), kernel.shape[1]
    drawn = rng.choice(kernel.size, KERNEL_SAMPLES, p=kernel.ravel() / kernel.sum())
    points = np.stack([width // 2 - drawn % width, kernel.shape[0] // 2 - drawn // width], axis=1)  # u, v
    means, _ = kmeans2(points + rng.uniform(-0.5, 0.5, points.shape), centers, minit="++", seed=rng)
    means = means[shortest_path(means)]
    times = (np.arange(centers) + 0.5) / centers
    basis = spline_basis(count, 1001)[np.round(1000 * times).astype(int)]
    smooth = 0.1 * np.diff(np.eye(count), 2, axis=0)
    target = np.concatenate([means, np.zeros((count - 2, 2))])
    control = np.linalg.lstsq(np.concatenate([basis, smooth]), target, rcond=None)[0]
    return np.column_stack([control, np.zeros(count)])


def shortest_path(points: np.ndarray) -> np.ndarray:
    """The order of at most 8 points (n, d) in which the way from one to the next is shortest; all are tried."""
    orders = np.array(list(itertools.permutations(range(len(points)))))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    return orders[distance[orders[:, :-1], orders[:, 1:]].sum(axis=1).argmin()]
