"""Quality measures of restored images and estimated kernels. Images are in [0, 1] unless `data_range` is given.

Blind deblurring determines the image and the kernel only up to opposite shifts. `align` estimates the shift, and
`scores` and `error_ratio` measure after it. Everything is computed on the host in float64; CuPy arrays are copied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.fft

from .images.checks import check_axis, check_count, check_dtype, check_number, without_channels
from .numerics.arrays import Array, array_module, to_host
from .numerics.interchange import to_native

__all__ = [
    "Alignment",
    "Scores",
    "align",
    "error_ratio",
    "kernel_error",
    "kernel_similarity",
    "psnr",
    "scores",
    "ssim",
]


SSIM_SIDE = 11  # pixels, of the window
MIN_STEP = 1e-3  # pixels: the search takes memory for each step


class Alignment(NamedTuple):
    """The result of `align`: `image` shifted onto `reference`, both without their border, and the remaining error."""

    ssd: float
    shift: tuple[float, float]
    image: np.ndarray
    reference: np.ndarray


class Scores(NamedTuple):
    """Measures of a restored image at its best shift; PSNR in decibels, the shift (dy, dx) in pixels."""

    ssd: float
    psnr: float
    ssim: float
    shift: tuple[float, float]


def psnr(image: Array, reference: Array, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels, over all elements; infinity for equal images.

    Parameters
    ----------
    image, reference : array, any equal shape
        Images in the same unit.
    data_range : float
        The peak, in that unit.

    Raises
    ------
    ValueError
        If the shapes differ or are empty.
    """
    a, b = _pair(image, reference)
    data_range = _checked_range(data_range)
    with np.errstate(over="ignore"):
        error = float(np.mean((a - b) ** 2))
    if error == 0 or math.isinf(error):
        return -math.inf if error else math.inf
    return 10 * math.log10(data_range**2 / error)


def ssim(image: Array, reference: Array, *, data_range: float = 1.0, channel_axis: int | None = None) -> float:
    """Structural similarity ([WangZ2004]): Gaussian window of sigma 1.5, population covariance.

    Parameters
    ----------
    image, reference : array, shape (H, W), or with channels along `channel_axis`
        Images in the same unit, at least 11 pixels a side.
    data_range : float
        The peak, in that unit.
    channel_axis : int, optional
        Axis of the channels, whose values are averaged.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, or if a side is shorter than the window.
    """
    from skimage.metrics import structural_similarity  # here, as its import is slow

    a, b = _pair(image, reference)
    data_range = _checked_range(data_range)
    if channel_axis is not None and not -a.ndim <= check_axis(channel_axis) < a.ndim:
        raise ValueError(f"channel_axis must be an axis of shape {a.shape}, got {channel_axis}; use -1 for (H, W, C)")
    sides = without_channels(a, channel_axis)
    if not sides or min(sides) < SSIM_SIDE:
        raise ValueError(
            f"image must be at least {SSIM_SIDE} pixels a side, got shape {a.shape}; channels need their axis"
        )
    value = structural_similarity(
        a, b, data_range=data_range, channel_axis=channel_axis,
        sigma=1.5, gaussian_weights=True, use_sample_covariance=False,
    )  # fmt: skip
    return float(value)


