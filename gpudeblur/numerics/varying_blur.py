"""Blur by a kernel that varies over the image: efficient filter flow ([Hirsch2010]) and its adjoint.

Kernels k_r stand on the nodes of a rectangular grid, and are interpolated linearly along both axes in between:

    (K x)(p) = sum_r w_r(p) (k_r * x)(p),  sum_r w_r(p) = 1 at every pixel p.

The windows w_r, products of hats along the axes, weigh the blurred images. So a constant stays constant, as for a
moving camera; windows on x before the blur would preserve the sum of the light instead, as a lens does.

Between four nodes lies a cell. Its part of x, with a margin of the kernel's size, is transformed once, multiplied by
the spectra of the four kernels, transformed back and weighted. Cells do not overlap, so that each pixel is written
once. A patch for each node instead is twice as long: for cells of two to three kernel sides, 1.3 to 1.4 times the area
would be transformed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, array_module, goes_to_cuda
from .fourier import fast_shape, fast_size, irfft2, kernel_to_grid, psf_to_otf, rfft2

# Pixels of the cells that are transformed at a time: on NumPy what a cache holds, on a device 64 MiB of float32.
CHUNK_PIXELS = {True: 1 << 15, False: 1 << 24}
Nodes = tuple[np.ndarray, np.ndarray]


def regular_nodes(count: int, n: int) -> np.ndarray:
    """Positions y_i = i (n - 1) / (count - 1) of the nodes along an axis of `n` pixels; a single one in the middle."""
    return np.arange(count) * (n - 1) / (count - 1) if count > 1 else np.array([(n - 1) / 2])


def hats(nodes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Weights of linear interpolation, (nodes, *points): constant beyond the outer nodes, with sum 1 at every point."""
    return np.stack([np.interp(points, nodes, unit) for unit in np.eye(len(nodes))])


def reaching(nodes: np.ndarray, n: int) -> slice:
    """The nodes that have a weight at pixels 0 to n - 1, or next to them."""
    first = max(0, int(np.searchsorted(nodes, 0, "right")) - 1)
    return slice(first, min(len(nodes) - 1, max(first, int(np.searchsorted(nodes, n - 1, "left")))) + 1)


