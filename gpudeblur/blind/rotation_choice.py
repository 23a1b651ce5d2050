"""`deblur(blur="rotation")`: fields of kernels for images that they explain better than their uniform kernel.

Where the blur is uniform, poses gain or lose up to some dB against the uniform method. Therefore that one always runs
first, and a field must win by a margin in the score that ranks kernels (`selection`), averaged over patches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..images.kernel_field import KernelField
from ..images.noise import divide_by_noise
from ..numerics.arrays import Array, array_module
from ..numerics.progress import OnProgress, subrange
from .confidence import border_mass, confidence
from .observation import Observation
from .options import TwoStepOptions
from .patches import cut_patches, patch_centers, patch_corners, patch_side
from .rotation import PoseWeights, estimate_weights
from .rotation_path import kernel_window
from .selection import KernelScores, score_kernels
from .two_step import views_of

# By how much the score of a field must exceed that of the uniform kernel. Of 20 uniformly blurred training photographs
# the largest excess is 0.013; of 41 under rotation, fields that lose more than 0.5 dB reach 0.013 too.
FIELD_MARGIN = 0.015


@dataclass(frozen=True)
class Rotation:
    """What is known of one image's rotation.

    Attributes
    ----------
    weights : None where the uniform kernel is kept.
    advantage : score of the weights over that of the uniform kernel.
    match, gain : changes of `KernelScores.match`, and factor of `KernelScores.gain`, by the weights.
    """

    weights: PoseWeights | None
    advantage: float
    match: float
    gain: float


def choose_rotations(
    observed: Observation, kernel: Array, focal: float | None, options: TwoStepOptions, progress: OnProgress
) -> list[Rotation]:
    """For each image of `observed` with its uniform `kernel` (n, kh, kw), weights of poses or none.

    Images with a side below six kernels keep the uniform kernel.
    """
    shape, size = observed.shape, (kernel.shape[-2], kernel.shape[-1])
    if not rotation_fits(shape, size):
        return [Rotation(None, -math.inf, 0.0, 1.0)] * len(observed)
    views, window = views_of(observed, size, options), kernel_window(size, 1.0)
    images = views.full if views.unlit is None else views.unlit
    scoring = views.full if views.scoring is None else views.scoring
    rotations = []
    for i, (image, scored) in enumerate(zip(images, scoring, strict=True)):
        scale = observed.noise_scale[i]
        uniform = score_patches(scored, scale, functools.partial(_repeated, kernel[i]), size)
        part = subrange(progress, i / len(observed), 1 / len(observed))
        weights = estimate_weights(image, kernel[i], focal, scale, options, part)
        field = score_patches(scored, scale, functools.partial(weights.kernels, window=window), size)
        rotations.append(compared(weights, field, uniform))
    return rotations


def mean_score(scores: KernelScores) -> float:
    """The mean over the patches. Waits for a device."""
    return float(scores.score.mean())


def rotation_fits(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether an image is large enough to tell how the blur varies: six kernels."""
    return all(side >= 6 * k for side, k in zip(shape, size, strict=True))


def check_rotation_fits(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise unless `rotation_fits`."""
    if not rotation_fits(shape, size):
        raise ValueError(
            f"image must have six kernels along each side for blur='rotation', got {shape} for kernel_size {size}; use "
            "blur='uniform', or a smaller kernel_size"
        )


def compared(weights: PoseWeights, scores: KernelScores, uniform: KernelScores) -> Rotation:
    """The best weights if their mean score exceeds that of the uniform kernel by FIELD_MARGIN, else none."""
    advantage = mean_score(scores) - mean_score(uniform)
    match = float(scores.match.mean()) - float(uniform.match.mean())
    gain = float(scores.gain.mean()) / max(1e-9, float(uniform.gain.mean()))
    return Rotation(weights if advantage > FIELD_MARGIN else None, advantage, match, gain)


def score_patches(
    image: Array, noise_scale: Any, kernels: Callable[[np.ndarray], Array], size: tuple[int, int]
) -> KernelScores:
    """`score_kernels` of the patches of an image (H, W), (R,) each.

    Parameters
    ----------
    noise_scale : scalar, of the image.
    kernels : points (R, 2) to kernels (R, kh, kw) there.
    size : of the kernels that are compared, which determines the patches.
    """
    side = patch_side((image.shape[0], image.shape[1]), size, 1.0)
    corners = patch_corners(image, side)
    scale = array_module(image).full(len(corners), noise_scale, dtype=image.dtype)
    patches = cut_patches(image, corners, side)
    return score_kernels(divide_by_noise(patches, scale), kernels(patch_centers(corners, side)), scale)


def _repeated(kernel: Array, points: np.ndarray) -> Array:
    xp = array_module(kernel)
    return xp.ascontiguousarray(xp.broadcast_to(kernel, (len(points), *kernel.shape)))


def with_rotations(
    kernel: Array, signals: dict[str, Array], rotations: list[Rotation]
) -> tuple[Array, dict[str, Array], list[KernelField | None]]:
    """(kernels, signals, fields): the center's kernel and its signals for each image that has a field.

    The spectral match and the gradient gain of the uniform kernel change as their means over the patches do.
    """
    xp, kernel, signals = array_module(kernel), kernel.copy(), {name: v.copy() for name, v in signals.items()}
    advantage = [max(rotation.advantage, -1e6) for rotation in rotations]
    signals["advantage"] = xp.asarray(advantage, dtype=kernel.dtype)
    focals = [math.nan if rotation.weights is None else rotation.weights.grid.focal for rotation in rotations]
    signals["focal"] = xp.asarray(focals, dtype=kernel.dtype)
    fields: list[KernelField | None] = []
    for i, rotation in enumerate(rotations):
        if rotation.weights is None:
            fields.append(None)
            continue
        fields.append(rotation.weights.field())
        image = slice(i, i + 1)  # keeps the axis
        kernel[i] = rotation.weights.center_kernel()
        signals["border_mass"][image] = border_mass(kernel[image])
        signals["spectral_match"][image] = xp.minimum(signals["spectral_match"][image] + rotation.match, 1)
        signals["gradient_gain"][image] *= rotation.gain
        names = ("border_mass", "spectral_match", "gradient_gain", "agreement")
        signals["confidence"][image] = confidence(kernel[image], **{name: signals[name][image] for name in names})
    return kernel, signals, fields