def align(image: Array, reference: Array, max_shift: int = 5, step: float = 0.25, border: int = 15) -> Alignment:
    """The shift of `image` that minimizes the sum of squared differences (SSD) from `reference`.

    The search covers all (dy, dx) in ``{-max_shift, ..., max_shift}`` by `step`, with bilinear interpolation, on the
    image without its border. A bilinear shift is a weighted sum of four images shifted by whole pixels, so that the SSD
    is a quadratic form in their correlations, which one FFT and a few window sums give for all shifts at once.

    Parameters
    ----------
    image, reference : array, shape (H, W)
        The image to shift, and the image to match.
    max_shift : int
        Largest shift in pixels, at most `border`.
    step : float
        Step of the search in pixels; must divide 1.
    border : int
        Pixels left out on each side.

    Returns
    -------
    Alignment
        ssd, shift (dy, dx) with ``image[p + shift] ~ reference[p]``, the shifted image and the reference, both of shape
        (H - 2 border, W - 2 border).

    Raises
    ------
    ValueError
        If the shapes differ, are not 2-D, or leave nothing inside the border; if a parameter is out of its range.
    """
    a, b = _pair(image, reference)
    if a.ndim != 2:
        raise ValueError(f"image must be 2-D, got shape {a.shape}; align channels or images one by one")
    step = check_number("step", step, "1/n for an integer n", lambda number: number >= MIN_STEP)
    border = check_count("border", border, minimum=0)
    max_shift = check_count("max_shift", max_shift, minimum=0)
    per_pixel = round(1 / step)
    if per_pixel < 1 or abs(per_pixel * step - 1) > 1e-9:
        raise ValueError(f"step must be 1/n for an integer n, got {step}")
    if not 0 <= max_shift <= border:
        raise ValueError(f"max_shift must be from 0 to border = {border}, got {max_shift}")
    h, w = a.shape[0] - 2 * border, a.shape[1] - 2 * border
    if h < 1 or w < 1:
        raise ValueError(f"image must be larger than twice the border, got {a.shape} for border {border}")

    m, n = max_shift, 2 * max_shift + 1
    fixed = b[border : border + h, border : border + w]
    # One more row and column, which the largest shift reads with weight 0.
    moving = np.pad(a[border - m : border + h + m, border - m : border + w + m], ((0, 1), (0, 1)), mode="edge")
    # The weights of the four neighbors sum to 1, so a common mean cancels; without it fewer digits are lost.
    mean = fixed.mean()
    r, u = fixed - mean, moving - mean

    def window_sums(product: np.ndarray) -> np.ndarray:
        """Sums over all h x w windows that start at (0..n-1, 0..n-1)."""
        sums = np.cumsum(np.pad(product, ((1, 0), (0, 0))), axis=0)
        sums = np.cumsum(np.pad(sums[h : h + n] - sums[:n], ((0, 0), (1, 0))), axis=1)
        return sums[:, w : w + n] - sums[:, :n]

    shape = (scipy.fft.next_fast_len(h + n, real=True), scipy.fft.next_fast_len(w + n, real=True))
    cross = scipy.fft.irfft2(scipy.fft.rfft2(u, shape) * scipy.fft.rfft2(r, shape).conj(), shape)

    def inner_product(p: tuple[int, int], q: tuple[int, int]) -> np.ndarray:
        """<u shifted by p, u shifted by q> at every whole shift."""
        first, second = (u[o[0] : o[0] + h + n - 1, o[1] : o[1] + w + n - 1] for o in (p, q))
        return window_sums(first * second)

    offsets = np.arange(2 * m * per_pixel + 1)
    whole, remainder = np.divmod(offsets, per_pixel)
    f = remainder / per_pixel
    indices = np.ix_(whole, whole)
    corners = ((0, 0), (0, 1), (1, 0), (1, 1))  # the neighbors of a shift
    weights = [(1 - f, f)[p[0]][:, None] * (1 - f, f)[p[1]] for p in corners]
    cost = np.full((offsets.size, offsets.size), float(np.vdot(r, r)))
    for i, p in enumerate(corners):
        shifted = cross[p[0] : p[0] + n, p[1] : p[1] + n]
        cost -= 2 * weights[i] * shifted[indices]
        for j in range(i, 4):
            cost += (1 if i == j else 2) * weights[i] * weights[j] * inner_product(p, corners[j])[indices]
    iy, ix = (int(v) for v in np.unravel_index(np.argmin(cost), cost.shape))
    y, x, fy, fx = int(whole[iy]), int(whole[ix]), float(f[iy]), float(f[ix])
    rows = (1 - fy) * moving[y : y + h] + fy * moving[y + 1 : y + 1 + h]
    moved = (1 - fx) * rows[:, x : x + w] + fx * rows[:, x + 1 : x + 1 + w]
    # Computed again directly, since the quadratic form loses digits where the images agree.
    ssd = float(np.sum((moved - fixed) ** 2))
    return Alignment(ssd, (y + fy - m, x + fx - m), moved, fixed)


def scores(
    image: Array, reference: Array, *, max_shift: int = 5, step: float = 0.25, border: int = 15, data_range: float = 1.0
) -> Scores:
    """SSD, PSNR and SSIM of a restored image at its best shift; parameters and errors as in `align`."""
    ssd, shift, shifted, inner = align(image, reference, max_shift, step, border)
    return Scores(ssd, psnr(shifted, inner, data_range=data_range), ssim(shifted, inner, data_range=data_range), shift)


