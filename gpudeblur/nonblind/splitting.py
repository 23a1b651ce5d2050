"""argmin_x |x * k - B|^2 / 2 + weight phi(grad x) for any phi with a known proximal step: one loop of closed forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, goes_to_cuda
from ..numerics.boundary import crop, pad
from ..numerics.filters import gradient, gradient_adjoint, spectral_solve
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from .saturation import project_on_data, saturated_start

Split = Callable[[Array, Any], Array]  # (x, beta) -> D^T g: what the solution's gradient is drawn to
Shrink = Callable[[Array, Array, Any], tuple[Array, Array]]  # (d/dx, d/dy, beta) -> argmin_g phi(g) + beta/2 |g - .|^2
# Of x * k to the picture that takes its place where the boundary is unknown. It changes the way, not the solution: of
# 0.02, 0.05, 0.1, 0.2 and more, this came closest in 20 and 30 passes over all noises.
COUPLING = 0.1
# Of that split, as much over-relaxed (Boyd et al. 2011, section 3.4.3): 30 passes come as far as 60 without.
RELAXED = 1.8


class Augmented:
    """D^T (g - e) with g = shrink(D x + e) and the multipliers e += D x - g, kept from call to call: ADMM.

    Without them (`filters.dt_l0`, `hyper_laplacian.dt_shrink`), beta must grow for g and D x to meet.
    """

    def __init__(self, shrink: Shrink) -> None:
        self._shrink = shrink
        self._kept: tuple[Array, Array, Any] | None = None

    def __call__(self, u: Array, beta: Any) -> Array:
        gx, gy = gradient(u)
        if self._kept is not None:
            ex, ey, last = self._kept
            if last is not beta and np.ndim(beta) == 0 and last != beta:  # beta e is the multiplier itself
                ex *= last / beta
                ey *= last / beta
            gx += ex
            gy += ey
        sx, sy = self._shrink(gx, gy, beta)
        gx -= sx
        gy -= sy
        self._kept = gx, gy, beta
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
    clipped: Array | None = None,
    coupling: float = COUPLING,
    whole: bool = False,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 + weight phi(D x) by half-quadratic splitting or ADMM, a pass for each beta.

    A pass sets g to what `split` makes of D x (and of the multipliers), then x to the closed form of

        |M (x * k - B)|^2 / 2 + weight beta / 2 |D x - g|^2.

    Where the boundary is known, all pixels of a periodic grid count, M = 1, and that is a quotient of spectra: two
    transforms a pass, and three at the start. Where it is "unknown", M keeps only the picture's own pixels, and no
    transform diagonalises M K. So v = x * k is split off too, with multipliers d and a weight c (Almeida & Figueiredo
    2013, eq. 24-31 with the mask apart from the convolution):

        v = (B + c (x * k + d)) / (1 + c) where M is 1, x * k + d elsewhere;   d += x * k - v,
        x = argmin c / 2 |x * k - v + d|^2 + weight beta / 2 |D x - g|^2,

    closed forms again: four transforms a pass. (In both, a x * k + (1 - a) v with the last v stands for x * k,
    a = `RELAXED`.)

    Parameters
    ----------
    blurred : (..., H, W) float.
    kernel : (..., kh, kw), odd sides, sum 1.
    split : (x, beta) -> D^T g, see `Augmented`.
    weight : of phi: a number, or one a picture shaped (..., 1, 1).
    betas : for each pass, like `weight`.
    boundary : see `boundary.extend`.
    clipped : (..., H, W) bool, where x * k may be more than B; for the unknown boundary only. There v is
        x * k + d, too, where that is more than B.
    coupling : c.
    whole : return the solution on all of the grid.
    callback : called with the fraction done after each pass.

    Returns
    -------
    (..., H, W), not clipped; with `whole`, the grid of `boundary.extend`.

    References
    ----------
    M. S. C. Almeida, M. A. T. Figueiredo: Deconvolving images with unknown boundaries using the alternating direction
    method of multipliers, IEEE Trans. Image Processing 22(8), 2013.
    S. Boyd et al.: Distributed optimization and statistical learning via the alternating direction method of
    multipliers, Foundations and Trends in Machine Learning 3(1), 2011.
    """
    xp, unknown = array_module(blurred, kernel), boundary == "unknown"
    if clipped is not None and not unknown:
        raise ValueError(f"boundary must be 'unknown' with clipped, got {boundary!r}; leave out one of them")
    latent = pad(blurred, kernel, boundary)
    shape, seen = latent.shape[-2:], (..., slice(blurred.shape[-2]), slice(blurred.shape[-1]))
    if goes_to_cuda(latent, kernel):  # the launch functions take spectra of one shape
        kernel = xp.broadcast_to(kernel, (*latent.shape[:-2], *kernel.shape[-2:]))
    otf = psf_to_otf(kernel, shape)
    power = otf.real**2 + otf.imag**2
    adjoint = otf.conj()
    again = latent
    if clipped is not None:
        latent, again = saturated_start(blurred, kernel, clipped, latent)
    data = adjoint * rfft2(again)
    fidelity = coupling if unknown else 1.0
    multiplier: Any = 0.0
    for number, beta in enumerate(betas, start=1):
        drawn = rfft2(split(latent, beta), overwrite=True)
        drawn[..., 0, 0] = 0  # D^T g sums to 0; its rounding, times a large weight, would move the mean
        solution = spectral_solve(data, drawn, power, weight * beta / fidelity, shape)
        last = number == len(betas)
        if unknown and not last:
            fresh = irfft2(otf * solution, shape, overwrite=True)  # x * k
            fresh *= RELAXED
            again *= 1 - RELAXED  # v - d of the last pass
            again += fresh
            target = again[seen] + (2 - RELAXED) * multiplier
            value = (project_on_data(blurred, target, clipped) + coupling * target) / (1 + coupling)
            multiplier = target - value
            again[seen] = value - multiplier
            data = adjoint * rfft2(again)
        latent = irfft2(solution, shape, overwrite=True)
        if callback is not None:
            callback(number / len(betas))
    return latent if whole else crop(latent, blurred.shape[-2:])


# weight beta = 0.7 sqrt(weight) came closest to the solution in 30 passes, from weights of 1e-4 to 1e-2.
TV_BETA = 0.7


def shrink_isotropic(gx: Array, gy: Array, beta: Any) -> tuple[Array, Array]:
    """argmin_g |g| + beta / 2 |g - v|^2 for vectors v = (gx, gy): shorter by 1 / beta, or 0."""
    xp = array_module(gx, gy)
    size = xp.hypot(gx, gy)
    # The largest of both, so that nothing is divided by 0: it is 0 then.
    factor = 1 - 1 / xp.maximum(beta * size, 1)
    return gx * factor, gy * factor


def tv_admm(
    blurred: Array,
    kernel: Array,
    weight: Any,
    shrink: Shrink = shrink_isotropic,
    *,
    boundary: str = "unknown",
    clipped: Array | None = None,
    iterations: int,
    whole: bool = False,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """`tv` with a weight as `splitting.solve` takes it, and on the whole grid if asked for."""
    betas = [TV_BETA * weight**-0.5] * iterations
    return solve(
        blurred, kernel, Augmented(shrink), weight=weight, betas=betas, boundary=boundary, clipped=clipped,
        whole=whole, callback=callback,
    )  # fmt: skip
