"""The sharp picture for a known blur kernel: `deconvolve`, the door to all of `nonblind`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..images import checks
from ..images.kernels import pad_to_odd
from ..images.planes import decode, to_picture, to_planes
from ..images.saturation import find_saturated
from ..numerics.arrays import Array, array_module, choose_module, device_errors, move
from ..numerics.boundary import MODES
from ..numerics.progress import Callback, make_progress
from . import METHODS
from .expectation_maximization import BOUNDARIES
from .regularization import WEIGHT_RULES, weight_from_sigma
from .tiles import TILED, tiled


@dataclass(frozen=True)
class MethodSpec:
    """What a method can be told."""

    boundaries: tuple[str, ...] = MODES
    weight: bool = True
    clipped: bool = True
    iterations: str = ""  # the name that the method has for it


METHOD_SPECS = {
    "tv": MethodSpec(iterations="iterations"),
    "hyper-laplacian": MethodSpec(),
    "sparse": MethodSpec(boundaries=("unknown",), iterations="iterations"),
    "epll": MethodSpec(clipped=False),
    "l0": MethodSpec(),
    "ringing-suppressed": MethodSpec(),
    "wiener": MethodSpec(boundaries=BOUNDARIES, clipped=False),
    "richardson-lucy": MethodSpec(boundaries=BOUNDARIES, weight=False, iterations="num_iter"),
}


def deconvolve(
    image: Array,
    kernel: Array,
    *,
    method: str = "tv",
    boundary: str = "unknown",
    weight: Any = None,
    noise_sigma: Any = None,
    iterations: int | None = None,
    saturation: float | str | None = "auto",
    tile: int | str | None = None,
    channel_axis: int | None = None,
    device: str | None = None,
    gamma: float = 1.0,
    dtype: str = "float32",
    callback: Callback | None = None,
) -> Array:
    """The sharp picture for a known blur kernel.

    Solves argmin_x |x * k - B|^2 / 2 + weight phi(x) with the method's prior phi; without options, boundaries and noise
    are taken care of.

    Parameters
    ----------
    image : (..., H, W), or (..., H, W, C) with ``channel_axis=-1``; see `deblur`.
    kernel : (kh, kw), or one a picture, (..., kh, kw)
        ``image = conv(sharp, kernel)``; it is scaled to sum 1, and need not be centred. Its origin is its pixel
        (kh // 2, kw // 2), the middle one of odd sides: a delta elsewhere shifts the picture. In the same kind of
        memory as `image`. It may be larger than the picture along one axis, if the boundary is not "wrap".
    method : {"tv", "hyper-laplacian", "sparse", "epll", "l0", "ringing-suppressed", "wiener", "richardson-lucy"}
        phi, each a function of `gpudeblur.nonblind` with more options. "tv", |grad x|: good under noise.
        "sparse", |derivatives|^0.8: the best without noise, about as long. "hyper-laplacian", |gradient|^(2/3): between
        them. "epll", minus the log likelihood of patches of 8 x 8 under a mixture learnt from photographs: the best on
        these under noise, two to four times as long as "tv". "l0", the number of edges: for text and drawings.
        "ringing-suppressed": tv and l0 combined, for kernels that are not quite right. "wiener", |grad x|^2: one
        quotient, and for the boundary "unknown" what lies beyond it by "tv". "richardson-lucy": none,
        under Poisson noise; x >= 0.
    boundary : {"unknown", "liu-jia", "reflect", "edge", "taper", "wrap"}
        What is taken to be outside the picture, see `numerics.boundary.extend`. "unknown": nothing; x reaches as far
        as the blur, and only what was seen is compared. The others take half of the transforms ("wiener": a tenth), and
        cost up to some dB along the borders. "sparse" knows "unknown" only, "wiener" and "richardson-lucy" neither
        "liu-jia" nor "taper".
    weight : float, or one a picture, optional
        Of phi. Larger: less noise and ringing, less detail. None: by the noise, `gpudeblur.nonblind.regularization`.
        "richardson-lucy" has none.
    noise_sigma : float, or one a picture, optional
        Standard deviation of the noise, in the unit where the picture's range is 1. None estimates it.
    iterations : int, optional
        Of "tv" (30), "sparse" (8, four times) and "richardson-lucy" (30 at most).
    saturation : float or "auto", optional
        From this level on, in the unit where the picture's range is 1, the sensor was at its top: the light there,
        x * k, was at least what the picture shows, and may have been more. Lamps and highlights that are compared as
        they are ring widely. "auto" finds plateaus at the top of the range and leaves a picture without any as with
        None: nothing was clipped. With boundary "unknown" only; "wiener" has none. Where
        something is clipped, it takes up to 2.5 times as long, and what lies under it may come out far above 1.
    tile : int or "auto", optional
        Restore the picture in tiles of so many pixels a side, for pictures that do not fit the device; "auto" is as
        many as fit. Not for "wiener" and "richardson-lucy"; boundary "unknown" only.
    gamma, device, callback : see `deblur`; the callback's stage is "restoration".
    dtype : {"float32", "float64"}
        Precision of the computation; the result has the dtype of `image`.

    Returns
    -------
    array like `image`.

    Raises
    ------
    TypeError, ValueError
        The picture, the kernel or an option breaks a rule, which the message names.
    Stopped
        The callback said so.

    Examples
    --------
    >>> import numpy as np, gpudeblur as gd
    >>> from skimage import data
    >>> sharp = data.camera() / 255
    >>> blurred = (sharp[:, 2:] + sharp[:, 1:-1] + sharp[:, :-2]) / 3
    >>> restored = gd.deconvolve(blurred, np.ones((1, 3)))
    >>> bool(abs(restored - sharp[:, 1:-1]).mean() < abs(blurred - sharp[:, 1:-1]).mean() / 4)
    True
    """
    checks.check_choice("method", method, METHOD_SPECS)
    checks.check_choice("dtype", dtype, ("float32", "float64"))
    checks.check_choice(f"boundary of method {method!r}", boundary, METHOD_SPECS[method].boundaries)
    if tile is not None:
        _check_tile(tile, method, boundary)
    _check_saturation(saturation, method, boundary)
    checks.check_picture(image, channel_axis=channel_axis)
    checks.check_kernel(kernel, odd=False)
    with device_errors():
        home, xp = array_module(image, kernel), choose_module(image, device)
        checks.check_kernel_fits(kernel, image, channel_axis=channel_axis, both=boundary == "wrap")
        stack = checks.without_channels(image, channel_axis)[:-2]
        options = _options(method, weight, noise_sigma, iterations, stack)
        report = make_progress(callback, "restoration")
        work = home if tile is not None else xp  # tiles are moved one by one
        planes = to_planes(move(image, work), channel_axis=channel_axis, dtype=dtype)
        lights = None
        if saturation is not None and boundary == "unknown" and METHOD_SPECS[method].clipped:
            lights = find_saturated(planes) if isinstance(saturation, str) else planes >= saturation
            if not bool(lights.any()):  # here CuPy must wait
                lights = None
        planes = decode(planes, gamma)
        checks.check_range(planes, checks.SCALE_ADVICE if method in WEIGHT_RULES else None)  # the others know no unit
        weights = pad_to_odd(move(kernel, work).astype("float64"))
        weights = (weights / weights.sum(axis=(-2, -1), keepdims=True)).astype(dtype)
        if channel_axis is not None:
            weights = weights[..., None, :, :]
        options = {name: _beside(value, work, channel_axis is not None) for name, value in options.items()}
        if lights is not None:
            options["clipped"] = lights
        if tile is None:
            if method != "sparse":
                options["boundary"] = boundary
            sharp = METHODS[method](planes, weights, callback=report, **options)
        else:
            side = None if tile == "auto" else int(tile)
            sharp = tiled(planes, weights, method=method, tile=side, device=device, callback=report, **options)
        return to_picture(sharp, gamma, image, channel_axis=channel_axis)


def _options(method: str, weight: Any, noise_sigma: Any, iterations: Any, stack: tuple[int, ...]) -> dict[str, Any]:
    """What the method is called with, but for the boundary; refuses what it does not know."""
    takes, options = METHOD_SPECS[method], dict[str, Any]()
    if weight is not None:
        if not takes.weight:
            raise ValueError(f"weight is not known to method {method!r}, got {weight!r}; leave it out")
        options["weight"] = checks.check_positive("weight", weight, stack)
    if noise_sigma is not None:
        noise_sigma = checks.check_positive("noise_sigma", noise_sigma, stack, zero=True)
        if method not in WEIGHT_RULES:
            options["noise_sigma"] = noise_sigma
        elif weight is None:
            options["weight"] = weight_from_sigma(noise_sigma, method)
    if iterations is not None:
        if not takes.iterations:
            raise ValueError(f"iterations are not known to method {method!r}, got {iterations!r}; leave it out")
        options[takes.iterations] = checks.check_count("iterations", iterations)
    return options


def _check_tile(tile: Any, method: str, boundary: str) -> None:
    if method not in TILED:
        checks.check_choice("method with tile", method, TILED)
    if boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with tile, got {boundary!r}; leave it out")
    side = checks.as_integer(tile) if np.ndim(tile) == 0 else None
    if not (isinstance(tile, str) and tile == "auto") and (side is None or side < 1):
        raise ValueError(f"tile must be a positive integer or 'auto', got {tile!r}; 'auto' is as many as fit")


def _check_saturation(saturation: Any, method: str, boundary: str) -> None:
    if saturation is None or (isinstance(saturation, str) and saturation == "auto"):
        return
    if isinstance(saturation, bool) or not isinstance(saturation, int | float | np.number) or not saturation > 0:
        raise ValueError(f"saturation must be a positive level, 'auto' or None, got {saturation!r}; full scale is 1")
    if not METHOD_SPECS[method].clipped:
        raise ValueError(f"saturation is not known to method {method!r}, got {saturation!r}; leave it out")
    if boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with saturation, got {boundary!r}; leave it out")


def _beside(value: Any, xp: Any, coloured: bool) -> Any:
    """An option as it goes with planes (..., H, W), or (..., C, H, W): an array in their memory, its axes theirs."""
    if not getattr(value, "ndim", 0):
        return value
    value = move(value, xp)
    return value[..., None] if coloured else value
