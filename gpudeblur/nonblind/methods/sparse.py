"""Sparse-prior deconvolution (Levin et al. 2007, `deconvSps`): |derivatives|^0.8, unknown boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module, constant
from ...numerics.conjugate_gradient import conjugate_gradient, dot, total
from ...numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from ...numerics.spectra import difference_spectrum
from ..regularization import resolve_weight
from ..splitting import tv_admm

# Weights of first and second derivatives once they are reweighted, and where |d|^(exponent - 2) is cut (Levin's code).
FIRST, SECOND, FLOOR = 0.1, 0.025, 0.01
ITERATIONS = 8
TV_PASSES = 20  # to begin with, where something is clipped


def derivatives(u: Array) -> list[Array]:
    """d/dx, d/dy, d2/dx2, d2/dy2, d2/dxdy of (..., H, W) where all pixels are there (no wrap, no padding)."""
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
    clipped: Array | None = None,
    reweightings: int = 3,
    iterations: int = ITERATIONS,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |valid(x * k) - B|^2 + weight sum_i c_i |D_i x|^exponent by iteratively reweighted least squares.

    x reaches half a kernel beyond B on every side and only what was seen is compared, so the boundary needs no
    assumption. The first solve has unit weights on all five derivatives, each further one
    c_i max(|D_i x|, 0.01)^(exponent - 2); each is solved by conjugate gradients from the last. They are preconditioned
    by what the equations were on a torus of which all is seen, with the mean of each derivative's weights, and work on
    spectra, where this costs no transform.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of the prior, a number or one a picture (...). Larger: less noise and ringing, less detail. None takes it
        from the picture's noise: `weights.estimate_weight`. Levin's code has 0.0068.
    exponent : in (0, 2]. Smaller: sharper edges, flatter regions.
    clipped : (..., H, W) bool, where the sensor was at its top and x * k may be more than B, see `clipping`. The
        reweighting begins with the result of 20 passes of `tv` then, and compares what is clipped where x * k is less.
    reweightings, iterations : solves after the first; conjugate-gradient steps in each, four transforms a step.
    callback : called with the fraction done at each step of the conjugate gradients.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    A. Levin, R. Fergus, F. Durand, W. T. Freeman: Image and depth from a conventional camera with a coded aperture,
    SIGGRAPH 2007, appendix.
    """
    xp, weight = array_module(blurred, kernel), resolve_weight(weight, blurred, kernel, "sparse")
    (h, w), (kh, kw), real = blurred.shape[-2:], kernel.shape[-2:], blurred.dtype
    # x, and what is beyond it up to a fast size. A circular convolution is exact where something was seen.
    grid = (fast_size(h + kh - 1), fast_size(w + kw - 1))
    size = grid[0] * grid[1]
    top, left = kh // 2, kw // 2
    seen = (..., slice(top, top + h), slice(left, left + w))
    # Vectors are spectra divided by `size`, as pairs of real numbers; all but those of the first and the last column
    # stand for two. The blur is divided by the root of `size`: it is taken twice.
    otf = psf_to_otf(kernel, grid)
    otf *= size**-0.5
    twice = constant(xp, _multiplicity, grid, real)
    room = xp.zeros((*blurred.shape[:-2], *grid), dtype=real)
    steps, done = (reweightings + 1) * (iterations + 1), 0

    def blur(spectrum: Array) -> Array:
        return irfft2(otf * spectrum, grid, overwrite=True)[seen]

    def blur_adjoint(u: Array) -> Array:
        room[seen] = u
        spectrum = rfft2(room)
        xp.conjugate(spectrum, out=spectrum)  # conj(K) F = conj(K conj(F)), all in place
        spectrum *= otf
        return xp.conjugate(spectrum, out=spectrum)

    def product(a: Array, b: Array) -> Array:
        return dot(a * twice, b)

    def solve(start: Array, weights: list[Array], compared: Array | None) -> Array:
        """From `start` and to a picture of the grid; the weights are divided by `size`; `compared`: M."""

        def normal(vector: Array) -> Array:
            nonlocal done
            done += 1
            if callback is not None:  # a solve of a large picture takes long, and should be stopped in the middle
                callback(done / (steps + 1))
            spectrum = vector.view(otf.dtype)
            u = irfft2(spectrum, grid)
            parts = derivatives(u)
            for part, scale in zip(parts, weights, strict=True):
                part *= scale
            u[...] = 0
            smooth = rfft2(derivatives_adjoint(parts, u), overwrite=True)
            del parts, u
            again = blur(spectrum)
            smooth += blur_adjoint(again if compared is None else again * compared)
            return smooth.view(real)

        inverse = _preconditioner(otf, weights, grid)
        rhs = blur_adjoint((blurred if compared is None else blurred * compared) * size**-0.5).view(real)
        start = rfft2(start)
        start *= 1 / size
        solution = conjugate_gradient(
            normal, rhs, start.view(real), iterations, preconditioner=lambda r: r * inverse, inner=product
        )
        return irfft2(solution.view(otf.dtype), grid, overwrite=True)

    margin = [(0, 0)] * (blurred.ndim - 2) + [(top, grid[0] - h - top), (left, grid[1] - w - left)]
    even = xp.ones((1, 1), dtype=real) * (weight / size)
    latent = solve(xp.pad(blurred, margin, mode="edge"), [even] * 5, None)
    if clipped is not None:
        bright = tv_admm(
            blurred,
            kernel,
            resolve_weight(None, blurred, kernel, "tv"),
            clipped=clipped,
            iterations=TV_PASSES,
            whole=True,
        )
        lit = clipped.any(axis=(-2, -1), keepdims=True)
        latent = xp.where(lit, xp.roll(bright, (top, left), (-2, -1)), latent)
        del bright
    for _ in range(reweightings):
        compared = None
        if clipped is not None:
            compared = (~clipped | (blur(rfft2(latent)) < blurred * size**0.5)).astype(real)
        weights = derivatives(latent)
        for part, share in zip(weights, (FIRST, FIRST, SECOND, SECOND, SECOND), strict=True):
            xp.abs(part, out=part)
            xp.maximum(part, FLOOR, out=part)
            xp.log(part, out=part)  # ** takes as long as a step
            part *= exponent - 2
            xp.exp(part, out=part)
            part *= weight * (share / size)
        latent = solve(latent, weights, compared)
    if callback is not None:
        callback(1.0)
    return latent[seen]


def _multiplicity(grid: tuple[int, int], dtype: Any) -> np.ndarray:
    """(W + 2,): for how many numbers of a whole spectrum, times H W, each of a real transform's row stands."""
    size = grid[0] * grid[1]
    count = np.full(grid[1] + 2, 2 * size)
    count[[0, 1, -2, -1]] = size
    return count.astype(dtype)


def _preconditioner(otf: Array, weights: list[Array], shape: tuple[int, int]) -> Array:
    """1 / (|K|^2 + sum_i mean(weights_i) |D_i|^2) on a torus, (..., H, W + 2): each number twice."""
    xp, (h, w) = array_module(otf), shape
    rows = constant(xp, difference_spectrum, h, h, otf.real.dtype)[:, None]
    columns = constant(xp, difference_spectrum, w, w // 2 + 1, otf.real.dtype)
    denominator = otf.real**2 + otf.imag**2
    for part, spectrum in zip(weights, (columns, rows, columns**2, rows**2, rows * columns), strict=True):
        # A row or column has no derivatives across it.
        denominator = denominator + total(part) * (1 / max(1, part.shape[-2] * part.shape[-1])) * spectrum
    denominator *= h * w
    return xp.repeat(1 / denominator, 2, axis=-1)
