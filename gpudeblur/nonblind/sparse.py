"""Sparse-prior deconvolution (Levin et al. 2007, `deconvSps`): |derivatives|^0.8, unknown boundary."""

from __future__ import annotations

from collections.abc import Callable

from .._arrays import Array, array_module
from ..conjugate_gradient import conjugate_gradient
from ..fourier import fast_size, irfft2, psf_to_otf, rfft2


def derivatives(u: Array) -> list[Array]:
    """d/dx, d/dy, d2/dx2, d2/dy2, d2/dxdy of (..., H, W) where all pixels are there (no wrap, no padding)."""
    dx, dy = u[..., 1:] - u[..., :-1], u[..., 1:, :] - u[..., :-1, :]
    return [dx, dy, dx[..., 1:] - dx[..., :-1], dy[..., 1:, :] - dy[..., :-1, :], dx[..., 1:, :] - dx[..., :-1, :]]


def derivatives_adjoint(parts: list[Array], out: Array) -> Array:
    """Adds the transpose of `derivatives` to `out` (..., H, W) in place; `parts` are overwritten."""
    gx, gy, dxx, dyy, dxy = parts
    gx[..., 1:] += dxx
    gx[..., :-1] -= dxx
    gy[..., 1:, :] += dyy
    gy[..., :-1, :] -= dyy
    gx[..., 1:, :] += dxy
    gx[..., :-1, :] -= dxy
    out[..., 1:] += gx
    out[..., :-1] -= gx
    out[..., 1:, :] += gy
    out[..., :-1, :] -= gy
    return out


def sparse(
    blurred: Array,
    kernel: Array,
    *,
    weight: float = 0.0068,
    exponent: float = 0.8,
    reweightings: int = 2,
    iterations: int = 25,
    callback: Callable[[float], None] | None = None,
) -> Array:
    xp = array_module(blurred, kernel)
    kh, kw = kernel.shape[-2:]
    h, w = blurred.shape[-2] + kh - 1, blurred.shape[-1] + kw - 1
    grid = (fast_size(h), fast_size(w))
    otf = psf_to_otf(kernel, grid) / (grid[0] * grid[1])
    adjoint = otf.conj()
    inner = (..., slice(kh // 2, kh // 2 + blurred.shape[-2]), slice(kw // 2, kw // 2 + blurred.shape[-1]))
    padded = xp.zeros((*blurred.shape[:-2], *grid), dtype=blurred.dtype)

    def blur_adjoint(residual: Array) -> Array:
        padded[inner] = residual
        return irfft2(adjoint * rfft2(padded), grid, overwrite=True)[..., :h, :w]

    def normal(u: Array, weights: list[Array] | None) -> Array:
        extended = xp.zeros((*blurred.shape[:-2], *grid), dtype=blurred.dtype)
        extended[..., :h, :w] = u
        seen = irfft2(otf * rfft2(extended, overwrite=True), grid, overwrite=True)[inner]
        out = blur_adjoint(seen)
        parts = derivatives(u)
        scales = weights if weights is not None else [1.0] * 5
        for part, scale in zip(parts, scales, strict=True):
            part *= weight * scale
        return derivatives_adjoint(parts, out)

    margin = [(0, 0)] * (blurred.ndim - 2) + [(kh // 2, kh // 2), (kw // 2, kw // 2)]
    latent = xp.pad(blurred, margin, mode="edge")
    rhs = blur_adjoint(blurred)
    weights = None
    for _ in range(1 + reweightings):
        latent = conjugate_gradient(lambda u: normal(u, weights), rhs, latent, iterations)  # noqa: B023
        weights = [
            (0.1 if i < 2 else 0.025) * xp.maximum(abs(d), 0.01) ** (exponent - 2) for i, d in enumerate(derivatives(latent))
        ]
    return latent[inner]
