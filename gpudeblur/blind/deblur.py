"""Blind deblurring, coarse to fine. Read this file first.

    picture -> planes (images) -> gray -> kernel (two_step) -> restoration with the kernel found (nonblind)
    -> as much of it as the kernel deserves (confidence) -> picture (images)

The method is Chen & Chang 2017 ("seed 0"), "Two-step facial images deblurring with kernel refinement via smooth
priors"; equation numbers in this package are that paper's.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..images import checks
from ..images.kernels import fit_size
from ..images.planes import decode, luminance, to_picture, to_planes
from ..images.saturation import find_saturated
from ..nonblind.final import FINALS, residual_mse, restore
from ..numerics.arrays import (
    Array,
    Clock,
    array_module,
    backend_name,
    choose_module,
    device_errors,
    move,
    replayed,
    to_host_together,
)
from ..numerics.progress import Callback, OnProgress, make_progress, subrange
from ..priors import Prior
from .confidence import blend_weight, result_signals
from .options import TwoStepOptions, with_prior
from .two_step import two_step


@dataclass(frozen=True)
class BlindResult:
    """What `deblur` returns.

    Attributes
    ----------
    image : array like the input: the sharp picture, same shape, dtype and memory; None where none was asked for.
    kernel : (..., kh, kw) float, non-negative, sum 1: `blurred = conv(image, kernel)`.
    info : dict
        confidence: in [0, 1], one a picture; under 0.5 the kernel is a guess. Behind it, see `blind.confidence`:
        border_mass, spectral_match, gradient_gain, agreement, and energy. kernel_size: as given, or the side found.
        strength: share of the restoration in the result, 1 where there is confidence and no wild ringing, see
        `TwoStepOptions.cautious`. residual: rms of B - x * k for the restoration x,
        away from the borders. backend ("numpy" or "cupy"), dtype, method, final, seconds and seconds_kernel.
    """

    image: Array
    kernel: Array
    info: dict[str, Any]


def deblur(
    image: Array,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float = 1.0,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> BlindResult:
    """Sharp picture and blur kernel of a blurred picture, or of each picture of a stack.

    Solves argmin_{x, k} |x * k - B|^2 + lambda |grad x|_0 + alpha |grad x - grad z|^2 + kernel_weight |k|^2 for the
    kernel (eq. 2 and 9), refines it by argmin_k |grad x * k - grad B|^2 + lambda |k|_0 (eq. 12), and restores the
    picture with it by a natural-picture prior (`deconvolve`).

    Parameters
    ----------
    image : (..., H, W) NumPy or CuPy array; (..., H, W, C) with ``channel_axis=-1``
        Floats are intensities, about [0, 1], never clipped; integers are fractions of their full range. Leading axes
        are a stack: every picture is deblurred by itself.
    kernel_size : odd int or pair of odd ints (height, width), pixels; or None
        At least as large as the blur; a little larger is better than smaller. None finds it, a square up to 71 pixels
        and to half of the picture, at two to three times the cost; the kernels of a stack are padded to one size.
    channel_axis : int, optional
        Axis of the colours; the kernel is found on their luminance, all are restored with it.
    device : {None, "cpu", "cuda", "auto"}
        Where to compute; None: where the image lives. The result comes back in the type that came.
    method : {"two-step"}
    final : {"sparse", "tv", "hyper-laplacian", None}
        The restoration: the best, one that is nearly as good, the fast one, or none (the kernel and what is known about
        it are the result). Where the sensor was at its top, the first two take the light for at least what is seen:
        lamps may come out far brighter than 1 in a float picture.
    gamma : float
        The picture's values are light ** (1 / gamma); 1: linear intensity.
    prior : Prior, optional
        A prior on the latent picture beside those of the method, as `options.prior`: one of `gpudeblur.priors`, such as
        `DiscriminativePrior()`, or your own. The start "text" keeps its own.
    options : TwoStepOptions, optional
    callback : callable(stage, fraction), optional
        Told of the progress of the whole run; stages "kernel", "restoration". Returning True ends it by `Stopped`.

    Returns
    -------
    BlindResult

    Raises
    ------
    TypeError, ValueError
        The image, the kernel size or another argument is not as said above; the message says which rule it breaks.
    RuntimeError
        ``device="cuda"`` where there is none.
    Stopped
        The callback said so.

    References
    ----------
    J.-H. Chen, L.-W. Chang: Two-step facial images deblurring with kernel refinement via smooth priors, EMERGING 2017.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> from skimage import data
    >>> result = gd.deblur(data.clock(), 31)                # doctest: +SKIP
    >>> result.image.shape, result.kernel.shape             # doctest: +SKIP
    ((300, 400), (31, 31))
    """
    began = time.perf_counter()
    with device_errors():
        if final is not None:
            checks.check_choice("final", final, FINALS)
        options = with_prior(options, prior)
        gray, lights, planes, size, options, xp = _enter(
            image, kernel_size, channel_axis, device, method, gamma, options
        )
        entered, clock = time.perf_counter() - began, Clock(xp)
        told = make_progress(callback, "kernel", end=1.0 if final is None else 0.7)
        kernel, sides, signals = two_step(gray, _of_luminance(lights, channel_axis), size, options, told)
        estimated = clock.now()
        sharp: Any = None
        if final is not None:
            told = make_progress(callback, "restoration", begin=0.7)
            sharp, error, *measures = _restore_each(planes, lights, kernel, sides, channel_axis, final, told)
            error = xp.sqrt(_over_channels(error, channel_axis))  # ** 0.5 rounds one number otherwise
            signals["residual"] = xp.asarray(error)
            if options.cautious:
                unknowns = (np.prod(sides) if size is not None else np.square(sides)) / math.prod(gray.shape[-2:])
                unknowns = _one_a_picture(unknowns, signals["confidence"])
                measures = [xp.asarray(_over_channels(values, channel_axis)) for values in measures]
                share = signals["strength"] = blend_weight(signals["confidence"], unknowns, *measures)
                sharp = planes + _per_plane(share[..., None, None], channel_axis) * (sharp - planes)
            sharp = to_picture(sharp, gamma, image, channel_axis=channel_axis)
        info = _numbers(signals) | {"kernel_size": sides, "method": method, "final": final}
        info |= {"backend": backend_name(xp), "dtype": options.dtype}
        info["seconds_kernel"] = entered + clock.seconds(estimated)
        info["seconds"] = time.perf_counter() - began
        return BlindResult(sharp, move(kernel, array_module(image)), info)


def estimate_kernel(
    image: Array,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    gamma: float = 1.0,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> Array:
    """The blur kernel alone, (..., kh, kw); arguments and errors as `deblur`."""
    with device_errors():
        options = with_prior(options, prior)
        gray, lights, _, size, options, _ = _enter(image, kernel_size, channel_axis, device, method, gamma, options)
        lights = _of_luminance(lights, channel_axis)
        kernel, _, _ = two_step(gray, lights, size, options, make_progress(callback, "kernel"))
        return move(kernel, array_module(image))


def _enter(
    image: Array,
    kernel_size: Any,
    channel_axis: int | None,
    device: str | None,
    method: str,
    gamma: float,
    options: TwoStepOptions | None,
) -> tuple[Array, Array | None, Array, tuple[int, int] | None, TwoStepOptions, Any]:
    """Checked and moved: (gray, where the planes are clipped or None, planes, kernel size, options, array module)."""
    checks.check_choice("method", method, ("two-step",))
    checks.check_picture(image, channel_axis=channel_axis)
    options = TwoStepOptions() if options is None else options
    if not isinstance(options, TwoStepOptions):
        raise TypeError(f"options must be a TwoStepOptions, got {type(options).__name__}; name its fields in one")
    xp = choose_module(image, device)
    planes = to_planes(move(image, xp), channel_axis=channel_axis, dtype=options.dtype)
    lights = find_saturated(planes)
    largest, lit = (float(one) for one in to_host_together(xp, [abs(planes).max(), lights.any().astype(planes.dtype)]))
    checks.check_largest(largest, planes.dtype)
    size = None
    if kernel_size is None:
        checks.check_minimum_size(planes.shape)
    else:
        size = checks.check_kernel_size(kernel_size, planes.shape[-2:])
    planes = decode(planes, gamma)
    gray = planes if channel_axis is None else luminance(planes)
    return gray, lights if lit else None, planes, size, options, xp


def _of_luminance(lights: Array | None, channel_axis: int | None) -> Array | None:
    """The luminance is wrong where any of its channels is clipped."""
    return lights if lights is None or channel_axis is None else lights.any(axis=-3)


def _restore_each(
    planes: Array,
    lights: Array | None,
    kernel: Array,
    sides: Any,
    channel_axis: int | None,
    final: str,
    report: OnProgress,
) -> tuple[Array, ...]:
    """(restoration, mean square of what it leaves unexplained, ...) and its `result_signals`, (..., C) each.

    Each picture with its kernel of its own size; `lights`: where the planes are clipped. `sides` as in `info`; where
    the pictures of a stack have sizes of their own, their kernels have been padded, and a wider kernel would mean a
    wider border.
    """
    if not isinstance(sides, np.ndarray) or len(np.unique(sides)) == 1:
        arrays = (planes, _per_plane(kernel, channel_axis)) + (() if lights is None else (lights,))
        function = functools.partial(_restored, final=final)
        restored: tuple[Array, ...] = replayed(("restore", final), function, *arrays, report=report)
        return restored
    xp, sides, lead = array_module(planes), sides.reshape(-1), sides.ndim
    flat = planes.reshape(-1, *planes.shape[lead:])
    masks = None if lights is None else lights.reshape(flat.shape)
    kernels = kernel.reshape(-1, *kernel.shape[-2:])
    results, done = [xp.empty_like(flat), *(xp.empty(flat.shape[:-2], dtype=flat.dtype) for _ in range(4))], 0.0
    for side in np.unique(sides):
        these = xp.asarray(np.flatnonzero(sides == side))
        share = len(these) / len(sides)
        own = fit_size(kernels[these], (int(side), int(side)))
        parts = _restore_each(
            flat[these], None if masks is None else masks[these], own, int(side), channel_axis, final,
            subrange(report, done, share),
        )  # fmt: skip
        for result, one in zip(results, parts, strict=True):
            result[these] = one
        done += share
    return tuple(result.reshape(*planes.shape[:lead], *result.shape[1:]) for result in results)


def _restored(
    planes: Array, kernel: Array, lights: Array | None = None, *, final: str, report: OnProgress
) -> tuple[Array, ...]:
    """`_restore_each` of planes whose kernels have one size."""
    sharp = restore(planes, kernel, final, report, lights)
    return sharp, residual_mse(planes, sharp, kernel, lights), *result_signals(sharp, planes, lights)


def _numbers(signals: dict[str, Array]) -> dict[str, Any]:
    """One number a picture for `info`: floats for a single picture, else NumPy arrays. Waits for a device, once."""
    host = to_host_together(array_module(signals["confidence"]), list(signals.values()))
    return {name: values if values.ndim else float(values) for name, values in zip(signals, host, strict=True)}


def _one_a_picture(values: np.ndarray, like: Array) -> Array:
    """A number for all pictures, or one a picture on the host, as an array like `like` (...)."""
    xp = array_module(like)
    return xp.full_like(like, float(values)) if values.ndim == 0 else xp.asarray(values, dtype=like.dtype)


def _over_channels(values: Array, channel_axis: int | None) -> Array:
    """The mean of (..., C) values over the channels, where there are any."""
    return values if channel_axis is None else values.mean(axis=-1)


def _per_plane(kernel: Array, channel_axis: int | None) -> Array:
    """The kernel beside (..., C, H, W) planes, where there are channels."""
    return kernel if channel_axis is None else kernel[..., None, :, :]
