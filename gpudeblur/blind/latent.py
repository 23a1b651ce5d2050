"""Latent step: the sharp picture for a known kernel, under the L0 gradient prior, the local smooth prior and others."""

from __future__ import annotations

from typing import Any

from ..numerics.arrays import Array, Workspace, array_module, sum_pixels
from ..numerics.filters import data_terms, dilate, dt_l0, dt_smooth, edge_mask, gaussian_smooth, spectral_solve
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from ..priors import Prior
from ..priors.protocol import check_eta

# Below this share of beta the smooth prior moves the solution by less than rounding and thresholds do.
NEGLIGIBLE = 0.01
# The end of eta for a prior that does not say.
ETA_MAX = 2.0


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
    work: Workspace | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 + lambda |grad x|_0 + alpha |grad x - grad z|^2 by half-quadratic splitting (eq. 2-7).

    beta runs from 2 lambda by factors of `beta_rate` up to `beta_max`; each pass is a hard threshold of the gradients
    (eq. 4), the smooth map (eq. 5) while alpha still counts beside beta, and the closed form (eq. 7).

    A prior adds mu p(x) to the objective. Each pass then takes its step too, u = argmin_u eta |x - u|^2 + mu p(u), and
    the closed form holds x to u by the weight eta (seed 3, eq. 9), which grows with beta from 2 mu up to `eta_max`.

    Parameters
    ----------
    blurred : (..., H, W) float, made periodic by `boundary.wrap`, in [0, 1].
    kernel : (..., kh, kw) float.
    blurred_hat : its `rfft2`, if the caller has it.
    gradient_weight : lambda > 0. Larger: flatter pictures with fewer, stronger edges.
    smooth_weight : alpha >= 0. Larger: smooth regions are held closer to their smoothed selves.
    smooth_sigma, smooth_radius : pixels, see `dt_smooth_map`.
    beta_rate, beta_max : the continuation. A smaller rate or a larger end costs transforms.
    prior : p, see `priors`.
    prior_weight : mu, where it is not `prior.weight`: a caller lets it decay with lambda. 0 is no prior.
    eta_max : the end of eta; None: the prior's own, where it has one, else 2. Larger: x is held closer to u, and with
        it to the x of the pass before. Pan et al. 2014 end at 8 and run through all of beta for each eta; with a step a
        pass, 1 to 2 gave the best kernels of pages.
    work : the buffers of a loop around this step; the result is in one of them, and overwritten by the next call.

    Returns
    -------
    (..., H, W): the latent picture, not clipped.

    Raises
    ------
    ValueError
        The weight of the prior is negative, the end of eta no number or too small for float32, or the prior's step
        gives another shape.
    TypeError
        The prior's step gives an array of another library.
    """
    xp, shape = array_module(blurred, kernel), blurred.shape[-2:]
    work = Workspace(blurred) if work is None else work
    kernel = xp.broadcast_to(kernel, (*blurred.shape[:-2], *kernel.shape[-2:]))
    otf = psf_to_otf(kernel, shape, out=work.spectrum("otf"), scratch=work.picture("split"))
    data, power = data_terms(otf, rfft2(blurred) if blurred_hat is None else blurred_hat, out=work.power("power"))
    mu = _weight_of(prior, prior_weight)
    most_eta = _end_of_eta(prior, eta_max)
    latent, beta = blurred, 2 * gradient_weight
    while beta < beta_max:
        threshold = gradient_weight / beta
        split, weight = dt_l0(latent, threshold, out=work.picture("split")), beta
        if smooth_weight > NEGLIGIBLE * beta:  # (beta w + alpha grad z) / (beta + alpha), as grad z is w where t is set
            weight = beta + smooth_weight
            dt_smooth_map(
                latent,
                threshold,
                sigma=smooth_sigma,
                radius=smooth_radius,
                scale=smooth_weight / weight,
                out=split,
                work=work,
            )
        coupled = power
        if prior is not None and mu:  # F(beta D^T g + eta u) is one transform, and |F k|^2 + eta one spectrum
            eta = min(beta * mu / gradient_weight, most_eta)
            split += xp.multiply(_step_of(prior, latent, mu / eta), eta / weight, out=work.picture("coupled"))
            coupled = xp.add(power, eta, out=work.power("coupled power"))
        split_hat = rfft2(split, overwrite=True, out=work.spectrum("hat"))
        solution = spectral_solve(data, split_hat, coupled, weight, shape)
        latent = irfft2(solution, shape, overwrite=True, out=work.picture("latent"))
        beta *= beta_rate
    return latent


def _weight_of(prior: Prior | None, weight: float | None) -> float:
    """mu: `weight` or, where there is none, the prior's own; 0 without a prior."""
    if prior is None:
        return 0.0
    mu = prior.weight if weight is None else weight
    if not mu >= 0:
        name = "prior.weight" if weight is None else "prior_weight"
        raise ValueError(f"{name} must not be negative, got {mu!r}; 0 switches the prior off")
    return float(mu)


