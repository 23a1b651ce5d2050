"""The second step of [Chen2017]: L0 refinement of the kernel (eq. 12-16)."""

from __future__ import annotations

import numpy as np

from ..numerics.arrays import Array, array_module
from ..numerics.toeplitz import solve_kernel, zero_lag


def refine_kernel(
    autocorrelation: Array, rhs: Array, kernel: Array, *, weight: float, beta: float, solver: str, iterations: int
) -> Array:
    """argmin_k |grad x * k - grad B|^2 + lambda |k|_0, by half-quadratic splitting (eq. 12-16).

    r = k where |k|^2 >= lambda / beta, 0 elsewhere (eq. 14), then (A + beta) k = b + beta r (eq. 16), while beta
    doubles. The problem is scaled first, so that `weight` means the same for every image: the kernel to maximum 1, the
    energy a(0) of the gradients to 1. beta ends at 1, where the threshold is sqrt(lambda) of the maximum.

    Parameters
    ----------
    autocorrelation, rhs : see `kernel_step.normal_equations`.
    kernel : (..., kh, kw), where to start.
    weight : lambda. Larger: sparser kernels; pixels below sqrt(lambda) of the maximum are taken for noise.
    beta : first value of the continuation. Smaller: further from `kernel`.
    solver, iterations : see `toeplitz.solve_kernel`, for each beta.
    """
    xp = array_module(autocorrelation, rhs, kernel)
    tiny = float(np.finfo(kernel.dtype).tiny)
    scale = xp.maximum(zero_lag(autocorrelation), tiny)[..., None, None]
    peak = xp.maximum(kernel.max(axis=(-2, -1), keepdims=True), tiny)
    a, b, k = autocorrelation / scale, rhs / scale / peak, kernel / peak
    while beta <= 1:
        r = xp.where(k * k >= weight / beta, k, 0)
        k = solve_kernel(a, b + beta * r, k, beta, solver, iterations)
        beta *= 2
    return k * peak
