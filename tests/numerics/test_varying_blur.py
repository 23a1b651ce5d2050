"""A blur that varies over the image: against a loop over pixels, adjointness, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_adjoint, assert_batch_is_loop, assert_close, assert_same
from scipy.signal import fftconvolve

from gpudeblur.numerics import varying_blur
from gpudeblur.numerics.fourier import psf_to_otf
from gpudeblur.numerics.varying_blur import Cells, VaryingBlur, hats, mean_power, reaching, regular_nodes

# (H, W), nodes, kernel: odd and even sides, one node, one line of nodes, two, many, one at each pixel, blocks that are
# larger than the image, a kernel larger than the image along an axis, one row.
CASES = [
    ((24, 31), (3, 4), (5, 7)),
    ((24, 31), (1, 1), (5, 3)),
    ((25, 30), (1, 4), (3, 9)),
    ((24, 31), (2, 2), (7, 7)),
    ((24, 31), (24, 31), (3, 3)),
    ((5, 40), (5, 2), (3, 9)),
    ((3, 20), (2, 2), (9, 1)),
    ((1, 7), (1, 3), (1, 3)),
    ((64, 48), (9, 11), (15, 13)),
]
SHAPE, COUNTS, SIDES = CASES[0]


def nodes_of(shape: tuple[int, int], counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (regular_nodes(count, n) for count, n in zip(counts, shape, strict=True))
    return rows, columns


def random_kernels(counts: tuple[int, int], sides: tuple[int, int], seed: int = 0) -> np.ndarray:
    kernels = np.random.default_rng(seed).random((*counts, *sides))
    return kernels / kernels.sum(axis=(-2, -1), keepdims=True)


def by_pixels(x: np.ndarray, kernels: np.ndarray, nodes: Any, shape: tuple[int, int]) -> np.ndarray:
    """The definition: at each pixel, the kernel there, sum_r w_r k_r."""
    kh, kw = kernels.shape[-2:]
    wy, wx = (hats(at, np.arange(n)) for at, n in zip(nodes, shape, strict=True))
    out = np.zeros(shape)
    for i, j in np.ndindex(shape):
        kernel = np.tensordot(np.outer(wy[:, i], wx[:, j]), kernels)
        out[i, j] = (kernel[::-1, ::-1] * x[i : i + kh, j : j + kw]).sum()
    return out


def operator(
    xp: Any, shape: tuple[int, int], counts: tuple[int, int], sides: tuple[int, int], dtype: Any = np.float64
) -> VaryingBlur:
    return VaryingBlur(xp.asarray(random_kernels(counts, sides)), nodes_of(shape, counts), shape, dtype)


@pytest.mark.parametrize(("shape", "counts", "sides"), CASES)
def test_blur_is_its_definition(xp: Any, shape: Any, counts: Any, sides: Any) -> None:
    K = operator(xp, shape, counts, sides)
    x = np.random.default_rng(1).random(K.padded_shape)
    expected = by_pixels(x, random_kernels(counts, sides), nodes_of(shape, counts), shape)
    assert_close(K.blur(xp.asarray(x)), expected, atol=1e-13)


@pytest.mark.parametrize(("shape", "counts", "sides"), CASES)
def test_the_adjoint_is_the_adjoint(xp: Any, shape: Any, counts: Any, sides: Any) -> None:
    random = np.random.default_rng(2)
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-5)):
        K = operator(xp, shape, counts, sides, dtype)
        x, y = random.random((2, *K.padded_shape)).astype(dtype), random.random((2, *shape)).astype(dtype)
        assert K.blur(xp.asarray(x)).dtype == K.adjoint(xp.asarray(y)).dtype == dtype
        assert_adjoint(K.blur, K.adjoint, xp.asarray(x), xp.asarray(y), rtol=rtol)


@pytest.mark.parametrize("unit", [0, 1])
def test_nodes_anywhere(xp: Any, unit: int) -> None:
    """Irregular ones, beyond the image, and all inside it, where the blur is constant beyond the outer nodes."""
    rows = [np.array([-7.5, -2.0, 4.25, 11.0, 40.0, 60.0]), np.array([3.3, 9.0, 20.1])][unit]
    columns = np.array([6.0, 7.0, 18.5])
    kernels = random_kernels((len(rows), 3), SIDES)
    K = VaryingBlur(xp.asarray(kernels), (rows, columns), SHAPE, np.float64)
    x, y = np.random.default_rng(3).random(K.padded_shape), np.random.default_rng(4).random(SHAPE)
    assert_close(K.blur(xp.asarray(x)), by_pixels(x, kernels, (rows, columns), SHAPE), atol=1e-13)
    assert_adjoint(K.blur, K.adjoint, xp.asarray(x), xp.asarray(y), rtol=1e-12)


@pytest.mark.parametrize(("shape", "counts", "sides"), CASES)
def test_a_constant_stays(xp: Any, shape: Any, counts: Any, sides: Any) -> None:
    K = operator(xp, shape, counts, sides)
    assert_close(K.blur(xp.ones(K.padded_shape)), np.ones(shape), rtol=1e-13)


@pytest.mark.parametrize(("shape", "counts", "sides"), CASES)
def test_delta_kernels_change_nothing(xp: Any, shape: Any, counts: Any, sides: Any) -> None:
    kernels = np.zeros((*counts, *sides))
    kernels[..., sides[0] // 2, sides[1] // 2] = 1
    K = VaryingBlur(xp.asarray(kernels), nodes_of(shape, counts), shape, np.float64)
    x = np.random.default_rng(5).random(K.padded_shape)
    inside = x[sides[0] // 2 :, sides[1] // 2 :][: shape[0], : shape[1]]
    assert_close(K.blur(xp.asarray(x)), inside, atol=1e-14)


@pytest.mark.parametrize(("shape", "counts", "sides"), CASES)
def test_equal_kernels_are_a_convolution(xp: Any, shape: Any, counts: Any, sides: Any) -> None:
    kernel = random_kernels((1, 1), sides)[0, 0]
    kernels = np.broadcast_to(kernel, (*counts, *sides))
    K = VaryingBlur(xp.asarray(kernels), nodes_of(shape, counts), shape, np.float64)
    x = np.random.default_rng(6).random(K.padded_shape)
    assert_close(
        K.blur(xp.asarray(x)),
        fftconvolve(x, kernel, "full")[sides[0] - 1 :, sides[1] - 1 :][: shape[0], : shape[1]],
        atol=1e-13,
    )
    assert_close(
        mean_power(xp.asarray(kernels), nodes_of(shape, counts), shape, (30, 32)),
        abs(psf_to_otf(kernel, (30, 32))) ** 2,
        atol=1e-13,
    )


def test_the_scale_is_a_factor_of_both() -> None:
    kernels, nodes = random_kernels(COUNTS, SIDES), nodes_of(SHAPE, COUNTS)
    K, K3 = (VaryingBlur(kernels, nodes, SHAPE, np.float64, scale=scale) for scale in (1.0, 3.0))
    x, y = np.random.default_rng(7).random(K.padded_shape), np.random.default_rng(8).random(SHAPE)
    assert_close(K3.blur(x), 3 * K.blur(x), rtol=1e-13)
    assert_close(K3.adjoint(y), 3 * K.adjoint(y), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_a_loop(dtype: Any) -> None:
    """Whatever the chunks are; NaN in an image stays there."""
    K = operator(np, (64, 48), (9, 11), (15, 13), dtype)
    x = np.random.default_rng(9).random((3, *K.padded_shape)).astype(dtype)
    y = np.random.default_rng(10).random((3, *K.shape)).astype(dtype)
    x[1, 20, 20] = y[1, 20, 20] = np.nan
    assert_batch_is_loop(K.blur, x)
    assert_batch_is_loop(K.adjoint, y)
    assert not np.isnan(K.blur(x)[[0, 2]]).any()
    assert_same(K.blur(x[:, None])[:, 0], K.blur(x))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    K = operator(np, (64, 48), (9, 11), (15, 13))
    x, y = np.random.default_rng(11).random(K.padded_shape), np.random.default_rng(12).random(K.shape)
    results = []
    for pixels in (1, 30_000, 1 << 30):
        monkeypatch.setitem(varying_blur.CHUNK_PIXELS, True, pixels)
        results.append((K.blur(x), K.adjoint(y)))
    for blurred, back in results[1:]:
        assert_same(blurred, results[0][0])
        assert_same(back, results[0][1])


def test_the_input_stays_as_it_is() -> None:
    K = operator(np, SHAPE, COUNTS, SIDES)
    x, y = np.ones(K.padded_shape), np.ones(SHAPE)
    K.blur(x)
    K.adjoint(y)
    assert_same(x, np.ones(K.padded_shape))
    assert_same(y, np.ones(SHAPE))


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("side", [1, 15])
def test_cells_divide_an_axis(n: int, count: int, side: int) -> None:
    """Each pixel is in one cell, with the hats of the nodes on both sides, whose sum is 1."""
    if count > n:
        return
    nodes = regular_nodes(count, n)
    cells = Cells.of(nodes, n, side)
    total, expected = np.zeros(max(n, cells.length)), hats(nodes, np.arange(n))
    for i, start in enumerate(cells.starts):
        for corner, weights in enumerate(cells.weights[:, i]):
            total[start : start + cells.length] += weights
            inside = slice(cells.bounds[i], cells.bounds[i + 1])
            assert_close(weights[inside.start - start : inside.stop - start], expected[i + corner, inside])
    assert_close(total[:n], np.ones(n), rtol=1e-15)
    assert cells.grid == cells.length + side - 1
    assert (np.diff(cells.bounds) > 0).all()


def test_hats_sum_to_one() -> None:
    for nodes in (np.array([2.5]), np.array([-3.0, 1.5, 2.5, 80.0]), regular_nodes(7, 50)):
        points = np.linspace(-5, 90, 301)
        weights = hats(nodes, points)
        assert_close(weights.sum(axis=0), np.ones(301), rtol=1e-15)
        assert weights.min() >= 0
        assert ((weights > 0).sum(axis=0) <= 2).all()
        assert_close(hats(nodes, nodes), np.eye(len(nodes)), atol=1e-15)


@pytest.mark.parametrize(
    ("nodes", "n", "expected"),
    [
        ([0, 5, 10], 11, (0, 3)),
        ([-5, 0, 5, 10, 15], 11, (1, 4)),
        ([-9, -5], 4, (1, 2)),
        ([7, 9], 4, (0, 1)),
        ([-2.5, 2.5, 7.5], 2, (0, 2)),
        ([3], 9, (0, 1)),
        ([-1, 0, 1], 1, (1, 2)),
    ],
)
def test_nodes_that_reach_an_image(nodes: list[float], n: int, expected: tuple[int, int]) -> None:
    assert reaching(np.array(nodes, float), n) == slice(*expected)


@pytest.mark.parametrize("grid", [(40, 36), (12, 14), (4, 6)])
def test_the_mean_power_is_the_mean(xp: Any, grid: tuple[int, int]) -> None:
    """By the windows' means; on grids shorter than the autocorrelation, and shorter than the kernels, too."""
    kernels, nodes, sides = random_kernels(COUNTS, (7, 9)), nodes_of(SHAPE, COUNTS), (7, 9)
    wy, wx = (hats(at, np.arange(n)).mean(axis=1) for at, n in zip(nodes, SHAPE, strict=True))
    power = np.zeros((grid[0], grid[1] // 2 + 1))
    for i, j in np.ndindex(COUNTS):
        wrapped = np.zeros(grid)
        for a, b in np.ndindex(sides):
            wrapped[a % grid[0], b % grid[1]] += kernels[i, j, a, b]
        power += wy[i] * wx[j] * abs(np.fft.rfft2(wrapped)) ** 2
    assert_close(mean_power(xp.asarray(kernels), nodes, SHAPE, grid), power, atol=1e-13)
