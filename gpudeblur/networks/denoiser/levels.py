"""The levels of the denoiser in plug-and-play restoration, for the method and for the training of its network."""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS = 5
# The level of step i is FACTORS[i] noise^(1 / 3), about the error of the image there. For noise of 0.0025, 0.01, 0.05:
# from 0.041, 0.065 and 0.11 down to 0.016, 0.026 and 0.044.
FACTORS = tuple(float(factor) for factor in np.geomspace(0.3, 0.12, STEPS))
EXPONENT = 1 / 3
MIN_NOISE = 0.0025  # of the observation, as the rules of the weights assume it


def step_levels(noise: Any, power: Any = pow) -> list[Any]:
    """sigma of each step, for the standard deviation of the noise of the observation, a number or an array.

    `power`: the function of two arguments for the kind of `noise`.
    """
    root = power(noise, EXPONENT)
    return [factor * root for factor in FACTORS]
