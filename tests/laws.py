"""Assertions and cases that test files share. Arrays may be NumPy's or CuPy's; they are compared on the host."""

from __future__ import annotations

import functools
import itertools
import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpudeblur.blind import kernel_projection, kernel_step, pyramid
from gpudeblur.nonblind.methods.hyper_laplacian import dt_shrink
from gpudeblur.numerics import convolution, filters, fourier, resample, toeplitz
from gpudeblur.numerics.arrays import array_module, to_host
from gpudeblur.numerics.poses import CudaSplatting, PoseGrid, Splatting, node_points

# Odd and even, rectangular, over one tile and under it, one-pixel edges, one pixel, several leading axes.
SHAPES = [(1, 37, 31), (3, 5, 64), (2, 70, 33), (2, 1, 7), (2, 7, 1), (1, 1, 1), (2, 2, 2), (2, 32, 5), (2, 3, 4, 5)]
KERNELS = [(3, 3), (1, 1), (1, 5), (7, 3), (13, 9), (5, 19)]
BORDERS = [(2, 70, 33), (2, 1, 7), (2, 7, 1), (1, 1, 1)]  # of these, what ends where tiles, strips or warps do not
KERNEL_BORDERS = [(1, 1), (7, 3), (13, 9)]


def assert_close(a: Any, b: Any, *, rtol: float = 1e-7, atol: float = 0.0) -> None:
    np.testing.assert_allclose(to_host(a), to_host(b), rtol=rtol, atol=atol)


def assert_same(a: Any, b: Any) -> None:
    """Bit for bit, NaN equal to NaN."""
    np.testing.assert_array_equal(to_host(a), to_host(b))


def inner(a: Any, b: Any) -> float:
    return float((a * b).sum())


def assert_adjoint(forward: Callable, adjoint: Callable, x: Any, y: Any, *, rtol: float = 1e-10) -> None:
    """<A x, y> = <x, A^T y> for one draw of x and y, where A x and y may be tuples of arrays."""
    out = forward(x)
    out, y = (out, y) if isinstance(out, tuple) else ((out,), (y,))
    left = sum(inner(a, b) for a, b in zip(out, y, strict=True))
    np.testing.assert_allclose(left, inner(x, adjoint(*y)), rtol=rtol)


def assert_batch_is_loop(function: Callable, *batches: Any) -> None:
    """Each picture of a batch comes out, bit for bit, as it does alone; one that is NaN or zero disturbs no other."""
    out = function(*batches)
    for i in range(len(batches[0])):
        assert_same(out[i], function(*(batch[i] for batch in batches)))


def assert_shift_covariant(function: Callable, u: Any, shift: tuple[int, int]) -> None:
    """Shifting the (periodic) picture shifts the result."""
    xp = array_module(u)
    assert_same(function(xp.roll(u, shift, (-2, -1))), xp.roll(function(u), shift, (-2, -1)))


