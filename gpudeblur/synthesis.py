"""Synthetic blur kernels and blurred images.

Everything is computed with NumPy in float64 and reproducible from a seed. A kernel is the blur kernel of
``blurred = conv(sharp, kernel)``: odd sides, non-negative, sum 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.special
from numpy.typing import DTypeLike

from .images.checks import (
    as_integer,
    check_axes,
    check_choice,
    check_count,
    check_dtype,
    check_number,
    check_rule,
    random_generator,
)
from .images.rotation_blur import blur_by_poses, matern_factor, pose_path, rotation_field

__all__ = [
    "blur",
    "blur_by_poses",
    "disk_kernel",
    "gaussian_kernel",
    "gaussian_process_kernel",
    "linear_kernel",
    "pose_path",
    "rotation_field",
    "trajectory_kernel",
]

# Samples per pixel of path, so that their bilinear weights add up to a smooth line.
SAMPLES_PER_PIXEL = 8
# Paths drawn until the mass of one is near its middle.
MAX_PATHS = 50
# Nodes of the quadrature over a pixel: its area in a disk comes out to 1e-3.
QUADRATURE = 32
# Standard deviations of a Gaussian kernel on either side: what is cut off is 6e-5 of it.
GAUSSIAN_REACH = 4.0
MAX_SIDE = 4001  # pixels
# Rounding of a direction: cos(90 degrees) is 6e-17.
ROUNDING = 1e-9


def trajectory_kernel(
    size: int,
    *,
    rng: np.random.Generator | int,
    perturbation: float | None = None,
    inertia: float = 8.0,
    jerks: float = 1.0,
    speed_variation: float = 0.6,
    width: float = 0.5,
    margin: int | None = None,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """Camera-shake kernel: the random trajectory of a hand-held camera ([Boracchi2012]).

    A particle starts with a random velocity. Each step turns the velocity by a Gaussian perturbation, pulls it towards
    the mean position so far (the hand compensates) and, rarely, turns it by an impulsive jerk; then the velocity is
    normalized. Unlike in the paper, the time spent at each step varies smoothly too, since measured kernels are
    brighter where the hand slows down. The path is scaled to span the kernel and sampled at subpixel positions.

    Parameters
    ----------
    size : int
        Side of the square kernel, in pixels; odd, at least 3.
    rng : numpy.random.Generator or int
        Source of randomness, or the seed for one.
    perturbation : float, optional
        Standard deviation of the change of direction over the whole exposure, in radians. By default it is drawn
        log-uniformly from [1.2, 5], which gives nearly straight kernels and curled ones.
    inertia : float
        Strength of the pull towards the mean position, in radians per exposure at a distance of half the path's
        length; 0 is no pull.
    jerks : float
        Expected number of impulsive jerks in an exposure.
    speed_variation : float
        Standard deviation of the logarithm of the dwell time; 0 is constant speed.
    width : float
        Standard deviation of the Gaussian point spread that thickens the path, in pixels; 0 leaves the bilinear splat.
    margin : int, optional
        Pixels left free at either end of the path's longer side: the support spans `size` - 2 `margin`. By default 2,
        less for sizes below 11.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1. The center of mass is moved to the middle by whole pixels, as far as the support stays
        inside; the rest is at most 2 px (size / 16 for sizes above 32), since asymmetric paths are drawn again.

    Raises
    ------
    ValueError
        If `size` is even or below 3, or if a parameter is out of its range.

    References
    ----------
    [Boracchi2012] G. Boracchi and A. Foi, "Modeling the performance of image restoration from motion blur", IEEE Trans.
    Image Processing 21(8), 2012, section IV.
    """
    size, margin = _check_size(size), _margin(size, margin)
    for name, value in (("inertia", inertia), ("jerks", jerks)):
        _check_not_negative(name, value)
    check_number("speed_variation", speed_variation, "from 0 to 100", lambda number: 0 <= number <= 100)
    rng = random_generator(rng)
    turn = math.exp(rng.uniform(math.log(1.2), math.log(5.0))) if perturbation is None else perturbation
    _check_not_negative("perturbation", turn)
    kernel = _centered_kernel(lambda: _shake_path(rng, turn, inertia, jerks, speed_variation), size, margin, width)
    return kernel.astype(_float_dtype(dtype), copy=False)


def gaussian_process_kernel(
    size: int,
    *,
    rng: np.random.Generator | int,
    length_scale: float = 0.3,
    duration: float = 1.0,
    width: float = 0.5,
    margin: int | None = None,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """Smooth motion kernel: both coordinates of the path are drawn from a Gaussian process ([WangL2017] eq. 4).

    The covariance is Matern's of order 5/2, ``(1 + s + s^2/3) exp(-s)`` with ``s = sqrt(5) |t1 - t2| / l``. Its
    amplitude has no effect, since the path is scaled to span the kernel.

    Parameters
    ----------
    size : int
        Side of the square kernel, in pixels; odd, at least 3.
    rng : numpy.random.Generator or int
        Source of randomness, or the seed for one.
    length_scale : float
        l, in units of time; 0.3 as in [Schuler2016].
    duration : float
        Length of the exposure in the same units; longer paths have more turns. Sampled every 0.01, as in [WangL2017].
    width : float
        Standard deviation of the Gaussian point spread that thickens the path, in pixels.
    margin : int, optional
        Free pixels on each side, as in `trajectory_kernel`.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1, centered as in `trajectory_kernel`.

    Raises
    ------
    ValueError
        If `size` is even or below 3, or if a parameter is out of its range.

    References
    ----------
    [WangL2017] section 3.1; see docs/method.md.
    [Schuler2016] C. Schuler et al., "Learning to deblur", IEEE TPAMI 38(7), 2016.
    """
    size, margin = _check_size(size), _margin(size, margin)
    for name, value in (("length_scale", length_scale), ("duration", duration)):
        check_number(name, value, "above 0", lambda number: number > 0)
    rng = random_generator(rng)
    t = np.linspace(0.0, duration, max(round(duration / 0.01), 2) + 1)
    factor, dwell = matern_factor(t, length_scale), np.ones(t.size)
    kernel = _centered_kernel(lambda: (factor @ rng.standard_normal((t.size, 2)), dwell), size, margin, width)
    return kernel.astype(_float_dtype(dtype), copy=False)


def linear_kernel(length: float, angle: float, size: int | None = None, *, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Straight motion at constant speed, antialiased.

    A pixel's weight falls linearly with its distance from a segment of `length` - 1 pixels through the center and is
    zero at a distance of one pixel: an odd `length` along an axis gives a row of equal weights, and `length` 1 a delta.

    Parameters
    ----------
    length : float
        Length of the motion in pixels, at least 1.
    angle : float
        Direction in degrees, counter-clockwise from the x axis as the image is displayed (rows point down).
    size : int, optional
        Side of the square kernel, odd; by default the smallest that holds the motion.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1, symmetric about its center.

    Raises
    ------
    ValueError
        If `length` is below 1 or not finite, or if `size` is even or does not hold the motion.
    """
    check_number("length", length, "at least 1 pixel", lambda number: number >= 1, way_out="1 is no motion")
    check_number("angle", angle, "in degrees", lambda _: True, way_out="0 is along the rows")
    half = 0.5 * (length - 1)
    dy, dx = -math.sin(math.radians(angle)), math.cos(math.radians(angle))
    min_size = 2 * math.ceil(half * max(abs(dy), abs(dx)) - ROUNDING) + 1
    size = _size_for(f"the motion of length {length:g}", min_size, size)
    grid = np.arange(size) - size // 2
    y, x = grid[:, None], grid[None, :]
    along = np.clip(y * dy + x * dx, -half, half)
    kernel = np.maximum(1 - np.hypot(y - along * dy, x - along * dx), 0)
    kernel[kernel < ROUNDING] = 0
    return (kernel / kernel.sum()).astype(_float_dtype(dtype), copy=False)


