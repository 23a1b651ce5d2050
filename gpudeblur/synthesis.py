"""Blur kernels as cameras make them, and blurred pictures: test data, training data, the demo.

Everything is NumPy, computed in float64 and reproducible from its seed. A kernel is the blur kernel of
``blurred = conv(sharp, kernel)``: odd sides, non-negative, sum 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.typing import DTypeLike

# A sample at least this often per pixel of path: a bilinear splat then lays down a line without beads.
_SAMPLES_PER_PIXEL = 8


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
    """Camera-shake kernel: the random trajectory of a hand-held camera, after Boracchi and Foi.

    A particle starts with a random velocity, which at every step is turned by a Gaussian perturbation, pulled back
    towards the mean position so far (the hand that compensates), and, rarely, thrown about by an impulsive jerk; then
    it is normalised. Unlike in the paper, the time spent at each step varies smoothly too: measured kernels are
    brighter where the hand slows down. The path is scaled to span the kernel and sampled below the pixel.

    Parameters
    ----------
    size : int
        Side of the square kernel, in pixels; odd, at least 3.
    rng : numpy.random.Generator or int
        Source of randomness, or the seed for one.
    perturbation : float, optional
        Standard deviation of the heading's change over the whole exposure, in radians; drawn log-uniformly from
        [1.2, 5] when None, which mixes nearly straight kernels with curled ones.
    inertia : float
        Strength of the pull towards the mean position, in radians of turn per exposure at the distance of one half
        path length; 0 lets the particle go.
    jerks : float
        Expected number of impulsive jerks in an exposure.
    speed_variation : float
        Standard deviation of the logarithm of the dwell time; 0 is constant speed.
    width : float
        Standard deviation of the Gaussian point spread that thickens the path, in pixels; 0 leaves the bilinear splat.
    margin : int, optional
        Pixels left free on each side of the path's larger extent: the support spans `size` - 2 `margin`. By default 2,
        less for sizes below 11.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1. The centre of mass is moved to the middle by whole pixels, as far as the support stays
        inside; what remains is at most 2 px (a sixteenth of sizes above 32), since lopsided paths are drawn again.

    Raises
    ------
    ValueError
        If `size` is even or below 3, or if a parameter is out of its range.

    References
    ----------
    G. Boracchi and A. Foi, "Modeling the performance of image restoration from motion blur", IEEE Trans. Image
    Processing 21(8), 2012, section IV.
    """
    size, margin = _check_size(size), _margin(size, margin)
    for name, value in (("inertia", inertia), ("jerks", jerks), ("speed_variation", speed_variation)):
        _check_not_negative(name, value)
    rng = np.random.default_rng(rng)
    turn = math.exp(rng.uniform(math.log(1.2), math.log(5.0))) if perturbation is None else float(perturbation)
    _check_not_negative("perturbation", turn)

    return _centred_kernel(
        lambda: _shaken_path(rng, turn, inertia, jerks, speed_variation), size, margin, width
    ).astype(_float_dtype(dtype), copy=False)


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
    """Smooth motion kernel: both coordinates of the path are drawn from a Gaussian process (seed 1, eq. 4).

    The covariance is Matern's of order 5/2, ``(1 + s + s^2/3) exp(-s)`` with ``s = sqrt(5) |t1 - t2| / l``. Its
    amplitude plays no part here, since the path is scaled to span the kernel.

    Parameters
    ----------
    size : int
        Side of the square kernel, in pixels; odd, at least 3.
    rng : numpy.random.Generator or int
        Source of randomness, or the seed for one.
    length_scale : float
        l, in units of time; 0.3 as in Schuler et al.
    duration : float
        Length of the exposure in the same units; longer paths wind more. Sampled every 0.01, as in seed 1.
    width : float
        Standard deviation of the Gaussian point spread that thickens the path, in pixels.
    margin : int, optional
        Free pixels on each side, as in `trajectory_kernel`.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1, centred as in `trajectory_kernel`.

    Raises
    ------
    ValueError
        If `size` is even or below 3, or if a parameter is out of its range.

    References
    ----------
    Y. Wang et al., 2017 (seed 1), section 3.1; C. Schuler et al., "Learning to deblur", IEEE TPAMI 38(7), 2016.
    """
    size, margin = _check_size(size), _margin(size, margin)
    for name, value in (("length_scale", length_scale), ("duration", duration)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    rng = np.random.default_rng(rng)
    t = np.linspace(0.0, duration, max(round(duration / 0.01), 2) + 1)
    s = math.sqrt(5.0) * np.abs(t[:, None] - t[None, :]) / length_scale
    covariance = (1 + s + s * s / 3) * np.exp(-s)
    covariance[np.diag_indices_from(covariance)] += 1e-8  # neighbours correlate to 1 - 1e-3: keeps Cholesky positive
    factor, dwell = np.linalg.cholesky(covariance), np.ones(t.size)
    return _centred_kernel(lambda: (factor @ rng.standard_normal((t.size, 2)), dwell), size, margin, width).astype(
        _float_dtype(dtype), copy=False
    )


def linear_kernel(length: float, angle: float, size: int | None = None, *, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Straight motion at constant speed, antialiased.

    A pixel's weight falls off linearly with its distance from the segment of `length` - 1 pixels through the centre
    and is zero at one pixel: an odd `length` along an axis is exactly a row of equal weights, and `length` 1 a delta.

    Parameters
    ----------
    length : float
        Length of the motion in pixels, at least 1.
    angle : float
        Direction in degrees, counter-clockwise from the x axis as one sees the picture (rows point down).
    size : int, optional
        Side of the square kernel, odd; by default the smallest that holds the motion.
    dtype : dtype
        float64 or float32.

    Returns
    -------
    kernel : ndarray, shape (size, size)
        Non-negative, sum 1, symmetric about its centre.

    Raises
    ------
    ValueError
        If `length` is below 1 or not finite, or if `size` is even or does not hold the motion.
    """
    if not (length >= 1 and math.isfinite(length)):
        raise ValueError(f"length must be at least 1 pixel and finite, got {length}")
    if not math.isfinite(angle):
        raise ValueError(f"angle must be finite, in degrees, got {angle}")
    half = 0.5 * (length - 1)
    dy, dx = -math.sin(math.radians(angle)), math.cos(math.radians(angle))
    # 1e-9: cos(90 degrees) is 6e-17, not 0, and must not cost two more pixels.
    needed = 2 * math.ceil(half * max(abs(dy), abs(dx)) - 1e-9) + 1
    size = needed if size is None else _check_size(size, least=1)
    if size < needed:
        raise ValueError(f"size must hold the motion, got {size} for length {length}; use {needed} or more")
    grid = np.arange(size) - size // 2
    y, x = grid[:, None], grid[None, :]
    along = np.clip(y * dy + x * dx, -half, half)
    kernel = np.maximum(1 - np.hypot(y - along * dy, x - along * dx), 0)
    kernel[kernel < 1e-9] = 0  # rounding of the directions
    return (kernel / kernel.sum()).astype(_float_dtype(dtype), copy=False)


