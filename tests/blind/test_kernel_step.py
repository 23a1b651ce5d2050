"""Laws of the kernel step, on NumPy and, where there is a GPU, on CuPy (the CUDA kernels)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close

from gpudeblur.blind import kernel_step
from gpudeblur.numerics import toeplitz
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.filters import gradient, gradient_adjoint
from gpudeblur.numerics.fourier import rfft2


def dense(autocorrelation: Any, ridge: Any) -> np.ndarray:
    """The matrix A + ridge of one system, row (and column) p of the kernel's pixels in C order."""
    a = to_host(autocorrelation).astype(float)
    kh, kw = (a.shape[0] + 1) // 2, (a.shape[1] + 1) // 2
    y, x = (i.ravel() for i in np.indices((kh, kw)))
    return a[y[:, None] - y + kh - 1, x[:, None] - x + kw - 1] + float(ridge) * np.eye(kh * kw)


def design(g: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The columns of k -> g * k (periodic): `g` moved by each offset of the kernel's support."""
    kh, kw = size
    offsets = [(y - kh // 2, x - kw // 2) for y in range(kh) for x in range(kw)]
    return np.stack([np.roll(g, offset, (0, 1)).ravel() for offset in offsets], axis=1)


def equations(xp: Any, selected: Any, latent: Any, blurred: Any, size: tuple[int, int], dtype: str = "float64") -> Any:
    selected, latent, blurred = (xp.asarray(np.asarray(to_host(a), dtype=dtype)) for a in (selected, latent, blurred))
    return kernel_step.normal_equations(selected, latent, rfft2(blurred), size)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize(("shape", "size"), [((9, 12), (3, 5)), ((12, 9), (5, 3)), ((8, 8), (1, 3)), ((7, 10), (7, 9))])
def test_normal_equations_are_those_of_the_dense_least_squares(
    xp: Any, shape: tuple[int, int], size: tuple[int, int], dtype: str, tolerance: float
) -> None:
    """With every gradient selected: the sum over both directions of |D x * k - D B|^2."""
    random = np.random.default_rng(0)
    latent, blurred = random.normal(size=(2, 2, *shape))
    selected = gradient_adjoint(*gradient(latent))
    a, b = equations(xp, selected, latent, blurred, size, dtype)
    assert a.dtype == b.dtype == dtype
    assert a.shape == (2, 2 * size[0] - 1, 2 * size[1] - 1)
    for i in range(2):
        columns = np.concatenate([design(g, size) for g in gradient(latent[i])])
        target = np.concatenate([g.ravel() for g in gradient(blurred[i])])
        scale = np.square(columns[:, 0]).sum()
        assert_close(dense(a[i], 0), columns.T @ columns, atol=tolerance * scale)
        assert_close(b[i].reshape(-1), columns.T @ target, atol=tolerance * scale)


def test_normal_equations_of_a_selection(xp: Any) -> None:
    """b holds the selected gradients against all of grad B; the matrix is symmetric and positive semi-definite."""
    random, size = np.random.default_rng(0), (5, 3)
    latent, blurred = random.normal(size=(2, 12, 15))
    keep = random.random((12, 15)) < 0.2
    gx, gy = (g * keep for g in gradient(latent))
    a, b = equations(xp, gradient_adjoint(gx, gy), latent, blurred, size)
    target = np.concatenate([g.ravel() for g in gradient(blurred)])
    columns = np.concatenate([design(gx, size), design(gy, size)])
    assert_close(b.reshape(-1), columns.T @ target, atol=1e-10)
    assert_close(a, to_host(a)[::-1, ::-1], atol=1e-10)
    eigenvalues = np.linalg.eigvalsh(dense(a, 0))
    assert eigenvalues[0] > -1e-10 * eigenvalues[-1]
    # The diagonal only grows by what is dropped.
    assert float(toeplitz.zero_lag(a)) >= (gx**2 + gy**2).sum() - 1e-9


@pytest.mark.parametrize("solver", ["cg", "nnls"])
def test_the_step_finds_the_kernel_that_blurred(xp: Any, solver: str) -> None:
    """Two steps in a row: the equations of a sharp picture and its blurred self, then the solver."""
    random, size = np.random.default_rng(0), (5, 3)
    sharp, kernel = random.normal(size=(24, 28)), random.random(size) * [[1], [0], [1], [1], [0]]
    blurred = sum(weight * np.roll(sharp, (y - 2, x - 1), (0, 1)) for (y, x), weight in np.ndenumerate(kernel))
    a, b = equations(xp, gradient_adjoint(*gradient(sharp)), sharp, blurred, size)
    out = toeplitz.solve_kernel(a, b, xp.zeros(size), 0.0, solver=solver, iterations=300)
    assert_close(out, kernel, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 1.0])
def test_the_strongest_gradients_in_the_window_are_selected(xp: Any, fraction: float) -> None:
    latent, window = np.random.default_rng(0).normal(size=(2, 20, 30)), np.zeros((20, 30), dtype=bool)
    window[4:16, 5:22] = True
    out = to_host(kernel_step.select_edges(xp.asarray(latent), (4, 16, 5, 22), fraction))
    for i in range(2):
        gx, gy = gradient(latent[i])
        strength = np.where(window, gx**2 + gy**2, 0)
        strongest = strength >= np.sort(strength.ravel())[-int(fraction * window.sum())]
        assert strongest.sum() == int(fraction * window.sum())
        assert_close(out[i], gradient_adjoint(gx * strongest, gy * strongest), atol=1e-12)
    assert not kernel_step.select_edges(xp.full((2, 9, 9), 0.5), (0, 9, 0, 9), 0.2).any()


def test_the_selection_window_keeps_half_a_kernel_from_the_borders() -> None:
    window = kernel_step.selection_window((30, 36), (7, 9))
    # Half of 7 is 3: the footprint of gradient i is i - 3 .. i + 3 and, by the forward difference, i + 4 <= 29.
    assert window == (4, 25, 5, 30)
    assert kernel_step.window_pixels(window) == 21 * 25
    assert kernel_step.selection_window((8, 36), (9, 9)) == (2, 6, 5, 30)  # too small: in its middle
