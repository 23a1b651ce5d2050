"""Kernel step: the blur kernel for a known latent picture, by least squares on gradients (seed 0, eq. 8-11)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import Array, array_module, fft_module
from .conjugate_gradient import conjugate_gradient
from .filters import per_picture
from .fourier import AXES, fast_size, irfft2, rfft2


def voting_window(shape: tuple[int, int], picture: tuple[int, int], size: tuple[int, int], xp: Any, dtype: Any) -> Array:
    """1 where a gradient of the latent picture may vote in the kernel step, 0 elsewhere, (H, W).

    Gradients vote whose whole blurred trace lies inside the real picture: half a kernel (and the forward difference)
    from its borders. `shape` is the wrapped grid, `picture` the real (h, w) at its top left. A picture too small
    for that lets its middle half vote.
    """
    window = xp.zeros(shape, dtype=dtype)
    (top, bottom), (left, right) = (
        (m, n - m - 1) if n - 2 * m - 1 >= n / 2 else (n // 4, n - n // 4)
        for m, n in ((k // 2 + 1, n) for k, n in zip(size, picture, strict=True))
    )
    window[top:bottom, left:right] = 1
    return window


def normal_equations(gx: Array, gy: Array, blurred_hat: tuple[Array, Array], size: tuple[int, int]) -> tuple[Array, Array]:
    """The matrix and right-hand side of eq. 11 on a kernel support of `size`: (autocorrelation, correlation).

    (A k)(p) = sum_q a(p - q) k(q) with a(l) = sum grad x(s) . grad x(s + l), and
    b(p) = sum grad x(s) . grad B(s + p): the picture is transformed here once; solvers never touch it again.

    Parameters
    ----------
    gx, gy : (..., H, W), the voting gradients of the latent picture.
    blurred_hat : `rfft2` of the gradients of the blurred picture.

    Returns
    -------
    autocorrelation : (..., 2 kh - 1, 2 kw - 1), lag (0, 0) in the middle.
    correlation : (..., kh, kw).
    """
    shape = gx.shape[-2:]
    scale = 1 / (shape[0] * shape[1])
    fx, fy = rfft2(gx), rfft2(gy)
    correlation = fx.conj() * blurred_hat[0]
    correlation += fy.conj() * blurred_hat[1]
    power = fx.real**2 + fx.imag**2 + fy.real**2 + fy.imag**2
    kh, kw = size
    return (
        _lags(irfft2(power.astype(fx.dtype), shape, overwrite=True), kh - 1, kw - 1) * scale,
        _lags(irfft2(correlation, shape, overwrite=True), kh // 2, kw // 2) * scale,
    )


def _lags(correlation: Array, rows: int, columns: int) -> Array:
    """The lags -rows..rows, -columns..columns of a circular correlation, in rising order."""
    xp = array_module(correlation)
    y, x = np.arange(-rows, rows + 1), np.arange(-columns, columns + 1)
    return xp.ascontiguousarray(correlation[..., y[:, None], x])


def toeplitz_spectrum(autocorrelation: Array) -> tuple[Array, tuple[int, int]]:
    """The real spectrum of the normal operator on a circular grid that holds all lags, and that grid's shape."""
    xp = array_module(autocorrelation)
    rows, columns = autocorrelation.shape[-2:]
    grid = (fast_size(rows), fast_size(columns))
    a = xp.zeros((*autocorrelation.shape[:-2], *grid), dtype=autocorrelation.dtype)
    a[..., :rows, :columns] = autocorrelation
    spectrum = rfft2(xp.roll(a, (-(rows // 2), -(columns // 2)), AXES), overwrite=True).real
    return spectrum / (grid[0] * grid[1]), grid


def toeplitz_apply(spectrum: Array, grid: tuple[int, int], kernel: Array, ridge: Any) -> Array:
    """(A + ridge) k on the support of k; exact, since the grid holds every lag."""
    sides = kernel.shape[-2:]
    hat = fft_module(array_module(kernel)).rfft2(kernel, s=grid, axes=AXES)
    hat *= spectrum
    out = irfft2(hat, grid, overwrite=True)[..., : sides[0], : sides[1]]
    return out + ridge * kernel


def toeplitz_cg(autocorrelation: Array, rhs: Array, start: Array, ridge: Any, iterations: int) -> Array:
    """argmin_k |grad x * k - grad B|^2 + ridge |k|^2 by conjugate gradients (eq. 11, eq. 16), no sign constraint."""
    ridge = per_picture(ridge, rhs)
    spectrum, grid = toeplitz_spectrum(autocorrelation)
    return conjugate_gradient(lambda k: toeplitz_apply(spectrum, grid, k, ridge), rhs, start, iterations)


def toeplitz_nnls(autocorrelation: Array, rhs: Array, start: Array, ridge: Any, iterations: int) -> Array:
    """The same over k >= 0, by accelerated projected gradients (Beck & Teboulle 2009) with step 1 / |A|."""
    xp = array_module(autocorrelation, rhs, start)
    ridge = per_picture(ridge, rhs)
    spectrum, grid = toeplitz_spectrum(autocorrelation)
    bound = spectrum.max(axis=AXES, keepdims=True) * (grid[0] * grid[1]) + ridge
    step = 1 / xp.maximum(bound, float(np.finfo(rhs.dtype).tiny))
    kernel = ahead = start
    momentum = 1.0
    for _ in range(iterations):
        gradient_ = toeplitz_apply(spectrum, grid, ahead, ridge)
        gradient_ -= rhs
        gradient_ *= step
        last, kernel = kernel, xp.maximum(ahead - gradient_, 0)
        following = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
        ahead = kernel + ((momentum - 1) / following) * (kernel - last)
        momentum = following
    return kernel
