"""Sparse-prior deconvolution ([Levin2007] appendix, `deconvSps`): |derivatives|^0.8, unknown boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module, constant
from ...numerics.conjugate_gradient import conjugate_gradient, dot, total
from ...numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from ...numerics.spectra import difference_spectrum
from ..regularization import WeightRule, resolve_weight
from ..splitting import TV_RULE, tv_admm

# Levin's code: the c_i of first and second derivatives in the reweighted solves, and the lower bound on |D_i x|.
FIRST_ORDER, SECOND_ORDER, MIN_DERIVATIVE = 0.1, 0.025, 0.01
ITERATIONS = 8
TV_ITERATIONS = 20  # of the first iterate where pixels are saturated
WEIGHT_RULE = WeightRule(17.7, 1.9)


def derivatives(u: Array) -> list[Array]:
    """d/dx, d/dy, d2/dx2, d2/dy2, d2/dxdy of (..., H, W), without wrapping or padding."""
    dx, dy = u[..., 1:] - u[..., :-1], u[..., 1:, :] - u[..., :-1, :]
    return [dx, dy, dx[..., 1:] - dx[..., :-1], dy[..., 1:, :] - dy[..., :-1, :], dx[..., 1:, :] - dx[..., :-1, :]]


def derivatives_adjoint(parts: list[Array], out: Array) -> Array:
    """Adds the transpose of `derivatives` to `out` (..., H, W) in place; `parts` are overwritten."""
    dx, dy, dxx, dyy, dxy = parts
    dx[..., 1:] += dxx
    dx[..., :-1] -= dxx
    dy[..., 1:, :] += dyy
    dy[..., :-1, :] -= dyy
    dx[..., 1:, :] += dxy
    dx[..., :-1, :] -= dxy
    out[..., 1:] += dx
    out[..., :-1] -= dx
    out[..., 1:, :] += dy
    out[..., :-1, :] -= dy
    return out


def sparse(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    exponent: float = 0.8,
    saturated: Array | None = None,
    reweightings: int = 3,
    iterations: int = ITERATIONS,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |valid(x * k) - B|^2 + weight sum_i c_i |D_i x|^exponent by iteratively reweighted least squares.

    x extends half a kernel beyond B on every side and only observed pixels are compared, so the boundary needs no
    assumption. The first solve has unit weights on all five derivatives, each further one
    c_i max(|D_i x|, 0.01)^(exponent - 2). Each is solved by conjugate gradients that start from the previous solution.
    The preconditioner is the inverse of the equations of a periodic, fully observed image, with the mean of each
    derivative's weights. The iteration works on spectra, where it needs no transform.

    Parameters
    ----------
    blurred, kernel, weight, saturated, callback : common to all methods, see `help(gpudeblur.nonblind)`. The weight of
        Levin's code is 0.0068. The boundary is always "unknown".
    exponent : in (0, 2]. Smaller: sharper edges, flatter regions.
    reweightings, iterations : solves after the first; conjugate-gradient steps in each, four transforms per step.
    """
    xp, weight = array_module(blurred, kernel), resolve_weight(weight, blurred, kernel, WEIGHT_RULE)
    (h, w), (kh, kw), real = blurred.shape[-2:], kernel.shape[-2:], blurred.dtype
    # x, and zeros beyond it up to a fast size. Where pixels were observed, a circular convolution is exact.
    grid = (fast_size(h + kh - 1), fast_size(w + kw - 1))
    size = grid[0] * grid[1]
    top, left = kh // 2, kw // 2
    window = (..., slice(top, top + h), slice(left, left + w))
    # The unknowns are spectra divided by `size`, viewed as pairs of real numbers. All columns but the first and the
    # last stand for two of the full spectrum. The blur enters twice, so its spectrum is divided by the root of `size`.
    otf = psf_to_otf(kernel, grid)
    otf *= size**-0.5
    multiplicity = constant(xp, _multiplicity, grid, real)
    padded = xp.zeros((*blurred.shape[:-2], *grid), dtype=real)
    steps, done = (reweightings + 1) * (iterations + 1), 0

    def blur(spectrum: Array) -> Array:
        return irfft2(otf * spectrum, grid, overwrite=True)[window]

    def blur_adjoint(u: Array) -> Array:
        padded[window] = u
        spectrum = rfft2(padded)
        xp.conjugate(spectrum, out=spectrum)  # conj(K) F = conj(K conj(F)), all in place
        spectrum *= otf
        return xp.conjugate(spectrum, out=spectrum)

    def product(a: Array, b: Array) -> Array:
        return dot(a * multiplicity, b)

    def solve(start: Array, weights: list[Array], mask: Array | None) -> Array:
        """From and to an image on the grid. `weights` are divided by `size`; `mask` selects the compared pixels."""

        def normal(vector: Array) -> Array:
            nonlocal done
            done += 1
            if callback is not None:  # at each step, so that a long solve of a large image can be stopped
                callback(done / (steps + 1))
            spectrum = vector.view(otf.dtype)
            u = irfft2(spectrum, grid)
            parts = derivatives(u)
            for part, scale in zip(parts, weights, strict=True):
                part *= scale
            u[...] = 0
            result = rfft2(derivatives_adjoint(parts, u), overwrite=True)
            del parts, u
            reblurred = blur(spectrum)
            result += blur_adjoint(reblurred if mask is None else reblurred * mask)
            return result.view(real)

        inverse = _preconditioner(otf, weights, grid)
        rhs = blur_adjoint((blurred if mask is None else blurred * mask) * size**-0.5).view(real)
        start = rfft2(start)
        start *= 1 / size
        solution = conjugate_gradient(
            normal, rhs, start.view(real), iterations, preconditioner=lambda r: r * inverse, inner=product
        )
        return irfft2(solution.view(otf.dtype), grid, overwrite=True)

    margin = [(0, 0)] * (blurred.ndim - 2) + [(top, grid[0] - h - top), (left, grid[1] - w - left)]
    uniform = xp.ones((1, 1), dtype=real) * (weight / size)
    latent = solve(xp.pad(blurred, margin, mode="edge"), [uniform] * 5, None)
    if saturated is not None:
        tv_weight = resolve_weight(None, blurred, kernel, TV_RULE)
        bright = tv_admm(
            blurred, kernel, tv_weight, saturated=saturated, iterations=TV_ITERATIONS, return_padded=True
        )  # fmt: skip
        any_saturated = saturated.any(axis=(-2, -1), keepdims=True)
        latent = xp.where(any_saturated, xp.roll(bright, (top, left), (-2, -1)), latent)
        del bright
    for _ in range(reweightings):
        mask = None
        if saturated is not None:
            mask = (~saturated | (blur(rfft2(latent)) < blurred * size**0.5)).astype(real)
        weights = derivatives(latent)
        for part, order in zip(weights, (FIRST_ORDER,) * 2 + (SECOND_ORDER,) * 3, strict=True):
            xp.abs(part, out=part)
            xp.maximum(part, MIN_DERIVATIVE, out=part)
            xp.log(part, out=part)  # ** takes as long as a step
            part *= exponent - 2
            xp.exp(part, out=part)
            part *= weight * (order / size)
        latent = solve(latent, weights, mask)
    if callback is not None:
        callback(1.0)
    return latent[window]


def _multiplicity(grid: tuple[int, int], dtype: Any) -> np.ndarray:
    """(W + 2,): how many numbers of the full spectrum each number of a row of `rfft2` stands for, times H W."""
    size = grid[0] * grid[1]
    count = np.full(grid[1] + 2, 2 * size)
    count[[0, 1, -2, -1]] = size
    return count.astype(dtype)


def _preconditioner(otf: Array, weights: list[Array], shape: tuple[int, int]) -> Array:
    """1 / (|K|^2 + sum_i mean(weights_i) |D_i|^2), (..., H, W + 2): each number twice."""
    xp, (h, w) = array_module(otf), shape
    rows = constant(xp, difference_spectrum, h, h, otf.real.dtype)[:, None]
    columns = constant(xp, difference_spectrum, w, w // 2 + 1, otf.real.dtype)
    denominator = otf.real**2 + otf.imag**2
    for part, spectrum in zip(weights, (columns, rows, columns**2, rows**2, rows * columns), strict=True):
        # max: a single row or column has no derivatives across it.
        denominator = denominator + total(part) * (1 / max(1, part.shape[-2] * part.shape[-1])) * spectrum
    denominator *= h * w
    return xp.repeat(1 / denominator, 2, axis=-1)
