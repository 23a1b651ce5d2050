"""Camera poses: how a rotation moves each point of an image, and the blur kernels that weights of poses make there.

A pose is (u, v, phi): the shift of the image's center along columns and rows, in pixels, and the roll in radians. One
parametrization covers rotation about three axes (a finite focal length) and motion in the image plane (an infinite
one). A blurred image is B(p) = sum_t w_t x(H_t p) + n ([Li2018] eq. 14), and near a point c that is a convolution with
the kernel k(d) = sum_t w_t delta(d - (c - H_t c)): `PoseGrid.expand`.

Points are (..., 2), (row, column) in pixels of the image; the principal point is its middle.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .arrays import Array, array_module, goes_to_cuda
from .varying_blur import regular_nodes

# Poses and points are evaluated for so many pairs at a time.
CHUNK_PAIRS = 1 << 20


def corner_radius(shape: tuple[int, int]) -> float:
    """Distance of the outermost pixels of an image of `shape` from its middle, in pixels, at least 1."""
    return max(1.0, math.hypot(shape[0] - 1, shape[1] - 1) / 2)


def rotation_matrices(poses: np.ndarray, focal: float) -> np.ndarray:
    """exp([r]) of the rotation vectors r = (-v/f, u/f, phi) of `poses` (T, 3), by Rodrigues' formula: (T, 3, 3)."""
    u, v, roll = poses.T
    rx, ry, rz, zero = -v / focal, u / focal, roll, np.zeros(len(poses))
    cross = np.array([[zero, -rz, ry], [rz, zero, -rx], [-ry, rx, zero]]).transpose(2, 0, 1)
    angle = np.sqrt(rx**2 + ry**2 + rz**2)[:, None, None]
    sine, cosine = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2  # sin a / a, (1 - cos a) / a^2
    return np.eye(3) + sine * cross + cosine * (cross @ cross)


def displacement(poses: np.ndarray, points: np.ndarray, shape: tuple[int, int], focal: float) -> np.ndarray:
    """H_t c - c of every pose at every point, (T, *points.shape), as (rows, columns).

    H_t = K R_t K^-1 with K = diag(f, f, 1) and R_t the rotation by (-v/f, u/f, phi) ([Li2018] eq. 14). To first order
    dx = u (1 + x^2/f^2) + v x y / f^2 - phi y and dy = v (1 + y^2/f^2) + u x y / f^2 + phi x. An infinite focal length
    takes H_t = [R2(phi) | (u, v)], a roll and a shift in the image plane.

    Parameters
    ----------
    poses : (T, 3): u, v in pixels, phi in radians.
    points : (..., 2), (row, column) in pixels.
    shape : (H, W) of the image, whose middle is the principal point.
    focal : focal length in pixels, positive; `math.inf` for motion in the plane.
    """
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    y, x = flat[:, 0] - (shape[0] - 1) / 2, flat[:, 1] - (shape[1] - 1) / 2
    if math.isinf(focal):
        u, v, roll = poses.T[:, :, None]
        cosine, sine = np.cos(roll) - 1, np.sin(roll)
        moved = np.stack([v + sine * x + cosine * y, u + cosine * x - sine * y], axis=-1)
    else:
        rays = rotation_matrices(poses, focal) @ np.stack([x / focal, y / focal, np.ones_like(x)])  # (T, 3, points)
        moved = np.stack([focal * rays[:, 1] / rays[:, 2] - y, focal * rays[:, 0] / rays[:, 2] - x], axis=-1)
    return moved.reshape(len(poses), *points.shape)


def displacement_rate(poses: np.ndarray, shape: tuple[int, int], focal: float) -> tuple[float, float]:
    """The largest change of a pose's displacement per pixel of the image, (along rows, along columns).

    From differences on a 9 x 9 grid over the image.
    """
    rows, columns = (np.linspace(0, side - 1, 9) for side in shape)
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    moved = displacement(poses, points, shape, focal)
    rates = []
    for axis, side in zip((1, 2), shape, strict=True):
        change = np.linalg.norm(np.diff(moved, axis=axis), axis=-1).max()
        rates.append(float(change) / max(1e-12, (side - 1) / 8))
    return rates[0], rates[1]


def node_counts(poses: np.ndarray, shape: tuple[int, int], focal: float, step: float = 1.0) -> tuple[int, int]:
    """(gy, gx): nodes of a kernel field over the image, between which no kernel point moves by more than `step` pixels.

    With 1 pixel, kernels interpolated between the nodes cost 0.1 dB of a restoration, with 1.5 pixels 0.4 dB.
    """
    rates = displacement_rate(poses, shape, focal)
    counts = [
        min(side, 1 + math.ceil((side - 1) * rate / step - 1e-6)) for side, rate in zip(shape, rates, strict=True)
    ]
    return counts[0], counts[1]


