"""L0-gradient deconvolution: few edges, constant between them. For text, drawings, and as a part of `ringing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...numerics.arrays import Array
from ...numerics.boundary import crop
from ...numerics.filters import dt_l0
from ...numerics.progress import subrange
from ..regularization import WeightRule, resolve_weight
from ..splitting import continuation, solve
from ..unknown_boundary import periodic_extension

WEIGHT_RULE = WeightRule(0.56, 1.8)


def l0(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    boundary: str = "unknown",
    saturated: Array | None = None,
    mask: Any = None,
    beta_rate: float = 2.0,
    beta_max: float = 1e5,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 / 2 + weight |grad x|_0 by half-quadratic splitting.

    |.|_0 counts the pixels where either derivative is not 0. A pass keeps the gradients of |grad x|^2 >= 2 / beta, sets
    the others to 0 ([XuL2011] eq. 12), and solves for x (eq. 8, with a blur: [Pan2014] eq. 9).

    Kept for comparison: it is best in no row of the benches.

    Parameters
    ----------
    blurred, kernel, weight, boundary, saturated, mask, callback : common to all methods, see
        `help(gpudeblur.nonblind)`.
    beta_rate, beta_max : continuation from 4, where only steps above 0.7 are edges, to 2 / beta_max, the square of the
        smallest edge.

    Where the data term has no 1/2, `weight` is half of lambda. Text and drawings allow larger ones than photographs.
    """
    weight = resolve_weight(weight, blurred, kernel, WEIGHT_RULE, mask)
    padded = periodic_extension(
        blurred, kernel, boundary, saturated=saturated, mask=mask, callback=subrange(callback, 0, 0.6)
    )
    betas = continuation(4.0, beta_rate, beta_max)
    latent = solve(
        padded, kernel, lambda u, beta: dt_l0(u, 2 / beta), weight=weight, betas=betas, boundary="wrap",
        callback=subrange(callback, 0.6, 0.4),
    )  # fmt: skip
    return crop(latent, blurred.shape[-2:])
