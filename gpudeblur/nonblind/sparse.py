"""Sparse-prior deconvolution (Levin et al. 2007, `deconvSps`): |derivatives|^0.8, unknown boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._arrays import Array, array_module
from ..conjugate_gradient import conjugate_gradient
from ..fourier import fast_size, irfft2, psf_to_otf, rfft2
from .weights import weight_for

# Weights of first and second derivatives once they are reweighted, and where |d|^(exponent - 2) is cut (Levin's code).
FIRST, SECOND, FLOOR = 0.1, 0.025, 0.01


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
    reweightings: int = 2,
    iterations: int = 25,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |valid(x * k) - B|^2 + weight sum_i c_i |D_i x|^exponent by iteratively reweighted least squares.

    x reaches half a kernel beyond B on every side and only what was seen is compared, so the boundary needs no
    assumption. The first solve has unit weights on all five derivatives, each further one
    c_i max(|D_i x|, 0.01)^(exponent - 2); each is solved by conjugate gradients from the last.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of the prior, a number or one a picture (...). Larger: less noise and ringing, less detail. None takes it
        from the picture's noise: `weights.automatic_weight`. Levin's code has 0.0068.
    exponent : in (0, 2]. Smaller: sharper edges, flatter regions.
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
    xp, weight = array_module(blurred, kernel), weight_for(weight, blurred, kernel, "sparse")
    kh, kw = kernel.shape[-2:]
    h, w = blurred.shape[-2] + kh - 1, blurred.shape[-1] + kw - 1
    # A circular convolution on a grid that holds x is exact where only pixels of x contribute.
    grid = (fast_size(h), fast_size(w))
    otf = psf_to_otf(kernel, grid) / (grid[0] * grid[1])
    seen = (..., slice(kh // 2, kh // 2 + blurred.shape[-2]), slice(kw // 2, kw // 2 + blurred.shape[-1]))
    whole = (..., slice(h), slice(w))
    room = xp.zeros((*blurred.shape[:-2], *grid), dtype=blurred.dtype)

    def blur(u: Array) -> Array:
        room[...] = 0
        room[whole] = u
        spectrum = rfft2(room)
        spectrum *= otf
        return irfft2(spectrum, grid, overwrite=True)[seen]

    def blur_adjoint(residual: Array) -> Array:
        room[...] = 0
        room[seen] = residual
        spectrum = rfft2(room)
        xp.conjugate(spectrum, out=spectrum)  # conj(K) F = conj(K conj(F)), all in place
        spectrum *= otf
        xp.conjugate(spectrum, out=spectrum)
        return irfft2(spectrum, grid, overwrite=True)[whole]

    steps, done = (reweightings + 1) * (iterations + 1), 0

    def solve(start: Array, weights: list[Array]) -> Array:
        def normal(u: Array) -> Array:
            nonlocal done
            done += 1
            if callback is not None:  # a solve of a large picture takes long, and should be stopped in the middle
                callback(done / (steps + 1))
            parts = derivatives(u)
            for part, scale in zip(parts, weights, strict=True):
                part *= scale
            return derivatives_adjoint(parts, blur_adjoint(blur(u)))

        return conjugate_gradient(normal, rhs, start, iterations)

    rhs = blur_adjoint(blurred)
    margin = [(0, 0)] * (blurred.ndim - 2) + [(kh // 2, kh // 2), (kw // 2, kw // 2)]
    latent = solve(xp.pad(blurred, margin, mode="edge"), [xp.asarray(weight, dtype=blurred.dtype)] * 5)
    for _ in range(reweightings):
        shares = [FIRST, FIRST, SECOND, SECOND, SECOND]
        weights = [
            (weight * share) * xp.maximum(abs(d), FLOOR) ** (exponent - 2)
            for share, d in zip(shares, derivatives(latent), strict=True)
        ]
        latent = solve(latent, weights)
    if callback is not None:
        callback(1.0)
    return latent[seen]