def disk_kernel(radius: float, size: int | None = None, *, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Defocus: a disk of equal weights; a pixel's weight is its area inside the disk.

    Parameters
    ----------
    radius : float
        Of the circle of confusion, in pixels, above 0; 0.5 and less is a delta.
    size : int, optional
        Side of the square kernel, odd; by default the smallest that holds the disk.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1, symmetric about its center.

    Raises
    ------
    ValueError
        If `radius` is not positive and finite, or if `size` is even or does not hold the disk.
    """
    check_number("radius", radius, "above 0", lambda number: number > 0, way_out="0.5 is no blur")
    size = _size_for(f"the disk of radius {radius:g}", 2 * math.ceil(radius - 0.5 - ROUNDING) + 1, size)
    radius = max(radius, 0.5)  # within the middle pixel
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    edges = np.arange(size + 1) - 0.5 * size
    # The disk's rows [-width, width] at the nodes of each row of pixels, and their length in each column.
    rows = edges[:-1, None] + 0.5 * (nodes + 1)
    width = np.sqrt(np.maximum(radius**2 - rows**2, 0))[..., None]
    lengths = np.diff(np.clip(edges, -width, width), axis=-1)
    kernel = np.einsum("rnc,n->rc", lengths, 0.5 * weights)
    kernel = 0.5 * (kernel + kernel.T)  # the quadrature is along rows alone
    return (kernel / kernel.sum()).astype(_float_dtype(dtype), copy=False)


def gaussian_kernel(sigma: float, size: int | None = None, *, dtype: DTypeLike = np.float64) -> np.ndarray:
    """A Gaussian, integrated over each pixel: the blur of turbulence in a long exposure, or of a soft lens.

    Parameters
    ----------
    sigma : float
        Standard deviation in pixels, above 0.
    size : int, optional
        Side of the square kernel, odd; by default it reaches 4 standard deviations on either side.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1, symmetric about its center; what is beyond `size` is cut off.

    Raises
    ------
    ValueError
        If `sigma` is not positive and finite, or if `size` is even.
    """
    check_number("sigma", sigma, "above 0", lambda number: number > 0, way_out="a small one is no blur")
    side = 2 * math.ceil(GAUSSIAN_REACH * sigma) + 1
    size = _size_for(f"a Gaussian of sigma {sigma:g}", side, None) if size is None else _check_size(size, minimum=1)
    profile = np.diff(scipy.special.ndtr((np.arange(size + 1) - 0.5 * size) / sigma))
    kernel = np.outer(profile, profile)
    return (kernel / kernel.sum()).astype(_float_dtype(dtype), copy=False)


def blur(
    image: np.ndarray,
    kernel: np.ndarray,
    *,
    noise_sigma: float = 0.0,
    rng: np.random.Generator | int | None = None,
    mode: str = "valid",
) -> np.ndarray:
    """B = x * k + n: the image convolved with the kernel, plus Gaussian noise.

    Parameters
    ----------
    image : ndarray, shape (..., H, W)
        Sharp images, float32 or float64.
    kernel : ndarray, shape (h, w)
        Blur kernel with odd sides, in the sense of a convolution: a point in the image becomes the kernel.
    noise_sigma : float
        Standard deviation of the noise, in the unit of the image.
    rng : numpy.random.Generator or int, optional
        Source of the noise, or its seed; needed when `noise_sigma` is above 0.
    mode : {"valid", "same", "wrap"}
        "valid" keeps only the pixels that depend on no boundary rule, like a camera whose scene goes on beyond the
        frame: the result is smaller by h - 1 and w - 1. "same" mirrors the image at its border; "wrap" repeats it.

    Returns
    -------
    blurred : ndarray, shape (..., H - h + 1, W - w + 1) for "valid", (..., H, W) otherwise
        In the dtype of the image, not clipped.

    Raises
    ------
    TypeError
        If the image is not floating point.
    ValueError
        If the kernel is not 2-D with odd sides or is larger than the image, if `mode` is unknown, or if
        `noise_sigma` is above 0 and `rng` missing.
    """
    image, kernel = _numeric("image", image), _numeric("kernel", kernel)
    if image.dtype not in (np.float32, np.float64):
        raise TypeError(f"image must be float32 or float64, got {image.dtype}; skimage.util.img_as_float converts")
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"kernel must be 2-D with odd sides, got shape {kernel.shape}; pad it with zeros")
    if image.ndim < 2:
        raise ValueError(f"image must have at least 2 axes (..., H, W), got shape {image.shape}")
    check_axes(image.shape, None, way_out="blur numpy.moveaxis(image, -1, 0)")
    if any(k > n for k, n in zip(kernel.shape, image.shape[-2:], strict=True)):
        raise ValueError(f"kernel must fit into the image, got {kernel.shape} for {image.shape[-2:]}")
    check_choice("mode", mode, ("valid", "same", "wrap"))
    _check_not_negative("noise_sigma", noise_sigma)
    if noise_sigma > 0 and rng is None:
        raise ValueError("rng must be a generator or a seed when noise_sigma is above 0, got None")

    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    if mode != "valid":
        margins = [(0, 0)] * (image.ndim - 2) + [(ry, ry), (rx, rx)]
        image = np.pad(image, margins, mode="symmetric" if mode == "same" else "wrap")
    h, w = image.shape[-2:]
    # A circular convolution is exact at the pixels where the kernel lies inside the image.
    shape = (scipy.fft.next_fast_len(h, real=True), scipy.fft.next_fast_len(w, real=True))
    spectrum = scipy.fft.rfft2(image, shape) * scipy.fft.rfft2(kernel.astype(image.dtype, copy=False), shape)
    blurred = scipy.fft.irfft2(spectrum, shape, overwrite_x=True)[..., 2 * ry : h, 2 * rx : w]
    if noise_sigma > 0:
        noise = random_generator(rng).standard_normal(blurred.shape)
        return (blurred + noise_sigma * noise).astype(image.dtype, copy=False)
    return np.ascontiguousarray(blurred)


def _shake_path(
    rng: np.random.Generator, turn: float, inertia: float, jerks: float, speed_variation: float, steps: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Points (steps + 1, 2) of one trajectory, one unit apart, and the time spent at each."""
    phase = rng.uniform(0, 2 * math.pi)
    vy, vx = math.sin(phase), math.cos(phase)
    perturbations = rng.standard_normal((steps, 2)) * (turn / math.sqrt(steps))
    is_jerk = rng.random(steps) < jerks / steps
    jerk_turn = rng.uniform(0.5 * math.pi, 1.5 * math.pi, steps)
    pull = inertia / steps / (0.5 * steps)
    y = x = mean_y = mean_x = 0.0
    path = np.zeros((steps + 1, 2))
    for i, (gy, gx) in enumerate(perturbations.tolist()):  # Python floats, much faster than arrays of two
        if is_jerk[i]:  # the finger on the shutter: by 90 to 270 degrees
            c, s = math.cos(jerk_turn[i]), math.sin(jerk_turn[i])
            vy, vx = c * vy - s * vx, s * vy + c * vx
        vy += gy + pull * (mean_y - y)
        vx += gx + pull * (mean_x - x)
        speed = max(math.hypot(vy, vx), 1e-12)
        vy, vx = vy / speed, vx / speed
        y, x = y + vy, x + vx
        mean_y += (y - mean_y) / (i + 2)
        mean_x += (x - mean_x) / (i + 2)
        path[i + 1] = y, x
    return path, np.exp(speed_variation * _smooth_noise(rng, steps + 1))


def _centered_kernel(
    random_path: Callable[[], tuple[np.ndarray, np.ndarray]], size: int, margin: int, width: float
) -> np.ndarray:
    """The kernel of the first random path whose center of mass is near the middle, else of the nearest of MAX_PATHS.

    A kernel with most of its mass at one end could be centered only by cutting off the other end, and a blind method,
    which centers its kernels, would be charged with the shift. Measured kernels are off by up to 3 px.
    """
    nearest, min_distance = np.zeros(0), math.inf
    for _ in range(MAX_PATHS):
        kernel = _rasterize(*random_path(), size, margin, width)
        distance = max(abs(float(kernel.sum(axis=1 - a) @ np.arange(size)) - size // 2) for a in (0, 1))
        if distance < min_distance:
            nearest, min_distance = kernel, distance
        if distance <= max(2.0, size / 16):
            break
    return nearest


def _rasterize(path: np.ndarray, dwell: np.ndarray, size: int, margin: int, width: float) -> np.ndarray:
    """The path (points, 2) with the dwell time of each point as a kernel whose support spans `size` - 2 `margin`."""
    _check_not_negative("width", width)
    spread = _point_spread(min(width, size))  # which does not fit either
    if spread.size > size:
        raise ValueError(f"width must fit into the kernel, got {width} for size {size}; use at most {size / 6:.2g}")
    # The support is the path, one pixel for the bilinear weights, and the point spread on both sides, whose outermost
    # half pixel is too faint to count.
    span = max(size - 2 * margin - 2 * (spread.size // 2), 1)
    low, high = path.min(axis=0), path.max(axis=0)
    extent = float((high - low).max())
    path = (path - 0.5 * (low + high)) * ((span - 1) / extent if extent > 0 else 0.0)

    # Positions and dwell times are interpolated linearly between two points.
    step = np.linalg.norm(np.diff(path, axis=0), axis=1)
    samples = max(math.ceil(step.max() * SAMPLES_PER_PIXEL), 1)
    t = (np.arange(samples) + 0.5) / samples
    points = (path[:-1, None] + t[:, None] * np.diff(path, axis=0)[:, None]).reshape(-1, 2)
    weight = (dwell[:-1, None] + t * np.diff(dwell)[:, None]).reshape(-1)

    grid = np.zeros((size + 2, size + 2))  # one pixel more on each side, for bilinear weights of 0
    points += size // 2 + 1
    corner = np.floor(points).astype(np.intp)
    offset = points - corner
    for oy in (0, 1):
        for ox in (0, 1):
            bilinear = np.abs(1 - oy - offset[:, 0]) * np.abs(1 - ox - offset[:, 1])
            np.add.at(grid, (corner[:, 0] + oy, corner[:, 1] + ox), weight * bilinear)
    kernel = grid[1:-1, 1:-1]
    if spread.size > 1:
        for axis in (0, 1):
            kernel = np.apply_along_axis(np.convolve, axis, kernel, spread, mode="same")
    return _center(kernel / kernel.sum())


def _point_spread(width: float) -> np.ndarray:
    """Gaussian weights of standard deviation `width` pixels, truncated at 2.5 `width`, but not below one pixel."""
    if width == 0:
        return np.ones(1)
    radius = max(round(2.5 * width), 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    return weights / weights.sum()


def _center(kernel: np.ndarray) -> np.ndarray:
    """Move the center of mass to the middle by whole pixels, as far as the support stays inside."""
    for axis in (0, 1):
        profile = kernel.sum(axis=1 - axis)
        support = np.flatnonzero(profile)
        shift = round(float(profile @ np.arange(profile.size)) - profile.size // 2)
        shift = min(max(shift, support[-1] - (profile.size - 1)), support[0])
        kernel = np.roll(kernel, -shift, axis=axis)
    return kernel


def _smooth_noise(rng: np.random.Generator, count: int, waves: int = 6) -> np.ndarray:
    """Smooth random function of unit variance at `count` points: a sum of cosines whose power falls with frequency."""
    t = np.linspace(0.0, 1.0, count)
    n = np.arange(1, waves + 1)
    amplitude = rng.standard_normal(waves) / n**0.5
    phase = rng.uniform(0, 2 * math.pi, waves)
    return np.cos(math.pi * n * t[:, None] + phase) @ amplitude / math.sqrt(0.5 * np.sum(1 / n))


def _numeric(name: str, array: Any) -> np.ndarray:
    """`array`, or a list of numbers, as a NumPy array."""
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, got rows of several lengths; pad them") from error
    check_dtype(array.dtype, name)
    return array


def _check_size(size: int, minimum: int = 3) -> int:
    side = as_integer(size)
    if side is None:
        raise TypeError(f"size must be an odd integer, got {size!r}")
    is_valid = side >= minimum and side % 2 == 1
    check_rule("size", side, is_valid, f"be odd and at least {minimum}", f"use {max(side | 1, minimum)}")
    return side


def _size_for(blur: str, minimum: int, size: int | None) -> int:
    """`size`, checked, or the smallest that holds the `blur`."""
    if minimum > MAX_SIDE:
        raise ValueError(f"a kernel must be at most {MAX_SIDE} pixels wide, got {blur}, which needs {minimum}")
    size = minimum if size is None else _check_size(size, minimum=1)
    if size < minimum:
        raise ValueError(f"size must hold {blur}, got {size}; use {minimum} or more")
    return size


def _margin(size: int, margin: int | None) -> int:
    margin = min(2, (size - 3) // 4) if margin is None else check_count("margin", margin, minimum=0)
    if not 0 <= margin <= (size - 1) // 2:
        raise ValueError(f"margin must leave a pixel of the kernel, got {margin} for size {size}")
    return int(margin)


def _check_not_negative(name: str, value: float) -> None:
    check_number(name, value, "at least 0", lambda number: number >= 0)


def _float_dtype(dtype: DTypeLike) -> np.dtype:
    try:
        dtype = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from None
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    return dtype
