"""The scales: sizes of kernel and image, and the two resamplings between them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, assert_same

from gpudeblur.blind.pyramid import enlarge_kernel, kernel_sizes, support_size
from gpudeblur.images.kernels import fit_size
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.resample import _resampling, resample, scaled_shape
from gpudeblur.synthesis import linear_kernel, trajectory_kernel

ROOT_HALF = math.sqrt(0.5)
odd_sides = st.integers(1, 40).map(lambda n: 2 * n + 1)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


# ---- sizes


@settings(max_examples=50)
@given(odd_sides, odd_sides, st.floats(0.3, 0.9), st.sampled_from([3, 5, 7]))
def test_kernel_sizes_are_odd_and_grow_by_the_ratio(h: int, w: int, ratio: float, smallest: int) -> None:
    scales = kernel_sizes((h, w), ratio=ratio, smallest=smallest)
    assert scales[-1] == ((max(h, smallest), max(w, smallest)), 1.0)
    for size, scale in scales:
        for side, whole in zip(size, (h, w), strict=True):
            assert side % 2 == 1
            # Wide enough for the kernel at this scale, and no more than the next odd side.
            assert side == smallest or whole * scale - (1 - scale) <= side + 1e-6 < whole * scale + 2 + 1e-6
    np.testing.assert_allclose([b / a for (_, a), (_, b) in itertools.pairwise(scales)], 1 / ratio)
    # One more scale would shrink the longer side under the smallest kernel.
    coarsest = scales[0][1]
    assert max(h, w) * coarsest >= smallest * (1 - 1e-9) or len(scales) == 1
    assert max(h, w) * coarsest * ratio < smallest


@pytest.mark.parametrize(
    ("size", "ratio", "smallest", "expected"),
    [
        ((25, 25), ROOT_HALF, 3, [(side, side) for side in (5, 5, 7, 9, 13, 19, 25)]),
        ((9, 33), 0.5, 3, [(3, 5), (3, 9), (5, 17), (9, 33)]),
        # Powers of the ratio meet the smallest kernel exactly, but for rounding.
        ((27, 27), 1 / 3, 3, [(3, 3), (9, 9), (27, 27)]),
        ((49, 49), 1 / 7, 7, [(7, 7), (49, 49)]),
        ((3, 3), 0.5, 3, [(3, 3)]),
    ],
)
def test_kernel_sizes_of_examples(size: Any, ratio: float, smallest: int, expected: list[tuple[int, int]]) -> None:
    assert [size for size, _ in kernel_sizes(size, ratio=ratio, smallest=smallest)] == expected


@settings(max_examples=50)
@given(odd_sides, st.integers(0, 60), st.integers(0, 5).map(lambda n: 2 * n))
def test_a_support_is_odd_and_between_kernel_and_image(side: int, extra: int, margin: int) -> None:
    support, _ = support_size((side, 3), (side + extra, 99), margin)
    largest = min(side + margin, side + extra)
    assert support % 2 == 1
    assert max(side, largest - 1) <= support <= largest
    assert support_size((25, 9), (200, 200), 6) == (31, 15)


def test_the_shape_at_a_scale_is_rounded() -> None:
    for shape, scale, expected in (
        ((100, 51), 1.0, (100, 51)),
        ((100, 51), 0.5, (50, 26)),
        ((100, 51), ROOT_HALF, (71, 36)),
        ((3, 9), 0.1, (1, 1)),
    ):
        assert scaled_shape(shape, scale) == expected


# ---- resampling of images

TARGETS = [(20, 15), (29, 22), (41, 30), (58, 44), (7, 40), (1, 1)]
to_every_target = pytest.mark.parametrize("target", TARGETS)


@to_every_target
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_image_stays_constant(xp: Any, target: tuple[int, int], dtype: str) -> None:
    out = resample(xp.full((2, 41, 30), 0.3, dtype=dtype), target)
    assert out.shape == (2, *target)
    assert out.dtype == dtype
    assert_close(out, np.full((), 0.3), rtol=1e-6 if dtype == "float32" else 1e-13)


@to_every_target
def test_a_linear_ramp_stays_one_with_pixel_centers_aligned(xp: Any, target: tuple[int, int]) -> None:
    """Away from the borders. Pixel i of n covers [i, i + 1] / n of the image; its center is (i + 1/2) / n."""
    y, x = ((np.arange(n) + 0.5) / n for n in (41, 30))
    out = to_host(resample(xp.asarray(y[:, None] - 3 * x), target))
    y, x = ((np.arange(n) + 0.5) / n for n in target)
    expected = y[:, None] - 3 * x
    margins = [2 * max(1 / source, 1 / n) for source, n in zip((41, 30), target, strict=True)]
    inside = np.ix_(*((c > m) & (c < 1 - m) for c, m in zip((y, x), margins, strict=True)))
    step = 1 / target[0] + 3 / target[1]  # of the ramp, along the diagonal of a pixel
    # Where the cubic is not stretched, it is exact on lines.
    assert_close(out[inside], expected[inside], atol=1e-12 if target[0] >= 41 else 0.03 * step)


@pytest.mark.parametrize(("shape", "target"), [*(((41, 30), target) for target in TARGETS), ((255, 50), (51, 10))])
def test_the_weights_are_those_of_the_matrix(xp: Any, shape: tuple[int, int], target: tuple[int, int]) -> None:
    """NumPy leaves out the zeros at its ends, CuPy multiplies by all of it. From 255 to 51 there are zeros inside."""
    rows, columns = (_resampling(source, n) for source, n in zip(shape, target, strict=True))
    if shape[0] == 255:
        used = np.flatnonzero(rows[25])
        assert len(used) < used[-1] - used[0] + 1
    image = random(2, *shape)
    assert_close(resample(xp.asarray(image), target), rows @ image @ columns.T, atol=1e-14)


@to_every_target
def test_a_mirrored_image_gives_the_mirrored_result(xp: Any, target: tuple[int, int]) -> None:
    image = random(41, 30)
    out = to_host(resample(xp.asarray(image), target))
    assert_close(resample(xp.asarray(image[::-1, ::-1].copy()), target), out[::-1, ::-1], atol=1e-13)


def test_a_shift_by_whole_pixels_of_both_grids_shifts_the_result(xp: Any) -> None:
    image = np.zeros((60, 60))
    image[20:30, 22:35] = random(10, 13)
    out, moved = (resample(xp.asarray(a), (30, 40)) for a in (image, np.roll(image, (4, 3), (0, 1))))
    assert_close(moved, np.roll(to_host(out), (2, 2), (0, 1)), atol=1e-13)
    assert float(abs(out).max()) > 0.1


def test_resampling_to_the_same_shape_changes_nothing(xp: Any) -> None:
    image = xp.asarray(random(3, 9, 12))
    assert_same(resample(image, (9, 12)), image)


def test_what_the_coarse_grid_cannot_hold_is_removed(xp: Any) -> None:
    """A checkerboard of single pixels would turn into stripes without the low-pass; a wave of 16 pixels stays."""
    y, x = np.indices((64, 64))
    out = resample(xp.asarray((-1.0) ** (x + y)), (45, 45))
    assert float(abs(out[6:-6, 6:-6]).max()) < 0.05
    wave = to_host(resample(xp.asarray(np.sin(2 * np.pi * (x + 0.5) / 16)), (32, 32)))
    expected = np.sin(2 * np.pi * (np.arange(32) + 0.5) / 8)
    assert np.abs(wave - expected)[4:-4, 4:-4].max() < 0.1


def test_resampling_a_stack_equals_a_loop(xp: Any) -> None:
    stack = random(2, 3, 21, 18)
    stack[0, 1], stack[1, 0] = np.nan, 0
    out = resample(xp.asarray(stack), (15, 13))
    for i in np.ndindex(2, 3):
        assert_close(out[i], resample(xp.asarray(stack[i]), (15, 13)), atol=1e-14)


# ---- enlarging and fitting of kernels


def moments(kernel: Any) -> tuple[np.ndarray, np.ndarray]:
    """Center of mass and spread about the middle, in pixels."""
    k = to_host(kernel).astype(float)
    grids = np.indices(k.shape) - np.array([side // 2 for side in k.shape])[:, None, None]
    mean = np.array([(g * k).sum() for g in grids]) / k.sum()
    return mean, np.sqrt([((g - m) ** 2 * k).sum() / k.sum() for g, m in zip(grids, mean, strict=True)])


@pytest.mark.parametrize("factor", [1.0, math.sqrt(2), 2.0])
@pytest.mark.parametrize("kernel", [trajectory_kernel(13, rng=3), linear_kernel(9, 30, 11), np.eye(7)[::-1] / 7])
def test_an_enlarged_kernel_keeps_its_place(xp: Any, kernel: np.ndarray, factor: float) -> None:
    """Center of mass and spread scale with the grid; the sum is 1, nothing is negative."""
    size = tuple(2 * math.ceil(side * factor / 2) + 5 for side in kernel.shape)
    moved = np.roll(np.pad(kernel, 1), 1, 1)
    out = enlarge_kernel(xp.asarray(moved), factor, size)
    (mean, spread), (mean_out, spread_out) = moments(moved), moments(out)
    assert out.shape == size
    assert float(out.min()) >= 0
    assert abs(float(out.sum()) - 1) < 1e-12
    assert_close(mean_out, mean * factor, atol=0.1)
    assert_close(spread_out, spread * factor, rtol=0.05, atol=0.2)


def test_a_kernel_enlarged_by_one_is_padded_or_cut(xp: Any) -> None:
    kernel = trajectory_kernel(9, rng=0)
    padded, cut = np.pad(kernel, ((2, 2), (1, 1))), kernel[2:-2, 1:-1]
    assert_close(enlarge_kernel(xp.asarray(kernel), 1.0, (13, 11)), padded, atol=1e-15)
    assert_close(enlarge_kernel(xp.asarray(kernel), 1.0, (5, 7)), cut / cut.sum(), atol=1e-15)


def test_enlarging_a_stack_equals_a_loop(xp: Any) -> None:
    stack = np.stack([trajectory_kernel(9, rng=i) for i in range(4)]).astype(np.float32)
    stack[1] = np.nan
    out = enlarge_kernel(xp.asarray(stack), 1.4, (13, 15))
    assert out.dtype == np.float32
    for i in range(4):
        assert_close(out[i], enlarge_kernel(xp.asarray(stack[i]), 1.4, (13, 15)), atol=1e-8)


@pytest.mark.parametrize("larger", [(9, 7), (5, 11), (13, 13)])
def test_a_kernel_that_was_padded_is_cut_back(xp: Any, larger: tuple[int, int]) -> None:
    kernel = xp.asarray(random(2, 5, 7))
    out = fit_size(kernel, larger)
    rows, columns = (larger[0] - 5) // 2, (larger[1] - 7) // 2
    assert_same(out, np.pad(to_host(kernel), ((0, 0), (rows, rows), (columns, columns))))
    assert_same(fit_size(out, (5, 7)), kernel)
    cut_and_padded = np.pad(to_host(kernel)[:, 1:-1], ((0, 0), (0, 0), (2, 2)))
    assert_same(fit_size(kernel, (3, 11)), cut_and_padded)
