"""Does the kernel deserve trust? Two signals that need no true picture, and the probability fitted to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._arrays import Array, array_module
from .conjugate_gradient import dot
from .kernel_refine import normalise
from .kernel_step import energy, normal_equations, voting_gradients

RING = 3
BLOCKS = 8
# Logistic regression of "error ratio <= 2" on log(border mass + 0.01) and log(1.001 - agreement), fitted to 28
# portraits under two kernels each and 40 photographs (training pictures), see bench/README.md.
INTERCEPT, BORDER_SLOPE, AGREEMENT_SLOPE = -10.91, -4.25, -1.08


def border_mass(kernel: Array) -> Array:
    """Share of the kernel's mass in the outer three pixels of its support, (...).

    The support is larger than the kernel that was asked for: where the solution is right, nothing is there.
    """
    inner = kernel[..., RING:-RING, RING:-RING].sum(axis=(-2, -1))
    return 1 - inner / kernel.sum(axis=(-2, -1))


def checkerboard(window: np.ndarray) -> np.ndarray:
    """Every other of 8 x 8 blocks over the true part of `window` (H, W) bool, on the host: half of its pixels."""
    rows, columns = (np.flatnonzero(window.any(axis=axis)) for axis in (1, 0))
    y, x = ((np.arange(n) - at[0]) * BLOCKS // len(at) for n, at in zip(window.shape, (rows, columns), strict=True))
    return window & ((y[:, None] + x) % 2 == 0)


def agreement(
    latent: Array,
    latent_hat: Array,
    blurred_hat: Array,
    window: np.ndarray,
    share: float,
    size: tuple[int, int],
    solve: Callable[[Array, Array], Array],
) -> Array:
    """Normalised correlation, (...), of the kernels found by the two colours of a checkerboard, voting apart.

    solve(a, b) is the kernel step's solver. 0 where a half has nothing to say.
    """
    xp = array_module(latent)
    black = checkerboard(window)
    kernels, votes = [], []
    for half in (black, window & ~black):
        gradients = voting_gradients(latent, xp.asarray(half), share, pixels=int(half.sum()))
        a, b = normal_equations(gradients, latent_hat, blurred_hat, latent.shape[-2:], size)
        kernels.append(normalise(solve(a, b)))
        votes.append(energy(a))
    one, other = kernels
    product = dot(one, other) / xp.sqrt(dot(one, one) * dot(other, other))
    return xp.where((votes[0] > 0) & (votes[1] > 0), product[..., 0, 0], 0)


def confidence(border: Array, agreed: Array, kernel: Array) -> Array:
    """Probability, (...), that restoring with `kernel` comes within twice the squared error of the true kernel's.

    A kernel of a pixel or two, sum k^2 above 0.25, says that there is nothing to deblur or that nothing could be known;
    that is no success, and up to sum k^2 = 0.1 (Levin's kernels have 0.02 to 0.06) it counts less than a full one.
    """
    xp = array_module(border, agreed, kernel)
    score = INTERCEPT + BORDER_SLOPE * xp.log(border + 0.01) + AGREEMENT_SLOPE * xp.log(1.001 - xp.minimum(agreed, 1))
    spread = xp.clip((0.25 - (kernel**2).sum(axis=(-2, -1))) / 0.15, 0, 1)
    return xp.where(agreed > 0, spread / (1 + xp.exp(-score)), 0)