def error_ratio(
    image_estimated: Array,
    image_true_kernel: Array,
    reference: Array,
    *,
    max_shift: int = 5,
    step: float = 0.25,
    border: int = 15,
) -> float:
    """Levin's error ratio: SSD with the estimated kernel over SSD with the true one, each at its own best shift.

    It is a ratio of *squared* errors, as in [Levin2009]; some tables use its square root. Parameters and errors as in
    `align`. Equal images give 1, even if both are perfect.
    """
    ssd = align(image_estimated, reference, max_shift, step, border).ssd
    ssd_true = align(image_true_kernel, reference, max_shift, step, border).ssd
    if ssd_true == 0:
        return 1.0 if ssd == 0 else math.inf
    return ssd / ssd_true


def kernel_similarity(k: Array, k_ref: Array) -> float:
    """Largest normalized cross-correlation over whole-pixel shifts ([Hu2012]), in [0, 1]; 0 for a zero kernel.

    Parameters
    ----------
    k, k_ref : array, shapes (h, w), which may differ
        Blur kernels; their scale does not matter.

    Raises
    ------
    ValueError
        If a kernel is not 2-D or is empty.
    """
    peak, norm, norm_ref = _peak_correlation(k, k_ref)
    return float(np.clip(peak / (norm * norm_ref), 0.0, 1.0)) if norm * norm_ref > 0 else 0.0


def kernel_error(k: Array, k_ref: Array) -> float:
    """|k - k_ref| / |k_ref| (Euclidean) at the best whole-pixel shift without cropping; both scaled to sum 1.

    Parameters
    ----------
    k, k_ref : array, shapes (h, w), which may differ
        Blur kernels.

    Raises
    ------
    ValueError
        If a kernel is not 2-D, is empty or sums to zero.
    """
    k, k_ref = to_native(k, "k"), to_native(k_ref, "k_ref")
    array_module(k, k_ref)
    scaled = []
    for name, kernel in (("k", k), ("k_ref", k_ref)):
        total = float(kernel.sum())
        if total == 0:
            raise ValueError(f"{name} must not sum to zero")
        scaled.append(kernel / total)
    peak, norm, norm_ref = _peak_correlation(*scaled)
    # |k - k_ref|^2 = |k|^2 + |k_ref|^2 - 2 <k, k_ref>: the best shift has the largest correlation.
    return math.sqrt(max(norm**2 + norm_ref**2 - 2 * peak, 0.0)) / norm_ref


def _peak_correlation(k: Array, k_ref: Array) -> tuple[float, float, float]:
    """The maximum of <k, shifted k_ref> over the shifts, and the two norms."""
    k, k_ref = to_native(k, "k"), to_native(k_ref, "k_ref")
    array_module(k, k_ref)
    check_dtype(k.dtype, "k")
    check_dtype(k_ref.dtype, "k_ref")
    a, b = to_host(k).astype(np.float64), to_host(k_ref).astype(np.float64)
    for name, kernel in (("k", a), ("k_ref", b)):
        if kernel.ndim != 2 or kernel.size == 0:
            raise ValueError(f"{name} must be a 2-D kernel, got shape {kernel.shape}")
    shape = [m + n - 1 for m, n in zip(a.shape, b.shape, strict=True)]
    product = scipy.fft.rfft2(a, shape) * scipy.fft.rfft2(b[::-1, ::-1], shape)
    return float(scipy.fft.irfft2(product, shape).max()), float(np.linalg.norm(a)), float(np.linalg.norm(b))


def _checked_range(data_range: float) -> float:
    return check_number("data_range", data_range, "above 0 and at most 1e100", lambda number: 0 < number <= 1e100)


def _pair(image: Array, reference: Array) -> tuple[np.ndarray, np.ndarray]:
    """Both images on the host in float64, after the checks that all image metrics share."""
    image, reference = to_native(image, "image"), to_native(reference, "reference")
    array_module(image, reference)
    check_dtype(image.dtype, "image")
    check_dtype(reference.dtype, "reference")
    if image.shape != reference.shape:
        raise ValueError(f"image and reference must have one shape, got {image.shape} and {reference.shape}")
    if image.size == 0:
        raise ValueError(f"image must not be empty, got shape {image.shape}")
    return to_host(image).astype(np.float64), to_host(reference).astype(np.float64)
