"""The Toeplitz systems of the kernel step: the operator, given by its autocorrelation, and two solvers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Array, Workspace, array_module, goes_to_cuda
from .conjugate_gradient import conjugate_gradient
from .filters import per_image
from .fourier import AXES, fast_size, irfft2, kernel_to_grid, rfft2


def zero_lag(autocorrelation: Array) -> Array:
    """a(0), the energy of the selected gradients, (...)."""
    return autocorrelation[..., autocorrelation.shape[-2] // 2, autocorrelation.shape[-1] // 2]


def toeplitz_spectrum(autocorrelation: Array) -> tuple[Array, tuple[int, int]]:
    """The real spectrum of the operator on a circular grid that holds all lags, and the shape of the grid."""
    hat, grid = _toeplitz_hat(autocorrelation, Workspace(autocorrelation))
    return hat.real / (grid[0] * grid[1]), grid


def _toeplitz_hat(autocorrelation: Array, buffers: Workspace) -> tuple[Array, tuple[int, int]]:
    grid = (fast_size(autocorrelation.shape[-2]), fast_size(autocorrelation.shape[-1]))
    lags_on_grid = kernel_to_grid(autocorrelation, grid, out=buffers("central_lags", *grid))
    return rfft2(lags_on_grid, overwrite=True, out=buffers.spectrum("lags hat", grid)), grid


def spectrum_max(spectrum: Array, *, out: Array | None = None) -> Array:
    """The largest real part of a spectrum (..., H, W // 2 + 1), (...). CUDA kernel: spectrum_max.cu."""
    if goes_to_cuda(spectrum):
        from . import cuda

        return cuda.spectrum_max(spectrum, out=out)
    return spectrum.real.max(axis=AXES)


def toeplitz_apply(spectrum: Array, grid: tuple[int, int], kernel: Array) -> Array:
    """A k on the support of k; exact, since the grid holds every lag."""
    kh, kw = kernel.shape[-2:]
    padded = array_module(kernel).zeros((*kernel.shape[:-2], *grid), dtype=kernel.dtype)
    padded[..., :kh, :kw] = kernel
    hat = rfft2(padded, overwrite=True)
    hat *= spectrum
    return irfft2(hat, grid, overwrite=True)[..., :kh, :kw]


def toeplitz_cg(
    autocorrelation: Array, rhs: Array, start: Array, ridge: Any, iterations: int, *, buffers: Workspace | None = None
) -> Array:
    """argmin_k |grad x * k - grad B|^2 + ridge |k|^2 by conjugate gradients ([Chen2017] eq. 11, 16), k of any sign.

    Parameters
    ----------
    autocorrelation : (..., 2 kh - 1, 2 kw - 1), symmetric, see `normal_equations`.
    rhs, start : (..., kh, kw).
    ridge : scalar or (...): gamma of eq. 9, beta of eq. 16.
    iterations : number of steps.
    buffers : buffers of the caller's loop; on a GPU the result is in one of them.

    Notes
    -----
    On a GPU the whole solve is one launch of toeplitz_cg.cu if the vectors fit a block's shared memory. Larger kernels,
    and float64, take the FFT path as on the CPU.
    """
    if _is_one_launch(rhs):
        from . import cuda

        out = (buffers or Workspace(rhs))("solution", *rhs.shape[-2:])
        return cuda.toeplitz_cg(autocorrelation, rhs, start, ridge, iterations, out=out)
    spectrum, grid = toeplitz_spectrum(autocorrelation)
    spectrum += per_image(ridge, rhs) / (grid[0] * grid[1])
    return conjugate_gradient(lambda k: toeplitz_apply(spectrum, grid, k), rhs, start, iterations)


def toeplitz_nnls(
    autocorrelation: Array, rhs: Array, start: Array, ridge: Any, iterations: int, *, buffers: Workspace | None = None
) -> Array:
    """`toeplitz_cg` for k >= 0, by accelerated projected gradients ([Beck2009]) with step 1 / |A|: toeplitz_nnls.cu."""
    xp = array_module(autocorrelation, rhs, start)
    if _is_one_launch(rhs):
        from . import cuda

        buffers = Workspace(rhs) if buffers is None else buffers
        bound = spectrum_max(_toeplitz_hat(autocorrelation, buffers)[0], out=buffers("bound"))
        out = buffers("solution", *rhs.shape[-2:])
        return cuda.toeplitz_nnls(autocorrelation, rhs, start, ridge, bound, iterations, out=out)
    spectrum, grid = toeplitz_spectrum(autocorrelation)
    ridge = per_image(ridge, rhs)
    pixels = grid[0] * grid[1]
    bound = spectrum.max(axis=AXES, keepdims=True) * pixels + ridge
    step = 1 / xp.maximum(bound, float(np.finfo(rhs.dtype).tiny))
    # y - step (A y + ridge y - rhs) is one product and one sum.
    spectrum, rhs = (1 - step * ridge) / pixels - step * spectrum, step * rhs
    kernel = y = start
    t = 1.0
    for _ in range(iterations):
        descent = toeplitz_apply(spectrum, grid, y)
        descent += rhs
        kernel_old, kernel = kernel, xp.maximum(descent, 0)
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = kernel - kernel_old
        y *= (t - 1) / t_next
        y += kernel
        t = t_next
    return kernel


def _is_one_launch(rhs: Array) -> bool:
    if not goes_to_cuda(rhs):
        return False
    from . import cuda

    return cuda.toeplitz_fits(*rhs.shape[-2:])


def solve_kernel(
    autocorrelation: Array,
    rhs: Array,
    start: Array,
    ridge: Any,
    solver: str,
    iterations: int,
    *,
    buffers: Workspace | None = None,
) -> Array:
    """`toeplitz_nnls` or `toeplitz_cg`, by the option `kernel_solver`."""
    solve = toeplitz_nnls if solver == "nnls" else toeplitz_cg
    return solve(autocorrelation, rhs, start, ridge, iterations, buffers=buffers)
