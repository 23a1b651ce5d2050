"""Blind deblurring, coarse to fine. Read this file first: the whole method is `_two_step`.

    picture -> planes (images) -> gray -> several starts, some without its lamps (saturation), each coarse to fine:
    { latent step <-> kernel step } (alternation) -> the best (choice) through the finest scale and the second step
    (kernel_refine) -> the best of these -> restoration with the kernel found (nonblind) -> picture (images)

The method is Chen & Chang 2017 ("seed 0"), "Two-step facial images deblurring with kernel refinement via smooth
priors"; equation numbers in this package are that paper's. One file, though a long one: a third of it is what the two
doors say to their users, and the method is to be read from top to bottom.
"""

from __future__ import annotations

import functools
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import images
from ._arrays import (
    Array,
    Clock,
    array_module,
    backend_name,
    choose_module,
    constant,
    device_errors,
    move,
    replayed,
    side_by_side,
    to_host_together,
)
from ._arrays import stack as stacked
from .alternation import Iteration, Report, Scale, alternate_on, is_known, part, start
from .choice import Judgement, agreement, judge, order, pick, pick_judgement
from .confidence import border_mass, confidence, result_signals, strength
from .kernel_refine import normalise, project, refine_kernel
from .kernel_size import TOUCHES, estimate_sizes
from .kernel_step import voting_window, window_pixels
from .noise import loudness, quieten
from .nonblind import FINALS, restore, unexplained
from .options import TwoStepOptions, with_prior
from .priors import Prior
from .priors.protocol import is_replayable
from .progress import Callback, reporter
from .pyramid import fit_size, support_size
from .saturation import clipped, without_lamps

# Pixels added to the kernel size at the finest scale.
LAST_MARGIN = 2
# Starts that see a picture without its lamps; the others see it as it is: not all that looks like a lamp is one.
WITHOUT_LAMPS = ("wide", "sparse", "compact")
SIGNALS = ("confidence", "border_mass", "spectral_match", "gradient_gain", "agreement", "energy")
# The finest scale is gone through in both of these ways: as precise as can be, and with a firm hand, for a kernel that
# would run all over its support. The prior is left to the coarser scales, unless `last_prior` says otherwise.
LAST_WAYS: tuple[dict[str, Any], ...] = (
    {"smooth_weight": 0.0, "prior": None},
    {"smooth_weight": 0.0, "prior": None, "kernel_weight": 1e-2, "iteration_threshold": (0.1, 0.1)},
)


