"""Laws of the Toeplitz solvers, on NumPy and, where there is a GPU, on CuPy (the CUDA kernels)."""

from __future__ import annotations

from typing import Any

import laws
import numpy as np
import pytest
import scipy.optimize
import scipy.signal
from laws import KERNELS, assert_close, assert_same, system

from gpudeblur.numerics import toeplitz
from gpudeblur.numerics.arrays import to_host

in_every_size = pytest.mark.parametrize("size", KERNELS)


def dense(autocorrelation: Any, ridge: Any) -> np.ndarray:
    """The matrix A + ridge of one system, row (and column) p of the kernel's pixels in C order."""
    a = to_host(autocorrelation).astype(float)
    kh, kw = (a.shape[0] + 1) // 2, (a.shape[1] + 1) // 2
    y, x = (i.ravel() for i in np.indices((kh, kw)))
    return a[y[:, None] - y + kh - 1, x[:, None] - x + kw - 1] + float(ridge) * np.eye(kh * kw)


def test_the_named_solver_runs(xp: Any) -> None:
    """And leaves its inputs alone."""
    a, rhs, start, ridge = arrays = [xp.asarray(x) for x in system((5, 7))]
    for solver in ("cg", "nnls"):
        out = toeplitz.solve_kernel(a, rhs, start, ridge, solver, 7)
        assert_same(out, getattr(toeplitz, f"toeplitz_{solver}")(*arrays, 7))
    for after, array in zip(arrays, system((5, 7)), strict=True):
        assert_same(after, array)


@in_every_size
def test_toeplitz_apply_is_the_valid_part_of_a_convolution(xp: Any, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    a, k = random.normal(size=(2, 2 * size[0] - 1, 2 * size[1] - 1)), random.normal(size=(2, *size))
    a = a + a[:, ::-1, ::-1]  # an autocorrelation is symmetric
    spectrum, grid = toeplitz.toeplitz_spectrum(xp.asarray(a))
    out = toeplitz.toeplitz_apply(spectrum, grid, xp.asarray(k))
    expected = [scipy.signal.convolve2d(a[i], k[i], mode="valid") for i in range(2)]
    assert_close(out, np.stack(expected), atol=1e-10)


@in_every_size
def test_cg_solves_the_dense_system(xp: Any, size: tuple[int, int]) -> None:
    arrays = [a.astype(float) for a in system(size)]
    a, rhs, start, ridge = (xp.asarray(x) for x in arrays)
    out = to_host(toeplitz.toeplitz_cg(a, rhs, start, ridge, 2 * size[0] * size[1] + 5))
    for i in range(2):
        expected = np.linalg.solve(dense(arrays[0][i], arrays[3][i]), arrays[1][i].ravel())
        assert_close(out[i].ravel(), expected, atol=1e-8 * abs(expected).max())


def test_cg_error_falls_at_every_step(xp: Any) -> None:
    """In the norm of A, as theory has it; the residual itself may rise now and then."""
    a, rhs, start, ridge = (xp.asarray(x.astype(float)) for x in system((7, 5), n=1))
    matrix, errors = dense(a[0], ridge[0]), []
    solution = np.linalg.solve(matrix, to_host(rhs).ravel())
    for iterations in range(12):
        out = to_host(toeplitz.toeplitz_cg(a, rhs, start, ridge, iterations)).ravel() - solution
        errors.append(out @ matrix @ out)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2 * errors[0]


def test_cg_in_float32_reaches_a_small_residual(xp: Any) -> None:
    a, rhs, start, ridge = (xp.asarray(x) for x in system((13, 9)))
    out = to_host(toeplitz.toeplitz_cg(a, rhs, start, ridge, 60))
    assert out.dtype == np.float32
    for i in range(2):
        b = to_host(rhs[i]).ravel()
        residual = dense(a[i], ridge[i]) @ out[i].ravel() - b
        assert np.linalg.norm(residual) < 1e-5 * np.linalg.norm(b)


@in_every_size
def test_nnls_is_scipys(xp: Any, size: tuple[int, int]) -> None:
    """Of the dense system; over one pixel, some are zero and some are not."""
    arrays = [a.astype(float) for a in system(size)]
    a, rhs, start, ridge = (xp.asarray(x) for x in arrays)
    out = to_host(toeplitz.toeplitz_nnls(a, rhs, start, ridge, 400))
    assert (out >= 0).all()
    assert size == (1, 1) or 0 < (out == 0).mean() < 1
    for i in range(2):
        factor = np.linalg.cholesky(dense(arrays[0][i], arrays[3][i]))
        expected, _ = scipy.optimize.nnls(factor.T, np.linalg.solve(factor, arrays[1][i].ravel()))
        assert_close(out[i].ravel(), expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize("solver", ["toeplitz_cg", "toeplitz_nnls"])
def test_the_ridge_matters_and_may_be_one_number_or_one_each(xp: Any, solver: str) -> None:
    solve = getattr(toeplitz, solver)
    a, rhs, start, ridge = (xp.asarray(x) for x in system((5, 5)))
    each = solve(a, rhs, start, ridge, 40)
    assert_close(solve(a, rhs, start, float(ridge[1]), 40)[1], to_host(each[1]), rtol=1e-4, atol=1e-6)
    assert float(abs(solve(a, rhs, start, 100 * ridge, 40)).max()) < 0.1 * float(abs(each).max())


@pytest.mark.parametrize("solver", ["toeplitz_cg", "toeplitz_nnls"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, solver: str, dtype: str) -> None:
    a, rhs, start, ridge = (x.astype(dtype) for x in system((5, 7), n=4))
    rhs[1, 2, 2] = np.nan
    for zero in (a, rhs, start, ridge):
        zero[2] = 0
    arrays = [xp.asarray(x) for x in (a, rhs, start, ridge)]
    out = getattr(toeplitz, solver)(*arrays, 8)
    for i in range(4):
        alone = getattr(toeplitz, solver)(*(x[i : i + 1] for x in arrays), 8)
        if xp is np:
            assert_same(out[i], alone[0])
        else:  # a batched cuFFT may add in another order
            assert_close(out[i], alone[0], atol=1e-4 if dtype == "float32" else 1e-10)
    assert xp.isnan(out[1]).all()
    assert not out[2].any()


def test_cg_of_a_solved_system_stays_as_it_is(xp: Any) -> None:
    a, _, start, ridge = (xp.asarray(x) for x in system((5, 5)))
    exact = np.stack([(dense(a[i], ridge[i]) @ to_host(start[i]).ravel()).reshape(5, 5) for i in range(2)])
    out = toeplitz.toeplitz_cg(a, xp.asarray(exact.astype(np.float32)), start, ridge, 100)
    assert_close(out, start, atol=1e-5 * float(abs(start).max()))


def test_laws_projected_gradients_is_the_twin() -> None:
    """The reference of the CUDA kernel's tests takes the step from outside; with the twin's own it is the twin."""
    a, rhs, start, ridge = laws.wide(*system((7, 5)))
    spectrum, grid = toeplitz.toeplitz_spectrum(a)
    norm = spectrum.max((-2, -1)) * grid[0] * grid[1]
    expected = toeplitz.toeplitz_nnls(a, rhs, start, ridge, 20)
    assert_close(laws.projected_gradients(a, rhs, start, ridge, norm, 20), expected, rtol=1e-10, atol=1e-12)
