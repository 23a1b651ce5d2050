"""Expected patch log likelihood ([Zoran2011]): a Gaussian mixture of patches, half-quadratic splitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module, backend_name, to_host
from ...numerics.boundary import crop, pad
from ...numerics.fourier import irfft2, psf_to_otf, rfft2
from ...numerics.progress import subrange
from ..regularization import WeightRule, equivalent_weight, resolve_weight
from ..saturation import project_on_data
from ..splitting import TV_RULE, tv_admm
from .mixture import SIDE, Mixture, load_default, map_estimate, with_noise

# Measured on 8 crops of photographs (train) with noise of 0.0025, 0.01 and 0.05, with 0.01 as the first coupling: 4 to
# 8 passes are within 0.2 dB of each other; strides of 2, 3 and 5 change at most 0.03, 0.04 and 0.08 dB, and take 3, 1.6
# and 0.7 of the time. With 0.03 the best is as good, and half of the right weight costs 1 to 2 dB instead of 1 to 4.
COUPLINGS = tuple(float(c) for c in np.geomspace(0.03, 1, 5))
STRIDE = 4
TV_ITERATIONS = 40  # of the first iterate; with 20 and 5, photographs with noise of 0.0025 are 0.2 and 0.9 dB worse
PREDICTIONS = 2  # of the unobserved pixels in each pass; 6 change less than 0.01 dB
WEIGHT_RULE = WeightRule(0.53, 1.96)
# Patches at a time: on NumPy 1 MB of them, on a GPU up to 0.2 GB with their projections (not in `live_arrays`).
STRIP_PATCHES = {"numpy": 1 << 11, "cupy": 1 << 13}


def epll(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    boundary: str = "unknown",
    mask: Any = None,
    stride: int = STRIDE,
    mixture: Mixture | None = None,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 - weight sum_i log p(P_i x) / 64; M selects the observed, valid pixels.

    P_i x are all patches of 8 x 8 pixels; p is a mixture of Gaussians for patches less their mean. A pass ([Zoran2011]
    eq. 3-5) replaces each patch by its most probable value under noise of variance weight / c, averages
    these in an image z, and then solves

        x = argmin |M (x * k - B)|^2 / 2 + c / 2 |x - z|^2,

    a quotient of spectra, for c from 0.03 to 1 (the paper's beta is c / weight). The first iterate is the result of
    `tv`. With an unknown boundary, the unobserved pixels of x * k are predicted twice in each pass.

    Parameters
    ----------
    blurred, kernel, weight, boundary, mask, callback : common to all methods, see `help(gpudeblur.nonblind)`. The
        weight is about the variance of the noise. One far too small does harm (half: 1 to 2 dB).
    stride : pixels from one patch to the next, 1 to 8, with another offset in each pass. Time falls with its square.
    mixture : None is the one that comes with the package, learned from photographs: `mixture.load_default`.

    Raises
    ------
    ValueError
        The file of the mixture has been changed.
    """
    mixture = load_default() if mixture is None else mixture
    weight = resolve_weight(weight, blurred, kernel, WEIGHT_RULE, mask)
    tv_weight = equivalent_weight(weight, WEIGHT_RULE, TV_RULE)
    latent = tv_admm(
        blurred, kernel, tv_weight, boundary=boundary, mask=mask, iterations=TV_ITERATIONS,
        return_padded=True, callback=subrange(callback, 0, 0.2),
    )  # fmt: skip
    progress = subrange(callback, 0.2, 0.8)
    if np.ndim(weight):
        weight = to_host(weight)  # here CuPy waits, once: `with_noise` runs on the host
    grid, window = latent.shape[-2:], (..., slice(blurred.shape[-2]), slice(blurred.shape[-1]))
    scale = 1 / (grid[0] * grid[1])
    otf = psf_to_otf(kernel, grid)
    adjoint, power = otf.conj(), otf.real**2 + otf.imag**2
    unknown = boundary == "unknown"
    solution = rfft2(latent) * scale
    data: Any = None if unknown else adjoint * rfft2(pad(blurred, kernel, boundary))
    for index, coupling in enumerate(COUPLINGS):
        offset = (index * 3 % stride, index * 5 % stride)
        patch_term = rfft2(expected_patches(latent, weight / coupling, mixture, stride, offset), overwrite=True)
        patch_term *= coupling
        inverse = scale / (power + coupling)
        for _ in range(PREDICTIONS if unknown else 1):
            if unknown:
                reblurred = irfft2(otf * solution, grid, overwrite=True)
                reblurred[window] = project_on_data(blurred, reblurred[window], None, mask)
                data = adjoint * rfft2(reblurred, overwrite=True)
            solution = (data + patch_term) * inverse
        latent = irfft2(solution, grid)
        progress((index + 1) / len(COUPLINGS))
    return crop(latent, blurred.shape[-2:])


def expected_patches(u: Array, noise: Any, mixture: Mixture, stride: int, offset: tuple[int, int]) -> Array:
    """The average of the most probable patches under noise of variance `noise` in images (..., H, W), periodic.

    Parameters
    ----------
    noise : a number, or one per image, (..., 1, 1), on the host.
    stride, offset : patches begin at pixels offset + stride (i, j), all around the periodic image.
    """
    xp = array_module(u)
    shape, out = u.shape[-2:], xp.empty_like(u)
    counts = [-(-n // stride) for n in shape]
    # How many patches cover each row, and each column.
    coverage = [
        _coverage(n, stride * np.arange(count) + begin) for n, count, begin in zip(shape, counts, offset, strict=True)
    ]
    normalization = xp.asarray((1 / np.multiply.outer(*coverage)).astype(u.dtype))
    noises = np.broadcast_to(noise, (*u.shape[:-2], 1, 1))[..., 0, 0]
    margin = SIDE + stride - 2 + stride
    for index in np.ndindex(u.shape[:-2]):
        noisy = with_noise(mixture, float(noises[index]), u.dtype)
        padded = xp.pad(u[index], [(0, margin)] * 2, mode="wrap")
        total = xp.zeros_like(padded)
        strip = max(1, STRIP_PATCHES[backend_name(xp)] // counts[1])
        for begin in range(0, counts[0], strip):
            rows = min(strip, counts[0] - begin)
            positions = [
                (
                    slice(top, top + (rows - 1) * stride + 1, stride),
                    slice(left, left + (counts[1] - 1) * stride + 1, stride),
                )
                for top in range(offset[0] + begin * stride, offset[0] + begin * stride + SIDE)
                for left in range(offset[1], offset[1] + SIDE)
            ]
            patches = xp.stack([padded[position] for position in positions]).reshape(SIDE * SIDE, -1)
            mean = patches.mean(axis=0)
            patches -= mean
            patches = map_estimate(patches, noisy)
            patches += mean
            for position, pixels in zip(positions, patches.reshape(SIDE * SIDE, rows, -1), strict=True):
                total[position] += pixels
        out[index] = _fold_periodic(total, shape) * normalization
    return out


def _coverage(n: int, begins: np.ndarray) -> np.ndarray:
    """How many of the segments of 8 pixels that start at `begins` cover each pixel of a periodic line of n."""
    return np.bincount((begins[:, None] + np.arange(SIDE)).ravel() % n, minlength=n)


def _fold_periodic(total: Array, shape: tuple[int, int]) -> Array:
    """The sum over all periods of `shape` in a larger array."""
    for n in shape:
        folded = total[:n].copy()
        for begin in range(n, len(total), n):
            period = total[begin : begin + n]
            folded[: len(period)] += period
        total = folded.T
    return total
