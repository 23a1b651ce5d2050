"""`restore(image, "face")`: what two networks and the blind method make of a face, mixed as far as each is right.

    one step           x1 = DeepDeblur(B)
    sketch             x2, k2 = Sketch(B)
    MAP                x3, k3 = deblur(B) with k2 among the initializations, moved onto x1
    sketch with MAP    x4 = the picture of the sketch network for the kernel k3

The errors of these images differ, so a mean is nearer to the true image than the best of them. The weights of the mean
are a softmax of linear functions of signals that need no true image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ..images.kernels import fit_size
from ..images.planes import luminance
from ..numerics.arrays import Array, array_module, ndimage_module, to_host
from ..numerics.progress import OnProgress, subrange
from .confidence import log_odds
from .deblur import deblur
from .kernel_projection import normalize
from .options import TwoStepOptions

STARTS = (*TwoStepOptions.starts, "network")
MASS = 0.99  # of the sketch's kernel, that the window of the blind method holds
MARGIN, SMALLEST = 2, 7  # pixels: around it on each side, and the side of the smallest window
LARGE = 160  # pixels, of the shorter side of a picture that is larger than what the networks know
MAX_SHIFT = 4  # pixels between an image of the blind method and those of the networks
MIN_GRADIENT = 1e-6  # rms, of images in [0, 1] that can be aligned; less is rounding
MIN_CURVATURE = 1e-6  # of a peak of the correlation, as a fraction of its height
OFFSET = 1e-4  # added to signals before their logarithm
CANDIDATES = ("one step", "sketch", "MAP", "sketch with MAP")
# Scores of `CANDIDATES` by their features, fitted by `python -m bench fit mixture`: 1, log change, log reblur and
# log gradient energy (`networks.confidence.signals`), log distance from the first image, log odds of MAP's confidence.
SCORES = np.array(
    [
        [-1.496, -0.679, 0.506, -2.057, 0.016, -0.005],
        [-3.238, -0.403, 0.002, 3.501, -0.187, 0.13],
        [-1.263, 0.596, 0.093, 0.657, -0.77, 1.445],
        [-2.5, -0.055, -0.625, 0.325, -0.211, 0.157],
    ]
)


def restore_faces(
    observed: Array, tile: int | None, report: OnProgress, valid: Array | None = None
) -> tuple[Array, Array]:
    """(restored images, kernels (n, K, K)) of (n, C, H, W), C = 1 or 3. The kernel is that of the larger weight.

    Where `valid` (n, C, H, W) is False, `observed` must be interpolated. None: it is valid everywhere.
    """
    xp = array_module(observed)
    images, kernels, features = candidates(observed, tile, report, valid)
    weight = mixture(features, SCORES)
    restored = sum(weight[:, i, None, None, None] * image for i, image in enumerate(images))
    by_map = weight[:, 2] + weight[:, 3] > weight[:, 1]
    return restored, xp.where(by_map[:, None, None], kernels[1], kernels[0])


def candidates(
    observed: Array, tile: int | None, report: OnProgress, valid: Array | None = None
) -> tuple[list[Array], list[Array], Array]:
    """(images (n, C, H, W) in the order of `CANDIDATES`, kernels of sketch and MAP (n, K, K), features (n, m, f))."""
    from ..networks import bridge, confidence
    from ..networks.restore import load, restore_images

    xp, device = array_module(observed), bridge.device_of(observed)
    one_step, _ = restore_images(load("deepdeblur", None, device), observed, tile=tile)
    network = load("sketch", None, device)
    sketch, kernel = restore_images(network, observed, tile=tile)
    assert kernel is not None
    report(0.1)
    by_map, map_kernel, odds = blind_images(observed, kernel, subrange(report, 0.1, 0.9), valid)
    move = shift_between(by_map, one_step)
    map_kernel = normalize(moved(map_kernel[:, None], -move, mode="grid-constant")[:, 0])
    by_map, side = moved(by_map, move), kernel.shape[-1]
    sketch_with_map = by_map
    if map_kernel.shape[-1] <= side:
        sketch_with_map, _ = restore_images(network, observed, tile=tile, kernels=fit_size(map_kernel, (side, side)))
    images = [one_step, sketch, by_map, sketch_with_map]
    features = []
    for number, image in enumerate(images):
        signals = confidence.signals(image, observed)
        columns = [signals[name] for name in ("change", "reblur", "gradient_energy")]
        columns.append(relative_square(image - one_step, observed))
        certainty = odds if number >= 2 else xp.zeros_like(odds)
        columns = [xp.log(column + OFFSET) for column in columns]
        features.append(xp.stack([xp.ones_like(certainty), *columns, certainty], axis=-1))
    side = max(side, map_kernel.shape[-1])
    return images, [fit_size(k, (side, side)) for k in (kernel, map_kernel)], xp.stack(features, axis=1)


def mixture(features: Array, scores: np.ndarray) -> Array:
    """Weights (n, m) of the candidates, sum 1, from features (n, m, f) and scores (m, f)."""
    xp = array_module(features)
    score = (features * xp.asarray(scores, dtype=features.dtype)).sum(axis=-1)
    weight = xp.exp(score - score.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def blind_images(
    observed: Array, kernel: Array, report: OnProgress, valid: Array | None = None
) -> tuple[Array, Array, Array]:
    """(restorations, kernels, log odds of the confidence) by `deblur`, with windows as large as `kernel` (n, K, K).

    In a large picture a kernel may be longer than any that the network knows: there `deblur` finds the size.
    """
    xp, options = array_module(observed), TwoStepOptions(starts=STARTS, strength=1.0)
    if min(observed.shape[-2:]) > LARGE:
        callback = functools.partial(_report, report)
        given, mask = _with_nan(observed, valid, 1)
        result = deblur(given, channel_axis=1, final="tv", mask=mask, options=options, callback=callback)
        return result.image, result.kernel, log_odds(xp.asarray(result.info["confidence"], dtype=observed.dtype))
    restored, kernels, odds = xp.empty_like(observed), xp.zeros_like(kernel), xp.empty_like(observed[:, 0, 0, 0])
    sides, done = support_sides(kernel, observed.shape[-2:]), 0.0
    for side in np.unique(sides):
        group = xp.asarray(np.flatnonzero(sides == side))
        progress = subrange(report, done, len(group) / len(sides))
        given, mask = _with_nan(observed[group], None if valid is None else valid[group], int(side) ** 2)
        result = deblur(
            given, int(side), channel_axis=1, final="tv", mask=mask, options=options,
            callback=functools.partial(_report, progress),
        )  # fmt: skip
        restored[group], kernels[group] = result.image, fit_size(result.kernel, kernel.shape[-2:])
        odds[group] = log_odds(xp.asarray(result.info["confidence"]))
        done += len(group) / len(sides)
    return restored, kernels, odds


def _with_nan(observed: Array, valid: Array | None, needed: int) -> tuple[Array, str | None]:
    """Images (n, C, H, W) with NaN where they are not valid, and the mask for `deblur`.

    An image of which a channel has fewer than `needed` valid pixels remains as it is.
    """
    if valid is None:
        return observed, None
    xp, few = array_module(observed), (valid.sum(axis=(-2, -1)) < needed).any(axis=1)
    nan = xp.asarray(float("nan"), dtype=observed.dtype)
    return xp.where(valid | few[:, None, None, None], observed, nan), "nan"


def _report(progress: OnProgress, stage: str, fraction: float) -> None:
    progress(fraction)


def support_sides(kernel: Array, shape: Sequence[int]) -> np.ndarray:
    """Odd sides (n,) of windows that hold `MASS` of each kernel (n, K, K) and a margin, for images of `shape`."""
    kernel, radius = to_host(kernel), kernel.shape[-1] // 2  # waits for a device
    y = np.abs(np.arange(-radius, radius + 1))
    ring = np.maximum(y[:, None], y)
    inside = np.stack([(kernel * (ring <= r)).sum(axis=(1, 2)) for r in range(radius + 1)], axis=1)
    sides = 2 * ((inside < MASS * inside[:, -1:]).sum(axis=1) + MARGIN) + 1
    return np.clip(sides, SMALLEST, max(SMALLEST, (min(shape) // 2 - 1) | 1))


def relative_square(difference: Array, blurred: Array) -> Array:
    """Mean square of (n, C, H, W) over the variance of the blurred images, (n,)."""
    xp, n = array_module(blurred), len(blurred)
    variance = blurred.reshape(n, -1).var(axis=1)
    return xp.square(difference).reshape(n, -1).mean(axis=1) / (variance + OFFSET**2)


def moved(images: Array, move: Array, mode: str = "nearest") -> Array:
    """Images (n, C, H, W), each moved by its (down, right) in `move` (n, 2), fractions of a pixel included.

    `mode` is that of `scipy.ndimage.shift`; beyond a kernel there are zeros: "grid-constant".
    """
    xp, result = array_module(images), images.copy()
    ndimage = ndimage_module(xp)
    for image, shift in zip(result, to_host(move).tolist(), strict=True):  # waits for a device
        for plane in image:
            plane[...] = ndimage.shift(plane, shift, order=3, mode=mode)
    return result


def shift_between(images: Array, references: Array) -> Array:
    """(n, 2): by how many pixels down and right each image must move to lie on its reference, at most `MAX_SHIFT`.

    A kernel and its image are known but for opposite shifts, and the networks are trained to centered kernels. The
    maximum of the cross-correlation of the luminances' gradients, to a fraction by a parabola. The window at the border
    pulls it towards 0, so the moved image is measured once more. 0 where there is no texture.
    """
    xp = array_module(images)
    gray, reference = (x[:, 0] if x.shape[1] == 1 else luminance(x) for x in (images, references))
    move = _correlation_peak(gray, reference)
    move = move + _correlation_peak(moved(gray[:, None], move)[:, 0], reference)
    return xp.clip(move, -MAX_SHIFT, MAX_SHIFT)


def _correlation_peak(gray: Array, reference: Array) -> Array:
    """One measurement of `shift_between`, of (n, H, W); it may exceed `MAX_SHIFT` by half a pixel."""
    xp, (h, w) = array_module(gray), gray.shape[-2:]
    window = xp.asarray(np.outer(np.hanning(h + 2)[1:-1], np.hanning(w + 2)[1:-1]), dtype=gray.dtype)
    centered = (x - x.mean(axis=(-2, -1), keepdims=True) for x in (gray, reference))
    spectrum, reference_spectrum = (xp.fft.rfft2(x * window) for x in centered)
    fy, fx = xp.fft.fftfreq(h)[:, None], xp.fft.rfftfreq(w)
    power = xp.asarray(fy**2 + fx**2, dtype=gray.dtype)
    correlation = xp.fft.irfft2(power * reference_spectrum * spectrum.conj(), s=(h, w))
    lags = xp.arange(-MAX_SHIFT - 1, MAX_SHIFT + 2)
    near = correlation[:, lags[:, None], lags]
    inner = near[:, 1:-1, 1:-1]
    best = inner.reshape(len(near), -1).argmax(axis=1)
    row, column, item = best // inner.shape[2] + 1, best % inner.shape[2] + 1, xp.arange(len(near))
    middle = near[item, row, column]
    textured = middle > h * w * MIN_GRADIENT**2
    shifts = []
    for before, after, start in (
        (near[item, row - 1, column], near[item, row + 1, column], row),
        (near[item, row, column - 1], near[item, row, column + 1], column),
    ):
        curvature = before + after - 2 * middle
        is_peak = textured & (curvature < -MIN_CURVATURE * middle)
        offset = xp.where(is_peak, 0.5 * (before - after) / xp.where(is_peak, curvature, 1), 0)
        shifts.append(xp.where(textured, start - MAX_SHIFT - 1 + xp.clip(offset, -0.5, 0.5), 0))
    return xp.stack(shifts, axis=1)