@dataclass(frozen=True)
class BlindResult:
    """What `deblur` returns.

    Attributes
    ----------
    image : array like the input: the sharp picture, same shape, dtype and memory; None where none was asked for.
    kernel : (..., kh, kw) float, non-negative, sum 1: `blurred = conv(image, kernel)`.
    info : dict
        confidence: in [0, 1], one a picture; under 0.5 the kernel is a guess. Behind it, see `gpudeblur.confidence`:
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
            images.check_choice("final", final, FINALS)
        options = with_prior(options, prior)
        gray, lights, planes, size, options, xp = _enter(
            image, kernel_size, channel_axis, device, method, gamma, options
        )
        entered, clock = time.perf_counter() - began, Clock(xp)
        told = reporter(callback, "kernel", end=1.0 if final is None else 0.7)
        kernel, sides, signals = _two_step(gray, _of_luminance(lights, channel_axis), size, options, told)
        estimated = clock.now()
        sharp: Any = None
        if final is not None:
            told = reporter(callback, "restoration", begin=0.7)
            sharp, error, *seen = _restore_each(planes, lights, kernel, sides, channel_axis, final, told)
            error = xp.sqrt(_over_channels(error, channel_axis))  # ** 0.5 rounds one number otherwise
            signals["residual"] = xp.asarray(error)
            if options.cautious:
                unknowns = np.prod(sides) if size is not None else np.square(sides)
                unknowns = xp.asarray(unknowns / (gray.shape[-2] * gray.shape[-1]), dtype=planes.dtype)
                seen = [xp.asarray(_over_channels(one, channel_axis)) for one in seen]
                share = signals["strength"] = strength(signals["confidence"], unknowns, *seen)
                sharp = planes + _per_plane(share[..., None, None], channel_axis) * (sharp - planes)
            sharp = images.to_picture(sharp, gamma, image, channel_axis=channel_axis)
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
        kernel, _, _ = _two_step(gray, lights, size, options, reporter(callback, "kernel"))
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
    images.check_choice("method", method, ("two-step",))
    images.check_picture(image, channel_axis=channel_axis)
    options = TwoStepOptions() if options is None else options
    if not isinstance(options, TwoStepOptions):
        raise TypeError(f"options must be a TwoStepOptions, got {type(options).__name__}; name its fields in one")
    xp = choose_module(image, device)
    planes = images.to_planes(move(image, xp), channel_axis=channel_axis, dtype=options.dtype)
    lights = clipped(planes)
    largest, lit = (float(one) for one in to_host_together(xp, [abs(planes).max(), lights.any().astype(planes.dtype)]))
    images.check_largest(largest, planes.dtype, stacklevel=4)
    size = None
    if kernel_size is None:
        images.check_room(planes.shape)
    else:
        size = images.check_kernel_size(kernel_size, planes.shape[-2:])
    planes = images.decode(planes, gamma)
    gray = planes if channel_axis is None else images.luminance(planes)
    return gray, lights if lit else None, planes, size, options, xp


def _of_luminance(lights: Array | None, channel_axis: int | None) -> Array | None:
    """The luminance is wrong where any of its channels is clipped."""
    return lights if lights is None or channel_axis is None else lights.any(axis=-3)


def _two_step(
    gray: Array, lights: Array | None, size: tuple[int, int] | None, options: TwoStepOptions, report: Report
) -> tuple[Array, Any, dict[str, Array]]:
    """Kernels of `gray` (..., H, W), their sizes, and what is known about them, (...) each.

    `lights`: where it is clipped. The sizes are `size` where it is given, else a side, or an array (...) of them.
    """
    lead, stack = gray.shape[:-2], gray.reshape(-1, *gray.shape[-2:])
    lights = None if lights is None else lights.reshape(stack.shape)
    loud = loudness(stack)
    sides: Any = size
    if size is not None:
        kernel, signals = _best_kernel(stack, lights, loud, size, options, report)
    else:
        each = estimate_sizes(stack, loud, options, part(report, 0, 0.4))
        kernel, signals = _kernel_of_sides(stack, lights, loud, each, options, part(report, 0.4, 0.6))
        sides = each.reshape(lead) if lead else int(each[0])
    report(1.0)
    signals = {name: values.reshape(lead) for name, values in signals.items()}
    return kernel.reshape(*lead, *kernel.shape[-2:]), sides, signals


def _kernel_of_sides(
    stack: Array, lights: Array | None, loud: Array, sides: np.ndarray, options: TwoStepOptions, report: Report
) -> tuple[Array, dict[str, Array]]:
    """`_best_kernel` at each picture's own side; the smaller kernels of a stack are padded."""
    xp = array_module(stack)
    most = int(sides.max())
    kernel = xp.zeros((len(stack), most, most), dtype=stack.dtype)
    signals: dict[str, Array] = {}
    done = 0.0
    for side in np.unique(sides):
        these = xp.asarray(np.flatnonzero(sides == side))
        share = len(these) / len(stack)
        size = (int(side), int(side))
        own = None if lights is None else lights[these]
        found, more = _best_kernel(stack[these], own, loud[these], size, options, part(report, done, share))
        kernel[these] = fit_size(found, (most, most))
        for name, values in more.items():
            signals.setdefault(name, xp.zeros(len(stack), dtype=values.dtype))[these] = values
        done += share
    touching = int((signals["border_mass"] > TOUCHES).sum())
    if touching:
        warnings.warn(
            f"kernel_size=None found kernels that touch the border of their window in {touching} of {len(stack)} "
            "pictures; give a larger kernel_size if the blur is longer",
            RuntimeWarning,
            stacklevel=4,
        )
    return kernel, signals


