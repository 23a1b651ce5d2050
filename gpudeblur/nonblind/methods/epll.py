"""Expected patch log likelihood (Zoran & Weiss 2011): a Gaussian mixture of patches, half-quadratic splitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module, backend_name, to_host
from ...numerics.boundary import crop, pad
from ...numerics.fourier import irfft2, psf_to_otf, rfft2
from ...numerics.progress import subrange
from ..regularization import equivalent_weight, resolve_weight
from ..splitting import tv_admm
from .mixture import SIDE, Mixture, load_default, map_estimate, with_noise

# Measured on 8 crops of photographs (train) with noise of 0.0025, 0.01 and 0.05, the first coupling 0.01: 4 to 8 passes
# are within 0.2 dB of each other; strides of 2, 3 and 5 change at most 0.03, 0.04 and 0.08 dB for 3, 1.6 and 0.7 of the
# time. From 0.03 the best is as good, and a weight that is half of the right one costs 1 to 2 dB, not 1 to 4.
COUPLINGS = tuple(float(c) for c in np.geomspace(0.03, 1, 5))
STRIDE = 4
ITERATIONS = 40  # of `tv`; with 20 and 5 photographs with noise of 0.0025 are 0.2 and 0.9 dB worse
PREDICTIONS = 2  # times that what was not seen is predicted, in each pass; 6 change less than 0.01 dB
# Patches at a time: on NumPy 1 MB of them, on a GPU up to 0.2 GB with their projections (beside what `tiles` counts).
STRIP = {"numpy": 1 << 11, "cupy": 1 << 13}


def epll(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    boundary: str = "unknown",
    stride: int = STRIDE,
    mixture: Mixture | None = None,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 - weight sum_i log p(P_i x) / 64; M keeps the pixels that were seen.

    P_i x are all patches of 8 x 8 pixels, p is a mixture of Gaussians for what is left of them without their mean. A
    pass (Zoran & Weiss 2011, eq. 3-5) takes for each patch the most probable z_i under noise of variance weight / c,
    with z the mean of what they say of a pixel, and then

        x = argmin |M (x * k - B)|^2 / 2 + c / 2 |x - z|^2,

    a quotient of spectra, for c from 0.03 to 1 (the paper's beta is c / weight). It begins with `tv`. Where the
    boundary is unknown, what was not seen of x * k is predicted, twice in each pass.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of the prior, a number or one a picture (...), about the variance of the noise. Larger: less noise and
        ringing, less detail; but the prior knows nothing of the means of patches. A weight far too small does harm
        (half: 1 to 2 dB). None takes it from the picture's noise: `weights.estimate_weight`.
    boundary : {"unknown", "liu-jia", "reflect", "edge", "taper", "wrap"}
        See `boundary.extend`.
    stride : pixels from a patch to the next, 1 to 8, from another corner each pass. Time falls with its square.
    mixture : None is the one that comes with the package, of photographs: `mixture.shipped`.
    callback : called with the fraction done after each pass.

    Returns
    -------
    (..., H, W), not clipped.

    Raises
    ------
    ValueError
        `stride` is out of its range, or the file of the mixture is not what it was.

    References
    ----------
    D. Zoran, Y. Weiss: From learning models of natural image patches to whole image restoration, ICCV 2011.
    """
    if not 1 <= stride <= SIDE:
        raise ValueError(f"stride must be from 1 to {SIDE}, or pixels are in no patch, got {stride!r}")
    report = (lambda _: None) if callback is None else callback
    mixture = load_default() if mixture is None else mixture
    weight = resolve_weight(weight, blurred, kernel, "epll")
    like = equivalent_weight(weight, "epll", "tv")
    latent = tv_admm(
        blurred, kernel, like, boundary=boundary, iterations=ITERATIONS, whole=True, callback=subrange(callback, 0, 0.2)
    )
    if np.ndim(weight):
        weight = to_host(weight)  # here CuPy waits, once: what is prepared for a noise is so on the host
    grid, inside = latent.shape[-2:], (..., slice(blurred.shape[-2]), slice(blurred.shape[-1]))
    scale = 1 / (grid[0] * grid[1])
    otf = psf_to_otf(kernel, grid)
    adjoint, power = otf.conj(), otf.real**2 + otf.imag**2
    unknown = boundary == "unknown"
    solution = rfft2(latent) * scale
    data: Any = None if unknown else adjoint * rfft2(pad(blurred, kernel, boundary))
    for number, coupling in enumerate(COUPLINGS):
        corner = (number * 3 % stride, number * 5 % stride)
        drawn = rfft2(expected_patches(latent, weight / coupling, mixture, stride, corner), overwrite=True)
        drawn *= coupling
        inverse = scale / (power + coupling)
        for _ in range(PREDICTIONS if unknown else 1):
            if unknown:
                again = irfft2(otf * solution, grid, overwrite=True)  # x * k
                again[inside] = blurred
                data = adjoint * rfft2(again, overwrite=True)
            solution = (data + drawn) * inverse
        latent = irfft2(solution, grid)
        report(0.2 + 0.8 * (number + 1) / len(COUPLINGS))
    return crop(latent, blurred.shape[-2:])


