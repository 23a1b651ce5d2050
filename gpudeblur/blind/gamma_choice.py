"""gamma="auto": kernels are estimated in linear light and in that of a photograph, and the better one is taken.

A blur is a convolution in linear light alone. In the wrong light the dips of the kernel's spectrum are filled in, and
the latent image needs more edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..images.noise import divide_by_noise
from ..images.planes import encode
from ..numerics.arrays import Array, Clock, array_module, to_host
from ..numerics.progress import Callback
from .kernel_projection import normalize
from .observation import Observation
from .options import Settings
from .parts import Part, estimate_parts
from .selection import ENERGY_WEIGHT, score_kernels
from .two_step import views_of

GAMMAS = (1.0, 2.2)


def parts_in_best_gamma(observed: Observation, settings: Settings, clock: Clock) -> Iterator[Part]:
    """The kernels of `observed`, as it is stored, each in that of `GAMMAS` where it scores best. Waits for a device."""
    n = len(observed)
    estimates, scores = [], np.empty((len(GAMMAS), n), dtype=np.float32)
    for i, gamma in enumerate(GAMMAS):
        callback = None if settings.callback is None else _in_turn(settings.callback, i, settings.kernel_fraction)
        parts = list(estimate_parts(observed.decoded(gamma), replace(settings, gamma=gamma, callback=callback), clock))
        for part in parts:
            scores[i, _indices(part, n)] = gamma_score(part, settings)
        estimates.append(parts)
    best = scores.argmax(axis=0)
    for i, parts in enumerate(estimates):
        for part in parts:
            inside = np.flatnonzero(best[_indices(part, n)] == i)
            if len(inside):
                yield subset(part, inside, n)


def _in_turn(callback: Callback, turn: int, end: float) -> Callback:
    """`callback` for one of several estimates, whose kernels are done in turn until `end`; restorations follow."""

    def report(stage: str, fraction: float) -> bool | None:
        return callback(stage, (turn * end + fraction) / len(GAMMAS) if stage == "kernel" else fraction)

    return report


def _indices(part: Part, n: int) -> np.ndarray:
    return np.arange(n) if part.group is None else part.group


def gamma_score(part: Part, settings: Settings) -> np.ndarray:
    """(n,): the score of `selection.KernelScores`, with the energy over that of no blur. Waits for a device.

    Energies of different gammas have different scales, and that of no blur has the same.
    """
    height, width = part.kernel.shape[-2:]
    views = views_of(part.source, (height, width), settings.options)
    scaled = divide_by_noise(views.full if views.scoring is None else views.scoring, views.noise_scale)
    delta = normalize(part.source.xp.zeros((len(views.full), 3, 3), dtype=scaled.dtype))
    energy = part.signals["energy"] - score_kernels(scaled, delta, views.noise_scale).energy
    score = to_host(part.signals["spectral_match"] - ENERGY_WEIGHT * energy / views.noise_scale)
    return np.where(np.isnan(score), -np.inf, score)


def subset(part: Part, inside: np.ndarray, n: int) -> Part:
    """The images of a part with the indices `inside` it; `n` is the number of images in the stack."""
    if len(inside) == len(part.kernel):
        return part
    indices = part.observed.xp.asarray(inside)
    return replace(
        part,
        group=_indices(part, n)[inside],
        observed=part.observed.subset(inside),
        kernel=part.kernel[indices],
        signals={name: values[indices] for name, values in part.signals.items()},
    )


def gammas_of(parts: list[Part], n: int) -> np.ndarray:
    """The gamma of each of `n` images."""
    gammas = np.empty(n)
    for part in parts:
        gammas[part.group] = part.gamma
    return gammas


def encode_each(planes: Array, gammas: np.ndarray) -> Array:
    """Planes (n, C, H, W) of linear intensity as they are stored, each with its gamma."""
    if len(np.unique(gammas)) == 1:
        return encode(planes, float(gammas[0]))
    stored = planes.copy()
    for gamma in np.unique(gammas):
        indices = array_module(planes).asarray(np.flatnonzero(gammas == gamma))
        stored[indices] = encode(planes[indices], float(gamma))
    return stored
