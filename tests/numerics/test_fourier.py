"""Transforms: transfer functions of blur kernels against SciPy's convolutions, and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_close, assert_same

from gpudeblur.numerics import fourier
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient
from gpudeblur.numerics.spectra import gradient_spectrum

# Odd and even sides of the grid, a kernel that fills it, a kernel of one row.
GRIDS = [((12, 10), (3, 5)), ((9, 11), (5, 3)), ((8, 7), (1, 7)), ((7, 8), (7, 1)), ((5, 5), (5, 5)), ((6, 4), (1, 1))]
in_every_grid = pytest.mark.parametrize(("shape", "size"), GRIDS)


def noise(xp: Any, shape: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> Any:
    return xp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


@in_every_grid
def test_the_transfer_function_blurs_and_transforms_back(
    xp: Any, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    x, kernel = noise(xp, (2, 3, *shape)), noise(xp, (2, 3, *size), 1)
    otf, pixels = fourier.psf_to_otf(kernel, shape), shape[0] * shape[1]
    blurred = fourier.irfft2(otf * fourier.rfft2(x), shape) / pixels
    for i in np.ndindex(2, 3):
        expected = scipy.signal.convolve2d(to_host(x[i]), to_host(kernel[i]), mode="same", boundary="wrap")
        assert_close(blurred[i], expected, atol=1e-12)
    assert_close(fourier.irfft2(otf, shape) / pixels, fourier.kernel_to_grid(kernel, shape), atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 3))
def test_a_kernel_on_a_grid_is_padded_and_rolled(data: st.DataObject, ndim: int) -> None:
    """With any sides and any pixel of it as origin; by default the middle one."""
    shape = tuple(data.draw(st.integers(1, 12)) for _ in range(ndim))
    sides = tuple(data.draw(st.integers(1, side)) for side in shape)
    origin = data.draw(st.none() | st.tuples(*(st.integers(0, side - 1) for side in sides)))
    kernel = np.random.default_rng(0).normal(size=(2, *sides))
    padded = np.pad(kernel, [(0, 0), *((0, a - b) for a, b in zip(shape, sides, strict=True))])
    middle = tuple(side // 2 for side in sides) if origin is None else origin
    expected = np.roll(padded, [-o for o in middle], range(1, ndim + 1))
    assert_same(fourier.kernel_to_grid(kernel, shape, origin=origin), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_is_kept(xp: Any, dtype: str) -> None:
    x, kernel = noise(xp, (6, 8), dtype=dtype), noise(xp, (3, 3), 1, dtype)
    otf = fourier.psf_to_otf(kernel, (6, 8))
    assert otf.dtype == fourier.rfft2(x).dtype == np.result_type(dtype, np.complex64)
    assert fourier.irfft2(otf, (6, 8)).dtype == fourier.kernel_to_grid(kernel, (6, 8)).dtype == dtype
    assert gradient_spectrum((6, 8), np.dtype(dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (1, 6), (5, 1)])
def test_the_inverse_is_unscaled(xp: Any, shape: tuple[int, int]) -> None:
    x = noise(xp, (2, *shape))
    before = x.copy()
    assert_close(fourier.irfft2(fourier.rfft2(x), shape) / (shape[0] * shape[1]), x, atol=1e-13)
    assert_same(x, before)  # neither overwrites unless asked to


@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (1, 6), (5, 1)])
def test_the_gradient_spectrum_is_that_of_the_forward_difference(shape: tuple[int, int]) -> None:
    """|F D u|^2 summed over both directions against |F D|^2 |F u|^2."""
    u = np.random.default_rng(0).normal(size=shape)
    expected = sum(abs(fourier.rfft2(g)) ** 2 for g in gradient(u))
    spectrum = gradient_spectrum(shape, np.dtype("float64"))
    np.testing.assert_allclose(spectrum * abs(fourier.rfft2(u)) ** 2, expected, atol=1e-10)
    with pytest.raises(ValueError, match="read-only"):
        spectrum[0, 0] = 1


def test_fast_size_is_the_next_even_7_smooth_one() -> None:
    smooth = [n for n in range(2, 700, 2) if 210**9 % n == 0]
    for size in range(1, 600):
        assert fourier.fast_size(size) == next(fast for fast in smooth if fast >= size)