def expected_patches(u: Array, noise: Any, mixture: Mixture, stride: int, corner: tuple[int, int]) -> Array:
    """The mean of the most probable patches under noise of variance `noise` in pictures (..., H, W), periodic.

    Parameters
    ----------
    noise : a number, or one a picture, (..., 1, 1), on the host.
    stride, corner : patches begin at pixels corner + stride (i, j), all around the torus.
    """
    xp = array_module(u)
    shape, out = u.shape[-2:], xp.empty_like(u)
    counts = [-(-n // stride) for n in shape]
    # Of the patches, how many hold each row, and each column.
    held = [
        _coverage(n, stride * np.arange(count) + begin) for n, count, begin in zip(shape, counts, corner, strict=True)
    ]
    share = xp.asarray((1 / np.multiply.outer(*held)).astype(u.dtype))
    noises = np.broadcast_to(noise, (*u.shape[:-2], 1, 1))[..., 0, 0]
    margin = SIDE + stride - 2 + stride
    for index in np.ndindex(u.shape[:-2]):
        at = with_noise(mixture, float(noises[index]), u.dtype)
        wide = xp.pad(u[index], [(0, margin)] * 2, mode="wrap")
        total = xp.zeros_like(wide)
        strip = max(1, STRIP[backend_name(xp)] // counts[1])
        for begin in range(0, counts[0], strip):
            rows = min(strip, counts[0] - begin)
            places = [
                (
                    slice(top, top + (rows - 1) * stride + 1, stride),
                    slice(left, left + (counts[1] - 1) * stride + 1, stride),
                )
                for top in range(corner[0] + begin * stride, corner[0] + begin * stride + SIDE)
                for left in range(corner[1], corner[1] + SIDE)
            ]
            y = xp.stack([wide[place] for place in places]).reshape(SIDE * SIDE, -1)
            mean = y.mean(axis=0)
            y -= mean
            y = map_estimate(y, at)
            y += mean
            for place, pixels in zip(places, y.reshape(SIDE * SIDE, rows, -1), strict=True):
                total[place] += pixels
        out[index] = _fold_periodic(total, shape) * share
    return out


def _coverage(n: int, begins: np.ndarray) -> np.ndarray:
    """How many of the segments of 8 pixels that begin there hold each of the n pixels of a circle."""
    return np.bincount((begins[:, None] + np.arange(SIDE)).ravel() % n, minlength=n)


def _fold_periodic(total: Array, shape: tuple[int, int]) -> Array:
    """The sum over all periods of what lies on a larger grid than a torus of `shape`."""
    for n in shape:
        whole = total[:n].copy()
        for begin in range(n, len(total), n):
            rest = total[begin : begin + n]
            whole[: len(rest)] += rest
        total = whole.T
    return total
