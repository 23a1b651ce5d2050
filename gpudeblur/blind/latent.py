"""Latent step: the sharp image for a known kernel, under the L0 gradient prior, the local smooth prior and others."""

from __future__ import annotations

from typing import Any

from ..numerics.arrays import Array, Workspace, array_module, sum_pixels
from ..numerics.filters import data_terms, dilate, dt_l0, dt_smooth, edge_mask, gaussian_smooth, spectral_solve
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from ..priors import Prior
from ..priors.protocol import Checked, check_eta, check_weight

# Below this fraction of beta, the smooth prior changes the solution less than rounding and thresholds do.
NEGLIGIBLE = 0.01


def latent_step(
    blurred: Array,
    kernel: Array,
    *,
    blurred_hat: Array | None = None,
    gradient_weight: float,
    smooth_weight: float = 0.0,
    smooth_sigma: float = 0.3,
    smooth_radius: int = 1,
    beta_rate: float = 2.0,
    beta_max: float = 1e5,
    prior: Prior | None = None,
    prior_weight: float | None = None,
    eta_max: float | None = None,
    buffers: Workspace | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 + lambda |grad x|_0 + alpha |grad x - grad z|^2 by half-quadratic splitting (eq. 2-7).

    beta runs from 2 lambda by factors of `beta_rate` while below `beta_max`. Each iteration is a hard threshold of the
    gradients (eq. 4), the smooth map (eq. 5) while alpha still counts beside beta, and the closed form (eq. 7).

    A prior adds mu p(x) to the objective. Each iteration then takes its step too, u = argmin_u eta |x - u|^2 + mu p(u),
    and the closed form couples x to u with the weight eta ([Li2018] eq. 9), which grows with beta from 2 mu up to
    `eta_max`.

    Parameters
    ----------
    blurred : (..., H, W) float, made periodic by `boundary.pad_liu_jia`, in [0, 1].
    kernel : (..., kh, kw) float.
    blurred_hat : its `rfft2`, if the caller has it.
    gradient_weight : lambda > 0. Larger: flatter images with fewer, stronger edges.
    smooth_weight : alpha >= 0. Larger: smooth regions stay closer to their smoothed version.
    smooth_sigma, smooth_radius : pixels, see `dt_smooth_map`.
    beta_rate, beta_max : the continuation. A smaller rate or a larger end costs transforms.
    prior : p, see `priors`.
    prior_weight : mu, instead of `prior.weight`: the caller lets it decay with lambda. 0 is no prior.
    eta_max : the largest eta, instead of the prior's own. Larger: x stays closer to u, and with it to the x of the
        iteration before. [Pan2014] end at 8 and run through all of beta for each eta; with one step an iteration, 1 to
        2 gave the best kernels of printed pages.
    buffers : the buffers of a loop around this step; the result is in one of them, and overwritten by the next call.

    Returns
    -------
    (..., H, W): the latent image, not clipped.

    Raises
    ------
    TypeError, ValueError
        See `priors.protocol.Checked`; or `prior_weight` or `eta_max` is not as it says there.
    """
    xp, shape = array_module(blurred, kernel), blurred.shape[-2:]
    buffers = Workspace(blurred) if buffers is None else buffers
    kernel = xp.broadcast_to(kernel, (*blurred.shape[:-2], *kernel.shape[-2:]))
    otf = psf_to_otf(kernel, shape, out=buffers.spectrum("otf"), scratch=buffers.image("split"))
    data, power = data_terms(otf, rfft2(blurred) if blurred_hat is None else blurred_hat, out=buffers.power("power"))
    checked_prior, mu = None if prior is None else Checked(prior), 0.0
    if checked_prior is not None:
        mu = checked_prior.weight if prior_weight is None else prior_weight
        eta_max = checked_prior.eta_max if eta_max is None else eta_max
        check_weight("prior_weight", mu)
        check_eta("eta_max", eta_max)
    latent, beta = blurred, 2 * gradient_weight
    while beta < beta_max:
        threshold = gradient_weight / beta
        dt_g, weight = dt_l0(latent, threshold, out=buffers.image("split")), beta  # D^T g (eq. 4)
        if smooth_weight > NEGLIGIBLE * beta:  # (beta g + alpha grad z) / (beta + alpha), as grad z is g at edges
            weight = beta + smooth_weight
            dt_smooth_map(
                latent,
                threshold,
                sigma=smooth_sigma,
                radius=smooth_radius,
                scale=smooth_weight / weight,
                out=dt_g,
                buffers=buffers,
            )
        coupled = power
        if checked_prior is not None and eta_max is not None and mu:
            # F(beta D^T g + eta u) is one transform, and |F k|^2 + eta one spectrum
            eta = min(beta * mu / gradient_weight, eta_max)
            dt_g += xp.multiply(checked_prior.step(latent, mu / eta), eta / weight, out=buffers.image("coupled"))
            coupled = xp.add(power, eta, out=buffers.power("coupled power"))
        dt_g_hat = rfft2(dt_g, overwrite=True, out=buffers.spectrum("hat"))
        solution = spectral_solve(data, dt_g_hat, coupled, weight, shape)  # eq. 7
        latent = irfft2(solution, shape, overwrite=True, out=buffers.image("latent"))
        beta *= beta_rate
    return latent


def residual(latent: Array, kernel: Array, blurred_hat: Array) -> Array:
    """x * k - B, (..., H, W), of periodic images; `blurred_hat` is the `rfft2` of B."""
    shape = latent.shape[-2:]
    difference = irfft2(psf_to_otf(kernel, shape) * rfft2(latent) - blurred_hat, shape, overwrite=True)
    difference /= shape[0] * shape[1]
    return difference


def objective(latent: Array, residual: Array, *, gradient_weight: float, threshold: float) -> Array:
    """|x * k - B|^2 + lambda |grad x|_0 of eq. 2, (...); squared gradients below `threshold` count as 0.

    Parameters
    ----------
    latent : (..., H, W), periodic.
    residual : see `residual`.
    threshold : squared gradients below it count as 0, such as lambda / beta_max, near the last threshold of eq. 4.
    """
    edges = sum_pixels(edge_mask(latent, threshold))
    return sum_pixels(residual * residual) + gradient_weight * edges


def dt_smooth_map(
    latent: Array,
    threshold: Any,
    *,
    sigma: float,
    radius: int,
    scale: float | None = None,
    out: Array | None = None,
    buffers: Workspace | None = None,
) -> Array:
    """D^T grad z, where z is the smooth part of the latent image (eq. 5).

    The mask t is set at gradients with |grad x|^2 >= threshold and dilated by a square of 2 radius + 1 pixels; outside
    it, z is the image smoothed by a Gaussian of `sigma` pixels. Inside it this function gives 0, and the latent step
    uses g of eq. 4 for grad z. The paper writes a gradient of 0 there, which would flatten the very edges that the mask
    protects (docs/method.md has figures of both).

    Parameters
    ----------
    latent : (..., H, W) float, periodic.
    threshold : scalar or (...): lambda / beta of eq. 4, the same that selects g.
    scale, out : with them, `out` += scale D^T grad z.
    buffers : the buffers of a loop around this.

    Returns
    -------
    (..., H, W), or `out` where there is a `scale`.
    """
    buffers = Workspace(latent) if buffers is None else buffers
    edges = edge_mask(latent, threshold, out=buffers.image("edges", bool))
    near = dilate(edges, radius, out=buffers.image("near edges", bool), scratch=buffers.image("edges, rows", bool))
    smooth = gaussian_smooth(latent, sigma, out=buffers.image("smooth"), scratch=buffers.image("smooth, rows"))
    return dt_smooth(smooth, near, scale, out)
