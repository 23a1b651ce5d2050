"""Local smooth prior of Chen & Chang 2017: where there are no strong gradients, the latent picture stays smooth."""

from __future__ import annotations

from typing import Any

from .numerics.arrays import Array, Workspace
from .numerics.filters import dilate, edge_mask, gaussian_smooth, smooth_split


def smooth_map_split(
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
    return smooth_split(smooth, near, scale, out)
