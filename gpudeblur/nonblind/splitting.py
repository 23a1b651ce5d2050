"""argmin_x |x * k - B|^2 / 2 + weight phi(grad x) for any phi with a closed proximal step: splitting and ADMM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, goes_to_cuda
from ..numerics.boundary import crop, pad
from ..numerics.filters import gradient, gradient_adjoint, spectral_solve
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from .regularization import WeightRule
from .saturation import project_on_data, saturated_start

Split = Callable[[Array, Any], Array]  # (x, beta) -> D^T g, with g the auxiliary variable for D x
Shrink = Callable[[Array, Array, Any], tuple[Array, Array]]  # (d/dx, d/dy, beta) -> argmin_g phi(g) + beta/2 |g - .|^2
# Weight c of v = x * k for the unknown boundary. It changes the convergence, not the solution: of 0.02, 0.05, 0.1, 0.2
# and more, this came closest in 20 and 30 passes over all noise levels.
COUPLING = 0.1
# Over-relaxation of that splitting ([Boyd2011] section 3.4.3): 30 passes converge as far as 60 without.
RELAXATION = 1.8
# weight beta = 0.7 sqrt(weight) came closest to the solution of TV in 30 passes, for weights of 1e-4 to 1e-2.
TV_BETA = 0.7
TV_RULE = WeightRule(1.34, 1.6)


class Augmented:
    """ADMM: D^T (g - e) with g = shrink(D x + e). The multipliers e += D x - g persist from call to call.

    Without multipliers (`filters.dt_l0`, `hyper_laplacian.dt_shrink`), beta must grow for g to approach D x.
    """

    def __init__(self, shrink: Shrink) -> None:
        self._shrink = shrink
        self._state: tuple[Array, Array, Any] | None = None

    def __call__(self, u: Array, beta: Any) -> Array:
        gx, gy = gradient(u)
        if self._state is not None:
            ex, ey, old_beta = self._state
            if old_beta is not beta and np.ndim(beta) == 0 and old_beta != beta:  # beta e is the unscaled multiplier
                ex *= old_beta / beta
                ey *= old_beta / beta
            gx += ex
            gy += ey
        sx, sy = self._shrink(gx, gy, beta)
        gx -= sx
        gy -= sy
        self._state = gx, gy, beta
        return gradient_adjoint(sx - gx, sy - gy)


def continuation(start: float, rate: float, end: float) -> list[float]:
    """beta for each pass: from `start` to `end` by factors of `rate`."""
    betas = [start]
    while betas[-1] * rate <= end * 1.001:
        betas.append(betas[-1] * rate)
    return betas


def solve(
    blurred: Array,
    kernel: Array,
    split: Split,
    *,
    weight: Any,
    betas: Sequence[Any],
    boundary: str = "unknown",
    saturated: Array | None = None,
    mask: Array | None = None,
    return_padded: bool = False,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 + weight phi(D x) by half-quadratic splitting or ADMM, one pass per beta.

    A pass sets g by `split` from D x (and the multipliers), then x to the closed form of

        |M (x * k - B)|^2 / 2 + weight beta / 2 |D x - g|^2.

    With a known boundary all pixels of a periodic grid count, M = 1, and that is a quotient of spectra: two transforms
    per pass, and three at the start. With the boundary "unknown", M selects the image's own valid pixels, and no
    transform diagonalizes M K. So v = x * k is split off too, with multipliers d and a weight c = `COUPLING`
    ([Almeida2013] eq. 24-31 with the mask apart from the convolution):

        v = (B + c (x * k + d)) / (1 + c) where M is 1, x * k + d elsewhere;   d += x * k - v,
        x = argmin c / 2 |x * k - v + d|^2 + weight beta / 2 |D x - g|^2,

    closed forms again: four transforms per pass. (In both updates, a x * k + (1 - a) v with the previous v replaces
    x * k, a = `RELAXATION`.)

    Parameters
    ----------
    blurred : (..., H, W) float.
    kernel : (..., kh, kw), odd sides, sum 1.
    split : (x, beta) -> D^T g, see `Augmented`.
    weight : of phi: a number, or one per image, (..., 1, 1).
    betas : one per pass, like `weight`.
    boundary : see `numerics.boundary.pad`.
    saturated : (..., H, W) bool, where x * k may exceed B; for the unknown boundary only. There v is x * k + d, too,
        where that exceeds B.
    mask : (..., H, W) bool, where the image is valid; for the unknown boundary only. M is 0 elsewhere, and B is but the
        first iterate of v.
    return_padded : return the solution on the whole grid of `numerics.boundary.pad`.
    callback : called with the completed fraction after each pass.

    Returns
    -------
    (..., H, W), or the grid.
    """
    xp, unknown = array_module(blurred, kernel), boundary == "unknown"
    latent = pad(blurred, kernel, boundary)
    shape, window = latent.shape[-2:], (..., slice(blurred.shape[-2]), slice(blurred.shape[-1]))
    if goes_to_cuda(latent, kernel):  # the launch functions take spectra of one shape
        kernel = xp.broadcast_to(kernel, (*latent.shape[:-2], *kernel.shape[-2:]))
    otf = psf_to_otf(kernel, shape)
    power = otf.real**2 + otf.imag**2
    adjoint = otf.conj()
    target = latent  # v - d
    if saturated is not None:
        latent, target = saturated_start(blurred, kernel, saturated, latent, mask)
    data = adjoint * rfft2(target)
    fidelity = COUPLING if unknown else 1.0
    multiplier: Any = 0.0  # d, which is 0 outside the image
    for index, beta in enumerate(betas, start=1):
        dt_g = rfft2(split(latent, beta), overwrite=True)
        dt_g[..., 0, 0] = 0  # D^T g sums to 0; its rounding error, times a large weight, would shift the mean
        spectrum = spectral_solve(data, dt_g, power, weight * beta / fidelity, shape)
        if unknown and index < len(betas):
            reblurred = irfft2(otf * spectrum, shape, overwrite=True)
            reblurred *= RELAXATION
            target *= 1 - RELAXATION
            target += reblurred
            relaxed = target[window] + (2 - RELAXATION) * multiplier
            value = (project_on_data(blurred, relaxed, saturated, mask) + COUPLING * relaxed) / (1 + COUPLING)
            multiplier = relaxed - value
            target[window] = value - multiplier
            data = adjoint * rfft2(target)
        latent = irfft2(spectrum, shape, overwrite=True)
        if callback is not None:
            callback(index / len(betas))
    return latent if return_padded else crop(latent, blurred.shape[-2:])


def shrink_isotropic(gx: Array, gy: Array, beta: Any) -> tuple[Array, Array]:
    """argmin_g |g| + beta / 2 |g - v|^2 for vectors v = (gx, gy): the length shrinks by 1 / beta, at least to 0."""
    xp = array_module(gx, gy)
    size = xp.hypot(gx, gy)
    # The maximum avoids a division by 0; the factor is 0 there.
    factor = 1 - 1 / xp.maximum(beta * size, 1)
    return gx * factor, gy * factor


def tv_admm(
    blurred: Array,
    kernel: Array,
    weight: Any,
    shrink: Shrink = shrink_isotropic,
    *,
    boundary: str = "unknown",
    saturated: Array | None = None,
    mask: Array | None = None,
    iterations: int,
    return_padded: bool = False,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """The passes of `tv`, with a weight and a result as `solve` has them."""
    betas = [TV_BETA * weight**-0.5] * iterations
    return solve(
        blurred, kernel, Augmented(shrink), weight=weight, betas=betas, boundary=boundary, saturated=saturated,
        mask=mask, return_padded=return_padded, callback=callback,
    )  # fmt: skip