def _best_kernel(
    stack: Array,
    lights: Array | None,
    loud: Array,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: Report,
) -> tuple[Array, dict[str, Array]]:
    """Several starts, the best of them through the finest scale, the best of these; with what tells of its worth.

    `stack` (n, H, W), `lights` (n, H, W) where it is clipped, `loud` (n,) what `noise.loudness` says of it. Where the
    lights are lamps, some of the starts see the picture without the lamps' whole traces, and what these found is
    finished there; all are judged on the picture without the lamps alone. A single start sees it as it is.
    """
    pictures: tuple[Array, ...] = (stack, loud)
    if lights is not None and len(options.starts) > 1:
        dark, bare = without_lamps(stack, lights, size)  # without the lamps' traces, without the lamps
        if dark is not stack:
            pictures = (stack, loud, dark, bare)
    begun = len(options.starts) / (len(options.starts) + _finals(options))
    key = size, options
    coarse = functools.partial(_coarse_kernels, size=size, options=options)
    finest = functools.partial(_finest_kernel, size=size, options=options)
    priors = [options.of_start(name).prior for name in options.starts]
    found = replayed(
        ("coarse", *key), coarse, *pictures,
        report=part(report, 0, begun), capturable=all(map(is_replayable, priors)),
    )  # fmt: skip
    kernel, *signals = replayed(
        ("finest", *key), finest, *pictures, *found,
        report=part(report, begun, 1 - begun), capturable=not options.last_prior or is_replayable(options.prior),
    )  # fmt: skip
    return kernel, dict(zip(SIGNALS, signals, strict=True))


def _finals(options: TwoStepOptions) -> int:
    """How often the finest scale is gone through."""
    several = len(options.starts) > 1
    return min(options.finalists, len(options.starts)) * len(LAST_WAYS if several else LAST_WAYS[:1])


def _coarse_kernels(
    stack: Array,
    loud: Array,
    dark: Array | None = None,
    bare: Array | None = None,
    *,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: Report,
) -> tuple[Array, Array, Array, Array]:
    """Kernels of all starts for `_best_kernel`, (starts, n, kh, kw), and energy, match and gain of each (starts, n)."""
    several = len(options.starts) > 1
    judged_on = quieten(stack if bare is None else bare, loud) if several else stack

    def begin(i: int, name: str) -> tuple[Array, Array, Array, Array]:
        seen = stack if dark is None or name not in WITHOUT_LAMPS else dark
        of_this = part(report, i / len(options.starts), 1 / len(options.starts))
        kernel = start(seen, size, options.of_start(name), of_this)
        return kernel, *(judge(judged_on, kernel, loud).parts if several else (loud,) * 3)

    xp = array_module(stack)
    found = side_by_side(xp, [functools.partial(begin, *item) for item in enumerate(options.starts)])
    kernels, energy, match, gain = (stacked(each) for each in zip(*found, strict=True))
    return kernels, energy, match, gain


