"""Blind deblurring. Start here: `deblur` prepares the images, `two_step.two_step` is the method.

    image -> Settings (every argument) -> Observation (n, C, H, W) -> for each kernel size: kernel (two_step)
    -> restoration with the kernel (nonblind.final) -> blended with the observed image by its confidence -> image

The inner loop of the method is `alternation.alternate`. Equation numbers in this room are those of [Chen2017].
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..images.checks import without_channels
from ..images.kernel_field import KernelField
from ..images.kernels import fit_size
from ..images.masks import with_mask_of, without_mask
from ..images.planes import join_alpha, split_alpha, to_picture
from ..nonblind.final import residual_mse, restore
from ..numerics.arrays import (
    Array,
    Clock,
    array_module,
    backend_name,
    device_errors,
    move,
    replayed,
    to_host_together,
)
from ..numerics.progress import Callback, OnProgress, subrange
from ..numerics.user_warnings import warn
from ..priors import Prior
from .confidence import blend_weight, result_signals
from .kernel_size import BORDER_MASS_LIMIT, estimate_sizes
from .observation import Observation
from .options import Settings, TwoStepOptions
from .rotation_choice import check_rotation_fits, choose_rotations, with_rotations
from .two_step import two_step

Group = np.ndarray | None  # indices of images in a stack; None: all of them


@dataclass(frozen=True)
class BlindResult:
    """What `deblur` returns.

    Attributes
    ----------
    image : array like the input, or None
        The sharp image, with the shape, dtype and memory of the input; None where ``final=None``.
    kernel : (..., kh, kw) float array
        Non-negative, sum 1: ``blurred = conv(image, kernel)``.
    field : KernelField or None
        With ``blur="rotation"``: the kernels all over the image, of which `kernel` is that in the middle; None where
        the uniform kernel explains the image as well. A list of these for a stack.
    info : dict
        One value an image, a float for a single image, else an array:

        - ``confidence``: in [0, 1]; below 0.5 the kernel is a guess. It is made of ``border_mass``,
          ``spectral_match``, ``gradient_gain`` and ``agreement``, see `blind.confidence`.
        - ``energy``: log of the minimum of eq. 2 per pixel, one part of the score by which the kernel was selected.
        - ``residual``: rms of B - x * k for the restoration x, away from the borders; only with a restoration.
        - ``strength``: the restoration's share in the result, see `TwoStepOptions.cautious`; only if that is set, too.
        - ``kernel_size``: the pair (height, width) if a size was given, else the estimated side.
        - ``blur``: "uniform", or "rotation" for an image with a field.
        - ``focal``, ``advantage``: only with ``blur="rotation"``. The focal length of the field in pixels (infinity
          for motion in the image plane, NaN without a field), and the score of the best field over that of the uniform
          kernel.

        And for the run: ``backend`` ("numpy" or "cupy"), ``dtype``, ``method``, ``final``, ``white`` (the value taken
        for full scale), ``seconds`` and ``seconds_kernel``.
    """

    image: Array
    kernel: Array
    info: dict[str, Any]
    field: Any = None


def deblur(
    image: Array,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float = 1.0,
    white: float | str | None = None,
    mask: Array | str | None = None,
    defects: str | None = "auto",
    blur: str = "uniform",
    focal: float | None = None,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> BlindResult:
    """Sharp image and blur kernel of a blurred image, or of each image of a stack.

    Alternates argmin_x |x * k - B|^2 + lambda |grad x|_0 + alpha |grad x - grad z|^2 (eq. 2) and
    argmin_k |grad x * k - grad B|^2 + gamma |k|^2 (eq. 9), refines the kernel under |k|_0 (eq. 12), and restores the
    image with it under a prior for natural images (`deconvolve`).

    Parameters
    ----------
    image : (..., H, W) NumPy or CuPy array; (..., H, W, C) with ``channel_axis=-1``
        Floats are intensities, about [0, 1], never clipped; integers are fractions of their full range; `white` says
        otherwise. Leading axes are a stack: every image is deblurred by itself.
    kernel_size : odd int or pair of odd ints (height, width), pixels; or None
        At least as large as the blur; a little larger is better than smaller. None finds it, a square of up to 71
        pixels and up to half of the image, at two to three times the cost; the kernels of a stack are padded to one
        size.
    channel_axis : int, optional
        Axis of the colors; the kernel is estimated on their luminance, and all are restored with it. The last of 2 or 4
        channels is returned unchanged if it is opacity: constant, or mostly at 0 or at its maximum.
    device : {None, "cpu", "cuda", "auto"}
        Where to compute; None: where the image lives. The result has the type of the input.
    method : {"two-step"}
    final : {"sparse", "tv", "hyper-laplacian", None}
        The restoration: the best, one nearly as good, the fast one, or none (kernel and `info` are the result). Where
        the sensor was saturated, the first two take the light to be at least what the image shows: lights may come out
        far brighter than 1 in a float image.
    gamma : float
        The image's values are light ** (1 / gamma); 1: linear intensity.
    white : float, "auto" or None
        The value of full scale in the image's unit, such as 4095 for 12 bits; integers come back clipped there. "auto":
        the smallest of 2^8 - 1, 2^10 - 1, 2^12 - 1, 2^14 - 1 and 2^16 - 1 that holds all values of the image, or of the
        whole stack. For floats it is 1, but for those far below 1 the largest value, rounded up, as for others that no
        usual scale fits. None: the largest value of an integer type, 1 for floats. But an image that uses under 1/16 of
        its type's range, integers that end exactly at a smaller full scale, and floats of which more than 1 % are above
        16 or 10 % above 4 are read as by "auto", with a warning. ``info["white"]`` is what was taken.
    mask : bool array, (H, W) or (..., H, W), or "nan", optional
        True where the image is valid; in the memory of `image`. The other pixels may have any value, NaN included: they
        are interpolated while the kernel is estimated, and the restoration fills them in (see `deconvolve`). A mask
        (H, W) may serve a stack, and a mask has no channels. "nan": valid where the image is finite, in each channel. A
        `numpy.ma.MaskedArray` as `image` brings its own mask; the result is a masked array too, with the same mask over
        the pixels that were filled in.
    defects : {"auto", None}
        "auto": what is sharper than the blur of the image can be is found and left out, beside the `mask`, with a
        warning that says where: dead rows and columns, hot pixels, and overlays such as time stamps, logos and
        watermarks in under 40 % of the image; constant borders as well, such as letterbox bars, if there is no `mask`.
        Borders and overlays come back as they are, lines and single pixels are filled in. Faint overlays in strong
        noise are not found, and an image that is sharp itself has none. Stars and lamps of a single pixel count as hot.
        None: all pixels belong to the scene, but for those that `mask` leaves out.
    blur : {"uniform", "rotation"}
        "rotation": the camera may have rotated, so that the blur varies over the image ([Li2018] section 5). The
        uniform method runs first and its result is kept, bit for bit, unless a `field` of kernels explains the image
        better. It takes three times as long and needs six kernels along each side of the image.
    focal : float, optional
        With ``blur="rotation"``: the focal length in pixels, ``math.inf`` for motion in the image plane. The focal
        length in 35 mm equivalent / 36 * the image's longer side. None: estimated with the camera's path, on
        training images within a third of the true one for 16 of 24 fields.
    prior : Prior, optional
        A prior on the latent image beside those of the method, as `options.prior`: one of `gpudeblur.priors`, such as
        `DiscriminativePrior()`, or your own. The initialization "text" keeps its own.
    options : TwoStepOptions, optional
    callback : callable(stage, fraction), optional
        Called with the progress of the whole run; the stages are "kernel" and "restoration". Returning True ends the
        run by `Stopped`.

    Returns
    -------
    BlindResult

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above; the message names the rule. What can be checked without the image is
        checked first.
    ImportError, OSError
        The initialization "network" without PyTorch, or without its weights.
    RuntimeError
        ``device="cuda"`` where there is none.
    Stopped
        The callback returned True.

    References
    ----------
    [Chen2017] J.-H. Chen, L.-W. Chang: Two-step facial images deblurring with kernel refinement via smooth priors,
    EMERGING 2017.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> from skimage import data
    >>> result = gd.deblur(data.clock(), 31)                # doctest: +SKIP
    >>> result.image.shape, result.kernel.shape             # doctest: +SKIP
    ((300, 400), (31, 31))
    """
    begin = time.perf_counter()
    with device_errors():
        settings = Settings.of(
            kernel_size,
            channel_axis,
            device,
            method,
            final,
            gamma,
            prior,
            options,
            callback,
            blur,
            focal,
            white,
            defects,
        )
        observed = Observation.of(image, settings, mask)
        original, image = image, without_mask(image)
        if blur == "rotation" and settings.kernel_size is not None:
            check_rotation_fits(observed.shape, settings.kernel_size)
        setup_end, clock = time.perf_counter(), Clock(observed.xp)
        parts = [restore_part(part, settings) for part in estimate_parts(observed, settings, clock)]
        warn_if_truncated(parts, settings)
        kernel, sharp, signals = join_parts(parts, len(observed))
        stack = without_channels(image, channel_axis)[:-2]
        info = as_info(signals, stack) | {"method": method, "final": final, "dtype": settings.options.dtype}
        fields = fields_of(parts, len(observed))
        info |= blur_info(stack, fields)
        info |= {"backend": backend_name(observed.xp), "white": float(observed.white)}
        info["kernel_size"] = settings.kernel_size or kernel_sides(parts, len(observed), stack)
        if sharp is not None:
            planes = sharp if channel_axis is not None else sharp[:, 0]
            planes = planes.reshape(*stack, *planes.shape[1:])
            sharp = to_picture(planes, gamma, image, channel_axis=channel_axis, white=observed.white)
            if observed.inside is not None:
                colors = split_alpha(image, channel_axis)[0]
                sharp = array_module(image).where(observed.inside, sharp, colors).astype(image.dtype, copy=False)
            sharp = with_mask_of(original, join_alpha(sharp, observed.alpha, channel_axis))
        kernel = move(kernel.reshape(*stack, *kernel.shape[-2:]), array_module(image))
        kernel_seconds = sum(clock.seconds(part.end) - clock.seconds(part.start) for part in parts)
        info["seconds_kernel"] = setup_end - begin + kernel_seconds
        info["seconds"] = time.perf_counter() - begin
        return BlindResult(sharp, kernel, info, fields if stack and blur == "rotation" else fields[0])


def estimate_kernel(
    image: Array,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    gamma: float = 1.0,
    white: float | str | None = None,
    mask: Array | str | None = None,
    defects: str | None = "auto",
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> Array:
    """The blur kernel alone, (..., kh, kw); arguments and errors as `deblur`."""
    with device_errors():
        settings = Settings.of(
            kernel_size,
            channel_axis,
            device,
            method,
            None,
            gamma,
            prior,
            options,
            callback,
            white=white,
            defects=defects,
        )
        observed = Observation.of(image, settings, mask)
        image = without_mask(image)
        parts = list(estimate_parts(observed, settings, Clock(observed.xp)))
        warn_if_truncated(parts, settings)
        kernel, _, _ = join_parts(parts, len(observed))
        stack = without_channels(image, channel_axis)[:-2]
        return move(kernel.reshape(*stack, *kernel.shape[-2:]), array_module(image))


@dataclass(frozen=True)
class Part:
    """The images of one kernel size, and what is known of them so far."""

    group: Group
    observed: Observation
    kernel: Array  # (n, kh, kw)
    signals: dict[str, Array]  # (n,) each
    start: Any  # moments of the clock, between which the kernel was estimated
    end: Any
    progress: OnProgress  # of the restoration
    fields: tuple[KernelField | None, ...] = ()  # one an image with blur="rotation"
    sharp: Array | None = None  # (n, C, H, W)


def estimate_parts(observed: Observation, settings: Settings, clock: Clock) -> Iterator[Part]:
    """The kernels of `observed`, one kernel size after the other."""
    start = clock.now()
    for group, size, begin, fraction in groups_by_size(observed, settings):
        kernel_progress, final_progress = settings.progress(begin, fraction)
        images = observed.subset(group)
        fields: tuple[KernelField | None, ...] = ()
        if settings.blur == "uniform":
            kernel, signals = two_step(images, size, settings.options, kernel_progress)
        else:
            kernel, signals = two_step(images, size, settings.options, subrange(kernel_progress, 0, 0.5))
            rotations = choose_rotations(
                images, kernel, settings.focal, settings.options, subrange(kernel_progress, 0.5, 0.5)
            )
            kernel, signals, part_fields = with_rotations(kernel, signals, rotations)
            fields = tuple(part_fields)
        yield Part(group, images, kernel, signals, start, clock.now(), final_progress, fields)
        start = clock.now()


def warn_if_truncated(parts: Sequence[Part], settings: Settings) -> None:
    """Warn of estimated windows that may be too small. Waits for a device where the kernel size was estimated."""
    if settings.kernel_size is not None:
        return
    truncated = sum(int((part.signals["border_mass"] > BORDER_MASS_LIMIT).sum()) for part in parts)
    if truncated:
        warn(
            f"kernel_size=None found kernels that touch the border of their window in {truncated} of "
            f"{sum(len(part.kernel) for part in parts)} images; give a larger kernel_size if the blur is longer",
            RuntimeWarning,
        )


def groups_by_size(observed: Observation, settings: Settings) -> Iterator[tuple[Group, tuple[int, int], float, float]]:
    """(group, its kernel size, where it begins as a fraction of all images, what fraction it is)."""
    if settings.kernel_size is not None:
        yield None, settings.kernel_size, 0.0, 1.0
        return
    sides = estimate_sizes(observed.luminance, observed.noise_scale, settings.options, settings.size_progress())
    begin = 0.0
    for side in np.unique(sides):
        group = np.flatnonzero(sides == side)
        fraction = len(group) / len(sides)
        yield group if fraction < 1 else None, (int(side), int(side)), begin, fraction
        begin += fraction


def restore_part(part: Part, settings: Settings) -> Part:
    """`part` with its restoration, blended with the observed image by its confidence if the options are cautious."""
    if settings.final is None:
        return part
    images, signals, final = part.observed, part.signals, settings.final
    if any(field is not None for field in part.fields):
        sharp, *measures = restore_each(part, final)
    else:
        arrays = (images.image, part.kernel[:, None], *(() if images.saturated is None else (images.saturated,)))
        function = functools.partial(_restore, final=final, mask=images.valid)
        sharp, *measures = replayed(
            ("restore", final), function, *arrays, report=part.progress, capturable=images.valid is None
        )
    xp = images.xp
    error, *measures = (xp.asarray(values.mean(axis=1)) for values in measures)
    signals = signals | {"residual": xp.sqrt(error)}
    if settings.options.cautious:
        unknowns = math.prod(part.kernel.shape[-2:]) / math.prod(images.shape)
        confidence = signals["confidence"]
        strength = blend_weight(confidence, xp.full_like(confidence, unknowns), *measures)
        signals["strength"] = strength
        sharp = images.image + strength[:, None, None, None] * (sharp - images.image)
    return replace(part, signals=signals, sharp=sharp)


def restore_each(part: Part, final: str) -> list[Array]:
    """What `_restore` returns, image by image, each with its field or its kernel."""
    images, results = part.observed, []
    for i, field in enumerate(part.fields):
        saturated, mask = (None if array is None else array[i] for array in (images.saturated, images.valid))
        progress = subrange(part.progress, i / len(images), 1 / len(images))
        kernel = part.kernel[i] if field is None else field
        results.append(_restore(images.image[i], kernel, saturated, mask=mask, final=final, report=progress))
    return [images.xp.stack(columns) for columns in zip(*results, strict=True)]


def _restore(
    image: Array,
    kernel: Array | KernelField,
    saturated: Array | None = None,
    *,
    mask: Array | None = None,
    final: str,
    report: OnProgress,
) -> tuple[Array, ...]:
    """(restoration (..., H, W), its mean squared residual, its `result_signals`), (...) each."""
    sharp = restore(image, kernel, final, report, saturated, mask)
    error = residual_mse(image, sharp, kernel, saturated, mask)
    return sharp, error, *result_signals(sharp, image, saturated, mask)


def join_parts(parts: Sequence[Part], n: int) -> tuple[Array, Array | None, dict[str, Array]]:
    """(kernels, restorations or None, signals) of all `n` images in their order; smaller kernels are padded."""
    side = max(part.kernel.shape[-2:] for part in parts)

    def join(arrays: Sequence[Array]) -> Array:
        if len(parts) == 1:
            return arrays[0]
        xp = array_module(arrays[0])
        result = xp.empty((n, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for part, array in zip(parts, arrays, strict=True):
            result[xp.asarray(part.group)] = array
        return result

    kernel = join([part.kernel if len(parts) == 1 else fit_size(part.kernel, side) for part in parts])
    images = [part.sharp for part in parts if part.sharp is not None]
    signals = {name: join([part.signals[name] for part in parts]) for name in parts[0].signals}
    return kernel, join(images) if images else None, signals


def fields_of(parts: Sequence[Part], n: int) -> list[KernelField | None]:
    """The field of each of `n` images, or None; in the memory of the kernels."""
    fields: list[KernelField | None] = [None] * n
    for part in parts:
        indices = range(n) if part.group is None else part.group
        for i, field in zip(indices, part.fields, strict=False):  # without blur="rotation" there are none
            fields[i] = field
    return fields


def blur_info(stack: tuple[int, ...], fields: Sequence[KernelField | None]) -> dict[str, Any]:
    """`info["blur"]`: one word for a single image, else an array of them."""
    names = np.array(["uniform" if field is None else "rotation" for field in fields])
    return {"blur": names.reshape(stack) if stack else str(names[0])}


def as_info(signals: dict[str, Array], stack: tuple[int, ...]) -> dict[str, Any]:
    """One number an image for `info`: floats for a single image, else NumPy arrays. Waits for a device, once."""
    arrays = to_host_together(array_module(signals["confidence"]), list(signals.values()))
    return {
        name: values.reshape(stack) if stack else float(values[0]) for name, values in zip(signals, arrays, strict=True)
    }


def kernel_sides(parts: Sequence[Part], n: int, stack: tuple[int, ...]) -> Any:
    """The side of each image's kernel: an int for a single image, else an array."""
    sides = np.empty(n, dtype=int)
    for part in parts:
        sides[part.group] = part.kernel.shape[-1]
    return sides.reshape(stack) if stack else int(sides[0])