def picture(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Steps and noise: gradients on both sides of any threshold."""
    random = np.random.default_rng(seed)
    return (np.round(random.random(shape) * 3) / 3 + 0.1 * random.random(shape)).astype(dtype)


def stepped(u: np.ndarray) -> np.ndarray:
    """Gradients that are equal, many that are zero, and energies that meet a threshold of 1/16 exactly."""
    return np.round(4 * u) / 4


def one_each(shape: tuple[int, ...], values: tuple[float, ...] = (0.05, 0.2)) -> np.ndarray:
    """A number for each picture of a batch of that shape."""
    return np.resize(np.array(values, np.float32), shape[:-2])


def spectra(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(data, split, power) for `spectral_solve`."""
    random, bins = np.random.default_rng(0), (*shape[:-1], shape[-1] // 2 + 1)
    data, split = (random.normal(size=(2, *bins)) + 1j * random.normal(size=(2, *bins))).astype(np.complex64)
    return data, split, (random.random(bins) + 0.1).astype(np.float32)


def system(size: tuple[int, int], n: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(autocorrelation, rhs, start, ridge) of `n` kernel steps on random gradients, float32."""
    random, (kh, kw) = np.random.default_rng(0), size
    u = random.normal(size=(n, 2 * kh + 6, 2 * kw + 6))
    u[:, -kh:], u[:, :, -kw:] = 0, 0  # nothing wraps around: the matrix is positive definite
    power = np.abs(np.fft.fft2(u)) ** 2
    lags = np.fft.ifft2(power).real[:, np.arange(1 - kh, kh)[:, None], np.arange(1 - kw, kw)]
    rhs, start = random.normal(size=(2, n, kh, kw)) * lags.max()
    ridge = np.linspace(0.1, 0.2, n) * lags.max()
    start /= lags.max()
    return lags.astype(np.float32), rhs.astype(np.float32), start.astype(np.float32), ridge.astype(np.float32)


def bound(autocorrelation: np.ndarray) -> np.ndarray:
    """At least the norm of A, (...) (Gershgorin)."""
    return np.abs(autocorrelation).sum((-2, -1)).astype(np.float32)


def projected_gradients(a: Any, rhs: Any, start: Any, ridge: Any, norm: Any, iterations: int) -> np.ndarray:
    """`kernel_step.toeplitz_nnls` with the bound on |A| from outside, in float64; the twin finds its own."""
    a, rhs, start, ridge, norm = (np.asarray(x, np.float64) for x in (a, rhs, start, ridge, norm))
    spectrum, grid = toeplitz.toeplitz_spectrum(a)
    ridge, norm = ridge[..., None, None], norm[..., None, None]
    step = 1 / np.maximum(norm + ridge, float(np.finfo(np.float32).tiny))
    kernel, ahead, momentum = start, start, 1.0
    for _ in range(iterations):
        last = kernel
        kernel = np.maximum(ahead - step * (toeplitz.toeplitz_apply(spectrum, grid, ahead) + ridge * ahead - rhs), 0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = kernel + (momentum - 1) / following * (kernel - last)
        momentum = following
    return kernel


@dataclass(frozen=True)
class Twin:
    """A launch function of `_cuda` on host arrays, and its NumPy twin, which gives an array or a tuple for them."""

    launch: str
    args: tuple[Any, ...]
    function: Callable[..., Any]
    rtol: float = 0.0  # 0, with scale 0: equal bit for bit
    scale: float = 0.0  # error allowed as a share of the largest value

    def check(self, launch: Callable[..., Any], *args: Any) -> None:
        """That the launch function gives the twin's result, for `args` or these arguments."""
        try:
            out, expected = launch(*(args or self.args)), self.function(*copies(self.args))
            for a, b in zip(arrays(out), arrays(expected), strict=True):
                self._check(to_host(a), b)
        except Exception as error:
            words = ["x".join(map(str, a.shape)) if isinstance(a, np.ndarray) else str(a) for a in self.args]
            error.add_note(f"{self.launch}({', '.join(words)})")
            raise

    def _check(self, out: np.ndarray, expected: np.ndarray) -> None:
        assert out.shape == expected.shape
        if not self.rtol and not self.scale:
            assert out.dtype == expected.dtype
            return np.testing.assert_array_equal(out, expected)
        largest = np.abs(expected).max(initial=0)
        np.testing.assert_allclose(out, expected, rtol=self.rtol, atol=self.scale * largest)


def arrays(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def wide(a: Any, rhs: Any, start: Any, ridge: Any) -> tuple[Any, Any, Any, Any]:
    """A `system` in float64."""
    return a.astype(np.float64), rhs.astype(np.float64), start.astype(np.float64), np.asarray(ridge, np.float64)


def copies(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """For a function that works in place."""
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arrays)


def windows(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles in a picture of that shape: all of it, inside, at the far corner, a pixel, none."""
    h, w = shape[-2:]
    yield 0, h, 0, w
    yield h // 4, h - h // 4, w // 3, max(w // 3, w - 2)
    yield h - 1, h, w - 1, w
    yield h // 2, h // 2, 0, w


def blobs(size: tuple[int, int], n: int = 6) -> np.ndarray:
    """(n, kh, kw) float32 kernels of all sorts: spirals and combs (long components), specks, ties, nothing, NaN."""
    random, (kh, kw) = np.random.default_rng(0), size
    out = random.normal(size=(n, kh, kw)) * (random.random((n, kh, kw)) < np.linspace(0.1, 1, n)[:, None, None])
    out[0] = 0  # a comb: one component that turns at every other row
    out[0, ::2] = 1
    out[0, 1::4, -1:] = out[0, 3::4, :1] = 1
    out[1] = np.round(2 * random.random(size)) * (random.random(size) < 0.4)  # many masses alike
    if n > 4:
        out[2], out[3, kh // 2, kw // 2], out[4, :, : kw // 2] = 0, np.nan, -1
    return out.astype(np.float32)


def at_the_threshold(beta: float) -> np.ndarray:
    """(1, 9, 32) float32: differences of the last float that `shrink_two_thirds` makes 0, and of the first it keeps."""
    last = np.float32(2 * (2 / (3 * beta)) ** 0.75)
    u = np.zeros((1, 9, 32), np.float32)
    u[0, 2, 3::4] = last
    u[0, 6, 3::4] = np.nextafter(last, np.float32(np.inf))
    return u * np.resize(np.array([1, -1], np.float32), 32)


def signed_values(shape: tuple[int, ...]) -> np.ndarray:
    """Of both signs, with ties, zeros of both signs, infinities and denormals."""
    random = np.random.default_rng(0)
    values = np.round(random.normal(size=shape) * 10.0 ** random.integers(-2, 3, shape), 2).astype(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, 1e-40, -1e-40, 3e38, -3e38], np.float32)
    return np.where(random.random(shape) < 0.2, random.choice(special, shape), values)


def taps(source: int, target: int, factor: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(first, weights) for `_cuda.resample`: of a picture, or with a `factor` of a kernel."""
    matrix, args = (resample._resampling, ()) if factor is None else (pyramid._magnify, (factor,))
    place = (matrix, source, target, *args)
    return resample._first_taps(*place), resample._tap_weights(*place)


def weighted_sums(u: np.ndarray, first: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """What `pyramid._resample_rows` does, with the taps from outside and along either axis."""
    u = u if axis == 0 else u.swapaxes(-2, -1)
    out = np.zeros((*u.shape[:-2], len(first), u.shape[-1]), dtype=u.dtype)
    for tap, weight in enumerate(weights):
        out += u[..., first + tap, :] * weight[:, None]
    return out if axis == 0 else np.ascontiguousarray(out.swapaxes(-2, -1))


def selection_twins(shapes: Sequence[tuple[int, ...]]) -> Iterator[Twin]:
    """The launch functions that select by rank."""
    for shape in [(3, 37), (2, 64), (2, 1), (2, 3, 5), (2, 2), (70,), (1, 1100), (0, 9), (2, 0, 9)]:
        values = signed_values(shape)
        for rank in sorted({0, shape[-1] // 3, shape[-1] - 1}):
            yield Twin("select", (values, rank), lambda v, rank: np.partition(v, rank, axis=-1)[..., rank])
    turn = itertools.count()
    for shape in [*shapes, (0, 3, 4)]:
        u = picture(shape)
        for window in windows(shape):
            pixels = kernel_step.window_pixels(window)
            others = [(stepped(u), count) for count in (0, 1, pixels // 5, pixels, pixels + 3)] + [(0 * u, 1), (u, 1)]
            for v, count in ((u, pixels // 3), others[next(turn) % len(others)]):
                yield Twin("selection_threshold", (v, window, count), kernel_step.selection_threshold)


def step_twins(shapes: Sequence[tuple[int, ...]], sizes: Sequence[tuple[int, int]]) -> Iterator[Twin]:
    """The launch functions of the kernel step and of its projection."""
    for shape in [*shapes, (0, 3, 4)]:
        u = picture(shape)
        for window, threshold in itertools.product(windows(shape), (0.0625, one_each(shape))):
            yield Twin("dt_selected", (stepped(u), threshold, window), kernel_step.dt_selected)
        h, w = shape[-2:]
        for rows, columns in ((0, 0), (h - 1, w - 1), (h // 2, w // 3)):
            yield Twin("central_lags", (u, rows, columns), kernel_step.central_lags)
        data, split, _ = spectra(shape)
        yield Twin("spectrum_max", (data,), toeplitz.spectrum_max)
        args = (data, split, data[..., ::-1, :].copy(), (h, w))
        yield Twin("normal_spectra", args, kernel_step.normal_spectra, rtol=1e-5, scale=1e-6)
        yield Twin("data_terms", (data, split), filters.data_terms, rtol=1e-5, scale=1e-6)
    for size in [*sizes, (2, 4), (40, 33)]:
        kernels, known = blobs(size), np.arange(6) != 1
        folded = kernels.reshape(2, 3, *size)
        for grid in (size, (size[0] + 5, size[1] + 4), (2 * size[0], 2 * size[1])):
            yield Twin("kernel_to_grid", (kernels, grid), fourier.kernel_to_grid)
        stacks: list[tuple[Any, ...]] = [(kernels,), (kernels, known), (kernels[:0],), (folded, known.reshape(2, 3))]
        yield from (Twin("normalize", stack, kernel_projection.normalize, rtol=2e-6) for stack in stacks)
        stacks = [(kernels, 0.05, 0.03), (kernels, 0.0, 0.0), (folded, 0.3, 0.3)]
        stacks += [(kernels, 1.0, 1.0), (kernels[:0], 0.05, 0.03)]
        for stack in stacks if max(size) < 40 else stacks[:1]:
            yield Twin("project", stack, lambda k, s, c: kernel_projection.project(k, share=s, component=c), rtol=2e-6)


# These visit the same places whatever the rank, the count or the iterations.
NUMBERS_ALONE = ("select", "selection_threshold", "toeplitz_cg", "toeplitz_nnls")


@functools.cache
def twins(*, borders: bool = False) -> dict[str, list[Twin]]:
    """The twins of each launch function, on every shape and kind of argument.

    With `borders`, what reads and writes other places: few shapes, and the first of the twins that differ by values.
    """
    shapes, sizes = (BORDERS, KERNEL_BORDERS) if borders else (SHAPES, KERNELS)
    groups: dict[str, dict[Any, Twin]] = {}
    pictures = (*selection_twins(shapes), *step_twins(shapes, sizes), *filter_twins(shapes), *cell_twins(shapes))
    for twin in (*pictures, *convolution_twins(shapes), *solver_twins(sizes), *pose_twins()):
        group = groups.setdefault(twin.launch, {})
        kinds = tuple if twin.launch in NUMBERS_ALONE else int | tuple
        places = tuple(a if isinstance(a, kinds) else getattr(a, "shape", None) for a in twin.args)
        group.setdefault(places if borders else len(group), twin)
    return {launch: list(group.values()) for launch, group in groups.items()}


def cells_of(side: int, block: int) -> np.ndarray:
    """(3, cells) int32: blocks that overlap and reach beyond the border, with pixels that they take, and one twice."""
    first = np.arange(-(block // 2), side, max(1, 2 * block // 3))
    first = np.append(first, first[-1])
    return np.array([first, np.maximum(first, 0), np.minimum(first + block, side)], np.int32)


def spans_of(cells: np.ndarray, side: int) -> np.ndarray:
    """(2, side) int32: of each pixel the first cell and the end."""
    pixels = np.arange(side)
    return np.array([np.searchsorted(cells[2 - end], pixels, "right") for end in range(2)], np.int32)


def cut_cells(u: Any, rows: Any, columns: Any, sides: Any, wy: Any, wx: Any, chunk: Any) -> np.ndarray:
    """What `cuda.cells_cut` does, block by block."""
    first, last = chunk or (0, rows.shape[1])
    out = np.zeros((*u.shape[:-2], last - first, columns.shape[1], *sides), u.dtype)
    if wy is not None:
        u = u * (wy[:, None] * wx)
    for i, j in np.ndindex(out.shape[-4:-2]):
        (y, top, bottom), (x, left, right) = rows[:, first + i].tolist(), columns[:, j].tolist()
        out[..., i, j, top - y : bottom - y, left - x : right - x] = u[..., top:bottom, left:right]
    return out


def add_cells(
    blocks: Any, rows: Any, columns: Any, spans: Any, _: Any, out: Any, wy: Any, wx: Any, first_row: int
) -> np.ndarray:
    """What `cuda.cells_add` does from a row of cells on, first along the rows."""
    fresh = (spans[0] >= first_row) & (spans[0] < spans[1])
    out[..., fresh, :] = 0
    for i in range(blocks.shape[-4]):
        line = np.zeros_like(out)
        y, top, bottom = rows[:, first_row + i].tolist()
        for j, (x, left, right) in enumerate(columns.T.tolist()):
            line[..., top:bottom, left:right] += blocks[..., i, j, top - y : bottom - y, left - x : right - x]
        out += line if wy is None else line * (wy[:, None] * wx)
    return out


def cell_twins(shapes: Sequence[tuple[int, ...]]) -> Iterator[Twin]:
    """The launch functions of a blur that varies over the image."""
    for shape in [*shapes, (0, 3, 4)]:
        u = picture(shape)
        for sides, weighted in itertools.product(((7, 12), (40, 33)), (False, True)):
            rows, columns = (cells_of(n, side) for n, side in zip(shape[-2:], sides, strict=True))
            spans = [spans_of(cells, n) for cells, n in zip((rows, columns), shape[-2:], strict=True)]
            weights = [picture((n,), seed=1) if weighted else None for n in shape[-2:]]
            for first in {0, rows.shape[1] // 2}:
                chunk = (first, rows.shape[1])
                yield Twin("cells_cut", (u, rows, columns, sides, *weights, chunk), cut_cells, rtol=3e-7)
                blocks = picture((*shape[:-2], rows.shape[1] - first, columns.shape[1], *sides))
                yield Twin("cells_add", (blocks, rows, columns, *spans, u, *weights, first), add_cells, rtol=3e-7)


def pose_grids() -> Iterator[tuple[PoseGrid, tuple[int, int]]]:
    """Grids of poses and windows: in the plane and not, one roll, one shift, windows of other sizes, few pixels."""
    yield PoseGrid((7, 9), 5, (60, 91), 70.0), (7, 9)
    yield PoseGrid((5, 5), 3, (60, 91)), (9, 7)
    yield PoseGrid((13, 11), 1, (60, 91)), (13, 11)
    yield PoseGrid((1, 1), 9, (60, 91), 300.0), (3, 1)
    yield PoseGrid((1, 5), 3, (40, 30), 30.0), (5, 11)
    yield PoseGrid.of((9, 9), (600, 900), 800.0), (5, 15)
    yield PoseGrid.of((9, 7), (10, 12), 9.0), (9, 9)


def pose_twins() -> Iterator[Twin]:
    """The launch functions of kernels from poses; the twins have a stored matrix in float64."""
    for grid, window in pose_grids():
        points, random = node_points((2, 3), grid.shape), np.random.default_rng(0)
        for active in (None, np.flatnonzero(random.random(grid.lattice) < 0.4)):
            tables = CudaSplatting.of(grid, points, window, active, np)
            splatting, count = grid.splatting(points, window, active=active), math.prod(grid.lattice)
            weights = random.random((2, count if active is None else len(active)), np.float32)
            kernels = random.random((2, 2, 3, *window), np.float32)
            numbers = (grid.lattice, grid.step, grid.focal)
            for w, k in ((weights, kernels), (weights[0], kernels[1]), (weights[:0], kernels[:0])):
                args = (w, tables.positions, tables.candidates, tables.weight_index, grid.lattice, window, *numbers[1:])
                lead = (*w.shape[:-1], 6, *window)
                expand = functools.partial(_expanded, splatting, lead)
                yield Twin("pose_expand", args, expand, scale=3e-6)
                flat = k.reshape(*k.shape[:-4], 6, *window)
                collect = functools.partial(_collected, splatting, k.shape)
                yield Twin("pose_collect", (flat, tables.positions, tables.active, *numbers), collect, scale=3e-6)


def _expanded(splatting: Splatting, shape: tuple[int, ...], weights: np.ndarray, *_: Any) -> np.ndarray:
    return splatting.expand(weights.astype(np.float64)).reshape(shape) if weights.size else np.zeros(shape)


def _collected(splatting: Splatting, shape: tuple[int, ...], kernels: np.ndarray, *args: Any) -> np.ndarray:
    if not kernels.size:
        return np.zeros((0, math.prod(args[2]) if args[1] is None else len(args[1])))
    return splatting.collect(kernels.reshape(shape).astype(np.float64))


def filter_twins(shapes: Sequence[tuple[int, ...]]) -> Iterator[Twin]:
    """The launch functions of the latent step and of the pyramid."""
    for shape in [*shapes, (0, 3, 4)]:
        u = picture(shape)
        for v, threshold in ((u, 0.0), (u, 0.1), (u, one_each(shape)), (stepped(u), 0.0625)):  # met exactly
            yield Twin("dt_l0", (v, threshold), filters.dt_l0)
            yield Twin("edge_mask", (v, threshold), filters.edge_mask)
        for beta in (2.0, 181.0, 1e5):
            yield Twin("dt_shrink", (u, beta), dt_shrink, scale=5e-7)
        for radius in (0, 1, 4, 40):
            yield Twin("dilate", (np.random.default_rng(radius).random(shape) < 0.02, radius), filters.dilate)
        for sigma in (12.0, 0.3, 1.7):
            yield Twin("gaussian_smooth", (u, sigma), filters.gaussian_smooth, rtol=2e-6)
        for share in (0.0, 0.3, 1.0):
            mask = np.random.default_rng(1).random(shape) < share
            yield Twin("dt_smooth", (u, mask), filters.dt_smooth)
            yield Twin("dt_smooth", (u, mask, 0.3, u[..., ::-1].copy()), filters.dt_smooth)
        for axis, target in itertools.product((0, 1), (1, 5, 40)):
            side = shape[axis - 2]
            for tables in (taps(side, target), taps(side, target, 1.4)):  # some rows of the second are zero
                yield Twin("resample", (u, *tables, axis), weighted_sums)
        for weight in (0.01, 100.0, one_each(shape, (0.01, 100.0))):
            args = (*spectra(shape), weight, shape[-2:])
            yield Twin("spectral_solve", args, filters.spectral_solve, rtol=3e-6, scale=1e-7)
    for beta in (1.0, 7.3, 181.0):
        yield Twin("dt_shrink", (at_the_threshold(beta), beta), dt_shrink, scale=5e-7)
    mask = np.random.default_rng(0).random((2, 32, 1024)) < 0.005  # sides that blocks of threads divide
    yield Twin("dilate", (mask, 3), filters.dilate)
    # Single pixels around the borders of the 32-bit words and of the 1024-pixel segments.
    for radius in (1, 15, 16, 17, 31, 32, 33, 512, 2000):
        mask = np.zeros((7, 1, 2080), dtype=bool)
        mask[np.arange(7), 0, [0, 31, 32, 1023, 1024, 1055, 2079]] = True
        yield Twin("dilate", (mask, radius), filters.dilate)


def convolution_twins(shapes: Sequence[tuple[int, ...]]) -> Iterator[Twin]:
    """The launch function of the judge's layers: fewer filters than a thread has, as many, and more."""
    for (n, h, w), (channels, count) in itertools.product(
        [(*shape[:1], *shape[-2:]) for shape in (*shapes, (0, 3, 4))], ((1, 3), (3, 8), (5, 21))
    ):
        weights = picture((channels, 9, count), seed=1) - np.float32(0.5)
        args = (picture((n, channels, h, w)), weights, picture((count,), seed=2) - np.float32(0.5))
        yield Twin("strided_convolution", args, convolution.strided_convolution, rtol=1e-5, scale=1e-6)


def solver_twins(sizes: Sequence[tuple[int, int]]) -> Iterator[Twin]:
    """The launch functions that solve for the kernel."""
    for size in sizes:
        a, rhs, start, ridge = system(size)
        numbers: list[tuple[Any, int]] = [(ridge, 6), (ridge, 0), (ridge, 1), (float(ridge[0]), 3)]
        for number, iterations in numbers:
            args = (a, rhs, start, number, iterations)
            yield Twin("toeplitz_cg", args, lambda *args: toeplitz.toeplitz_cg(*wide(*args[:4]), args[4]), scale=2e-5)
            yield Twin("toeplitz_nnls", (*args[:4], bound(a), iterations), projected_gradients, scale=2e-5)


def peak_on_numpy(work: Any) -> int:
    """Bytes of arrays above those there before; FFT work space is not among them."""
    work()  # what is kept from call to call
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before