def node_points(grid: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(gy, gx, 2): nodes evenly over the image, the outer ones on its border; a single one is in the middle."""
    rows, columns = (regular_nodes(count, side) for count, side in zip(grid, shape, strict=True))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


def splat(poses: np.ndarray, points: np.ndarray, shape: tuple[int, int], focal: float, window: tuple[int, int]) -> Any:
    """Bilinear weights of every pose in the kernel at every point, as `scipy.sparse.csr_matrix` (T, points * kh * kw).

    A pose is the kernel point c - H_t c, which is shared among its four nearest pixels; what is outside the window is
    dropped. Every row has 4 entries a point, in the order of the points.
    """
    from scipy.sparse import csr_matrix

    flat, (kh, kw) = points.reshape(-1, 2), window
    step = max(1, CHUNK_PAIRS // max(1, len(flat)))
    indices, values = [], []
    for start in range(0, len(poses), step):
        d = -displacement(poses[start : start + step], flat, shape, focal)
        corner = np.floor(d)
        fraction = d - corner
        row, column = corner[..., 0].astype(np.int32) + kh // 2, corner[..., 1].astype(np.int32) + kw // 2
        first = np.arange(len(flat), dtype=np.int32) * (kh * kw)
        pixel, weight = np.empty((*row.shape, 4), np.int32), np.empty((*row.shape, 4))
        for number, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            y, x = row + dy, column + dx
            inside = (y >= 0) & (y < kh) & (x >= 0) & (x < kw)
            pixel[..., number] = first + np.where(inside, y * kw + x, 0)
            bilinear = abs(1 - dy - fraction[..., 0]) * abs(1 - dx - fraction[..., 1])
            weight[..., number] = np.where(inside, bilinear, 0)
        indices.append(pixel.reshape(-1))
        values.append(weight.reshape(-1))
    ends = np.arange(len(poses) + 1) * (4 * len(flat))
    shape_of_matrix = (len(poses), len(flat) * kh * kw)
    return csr_matrix((np.concatenate(values), np.concatenate(indices), ends), shape=shape_of_matrix)


def candidates(grid: PoseGrid, points: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Where in the lattice the poses are that reach a pixel of the kernel at a point, for each roll.

    Parameters
    ----------
    points : (R, 2).
    window : (kh, kw) of the kernels.

    Returns
    -------
    (R, rolls, 2, 4) float32
        a, b, c and reach, along rows and columns of the lattice: within one pixel of pixel (y, x) are only poses at
        most `reach` from a + b y + c x. The line is fitted to 25 shifts, and `reach` is what a pixel is in the lattice,
        and half more than the largest error. Where a line does not fit within a bin, all poses are within `reach`.
    """
    reaches = [np.linspace(-max(1, side // 2), max(1, side // 2), 5) for side in grid.size]
    bins = np.stack(np.meshgrid(*reaches, indexing="ij"), axis=-1).reshape(-1, 2)  # from the middle
    rolls = (np.arange(grid.rolls) - grid.rolls // 2) * grid.step
    poses = np.concatenate([np.tile(-bins[:, ::-1], (grid.rolls, 1)), np.repeat(rolls, len(bins))[:, None]], axis=1)
    step, out = max(1, CHUNK_PAIRS // len(poses)), np.empty((len(points), grid.rolls, 2, 4), np.float32)
    for chunk in (slice(start, start + step) for start in range(0, len(points), step)):
        with np.errstate(all="ignore"):
            d = -displacement(poses, points[chunk], grid.shape, grid.focal)
        d = d.reshape(grid.rolls, len(bins), -1, 2).transpose(2, 0, 1, 3)
        design = np.concatenate([np.ones_like(d[..., :1]), np.clip(np.nan_to_num(d), -1e6, 1e6)], axis=-1)
        normal = design.swapaxes(-2, -1) @ design + 1e-9 * np.eye(3)
        lines = np.linalg.solve(normal, design.swapaxes(-2, -1) @ bins)  # (R, rolls, 3, 2)
        error = abs(design @ lines - bins).max(axis=-2)
        reach = abs(lines[..., 1:, :]).sum(axis=-2) + 1.5 * error + 0.01  # 0.01 for the rounding to float32
        lines[..., 0, :] -= lines[..., 1, :] * (window[0] // 2) + lines[..., 2, :] * (window[1] // 2)
        fits = error < 1
        lines, reach = np.where(fits[..., None, :], lines, 0), np.where(fits, reach, 4 * max(grid.size))
        lines[..., 0, :] += np.array(grid.size) // 2
        out[chunk] = np.concatenate([lines, reach[..., None, :]], axis=-2).swapaxes(-2, -1)
    return out


class Splatting(Protocol):
    """M and M^T for fixed poses and points: `PoseGrid.splatting`."""

    def expand(self, weights: Array) -> Array:
        """k_r = M_r w: weights (..., T) of the poses as kernels (..., *points, kh, kw)."""

    def collect(self, kernels: Array) -> Array:
        """sum_r M_r^T k_r: kernels (..., *points, kh, kw) as weights (..., T). The adjoint of `expand`."""


@dataclass(frozen=True)
class SparseSplatting:
    """A stored matrix.

    Attributes
    ----------
    matrix : M^T, (poses, points * kh * kw), sparse, on NumPy or CuPy.
    points : the leading shape of the points.
    window : (kh, kw) of the kernels.
    """

    matrix: Any
    transposed: Any
    points: tuple[int, ...]
    window: tuple[int, int]

    def expand(self, weights: Array) -> Array:
        """`Splatting.expand`. CUDA kernel: pose_expand.cu."""
        flat = weights.reshape(-1, weights.shape[-1])
        return _product(self.transposed, flat).reshape(*weights.shape[:-1], *self.points, *self.window)

    def collect(self, kernels: Array) -> Array:
        """`Splatting.collect`. CUDA kernel: pose_collect.cu."""
        lead = kernels.shape[: kernels.ndim - len(self.points) - 2]
        flat = kernels.reshape(math.prod(lead), -1)
        return _product(self.matrix, flat).reshape(*lead, -1)


def _product(matrix: Any, rows: Array) -> Array:
    """matrix @ row for each of `rows` (n, size), (n, size'); one by one, so that a batch equals a loop."""
    xp = array_module(rows)
    return xp.stack([matrix @ row for row in rows])


@dataclass(frozen=True)
class CudaSplatting:
    """Nothing stored but numbers for each point and roll: CUDA kernels find anew where each pose lies, in float32.

    Attributes
    ----------
    positions : (R, 2) float32, the points from the middle of the image.
    candidates : (R, rolls, 2, 4) float32, see `candidates`.
    active : flat indices of the poses in the lattice, (T,), int32; None for all.
    weight_index : lattice int32, the index of each pose in `active`, or -1; None for all.
    points, window : as in `SparseSplatting`.
    """

    grid: PoseGrid
    positions: Array
    candidates: Array
    active: Array | None
    weight_index: Array | None
    points: tuple[int, ...]
    window: tuple[int, int]

    @classmethod
    def of(
        cls, grid: PoseGrid, points: np.ndarray, window: tuple[int, int], active: np.ndarray | None, xp: Any
    ) -> CudaSplatting:
        flat = np.asarray(points, np.float64).reshape(-1, 2)
        positions = xp.asarray((flat - (np.array(grid.shape) - 1) / 2).astype(np.float32))
        weight_index = None
        if active is not None:
            weight_index = np.full(grid.lattice, -1, np.int32)
            weight_index.reshape(-1)[active] = np.arange(len(active))
            active, weight_index = xp.asarray(active.astype(np.int32)), xp.asarray(weight_index)
        tables = xp.asarray(candidates(grid, flat, window))
        return cls(grid, positions, tables, active, weight_index, points.shape[:-1], window)

    def expand(self, weights: Array) -> Array:
        from . import cuda

        grid, numbers = self.grid, (self.window, self.grid.step, self.grid.focal)
        kernels = cuda.pose_expand(weights, self.positions, self.candidates, self.weight_index, grid.lattice, *numbers)
        return kernels.reshape(*weights.shape[:-1], *self.points, *self.window)

    def collect(self, kernels: Array) -> Array:
        from . import cuda

        grid, lead = self.grid, kernels.shape[: kernels.ndim - len(self.points) - 2]
        flat = kernels.reshape(*lead, -1, *self.window)
        return cuda.pose_collect(flat, self.positions, self.active, grid.lattice, grid.step, grid.focal)


@dataclass(frozen=True)
class PoseGrid:
    """Poses on a regular grid, so that weights of poses are a volume (rolls, kh, kw).

    Shifts have steps of 1 pixel and cover a kernel's window; rolls have steps of 1 / r_c radians, 1 pixel at the
    corners of the image. The pose at [m, i, j] is that of the kernel point (i - kh // 2, j - kw // 2) at the image's
    center, thus its shift is the negative of that, and its roll is (m - rolls // 2) / r_c. Without roll and with an
    infinite focal length, the weights therefore are the kernel, at every point.

    Attributes
    ----------
    size : (kh, kw), odd.
    rolls : number of rolls, odd.
    shape : (H, W) of the image.
    focal : focal length in pixels, positive; `math.inf` for motion in the image plane.
    """

    size: tuple[int, int]
    rolls: int
    shape: tuple[int, int]
    focal: float = math.inf

    @classmethod
    def of(cls, size: tuple[int, int], shape: tuple[int, int], focal: float = math.inf) -> PoseGrid:
        """The grid whose rolls move the corners by up to half a kernel's side, as the shifts move the center."""
        return cls(size, 2 * (max(size) // 2) + 1, shape, focal)

    @property
    def lattice(self) -> tuple[int, int, int]:
        """(rolls, kh, kw), the shape of a volume of weights."""
        return self.rolls, *self.size

    @property
    def step(self) -> float:
        """From roll to roll, in radians."""
        return 1 / corner_radius(self.shape)

    def poses(self, active: np.ndarray | None = None) -> np.ndarray:
        """(T, 3): (u, v, phi) of all poses, or of those with the flat indices in `active`."""
        indices = np.arange(math.prod(self.lattice)) if active is None else active
        roll, row, column = np.unravel_index(indices, self.lattice)
        kh, kw = self.size
        return np.stack([kw // 2 - column, kh // 2 - row, (roll - self.rolls // 2) * self.step], axis=-1).astype(
            np.float64
        )

    def displacement(self, points: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """`poses.displacement` of these poses, (T, *points.shape)."""
        return displacement(self.poses(active), points, self.shape, self.focal)

    def splatting(
        self,
        points: np.ndarray,
        window: tuple[int, int] | None = None,
        *,
        active: np.ndarray | None = None,
        like: Array | None = None,
    ) -> Splatting:
        """M for these points and for kernels of `window` (by default `size`), of the dtype and memory of `like`.

        Memory: 4 entries of 8 bytes (12 in float64) for each pose and point, twice in float64 on a device; none in
        float32 there. For large kernels restrict the poses to those with the flat indices in `active`, in rising order.
        """
        window = self.size if window is None else window
        if like is not None and goes_to_cuda(like):
            return CudaSplatting.of(self, points, window, active, array_module(like))
        matrix = splat(self.poses(active), points, self.shape, self.focal, window)
        if like is not None:
            matrix = matrix.astype(like.dtype)
        transposed = matrix.T
        if like is not None and array_module(like) is not np:
            from cupyx.scipy.sparse import csr_matrix

            # On a device a product with M^T would add up in no fixed order.
            matrix, transposed = csr_matrix(matrix), csr_matrix(transposed.tocsr())
        return SparseSplatting(matrix, transposed, points.shape[:-1], window)

    def expand(self, weights: Array, points: np.ndarray, window: tuple[int, int] | None = None) -> Array:
        """k_r = sum_t w_t delta_bilinear(. - (c_r - H_t c_r)): the kernels that weights of poses make at `points`.

        Parameters
        ----------
        weights : (..., rolls, kh, kw).
        points : (..., 2), (row, column) in pixels.
        window : (kh, kw) of the kernels, odd; by default `size`. What falls outside is lost.

        Returns
        -------
        (..., *points, kh, kw), with the sum of the weights where nothing falls outside.
        """
        flat = weights.reshape(*weights.shape[:-3], -1)
        return _cached(self, points, window or self.size, weights).expand(flat)

    def collect(self, kernels: Array, points: np.ndarray) -> Array:
        """The adjoint of `expand`: kernels (..., *points, kh, kw) as weights (..., rolls, kh, kw)."""
        window = kernels.shape[-2], kernels.shape[-1]
        weights = _cached(self, points, window, kernels).collect(kernels)
        return weights.reshape(*weights.shape[:-1], *self.lattice)


def _cached(grid: PoseGrid, points: np.ndarray, window: tuple[int, int], like: Array) -> Splatting:
    points = np.ascontiguousarray(points, np.float64)
    device = getattr(like.device, "id", None)  # of CuPy; tables stay on theirs
    return _splatting(grid, points.tobytes(), points.shape, window, like.dtype, array_module(like), device)


@functools.lru_cache(maxsize=2)
def _splatting(
    grid: PoseGrid, points: bytes, shape: tuple[int, ...], window: tuple[int, int], dtype: Any, xp: Any, _device: Any
) -> Splatting:
    return grid.splatting(np.frombuffer(points).reshape(shape), window, like=xp.empty(0, dtype))
