"""Scales: sizes of kernel and picture, and the two resamplings between them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, assert_same

from gpudeblur.blind import pyramid
from gpudeblur.images import kernels
from gpudeblur.numerics import resample
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import linear_kernel, trajectory_kernel

ROOT_HALF = math.sqrt(0.5)
odd_sides = st.integers(1, 40).map(lambda n: 2 * n + 1)


@settings(deadline=None)
@given(odd_sides, odd_sides, st.floats(0.3, 0.9), st.sampled_from([3, 5, 7]))
def test_sizes_are_odd_and_grow_by_the_ratio_to_the_size_asked(h: int, w: int, ratio: float, smallest: int) -> None:
    scales = pyramid.kernel_sizes((h, w), ratio=ratio, smallest=smallest)
    assert scales[-1] == ((max(h, smallest), max(w, smallest)), 1.0)
    for size, scale in scales:
        for side, whole in zip(size, (h, w), strict=True):
            assert side % 2 == 1
            # Wide enough for the kernel at this scale, and no more than the next odd side.
            assert side == smallest or whole * scale - (1 - scale) <= side + 1e-6 < whole * scale + 2 + 1e-6
    factors = [b / a for (_, a), (_, b) in itertools.pairwise(scales)]
    np.testing.assert_allclose(factors, 1 / ratio)
    # One more scale would shrink the longer side under the smallest kernel.
    coarsest = scales[0][1]
    assert max(h, w) * coarsest >= smallest * (1 - 1e-9) or len(scales) == 1
    assert max(h, w) * coarsest * ratio < smallest


def test_the_sizes_of_a_kernel_of_25_pixels() -> None:
    sizes = [size for size, _ in pyramid.kernel_sizes((25, 25), ratio=ROOT_HALF, smallest=3)]
    assert sizes == [(side, side) for side in (5, 5, 7, 9, 13, 19, 25)]


def test_both_sides_of_a_rectangular_kernel_shrink() -> None:
    sizes = [size for size, _ in pyramid.kernel_sizes((9, 33), ratio=0.5, smallest=3)]
    assert sizes == [(3, 5), (3, 9), (5, 17), (9, 33)]


@pytest.mark.parametrize(("size", "ratio", "smallest", "count"), [(27, 1 / 3, 3, 3), (49, 1 / 7, 7, 2), (3, 0.5, 3, 1)])
def test_the_smallest_kernel_itself_is_a_scale(size: int, ratio: float, smallest: int, count: int) -> None:
    """Powers of the ratio that meet it exactly, but for rounding."""
    scales = pyramid.kernel_sizes((size, size), ratio=ratio, smallest=smallest)
    assert len(scales) == count
    assert scales[0][0] == (smallest, smallest)


def test_the_support_is_larger_than_the_kernel_but_not_than_the_picture() -> None:
    assert pyramid.support_size((25, 9), (200, 200), 6) == (31, 15)
    assert pyramid.support_size((25, 9), (200, 200), 0) == (25, 9)
    assert pyramid.support_size((25, 25), (27, 28), 6) == (27, 27)
    assert pyramid.support_size((25, 25), (26, 25), 6) == (25, 25)


@settings(deadline=None)
@given(odd_sides, st.integers(0, 60), st.integers(0, 5).map(lambda n: 2 * n))
def test_a_support_is_odd_and_holds_the_kernel(side: int, more: int, margin: int) -> None:
    support, _ = pyramid.support_size((side, 3), (side + more, 99), margin)
    assert support % 2 == 1
    assert side <= support <= min(side + margin, side + more)
    assert support >= min(side + margin, side + more) - 1


def test_the_shape_at_a_scale() -> None:
    assert resample.scaled_shape((100, 51), 1.0) == (100, 51)
    assert resample.scaled_shape((100, 51), 0.5) == (50, 26)
    assert resample.scaled_shape((100, 51), ROOT_HALF) == (71, 36)
    assert resample.scaled_shape((3, 9), 0.1) == (1, 1)


TARGETS = [(20, 15), (29, 22), (41, 30), (58, 44), (7, 40), (1, 1)]
in_every_target = pytest.mark.parametrize("target", TARGETS)


@in_every_target
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_picture_stays_constant(xp: Any, target: tuple[int, int], dtype: str) -> None:
    out = resample.resample(xp.full((2, 41, 30), 0.3, dtype=dtype), target)
    assert out.shape == (2, *target)
    assert out.dtype == dtype
    assert_close(out, np.full((), 0.3), rtol=1e-6 if dtype == "float32" else 1e-13)


@in_every_target
def test_a_linear_ramp_stays_one_with_pixel_centres_aligned(xp: Any, target: tuple[int, int]) -> None:
    """Away from the borders. Pixel i of n covers [i, i + 1] / n of the picture; its centre is (i + 1/2) / n."""
    y, x = ((np.arange(n) + 0.5) / n for n in (41, 30))
    out = to_host(resample.resample(xp.asarray(y[:, None] - 3 * x), target))
    y, x = ((np.arange(n) + 0.5) / n for n in target)
    expected = y[:, None] - 3 * x
    inside = np.ones(target, dtype=bool)
    for axis, (centre, source) in enumerate(((y, 41), (x, 30))):
        reach = 2 * max(1 / source, 1 / target[axis])
        keep = (centre > reach) & (centre < 1 - reach)
        inside &= keep[:, None] if axis == 0 else keep[None, :]
    step = 1 / target[0] + 3 / target[1]  # of the ramp, along the diagonal of a pixel
    assert_close(out[inside], expected[inside], atol=0.03 * step)
    if target[0] >= 41:  # where the cubic is not stretched, it is exact on lines
        assert_close(out[inside], expected[inside], atol=1e-12)


@in_every_target
def test_the_weights_are_those_of_the_matrix(xp: Any, target: tuple[int, int]) -> None:
    """NumPy leaves out the zeros, CuPy multiplies by all of it."""
    u = np.random.default_rng(0).random((2, 41, 30))
    rows, columns = resample._resampling(41, target[0]), resample._resampling(30, target[1])
    assert_close(resample.resample(xp.asarray(u), target), rows @ u @ columns.T, atol=1e-14)


def test_a_weight_of_zero_between_others_is_not_their_end() -> None:
    u = np.random.default_rng(0).random((255, 50))
    used = np.flatnonzero(resample._resampling(255, 51)[25])
    assert len(used) < used[-1] - used[0] + 1  # there is one
    expected = resample._resampling(255, 51) @ u @ resample._resampling(50, 10).T
    assert_close(resample.resample(u, (51, 10)), expected, atol=1e-14)


@in_every_target
def test_a_mirrored_picture_gives_the_mirrored_one(xp: Any, target: tuple[int, int]) -> None:
    u = np.random.default_rng(0).random((41, 30))
    out = to_host(resample.resample(xp.asarray(u), target))
    assert_close(resample.resample(xp.asarray(u[::-1, ::-1].copy()), target), out[::-1, ::-1], atol=1e-13)


def test_a_shift_by_whole_pixels_of_both_grids_shifts_the_result(xp: Any) -> None:
    u = np.zeros((60, 60))
    u[20:30, 22:35] = np.random.default_rng(0).random((10, 13))
    out, moved = (resample.resample(xp.asarray(a), (30, 40)) for a in (u, np.roll(u, (4, 3), (0, 1))))
    assert_close(moved, np.roll(to_host(out), (2, 2), (0, 1)), atol=1e-13)
    assert float(abs(out).max()) > 0.1


def test_the_same_shape_changes_nothing(xp: Any) -> None:
    u = xp.asarray(np.random.default_rng(0).random((3, 9, 12)))
    assert_same(resample.resample(u, (9, 12)), u)


def test_what_the_coarse_grid_cannot_hold_is_removed(xp: Any) -> None:
    """A checkerboard of single pixels would turn into stripes without the low-pass; a wave of 16 pixels stays."""
    y, x = np.indices((64, 64))
    out = resample.resample(xp.asarray((-1.0) ** (x + y)), (45, 45))
    assert float(abs(out[6:-6, 6:-6]).max()) < 0.05
    wave = to_host(resample.resample(xp.asarray(np.sin(2 * np.pi * (x + 0.5) / 16)), (32, 32)))
    expected = np.sin(2 * np.pi * (np.arange(32) + 0.5) / 8)
    assert np.abs(wave - expected)[4:-4, 4:-4].max() < 0.1


def test_a_smooth_picture_survives_the_way_down_and_up(xp: Any) -> None:
    y, x = np.indices((64, 60))
    u = 0.5 + 0.3 * np.sin(y / 9) * np.cos(x / 7)
    back = resample.resample(resample.resample(xp.asarray(u), (45, 42)), (64, 60))
    assert np.abs(to_host(back) - u)[6:-6, 6:-6].max() < 0.02


def test_resampling_a_batch_equals_a_loop(xp: Any) -> None:
    stack = np.random.default_rng(0).random((2, 3, 21, 18))
    stack[0, 1], stack[1, 0] = np.nan, 0
    out = resample.resample(xp.asarray(stack), (15, 13))
    for i in np.ndindex(2, 3):
        assert_close(out[i], resample.resample(xp.asarray(stack[i]), (15, 13)), atol=1e-14)


def moments(kernel: Any) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass and spread about the middle, in pixels."""
    k = to_host(kernel).astype(float)
    grids = np.indices(k.shape) - np.array([side // 2 for side in k.shape])[:, None, None]
    mean = np.array([(g * k).sum() for g in grids]) / k.sum()
    return mean, np.sqrt([((g - m) ** 2 * k).sum() / k.sum() for g, m in zip(grids, mean, strict=True)])


@pytest.mark.parametrize("factor", [1.0, math.sqrt(2), 2.0])
@pytest.mark.parametrize("kernel", [trajectory_kernel(13, rng=3), linear_kernel(9, 30, 11), np.eye(7)[::-1] / 7])
def test_an_enlarged_kernel_keeps_its_place(xp: Any, kernel: np.ndarray, factor: float) -> None:
    """Centre of mass and spread scale with the grid; the sum is 1, nothing is negative."""
    size = tuple(2 * math.ceil(side * factor / 2) + 5 for side in kernel.shape)
    out = pyramid.enlarge_kernel(xp.asarray(np.roll(np.pad(kernel, 1), 1, 1)), factor, size)
    mean, spread = moments(np.roll(np.pad(kernel, 1), 1, 1))
    mean_out, spread_out = moments(out)
    assert out.shape == size
    assert float(out.min()) >= 0
    assert abs(float(out.sum()) - 1) < 1e-12
    assert_close(mean_out, mean * factor, atol=0.1)
    assert_close(spread_out, spread * factor, rtol=0.05, atol=0.2)


def test_a_kernel_enlarged_by_one_is_padded_or_cut(xp: Any) -> None:
    kernel = trajectory_kernel(9, rng=0)
    padded, cut = np.pad(kernel, ((2, 2), (1, 1))), kernel[2:-2, 1:-1]
    assert_close(pyramid.enlarge_kernel(xp.asarray(kernel), 1.0, (13, 11)), padded, atol=1e-15)
    assert_close(pyramid.enlarge_kernel(xp.asarray(kernel), 1.0, (5, 7)), cut / cut.sum(), atol=1e-15)


def test_enlarging_a_batch_equals_a_loop(xp: Any) -> None:
    stack = np.stack([trajectory_kernel(9, rng=i) for i in range(4)]).astype(np.float32)
    stack[1] = np.nan
    out = pyramid.enlarge_kernel(xp.asarray(stack), 1.4, (13, 15))
    assert out.dtype == np.float32
    for i in range(4):
        assert_close(out[i], pyramid.enlarge_kernel(xp.asarray(stack[i]), 1.4, (13, 15)), atol=1e-8)


@pytest.mark.parametrize("larger", [(9, 7), (5, 11), (13, 13)])
def test_fit_size_there_and_back(xp: Any, larger: tuple[int, int]) -> None:
    kernel = xp.asarray(np.random.default_rng(0).random((2, 5, 7)))
    out = kernels.fit_size(kernel, larger)
    assert out.shape == (2, *larger)
    rows, columns = (larger[0] - 5) // 2, (larger[1] - 7) // 2
    assert_same(out, np.pad(to_host(kernel), ((0, 0), (rows, rows), (columns, columns))))
    assert_same(kernels.fit_size(out, (5, 7)), kernel)


def test_fit_size_cuts_one_side_and_pads_the_other(xp: Any) -> None:
    kernel = np.random.default_rng(0).random((7, 3))
    assert_same(kernels.fit_size(xp.asarray(kernel), (3, 7)), np.pad(kernel[2:5], ((0, 0), (2, 2))))