def blur(
    picture: np.ndarray,
    kernel: np.ndarray,
    *,
    noise_sigma: float = 0.0,
    rng: np.random.Generator | int | None = None,
    mode: str = "valid",
) -> np.ndarray:
    """B = x * k + n: the picture convolved with the kernel, plus Gaussian noise.

    Parameters
    ----------
    picture : ndarray, shape (..., H, W)
        Sharp pictures, float32 or float64.
    kernel : ndarray, shape (h, w)
        Blur kernel (convolution sense: it is rotated by 180 degrees when laid over the picture). Odd sides.
    noise_sigma : float
        Standard deviation of the noise, in the picture's own unit.
    rng : numpy.random.Generator or int, optional
        Source of the noise, or its seed; needed when `noise_sigma` is above 0.
    mode : {"valid", "same", "wrap"}
        "valid" keeps only pixels that no boundary rule has touched, as a camera sees the world: the result is smaller
        by h - 1 and w - 1. "same" mirrors the picture at its border; "wrap" continues it periodically.

    Returns
    -------
    blurred : ndarray, shape (..., H - h + 1, W - w + 1) for "valid", (..., H, W) otherwise
        In the picture's dtype, not clipped.

    Raises
    ------
    TypeError
        If the picture is not floating point.
    ValueError
        If the kernel is not 2-D with odd sides or is larger than the picture, if `mode` is unknown, or if noise is
        asked for without `rng`.
    """
    picture, kernel = np.asarray(picture), np.asarray(kernel)
    if picture.dtype not in (np.float32, np.float64):
        raise TypeError(f"picture must be float32 or float64, got {picture.dtype}; skimage.util.img_as_float converts")
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"kernel must be 2-D with odd sides, got shape {kernel.shape}; pad it with zeros")
    if picture.ndim < 2:
        raise ValueError(f"picture must have at least 2 axes (..., H, W), got shape {picture.shape}")
    if any(k > n for k, n in zip(kernel.shape, picture.shape[-2:], strict=True)):
        raise ValueError(f"kernel must fit into the picture, got {kernel.shape} for {picture.shape[-2:]}")
    if mode not in ("valid", "same", "wrap"):
        raise ValueError(f"mode must be 'valid', 'same' or 'wrap', got {mode!r}")
    _check_not_negative("noise_sigma", noise_sigma)
    if noise_sigma > 0 and rng is None:
        raise ValueError("rng must be a generator or a seed when noise_sigma is above 0, got None")

    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    if mode != "valid":
        pad = [(0, 0)] * (picture.ndim - 2) + [(ry, ry), (rx, rx)]
        picture = np.pad(picture, pad, mode="symmetric" if mode == "same" else "wrap")
    h, w = picture.shape[-2:]
    # A circular convolution of the picture's own size is exact where the kernel lies inside.
    shape = (scipy.fft.next_fast_len(h, real=True), scipy.fft.next_fast_len(w, real=True))
    spectrum = scipy.fft.rfft2(picture, shape) * scipy.fft.rfft2(kernel.astype(picture.dtype, copy=False), shape)
    blurred = scipy.fft.irfft2(spectrum, shape, overwrite_x=True)[..., 2 * ry : h, 2 * rx : w]
    if noise_sigma > 0:
        noise = np.random.default_rng(rng).standard_normal(blurred.shape)
        return (blurred + noise_sigma * noise).astype(picture.dtype, copy=False)
    return np.ascontiguousarray(blurred)


