"""Weights of the priors by the noise of the picture: simple laws, fitted on photographs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..images.noise import noise_sigma_under
from ..numerics.arrays import Array, array_module
from ..numerics.filters import per_image

# weight = a sigma^p, fitted to the weights of the best mean PSNR on 16 photographs of BSDS500 (train) with eight
# kernels and noise of 0.0025, 0.01 and 0.05 (8 photographs for "sparse"). They meet each of these within a fifth, which
# costs less than 0.05 dB.
WEIGHT_RULES = {
    "tv": (1.34, 1.6),
    "hyper-laplacian": (0.69, 1.6),
    "sparse": (17.7, 1.9),
    "l0": (0.56, 1.8),
    "epll": (0.53, 1.96),
}
WEIGHT_RULES["ringing-suppressed"] = WEIGHT_RULES["tv"]  # whose weight it takes
# Less noise is taken for so much. The best weights fall on without end where nothing but noise is wrong, but in a real
# photograph the blur is not quite the same everywhere: on Levin's, with noise of 0.0004 to 0.0013, "tv" is best at a
# weight for 0.006. The floor is a compromise, made with both figures in sight: on exact pictures it costs up to 2.6 dB
# of 34.6 ("tv"), without it Levin's would lose a dB.
FLOOR = 0.0025
# More is taken for so much: a picture in [0, 1] cannot have it, and the laws know no other.
CEILING = 1.0


def weight_from_sigma(sigma: Any, method: str) -> Any:
    """a sigma^p, with a sigma between 0.0025 and 1."""
    factor, power = WEIGHT_RULES[method]
    xp = array_module(sigma) if np.ndim(sigma) else np
    # Not **, which rounds one number otherwise than an array of them: a batch is to equal a loop.
    return factor * xp.power(xp.minimum(xp.maximum(sigma, FLOOR), CEILING), power)


def equivalent_weight(weight: Any, method: str, other: str) -> Any:
    """The weight of method `other` for the noise that `weight` is for in `method`, also below the floor."""
    (factor, power), (new_factor, new_power) = WEIGHT_RULES[method], WEIGHT_RULES[other]
    if np.ndim(weight) == 0:
        return float(new_factor * np.power(weight / factor, new_power / power))
    return new_factor * array_module(weight).power(weight / factor, new_power / power)


def estimate_weight(blurred: Array, kernel: Array, method: str) -> Array:
    """The weight of the prior that suits the noise of pictures (..., H, W), (...): `weight_from_sigma`.

    sigma is `noise.noise_sigma_under` of picture and kernel, in the unit where the picture's range is 1.
    """
    sigma = noise_sigma_under(blurred, kernel)
    return array_module(blurred, kernel).asarray(weight_from_sigma(sigma, method), dtype=blurred.dtype)


def resolve_weight(weight: Any, blurred: Array, kernel: Array, method: str) -> Any:
    """`weight`, or the automatic one for None, to broadcast over pictures: a number, or (..., 1, 1)."""
    return as_column(estimate_weight(blurred, kernel, method) if weight is None else weight, blurred)


def as_column(weight: Any, u: Array) -> Any:
    """A Python number as it is; an array (...) as (..., 1, 1), of one picture too: it is rounded as in a stack then."""
    if array_module(u) is not np or isinstance(weight, int | float):
        return per_image(weight, u)
    return np.asarray(weight, dtype=u.dtype)[..., None, None]