def _end_of_eta(prior: Prior | None, end: float | None) -> float:
    """`end` or, where there is none, the prior's own, or `ETA_MAX`; what a prior says is a user's."""
    if end is not None:
        check_eta("eta_max", end)
        return end
    own = getattr(prior, "eta_max", ETA_MAX)
    check_eta("prior.eta_max", own)
    return own


def _step_of(prior: Prior, latent: Array, ratio: float) -> Array:
    """`prior.step`, held to its contract: what it gives is a user's."""
    u = prior.step(latent, ratio)
    array_module(latent, u)
    if u.shape != latent.shape:
        raise ValueError(f"{type(prior).__name__}.step must return shape {latent.shape}, its argument's, got {u.shape}")
    return u


def objective(latent: Array, kernel: Array, blurred_hat: Array, *, gradient_weight: float, threshold: float) -> Array:
    """|x * k - B|^2 + lambda |grad x|_0 of eq. 2, (...); gradients under `threshold` (squared) count as 0.

    Parameters
    ----------
    latent : (..., H, W), periodic. kernel : (..., kh, kw). blurred_hat : `rfft2` of the blurred picture.
    threshold : lambda / beta at the end of the continuation, what eq. 4 last took for no gradient.
    """
    shape = latent.shape[-2:]
    rest = irfft2(psf_to_otf(kernel, shape) * rfft2(latent) - blurred_hat, shape, overwrite=True)
    rest /= shape[0] * shape[1]
    edges = sum_pixels(edge_mask(latent, threshold))
    return sum_pixels(rest * rest) + gradient_weight * edges


def dt_smooth_map(
    latent: Array,
    threshold: Any,
    *,
    sigma: float,
    radius: int,
    scale: float | None = None,
    out: Array | None = None,
    work: Workspace | None = None,
) -> Array:
    """D^T grad z, where z is the smooth part of the latent picture (seed 0, eq. 5).

    t marks the gradients with |grad x|^2 >= threshold and is dilated by a square of 2 radius + 1 pixels; z is the
    picture smoothed by a Gaussian of `sigma` pixels wherever t is not set. Where it is, this function gives 0 and the
    latent step lets w of eq. 4 stand for grad z: a gradient of 0, the paper's letter, would flatten the very edges that
    the mask is there to protect (`bench/README.md` has both).

    Parameters
    ----------
    latent : (..., H, W) float, periodic.
    threshold : scalar or (...): lambda / beta of eq. 4, the same that selects w.
    scale, out : with them, `out` += scale D^T grad z.
    work : the buffers of a loop around this.

    Returns
    -------
    (..., H, W): the adjoint gradient of grad z, ready to be transformed; `out`, where there is a `scale`.
    """
    work = Workspace(latent) if work is None else work
    edges = edge_mask(latent, threshold, out=work.picture("edges", bool))
    near = dilate(edges, radius, out=work.picture("near edges", bool), scratch=work.picture("edges, rows", bool))
    smooth = gaussian_smooth(latent, sigma, out=work.picture("smooth"), scratch=work.picture("smooth, rows"))
    return dt_smooth(smooth, near, scale, out)