def _shaken_path(
    rng: np.random.Generator, turn: float, inertia: float, jerks: float, speed_variation: float, steps: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Points (steps + 1, 2) of one trajectory, one unit apart, and the time spent at each."""
    phase = rng.uniform(0, 2 * math.pi)
    vy, vx = math.sin(phase), math.cos(phase)
    gauss = rng.standard_normal((steps, 2)) * (turn / math.sqrt(steps))
    jerk_at = rng.random(steps) < jerks / steps
    jerk_turn = rng.uniform(0.5 * math.pi, 1.5 * math.pi, steps)
    pull = inertia / steps / (0.5 * steps)
    y = x = mean_y = mean_x = 0.0
    path = np.zeros((steps + 1, 2))
    for i, (gy, gx) in enumerate(gauss.tolist()):  # plain floats: arrays of two would cost ten times as much
        if jerk_at[i]:  # the finger on the shutter: the velocity is turned about, not merely disturbed
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


def _centred_kernel(
    draw: Callable[[], tuple[np.ndarray, np.ndarray]], size: int, margin: int, width: float, tries: int = 50
) -> np.ndarray:
    """Rasterise the first path drawn whose mass lies near the middle of its extent; the best of `tries` otherwise.

    A heavy end far from the middle could be centred only by cutting the other end off, and a blind method, which
    centres what it finds, would be charged with the shift. Measured kernels are off by up to 3 px.
    """
    best, least = np.zeros(0), math.inf
    for _ in range(tries):
        kernel = _rasterise(*draw(), size, margin, width)
        off = max(abs(float(kernel.sum(axis=1 - a) @ np.arange(size)) - size // 2) for a in (0, 1))
        if off < least:
            best, least = kernel, off
        if off <= max(2.0, size / 16):
            break
    return best


def _rasterise(path: np.ndarray, dwell: np.ndarray, size: int, margin: int, width: float) -> np.ndarray:
    """The path (points, 2), each point with its dwell time, as a kernel whose support spans `size` - 2 `margin`."""
    _check_not_negative("width", width)
    spread = _point_spread(width)
    if spread.size > size:
        raise ValueError(f"width must fit into the kernel, got {width} for size {size}; use at most {size / 6:.2g}")
    # Support of a splat: its path, one pixel for the bilinear weights, and the point spread on both sides, of which
    # the outer half pixel of each flank is too faint to count.
    span = max(size - 2 * margin - 2 * (spread.size // 2), 1)
    low, high = path.min(axis=0), path.max(axis=0)
    extent = float((high - low).max())
    path = (path - 0.5 * (low + high)) * ((span - 1) / extent if extent > 0 else 0.0)

    # Between two points time passes evenly, and at a mean of their rates.
    step = np.linalg.norm(np.diff(path, axis=0), axis=1)
    pieces = max(math.ceil(step.max() * _SAMPLES_PER_PIXEL), 1)
    at = (np.arange(pieces) + 0.5) / pieces
    points = (path[:-1, None] + at[:, None] * np.diff(path, axis=0)[:, None]).reshape(-1, 2)
    weight = (dwell[:-1, None] + at * np.diff(dwell)[:, None]).reshape(-1)

    grid = np.zeros((size + 2, size + 2))  # a spare pixel around: bilinear weights of 0 may land there
    where = points + (size // 2 + 1)
    corner = np.floor(where).astype(np.intp)
    part = where - corner
    for oy in (0, 1):
        for ox in (0, 1):
            share = np.abs(1 - oy - part[:, 0]) * np.abs(1 - ox - part[:, 1])
            np.add.at(grid, (corner[:, 0] + oy, corner[:, 1] + ox), weight * share)
    kernel = grid[1:-1, 1:-1]
    if spread.size > 1:
        for axis in (0, 1):
            kernel = np.apply_along_axis(np.convolve, axis, kernel, spread, mode="same")
    return _centre(kernel / kernel.sum())


def _point_spread(width: float) -> np.ndarray:
    """Gaussian weights of standard deviation `width` pixels, cut at two and a half of them, at least at one pixel."""
    if width == 0:
        return np.ones(1)
    reach = max(round(2.5 * width), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return weights / weights.sum()


def _centre(kernel: np.ndarray) -> np.ndarray:
    """Move the centre of mass to the middle by whole pixels, as far as the support stays inside."""
    for axis in (0, 1):
        profile = kernel.sum(axis=1 - axis)
        used = np.flatnonzero(profile)
        off = round(float(profile @ np.arange(profile.size)) - profile.size // 2)
        off = min(max(off, used[-1] - (profile.size - 1)), used[0])
        kernel = np.roll(kernel, -off, axis=axis)
    return kernel


def _smooth_noise(rng: np.random.Generator, count: int, waves: int = 6) -> np.ndarray:
    """Smooth random function of unit variance over `count` points: a few cosines, the slow ones stronger."""
    t = np.linspace(0.0, 1.0, count)
    n = np.arange(1, waves + 1)
    amplitude = rng.standard_normal(waves) / n**0.5
    phase = rng.uniform(0, 2 * math.pi, waves)
    return np.cos(math.pi * n * t[:, None] + phase) @ amplitude / math.sqrt(0.5 * np.sum(1 / n))


def _check_size(size: int, least: int = 3) -> int:
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"size must be an odd integer, got {size!r}")
    if size < least or size % 2 == 0:
        raise ValueError(f"size must be odd and at least {least}, got {size}; use {max(int(size) | 1, least)}")
    return int(size)


def _margin(size: int, margin: int | None) -> int:
    margin = min(2, (size - 3) // 4) if margin is None else margin
    if not 0 <= margin <= (size - 1) // 2:
        raise ValueError(f"margin must leave a pixel of the kernel, got {margin} for size {size}")
    return int(margin)


def _check_not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be non-negative and finite, got {value}")


def _float_dtype(dtype: DTypeLike) -> np.dtype:
    if (found := np.dtype(dtype)) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {found}")
    return found