def mean_power(kernels: Array, nodes: Nodes, shape: tuple[int, int], grid: tuple[int, int]) -> Array:
    """sum_r mean(w_r) |F k_r|^2 on a periodic `grid`, (H, W // 2 + 1) real: the mean power of the kernels.

    Parameters
    ----------
    kernels : (gy, gx, kh, kw), odd sides.
    nodes : their rows and columns.
    shape : (H, W) of the blurred image, over which the windows w_r are averaged.

    Notes
    -----
    It is the spectrum of the kernels' mean autocorrelation, so that only one transform has the size of the grid.
    """
    xp, sides = array_module(kernels), kernels.shape[-2:]
    wy, wx = (hats(at, np.arange(n)).mean(axis=1) for at, n in zip(nodes, shape, strict=True))
    weights = xp.asarray(np.outer(wy, wx).astype(kernels.dtype))
    lags = (2 * sides[0] - 1, 2 * sides[1] - 1)
    small = fast_shape(lags)
    power: Any = 0
    for row, row_weights in zip(kernels, weights, strict=True):
        spectra = psf_to_otf(xp.ascontiguousarray(row), (small[0], small[1]))
        power = power + ((spectra.real**2 + spectra.imag**2) * row_weights[:, None, None]).sum(axis=0)
    power = power.astype(np.result_type(kernels.dtype, np.complex64))
    power *= 1 / math.prod(small)
    autocorrelation = irfft2(power, (small[0], small[1]), overwrite=True)
    autocorrelation = xp.roll(autocorrelation, (sides[0] - 1, sides[1] - 1), (0, 1))[: lags[0], : lags[1]]
    # Where the grid is shorter than the autocorrelation, this wraps around.
    times = [-(-lag // side) for lag, side in zip(lags, grid, strict=True)]
    large = kernel_to_grid(xp.ascontiguousarray(autocorrelation), (times[0] * grid[0], times[1] * grid[1]))
    spectrum = rfft2(large.reshape(times[0], grid[0], times[1], grid[1]).sum(axis=(0, 2)))
    return xp.maximum(spectrum.real, 0)  # negative values are rounding errors


@dataclass(frozen=True)
class Cells:
    """The cells along an axis of `n` pixels, and the blocks of equal length in which they are computed.

    Attributes
    ----------
    used : the nodes that have a weight.
    bounds : the cells' first pixels, and `n`.
    starts : the blocks' first pixels.
    length, grid : of a block without and with the kernel's margin.
    weights : (1 or 2, cells, length): of the node before and of that after each cell; 0 outside the cell.
    """

    used: slice
    bounds: list[int]
    starts: list[int]
    length: int
    grid: int
    weights: np.ndarray

    @classmethod
    def of(cls, nodes: np.ndarray, n: int, side: int) -> Cells:
        used = reaching(nodes, n)
        nodes = nodes[used]
        bounds = np.array([0, *np.ceil(nodes[1:-1]), n], int)
        grid = fast_size(int(np.diff(bounds).max()) + side - 1)
        length = grid - side + 1  # the fast size is used up
        starts = np.minimum(bounds[:-1], max(0, n - length))
        pixels = starts[:, None] + np.arange(length)
        inside = (pixels >= bounds[:-1, None]) & (pixels < bounds[1:, None])
        cells, all_hats = np.arange(len(starts)), hats(nodes, pixels)
        weights = np.stack([all_hats[cells + corner, cells] * inside for corner in range(min(2, len(nodes)))])
        return cls(used, bounds.tolist(), starts.tolist(), length, grid, weights)

    def own_pixels(self, margin: int) -> np.ndarray:
        """(3, cells): first pixels of blocks with a `margin`, and the first and the end of the cell's own in them."""
        return np.array([np.array(self.starts) - margin, self.bounds[:-1], self.bounds[1:]], np.int32)

    def all_pixels(self, n: int) -> np.ndarray:
        """Likewise of an image that has its margins, `n` pixels, of which a block takes all."""
        return np.array([self.starts, self.starts, np.minimum(np.array(self.starts) + self.grid, n)], np.int32)

    def pixel_weights(self, dtype: Any) -> np.ndarray:
        """`weights` of each pixel's own cell, (1 or 2, n)."""
        pixels, cells = np.arange(self.bounds[-1]), np.repeat(np.arange(len(self.starts)), np.diff(self.bounds))
        return self.weights[:, cells, pixels - np.array(self.starts)[cells]].astype(dtype)


class CudaCells:
    """The cells of an image on a device, as `cuda.cells_cut` and `cells_add` take them.

    Parameters
    ----------
    axes : for rows and columns of cells, (3, cells) int32 by `Cells.own_pixels` or `all_pixels`.
    shape : (H, W) of the image.
    sides : of a block.
    """

    def __init__(self, xp: Any, axes: Sequence[np.ndarray], shape: tuple[int, int], sides: tuple[int, int]) -> None:
        self._shape, self._sides = shape, sides
        self._rows, self._columns = (xp.asarray(axis) for axis in axes)
        # The first cell that has a pixel, and the end of those.
        spans = [
            [np.searchsorted(side, np.arange(n), "right") for side in (end, begin)]
            for (_, begin, end), n in zip(axes, shape, strict=True)
        ]
        self._spans = xp.asarray(np.array(spans[0], np.int32)), xp.asarray(np.array(spans[1], np.int32))
        self._begin, self._end = axes[0][1].tolist(), axes[0][2].tolist()

    def cut(self, x: Array, chunk: slice, wy: Array | None = None, wx: Array | None = None) -> Array:
        """Blocks (..., rows, columns, *sides) of `x` times the weights of its rows and columns, zero elsewhere."""
        from . import cuda

        if x.shape[-2:] != self._shape:
            raise ValueError(
                f"images must have shape (..., {self._shape[0]}, {self._shape[1]}), got {x.shape}; pad them"
            )
        return cuda.cells_cut(x, self._rows, self._columns, self._sides, wy, wx, (chunk.start, chunk.stop))

    def add(
        self,
        out: Array,
        blocks: Array,
        chunk: slice,
        wy: Array | None = None,
        wx: Array | None = None,
        add: bool = False,
    ) -> None:
        """The adjoint. A pixel's first cell is written to `out`, the others are added; with `add` all are."""
        from . import cuda

        rows, columns = self._spans
        visited = self._begin[chunk.start], self._end[chunk.stop - 1]
        cells = (self._rows, self._columns, rows, columns)
        cuda.cells_add(blocks, *cells, out, wy, wx, first_row=chunk.start, visited=visited, add=add)


class VaryingBlur:
    """K and its adjoint for one field of kernels and one size of image.

    Parameters
    ----------
    kernels : (gy, gx, kh, kw), odd sides; on NumPy or CuPy.
    nodes : their rows (gy,) and columns (gx,) in pixels of the blurred image, increasing by 1 or more; on the host.
    shape : (H, W) of the blurred image.
    dtype : of the images.
    scale : factor of K.

    Notes
    -----
    For cells of s pixels, K or its adjoint is five transforms of an area (s + k - 1)^2 / s^2 times that of the image.
    The spectra of all kernels are kept; the rest of the memory is bounded by CHUNK_PIXELS.
    """

    def __init__(self, kernels: Array, nodes: Nodes, shape: tuple[int, int], dtype: Any, *, scale: float = 1.0) -> None:
        self._xp, self._sides = array_module(kernels), (int(kernels.shape[-2]), int(kernels.shape[-1]))
        self.shape = shape
        self.padded_shape = (shape[0] + self._sides[0] - 1, shape[1] + self._sides[1] - 1)
        self._rows, self._columns = (
            Cells.of(at, n, side) for at, n, side in zip(nodes, shape, self._sides, strict=True)
        )
        self._grid = (self._rows.grid, self._columns.grid)
        kernels = kernels[self._rows.used, self._columns.used].astype(dtype)
        self._otf = psf_to_otf(self._xp.ascontiguousarray(kernels), self._grid)
        self._otf *= scale / math.prod(self._grid)
        top, left = self._sides[0] // 2, self._sides[1] // 2
        self._valid = (..., slice(top, top + self._rows.length), slice(left, left + self._columns.length))
        wy, wx = (self._xp.asarray(cells.weights.astype(dtype)) for cells in (self._rows, self._columns))
        self._wy, self._wx = wy[:, :, None, :, None], wx[:, None, :, None, :]
        self._cuda = goes_to_cuda(self._otf)
        if self._cuda:
            both = (self._rows, self._columns)
            own_pixels = [cells.own_pixels(margin) for cells, margin in zip(both, (top, left), strict=True)]
            all_pixels = [cells.all_pixels(n) for cells, n in zip(both, self.padded_shape, strict=True)]
            self._disjoint = CudaCells(self._xp, own_pixels, shape, self._grid)
            self._margined = CudaCells(self._xp, all_pixels, self.padded_shape, self._grid)
            wy, wx = (self._xp.asarray(cells.pixel_weights(dtype)) for cells in both)
            self._corners = [(a, b, wy[a], wx[b]) for a, b in np.ndindex(len(wy), len(wx))]

    def blur(self, x: Array) -> Array:
        """K x: (..., H + kh - 1, W + kw - 1) to the pixels (..., H, W) whose whole neighborhood x has."""
        if self._cuda:
            return self._blur_by_launches(x)
        xp, rows, columns = self._xp, self._rows, self._columns
        lead = x.shape[:-2]
        x = self._at_least(x, self._grid)
        out = xp.empty((*lead, *self.shape), dtype=x.dtype)
        for chunk in self._chunks(lead):
            spectrum = rfft2(self._blocks(x, chunk, self._grid), overwrite=True)
            blocks: Any = None
            for a, wy in enumerate(self._wy):
                line: Any = None
                for b, wx in enumerate(self._wx):
                    part = irfft2(spectrum * self._corner(chunk, a, b), self._grid, overwrite=True)[self._valid]
                    part *= wx
                    line = part if line is None else _add(line, part)
                line *= wy[chunk]
                blocks = line if blocks is None else _add(blocks, line)
            del spectrum
            strips = xp.empty((*lead, blocks.shape[-4], rows.length, self.shape[1]), dtype=x.dtype)
            for j, (begin, end) in enumerate(itertools.pairwise(columns.bounds)):
                first = columns.starts[j]
                strips[..., begin:end] = blocks[..., :, j, :, begin - first : end - first]
            for i, strip in enumerate(range(chunk.start, chunk.stop)):
                begin, end, first = rows.bounds[strip], rows.bounds[strip + 1], rows.starts[strip]
                out[..., begin:end, :] = strips[..., i, begin - first : end - first, :]
        return out

    def adjoint(self, y: Array) -> Array:
        """K^T y: (..., H, W) to (..., H + kh - 1, W + kw - 1)."""
        if self._cuda:
            return self._adjoint_by_launches(y)
        xp, lead, block = self._xp, y.shape[:-2], (self._rows.length, self._columns.length)
        y = self._at_least(y, block)
        size = [max(pair) for pair in zip(self.padded_shape, self._grid, strict=True)]
        out = xp.zeros((*lead, *size), dtype=y.dtype)
        for chunk in self._chunks(lead):
            blocks = self._blocks(y, chunk, block)
            padded = xp.zeros((*blocks.shape[:-2], *self._grid), dtype=y.dtype)
            total: Any = None
            for a, wy in enumerate(self._wy):
                line = blocks * wy[chunk]
                for b, wx in enumerate(self._wx):
                    padded[self._valid] = line * wx
                    part = rfft2(padded)
                    xp.conjugate(part, out=part)  # conj(K) F = conj(K conj(F)), in place
                    part *= self._corner(chunk, a, b)
                    total = part if total is None else _add(total, part)
            parts = irfft2(xp.conjugate(total, out=total), self._grid, overwrite=True)
            del total, blocks, padded
            self._add_blocks(out, parts, chunk)
        return out[..., : self.padded_shape[0], : self.padded_shape[1]]

    def _blur_by_launches(self, x: Array) -> Array:
        """`blur` in float32 on a device, without a loop over cells."""
        out = self._xp.empty((*x.shape[:-2], *self.shape), dtype=x.dtype)
        for chunk in self._chunks(x.shape[:-2]):
            spectrum = rfft2(self._margined.cut(x, chunk), overwrite=True)
            for number, (a, b, wy, wx) in enumerate(self._corners):
                part = irfft2(spectrum * self._corner(chunk, a, b), self._grid, overwrite=True)
                self._disjoint.add(out, part, chunk, wy, wx, number > 0)
        return out

    def _adjoint_by_launches(self, y: Array) -> Array:
        """`adjoint` likewise."""
        out = self._xp.empty((*y.shape[:-2], *self.padded_shape), dtype=y.dtype)
        for chunk in self._chunks(y.shape[:-2]):
            total: Any = None
            for a, b, wy, wx in self._corners:
                part = rfft2(self._disjoint.cut(y, chunk, wy, wx), overwrite=True)
                self._xp.conjugate(part, out=part)
                part *= self._corner(chunk, a, b)
                total = part if total is None else _add(total, part)
            parts = irfft2(self._xp.conjugate(total, out=total), self._grid, overwrite=True)
            self._margined.add(out, parts, chunk)
        return out

    def _chunks(self, lead: tuple[int, ...]) -> Iterator[slice]:
        """Rows of cells, as many at a time as CHUNK_PIXELS allow."""
        count, row = len(self._rows.starts), math.prod((*lead, len(self._columns.starts), *self._grid))
        length = max(1, CHUNK_PIXELS[self._xp is np] // max(1, row))
        return (slice(start, min(count, start + length)) for start in range(0, count, length))

    def _corner(self, chunk: slice, a: int, b: int) -> Array:
        """The spectra of the kernels above (a = 0) or below (1), to the left (b = 0) or right of each cell."""
        return self._otf[chunk.start + a : chunk.stop + a, b : b + len(self._columns.starts)]

    def _blocks(self, x: Array, chunk: slice, sides: tuple[int, int]) -> Array:
        """Blocks of `x` (..., H, W) that start where those of the cells do, (..., rows, columns, *sides).

        CUDA kernel: cells_cut.cu.
        """
        lead, columns = x.shape[:-2], self._columns.starts
        strips = self._xp.empty((*lead, chunk.stop - chunk.start, sides[0], x.shape[-1]), dtype=x.dtype)
        for i, first in enumerate(self._rows.starts[chunk]):
            strips[..., i, :, :] = x[..., first : first + sides[0], :]
        blocks = self._xp.empty((*strips.shape[:-2], len(columns), *sides), dtype=x.dtype)
        for j, first in enumerate(columns):
            blocks[..., j, :, :] = strips[..., first : first + sides[1]]
        return blocks

    def _add_blocks(self, out: Array, blocks: Array, chunk: slice) -> None:
        """Blocks (..., rows, columns, *grid) into `out`, where their margins overlap. CUDA kernel: cells_add.cu.

        They are added in the order of the cells, whatever the chunks are.
        """
        strips = self._xp.zeros((*out.shape[:-2], blocks.shape[-4], self._grid[0], out.shape[-1]), dtype=out.dtype)
        for j, first in enumerate(self._columns.starts):
            strips[..., first : first + self._grid[1]] += blocks[..., :, j, :, :]
        for i, first in enumerate(self._rows.starts[chunk]):
            out[..., first : first + self._grid[0], :] += strips[..., i, :, :]

    def _at_least(self, x: Array, sides: tuple[int, int]) -> Array:
        """`x` (..., H, W), with zeros below and to the right up to `sides` if it is smaller."""
        margins = [(0, max(0, side - n)) for n, side in zip(x.shape[-2:], sides, strict=True)]
        return x if margins == [(0, 0)] * 2 else self._xp.pad(x, [(0, 0)] * (x.ndim - 2) + margins)


def _add(total: Array, part: Array) -> Array:
    total += part
    return total
