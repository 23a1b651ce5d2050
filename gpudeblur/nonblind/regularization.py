"""Weights of the priors as a function of the noise, by rules fitted on photographs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..images.kernel_field import KernelField
from ..images.noise import noise_sigma_under
from ..numerics.arrays import Array, array_module
from ..numerics.filters import per_image

# Lower bound on sigma. Where noise is the only error, the best weights decrease without limit; but in a real photograph
# the blur is not the same everywhere: on Levin's, with noise of 0.0004 to 0.0013, "tv" is best at a weight for 0.006.
# This is a compromise: on exact images it costs up to 2.6 dB of 34.6 ("tv"), without it Levin's would lose a dB.
FLOOR = 0.0025
# Upper bound on sigma; images are in [0, 1] and the rules were fitted there.
CEILING = 1.0


class WeightRule(NamedTuple):
    """weight = factor sigma^power.

    Fitted to the weights of the best mean PSNR on 16 photographs of BSDS500 (train) with eight kernels and noise of
    0.0025, 0.01 and 0.05 (8 photographs for "sparse"). Each of these is met within a fifth, which costs less than
    0.05 dB.
    """

    factor: float
    power: float

    def weight(self, sigma: Any) -> Any:
        """For a sigma limited to 0.0025 ... 1."""
        xp = array_module(sigma) if np.ndim(sigma) else np
        # Not **, which rounds a scalar differently from an array: a batch must equal a loop.
        return self.factor * xp.power(xp.minimum(xp.maximum(sigma, FLOOR), CEILING), self.power)


def equivalent_weight(weight: Any, rule: WeightRule, target: WeightRule) -> Any:
    """The weight by `target` for the noise that has `weight` by `rule`, also below the floor."""
    if np.ndim(weight) == 0:
        return float(target.factor * np.power(weight / rule.factor, target.power / rule.power))
    return target.factor * array_module(weight).power(weight / rule.factor, target.power / rule.power)


def estimate_weight(blurred: Array, kernel: Array | KernelField, rule: WeightRule, mask: Array | None = None) -> Array:
    """The weight for the noise of images (..., H, W) in [0, 1], measured by `noise_sigma_under`; (...)."""
    sigma = noise_sigma_under(blurred, kernel, mask)
    return array_module(blurred).asarray(rule.weight(sigma), dtype=blurred.dtype)


def resolve_weight(
    weight: Any, blurred: Array, kernel: Array | KernelField, rule: WeightRule, mask: Array | None = None
) -> Any:
    """`weight`, or the estimated one for None, shaped to broadcast over images: a number, or (..., 1, 1)."""
    return as_column(estimate_weight(blurred, kernel, rule, mask) if weight is None else weight, blurred)


def as_column(value: Any, u: Array) -> Any:
    """`per_image`, but a NumPy array of a single number stays an array: it is rounded as it would be in a stack."""
    if array_module(u) is not np or isinstance(value, int | float):
        return per_image(value, u)
    return np.asarray(value, dtype=u.dtype)[..., None, None]
