"""Blind deblurring, coarse to fine. Read this file first: the whole method is the loop in `_coarse_to_fine`.

    picture -> planes (images) -> gray -> for each scale: resample (pyramid), make periodic (boundary), then repeat
    { latent step (latent, smooth_prior) <-> kernel step (kernel_step) } -> second step (kernel_refine)
    -> restoration with the kernel found (nonblind) -> picture (images)

The method is Chen & Chang 2017 ("seed 0"), "Two-step facial images deblurring with kernel refinement via smooth
priors"; equation numbers in this package are that paper's.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import images
from ._arrays import Array, Workspace, array_module, backend_name, choose_module, move, to_host
from .boundary import wrap
from .confidence import border_mass, confidence, gradient_gain, spectral_match
from .fourier import rfft2
from .kernel_refine import initial_kernel, normalise, project, refine_kernel
from .kernel_step import (
    Window,
    energy,
    normal_equations,
    solve_kernel,
    voting_gradients,
    voting_window,
    window_pixels,
)
from .latent import latent_step, objective
from .nonblind import METHODS, restore, unexplained
from .options import TwoStepOptions
from .pyramid import enlarge_kernel, fit_size, kernel_sizes, resample, scaled_shape, support_size

Callback = Callable[[str, float], "bool | None"]


# Pixels of the pictures that NumPy takes through a scale together: some ten arrays of them are in use at a time.
CACHE_PIXELS = 1 << 19

# Gradients of this mean size are rounding: an 8-bit picture has steps of 4e-3.
NO_GRADIENT = 1e-5


class Stopped(Exception):
    """A callback returned True: the run ended there, without a result."""


@dataclass(frozen=True)
class BlindResult:
    """What `deblur` returns.

    Attributes
    ----------
    image : array like the input: the sharp picture, same shape, dtype and memory; None where none was asked for.
    kernel : (..., kh, kw) float, non-negative, sum 1: `blurred = conv(image, kernel)`.
    info : dict
        confidence: in [0, 1], one a picture; under 0.5 the kernel is a guess. Behind it, see `gpudeblur.confidence`:
        border_mass, spectral_match, gradient_gain. residual: rms of B - x * k for the result x, away from the borders.
        backend ("numpy" or "cupy"), dtype, method, final, scales (size of the kernel's support at each, coarsest
        first), energies (of eq. 2 at the end of each scale, without the smooth prior), seconds and seconds_kernel.
    """

    image: Array
    kernel: Array
    info: dict[str, Any]


def deblur(
    image: Array,
    kernel_size: int | tuple[int, int],
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float = 1.0,
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
    kernel_size : odd int or pair of odd ints (height, width), pixels
        At least as large as the blur; a little larger is better than smaller.
    channel_axis : int, optional
        Axis of the colours; the kernel is found on their luminance, all are restored with it.
    device : {None, "cpu", "cuda", "auto"}
        Where to compute; None: where the image lives. The result comes back in the type that came.
    method : {"two-step"}
    final : {"sparse", "hyper-laplacian", None}
        The restoration: the best, or the fast, or none (the kernel and what is known about it are the result).
    gamma : float
        The picture's values are light ** (1 / gamma); 1: linear intensity.
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
    start = time.perf_counter()
    if final is not None:
        images.check_choice("final", final, METHODS)
    gray, planes, size, options, xp = _enter(image, kernel_size, channel_axis, device, method, gamma, options)
    kernel, info = _two_step(gray, size, options, _reporter(callback, "kernel", end=1.0 if final is None else 0.7))
    info |= {"method": method, "final": final, "backend": backend_name(xp), "dtype": options.dtype}
    info["seconds_kernel"] = time.perf_counter() - start
    home = array_module(image)
    sharp: Any = None
    if final is not None:
        sharp = restore(planes, _per_plane(kernel, channel_axis), final, _reporter(callback, "restoration", begin=0.7))
        error = unexplained(planes, sharp, _per_plane(kernel, channel_axis))
        error = (error if channel_axis is None else error.mean(axis=-1)) ** 0.5
        info["residual"] = _told(xp.asarray(error), gray.shape[:-2])
        sharp = move(images.from_planes(images.encode(sharp, gamma), image, channel_axis=channel_axis), home)
    info["seconds"] = time.perf_counter() - start
    return BlindResult(sharp, move(kernel, home), info)


def estimate_kernel(
    image: Array,
    kernel_size: int | tuple[int, int],
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    gamma: float = 1.0,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> Array:
    """The blur kernel alone, (..., kh, kw); arguments and errors as `deblur`."""
    gray, _, size, options, _ = _enter(image, kernel_size, channel_axis, device, method, gamma, options)
    kernel, _ = _two_step(gray, size, options, _reporter(callback, "kernel"))
    return move(kernel, array_module(image))


def deconvolve(
    image: Array,
    kernel: Array,
    *,
    method: str = "sparse",
    channel_axis: int | None = None,
    device: str | None = None,
    gamma: float = 1.0,
    dtype: str = "float32",
    callback: Callback | None = None,
) -> Array:
    """The sharp picture for a known blur kernel.

    Parameters
    ----------
    image : (..., H, W), or (..., H, W, C) with ``channel_axis=-1``; see `deblur`.
    kernel : (kh, kw), or one a picture, (..., kh, kw)
        Odd sides, ``image = conv(sharp, kernel)``; it is scaled to sum 1. In the same kind of memory as `image`.
    method : {"sparse", "hyper-laplacian"}
        "sparse": |derivatives|^0.8, unknown boundary, the best here. "hyper-laplacian": |gradient|^(2/3), some 15
        transforms, a smooth wrap at the boundary.
    gamma, device, callback : see `deblur`; the callback's stage is "restoration".
    dtype : {"float32", "float64"}
        Precision of the computation; the result has the dtype of `image`.

    Returns
    -------
    array like `image`.

    Raises
    ------
    TypeError, ValueError
        The picture or the kernel breaks a rule, which the message names.
    """
    images.check_choice("method", method, METHODS)
    images.check_choice("dtype", dtype, ("float32", "float64"))
    images.check_picture(image, channel_axis=channel_axis)
    images.check_kernel(kernel)
    home, xp = array_module(image, kernel), choose_module(image, device)
    images.check_kernel_fits(kernel, image, channel_axis=channel_axis)
    planes = images.decode(images.to_planes(move(image, xp), channel_axis=channel_axis, dtype=dtype), gamma)
    weights = move(kernel, xp).astype("float64")
    weights = (weights / weights.sum(axis=(-2, -1), keepdims=True)).astype(dtype)
    sharp = restore(planes, _per_plane(weights, channel_axis), method, _reporter(callback, "restoration"))
    return move(images.from_planes(images.encode(sharp, gamma), image, channel_axis=channel_axis), home)


def _enter(
    image: Array,
    kernel_size: Any,
    channel_axis: int | None,
    device: str | None,
    method: str,
    gamma: float,
    options: TwoStepOptions | None,
) -> tuple[Array, Array, tuple[int, int], TwoStepOptions, Any]:
    """Checked and moved: (gray, planes, kernel size, options, array module)."""
    images.check_choice("method", method, ("two-step",))
    images.check_picture(image, channel_axis=channel_axis)
    options = TwoStepOptions() if options is None else options
    if not isinstance(options, TwoStepOptions):
        raise TypeError(f"options must be a TwoStepOptions, got {type(options).__name__}; name its fields in one")
    xp = choose_module(image, device)
    planes = images.to_planes(move(image, xp), channel_axis=channel_axis, dtype=options.dtype)
    images.warn_of_range(planes)
    size = images.check_kernel_size(kernel_size, planes.shape[-2:])
    planes = images.decode(planes, gamma)
    return (planes if channel_axis is None else images.luminance(planes)), planes, size, options, xp


def _two_step(
    gray: Array, size: tuple[int, int], options: TwoStepOptions, report: Callable[[float], None]
) -> tuple[Array, dict[str, Any]]:
    """Kernels of `gray` (..., H, W): first step coarse to fine, second step, projection. Returns (kernel, info)."""
    stack = gray.reshape(-1, *gray.shape[-2:])
    support = support_size(size, stack.shape[-2:], options.support_margin)
    scales = kernel_sizes(support, ratio=options.scale_ratio, smallest=options.smallest_kernel)
    state = _coarse_to_fine(stack, scales, options, report)
    kernel = state.kernel
    if options.refine:
        refined = refine_kernel(
            state.autocorrelation,
            state.correlation,
            project(kernel, share=options.kernel_threshold, component=options.kernel_component),
            weight=options.refine_weight,
            beta=options.refine_beta,
            solver=options.kernel_solver,
            iterations=options.kernel_iterations,
        )
        known = _known(state.autocorrelation, state.pixels)[..., None, None]
        kernel = array_module(kernel).where(known, refined, kernel)
    kernel = project(kernel, share=options.kernel_threshold, component=options.kernel_component)
    kernel = normalise(fit_size(kernel, size))
    info: dict[str, Any] = {"scales": [scale_size for scale_size, _ in scales]}
    lead = gray.shape[:-2]
    info["energies"] = [_told(value, lead) for value in state.energies]
    info |= {name: _told(value, lead) for name, value in _signals(state, stack, kernel).items()}
    report(1.0)
    return kernel.reshape(*gray.shape[:-2], *size), info


def _signals(state: _State, gray: Array, kernel: Array) -> dict[str, Array]:
    """What tells whether the kernels (n, kh, kw) of `gray` (n, H, W) are right, one number each: see `confidence`."""
    border = border_mass(state.kernel)
    match = spectral_match(gray, kernel)
    gain = gradient_gain(state.latent, state.blurred, state.window)
    found = {"border_mass": border, "spectral_match": match, "gradient_gain": gain}
    known = _known(state.autocorrelation, state.pixels)
    return {"confidence": array_module(gray).where(known, confidence(border, match, gain, kernel), 0), **found}


def _solve(
    autocorrelation: Array, correlation: Array, kernel: Array, pixels: int, options: TwoStepOptions, work: Workspace
) -> Array:
    """The kernel step: eq. 11 solved from the kernel so far, gamma as a share of the gradients' energy; normalised.

    A picture that knows no kernel gets a delta.
    """
    xp, size = array_module(correlation), correlation.shape[-2:]
    ridge = xp.multiply(energy(autocorrelation), options.kernel_weight, out=work("ridge"))
    kernel = solve_kernel(
        autocorrelation, correlation, kernel, ridge, options.kernel_solver, options.kernel_iterations, work=work
    )
    return normalise(kernel, _known(autocorrelation, pixels, out=work("known", dtype=bool)), out=work("kernel", *size))


def _known(autocorrelation: Array, pixels: int, out: Array | None = None) -> Array:
    """(...) bool: whether the gradients that vote are more than rounding, so that there is a kernel to know."""
    return array_module(autocorrelation).greater(energy(autocorrelation), NO_GRADIENT**2 * pixels, out=out)


@dataclass(frozen=True)
class _Scale:
    """One scale of the pyramid: all that is known before it begins. Sizes in pixels, (rows, columns)."""

    size: tuple[int, int]  # support of the kernel
    shape: tuple[int, int]  # of the picture
    factor: float  # from the scale before to this one
    weights: tuple[tuple[float, float], ...]  # an iteration each: lambda, share of the gradients that vote
    smooth_sigma: float
    begin: float  # part of the whole work that is done before it, and after it
    end: float


@dataclass(frozen=True)
class _State:
    """Where the first step ends, at the finest scale: (n, ...) arrays on the wrapped grid."""

    kernel: Array  # on its support, normalised, not projected
    autocorrelation: Array  # the equations (11) that it solves ...
    correlation: Array
    latent: Array  # ... and what they were made of
    blurred: Array
    window: Window  # where its gradients may vote, and how many pixels that are
    pixels: int
    energies: list[Array]  # of eq. 2 at the end of each scale


def _schedule(
    shape: tuple[int, int], scales: list[tuple[tuple[int, int], float]], options: TwoStepOptions
) -> list[_Scale]:
    """The scales of `pyramid.kernel_sizes` with the weights of their iterations, coarsest first."""
    gradient_weight, (first, last) = options.gradient_weight, options.voting_share
    costs = [scale**2 for _, scale in scales]
    schedule = []
    for level, (size, scale) in enumerate(scales):
        weights = []
        for iteration in range(options.iterations):
            share = first + (last - first) * (level + iteration / options.iterations) / len(scales)
            weights.append((gradient_weight, share))
            gradient_weight /= options.gradient_weight_decay
            if level == len(scales) - 1 and iteration >= options.iterations - options.last_iterations:
                gradient_weight /= options.last_decay
            gradient_weight = max(gradient_weight, options.gradient_weight_min)
        factor = scale / scales[level - 1][1] if level else 1.0
        sigma = options.smooth_sigma * (level + 1)
        begin, end = (sum(costs[:i]) / sum(costs) for i in (level, level + 1))
        schedule.append(_Scale(size, scaled_shape(shape, scale), factor, tuple(weights), sigma, begin, end))
    return schedule


def _coarse_to_fine(
    stack: Array, scales: list[tuple[tuple[int, int], float]], options: TwoStepOptions, report: Callable[[float], None]
) -> _State:
    """The first step (eq. 2-11) on `stack` (n, H, W): latent and kernel steps at each scale, coarsest first."""
    kernel = initial_kernel(scales[0][0], len(stack), array_module(stack), stack.dtype)
    energies: list[Array] = []
    schedule = _schedule(stack.shape[-2:], scales, options)
    for level, scale in enumerate(schedule):
        blurred = wrap(resample(stack, scale.shape), (scale.size[0] - 1, scale.size[1] - 1))
        if level:
            kernel = project(kernel, share=options.kernel_threshold, component=options.kernel_component)
            kernel = enlarge_kernel(kernel, scale.factor, scale.size)
        kernel, a, b, latent, energy = _alternate_on(blurred, kernel, scale, options, report)
        energies.append(energy)
    window = voting_window(scale.shape, scale.size)
    return _State(kernel, a, b, latent, blurred, window, window_pixels(window), energies)


def _alternate(
    blurred: Array, kernel: Array, scale: _Scale, options: TwoStepOptions, report: Callable[[float], None]
) -> tuple[Array, Array, Array, Array, Array]:
    """Latent and kernel steps of one scale: (kernel, autocorrelation, correlation, latent, energy of eq. 2).

    Nothing here may wait for a device: on one, the whole loop becomes a CUDA graph.
    """
    work = Workspace(blurred)
    blurred_hat = rfft2(blurred)
    window = voting_window(scale.shape, scale.size)
    pixels = window_pixels(window)
    for iteration, (gradient_weight, share) in enumerate(scale.weights, start=1):
        latent = latent_step(
            blurred,
            kernel,
            blurred_hat=blurred_hat,
            gradient_weight=gradient_weight,
            smooth_weight=options.smooth_weight,
            smooth_sigma=scale.smooth_sigma,
            smooth_radius=max(1, max(scale.size) // 4),
            beta_rate=options.beta_rate,
            beta_max=options.beta_max,
            work=work,
        )
        votes = voting_gradients(latent, window, share, work=work)
        a, b = normal_equations(votes, latent, blurred_hat, scale.size, work=work)
        kernel = _solve(a, b, kernel, pixels, options, work)
        report(scale.begin + (scale.end - scale.begin) * iteration / len(scale.weights))
    threshold = gradient_weight / options.beta_max
    energy = objective(latent, kernel, blurred_hat, gradient_weight=gradient_weight, threshold=threshold)
    return kernel, a, b, latent, energy


def _alternate_on(
    blurred: Array, kernel: Array, scale: _Scale, options: TwoStepOptions, report: Callable[[float], None]
) -> tuple[Array, ...]:
    """`_alternate` as suits where its arrays are.

    On NumPy, as many pictures at a time as a core's cache holds. On a device, all at once, and replayed as a CUDA graph
    when the same shapes come again.
    """
    if array_module(blurred) is np:
        together = max(1, CACHE_PIXELS // (blurred.shape[-2] * blurred.shape[-1]))
        starts = range(0, len(blurred), together)
        if len(starts) <= 1:
            return _alternate(blurred, kernel, scale, options, report)
        share, parts = (scale.end - scale.begin) / len(starts), []
        for i, first in enumerate(starts):
            begin = scale.begin + i * share
            some = slice(first, first + together)
            part = replace(scale, begin=begin, end=begin + share)
            parts.append(_alternate(blurred[some], kernel[some], part, options, report))
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    from ._device import replay

    function = functools.partial(_alternate, scale=scale, options=options, report=lambda _: None)
    found = replay((scale, options), function, blurred, kernel)
    report(scale.end)
    return found


def _told(values: Array, lead: tuple[int, ...]) -> float | np.ndarray:
    """One number a picture for `info`: a float for a single picture, else a NumPy array of shape `lead`."""
    host = to_host(values).reshape(lead)
    return host if lead else float(host)


def _per_plane(kernel: Array, channel_axis: int | None) -> Array:
    """The kernel beside (..., C, H, W) planes, where there are channels."""
    return kernel if channel_axis is None else kernel[..., None, :, :]


def _reporter(
    callback: Callback | None, stage: str, *, begin: float = 0.0, end: float = 1.0
) -> Callable[[float], None]:
    """`callback` for a stage that is the part `begin` to `end` of the run; raises `Stopped` when it returns True."""

    def report(fraction: float) -> None:
        done = begin + (end - begin) * min(1.0, fraction)
        stop = callback(stage, done) if callback is not None else False
        if isinstance(stop, (bool, np.bool_)) and stop:
            raise Stopped(f"stopped by the callback in stage {stage!r} at {done:.0%} of the run")

    return report