def _finest_kernel(
    stack: Array,
    loud: Array,
    *arrays: Array,
    size: tuple[int, int],
    options: TwoStepOptions,
    report: Report,
) -> tuple[Array, ...]:
    """The best kernel (n, kh, kw) that comes of those of `_coarse_kernels`, and its `SIGNALS`, (n,) each.

    `arrays`: the pictures without lamps, where there are any, and what `_coarse_kernels` has returned.
    """
    xp, several = array_module(stack), len(options.starts) > 1
    *lampless, found, energy, match, gain = arrays
    quiet, quiet_dark = quieten(stack, loud), None
    judged_on = quiet
    if lampless:
        quiet_dark, judged_on = (quieten(one, loud) for one in lampless)
    of_starts = [Judgement(*each, loud) for each in zip(energy, match, gain, strict=True)]
    places = order(of_starts, min(options.finalists, len(found))) if several else xp.zeros((1, len(stack)), dtype=int)
    ways = LAST_WAYS if several else LAST_WAYS[:1]

    def end(number: int) -> tuple[Array, Judgement]:
        place, way = places[number // len(ways)], ways[number % len(ways)]
        seen = quiet
        if quiet_dark is not None:
            in_the_dark = constant(xp, np.array, tuple(name in WITHOUT_LAMPS for name in options.starts))
            seen = xp.where(in_the_dark[place][:, None, None], quiet_dark, quiet)
        kept = {"prior": options.prior} if options.last_prior else {}
        of_this = part(report, number / _finals(options), 1 / _finals(options))
        kernel = _finish(seen, pick(found, place), size, replace(options, **{**way, **kept}), of_this)
        return kernel, judge(judged_on, kernel, loud)

    ends = side_by_side(xp, [functools.partial(end, number) for number in range(_finals(options))])
    candidates, verdicts = (list(each) for each in zip(*ends, strict=True))
    if several:  # what was begun may be better than how it ended, in a picture without noise
        candidates.append(pick(found, places[0]))
        begun = pick_judgement(of_starts, places[0])
        verdicts.append(replace(begun, energy=xp.where(loud > 1, np.inf, begun.energy)))
    best = order(verdicts, 1)[0]
    kernel = pick(candidates, best)
    return kernel, *_signals(kernel, pick_judgement(verdicts, best), list(found))


def _restore_each(
    planes: Array,
    lights: Array | None,
    kernel: Array,
    sides: Any,
    channel_axis: int | None,
    final: str,
    report: Report,
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
            part(report, done, share),
        )  # fmt: skip
        for result, one in zip(results, parts, strict=True):
            result[these] = one
        done += share
    return tuple(result.reshape(*planes.shape[:lead], *result.shape[1:]) for result in results)


def _restored(
    planes: Array, kernel: Array, lights: Array | None = None, *, final: str, report: Report
) -> tuple[Array, ...]:
    """`_restore_each` of planes whose kernels have one size."""
    sharp = restore(planes, kernel, final, report, lights)
    return sharp, unexplained(planes, sharp, kernel, lights), *result_signals(sharp, planes, lights)


def _finish(
    quiet: Array, kernel: Array, size: tuple[int, int], options: TwoStepOptions, report: Report
) -> Array:
    """Kernels (n, kh, kw) through the finest scale, then the second step and the projection."""
    shape, threshold = quiet.shape[-2:], options.last_threshold
    support = support_size(size, shape, LAST_MARGIN)
    first, last = options.last_gradient_weight
    count = options.last_iterations
    weights = [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]
    share, cut = options.voting_share[1], options.iteration_threshold[1]
    iterations = tuple(Iteration(weight, share, cut) for weight in weights)
    scale = Scale(support, shape, 1.0, iterations, options.smooth_sigma, options.last_beta_max)
    kernel, a, b = alternate_on(quiet, fit_size(kernel, support), scale, options, report)
    if options.refine:
        refined = refine_kernel(
            a,
            b,
            project(kernel, share=threshold, component=options.kernel_component),
            weight=options.refine_weight,
            beta=options.refine_beta,
            solver=options.kernel_solver,
            iterations=options.kernel_iterations,
        )
        known = is_known(a, window_pixels(voting_window(shape, support)))
        kernel = array_module(kernel).where(known[..., None, None], refined, kernel)
    return normalise(fit_size(project(kernel, share=threshold, component=options.kernel_component), size))


def _signals(kernel: Array, verdict: Judgement, found: list[Array]) -> list[Array]:
    """`SIGNALS`, what tells whether the kernels (n, kh, kw) are right, (n,) each: see `confidence`."""
    signals = {
        "border_mass": border_mass(kernel),
        "spectral_match": verdict.match,
        "gradient_gain": verdict.gain,
        "agreement": agreement(kernel, found),
    }
    return [confidence(kernel, **signals), *signals.values(), verdict.energy]


def _numbers(signals: dict[str, Array]) -> dict[str, Any]:
    """One number a picture for `info`: floats for a single picture, else NumPy arrays. Waits for a device, once."""
    host = to_host_together(array_module(signals["confidence"]), list(signals.values()))
    return {name: values if values.ndim else float(values) for name, values in zip(signals, host, strict=True)}


def _over_channels(values: Array, channel_axis: int | None) -> Array:
    """The mean of (..., C) values over the channels, where there are any."""
    return values if channel_axis is None else values.mean(axis=-1)


def _per_plane(kernel: Array, channel_axis: int | None) -> Array:
    """The kernel beside (..., C, H, W) planes, where there are channels."""
    return kernel if channel_axis is None else kernel[..., None, :, :]
