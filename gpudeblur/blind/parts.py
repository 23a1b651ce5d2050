"""The images of a stack in parts of one window and one kernel size: kernels, restorations, and how they are joined."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..images.checks import region_window
from ..images.kernel_field import KernelField
from ..images.kernels import fit_size
from ..nonblind.final import residual_mse, restore, result_signals
from ..nonblind.specs import METHOD_SPECS, color_option
from ..nonblind.tiles import tile_of_bounded_memory
from ..numerics.arrays import Array, Clock, array_module, replayed, to_host_together
from ..numerics.progress import OnProgress, subrange
from ..numerics.user_warnings import warn
from .confidence import blend_weight
from .gamma_choice import choose_gammas
from .kernel_size import BORDER_MASS_LIMIT, WINDOWS, estimate_sizes
from .observation import Observation, Window
from .options import Settings
from .racing import Rival
from .region import cut_patches, exceeds_limit
from .rotation_choice import choose_rotations, with_rotations
from .saturated_lights import light_masks
from .streaks import initial_sides, with_initial
from .two_step import two_step

Group = np.ndarray | None  # indices of images in a stack; None: all of them
RESULT_SIGNALS = ("ringing", "change", "overshoot")  # the signals of `nonblind.final.result_signals`


@dataclass(frozen=True)
class Part:
    """The images of one kernel size and one window, and what is known of them so far."""

    group: Group
    window: Window | None  # inside a constant border
    gamma: float
    observed: Observation  # cropped to the window, in linear light
    source: Observation  # where the kernel was estimated
    kernel: Array  # (n, kh, kw)
    signals: dict[str, Array]  # (n,) each
    start: Any  # moments of the clock, between which the kernel was estimated
    end: Any
    progress: OnProgress  # of the restoration
    fields: tuple[KernelField | None, ...] = ()  # one an image with blur="rotation"
    sharp: Array | None = None  # (n, C, H, W)


class Run(NamedTuple):
    """One call of `two_step`: the first four as in `Part`, and its place among all images, as fractions of them."""

    group: Group
    window: Window | None
    gamma: float
    observed: Observation
    source: Observation
    size: tuple[int, int]
    rival: Rival | None
    begin: float
    fraction: float


def estimate_parts(observed: Observation, settings: Settings, clock: Clock) -> Iterator[Part]:
    """The kernels of `observed`, one window and one kernel size after the other."""
    start = clock.now()
    if settings.gamma == "auto":
        observed = replace(observed, gammas=choose_gammas(observed, settings))
    for group, window, gamma, images, source, size, rival, begin, fraction in runs_of(observed, settings):
        kernel_progress, final_progress = settings.progress(begin, fraction)
        fields: tuple[KernelField | None, ...] = ()
        if settings.blur == "uniform":
            kernel, signals = two_step(source, size, settings.options, kernel_progress, rival)
            if len(kernel) < len(images):  # one for all of them
                kernel, *values = (array.repeat(len(images), axis=0) for array in (kernel, *signals.values()))
                signals = dict(zip(signals, values, strict=True))
        else:
            kernel, signals = two_step(source, size, settings.options, subrange(kernel_progress, 0, 0.5), rival)
            rotations = choose_rotations(
                images, kernel, settings.focal, settings.options, subrange(kernel_progress, 0.5, 0.5)
            )
            kernel, signals, part_fields = with_rotations(kernel, signals, rotations)
            fields = tuple(part_fields if window is None else _in_image(part_fields, window, observed.shape))
        end = clock.now()
        yield Part(group, window, gamma, images, source, kernel, signals, start, end, final_progress, fields)
        start = clock.now()


def _in_image(fields: Sequence[KernelField | None], window: Window, shape: tuple[int, int]) -> list[KernelField | None]:
    """The fields of images of a `shape` that were estimated in a window of it."""
    offsets = [part.start for part in window]
    return [
        None
        if field is None
        else KernelField(
            field.kernels, shape, tuple(at + offset for at, offset in zip(field.positions, offsets, strict=True))
        )
        for field in fields
    ]


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


def runs_of(
    observed: Observation, settings: Settings
) -> Iterator[
    tuple[Group, Window | None, float, Observation, Observation, tuple[int, int], Rival | None, float, float]
]:
    """(group, window, gamma, images, where their kernels are estimated, size, rival, begin and fraction of the run).

    Images with patches come one by one, unless they share a kernel.
    """
    if settings.shared_kernel and observed.windows is not None and (observed.windows != observed.windows[0]).any():
        raise ValueError(
            "shared_kernel needs images with the same constant border, got different ones; crop them, or give "
            "defects=None"
        )
    done = 0.0
    for outer, window, gamma, images in observed.alike():
        fraction_of_window, region = len(images) / len(observed), None
        if isinstance(settings.region, tuple):
            region = region_window(settings.region, observed.shape, window or _whole_window(observed.shape))
        in_patches = settings.region == "auto" and settings.blur == "uniform" and exceeds_limit(images.shape)
        alone = in_patches and len(images) > 1 and not settings.shared_kernel
        for indices in np.arange(len(images))[:, None] if alone else [None]:
            subset = images.subset(indices)
            source = subset if region is None else subset.crop(region)
            source = with_initial(source, settings, search=not in_patches and not settings.shared_kernel)
            fraction = fraction_of_window * len(subset) / len(images)
            for inner, size, rival, begin, part in groups_by_size(source, settings, in_patches):
                inner_group = inner if indices is None else indices
                group = inner_group if outer is None else outer if inner_group is None else outer[inner_group]
                estimated = source.subset(inner)
                if in_patches:
                    estimated = cut_patches(estimated, size)
                elif settings.shared_kernel:
                    estimated = replace(estimated, patches=len(estimated))
                run_begin, run_fraction = done + fraction * begin, fraction * part
                members = subset.subset(inner)
                yield Run(group, window, gamma, members, estimated, size, rival, run_begin, run_fraction)
            done += fraction


def _whole_window(shape: tuple[int, int]) -> Window:
    return slice(0, shape[0]), slice(0, shape[1])


def groups_by_size(
    observed: Observation, settings: Settings, in_patches: bool
) -> Iterator[tuple[Group, tuple[int, int], Rival | None, float, float]]:
    """(group, its kernel size, its rival, where it begins as a fraction of all images, what fraction it is)."""
    if settings.kernel_size is not None:
        yield None, settings.kernel_size, None, 0.0, 1.0
        return
    sides, rival = sizes_of(observed, settings, in_patches)
    begin = 0.0
    for side in np.unique(sides):
        group = np.flatnonzero(sides == side)
        fraction = len(group) / len(sides)
        kernel = rival.kernel[array_module(rival.kernel).asarray(group)]
        yield group if fraction < 1 else None, (int(side), int(side)), rival._replace(kernel=kernel), begin, fraction
        begin += fraction


def sizes_of(observed: Observation, settings: Settings, in_patches: bool) -> tuple[np.ndarray, Rival]:
    """What `estimate_sizes` gives for each image, or once for images with one kernel."""
    if in_patches:
        observed = cut_patches(observed, (WINDOWS[-1], WINDOWS[-1]))
    elif settings.shared_kernel:
        observed = replace(observed, patches=len(observed))
    images, scale = observed.in_patches(observed.luminance), observed.noise_scale_of_kernels()
    sides, rival = estimate_sizes(images, scale, settings.options, settings.size_progress())
    return sides if observed.initial is None else np.maximum(sides, initial_sides(observed.initial)), rival


def restore_part(part: Part, settings: Settings) -> Part:
    """`part` with its restoration, blended with the observed image as the options say."""
    if settings.final is None:
        return part
    images, signals, final = part.observed, part.signals, settings.final
    tile = tile_of_bounded_memory(images.image, part.kernel, final)
    if tile is not None or any(field is not None for field in part.fields):
        sharp, *measures = restore_each(part, final, tile)
    else:
        arrays = (images.image, part.kernel[:, None], *(lights_of(images) or ()))
        function = functools.partial(_restore_stack, final=final, mask=images.valid)
        capturable = images.valid is None and METHOD_SPECS[final].replayable
        sharp, *measures = replayed(("restore", final), function, *arrays, report=part.progress, capturable=capturable)
    xp = images.xp
    error, *measures = (xp.asarray(values.mean(axis=1)) for values in measures)
    signals = signals | {"residual": xp.sqrt(error), **dict(zip(RESULT_SIGNALS, measures, strict=True))}
    confidence, fixed_strength = signals["confidence"], settings.options.strength
    if fixed_strength is None:
        unknowns = math.prod(part.kernel.shape[-2:]) / part.source.pixels
        strength = blend_weight(confidence, xp.full_like(confidence, unknowns), *measures)
    else:
        strength = xp.full_like(confidence, fixed_strength)
    signals["strength"] = strength
    if fixed_strength != 1:
        sharp = images.image + strength[:, None, None, None] * (sharp - images.image)
    return replace(part, signals=signals, sharp=sharp)


def lights_of(images: Observation) -> tuple[Array, Array, Array] | None:
    """What `footprints_of` takes: saturated pixels, luminance, darkness; None where no pixel is saturated."""
    if images.saturated is None:
        return None
    return images.saturated, images.luminance, images.xp.asarray(images.is_dark)


def footprints_of(saturated: Array, luminance: Array, is_dark: Array, size: tuple[int, int]) -> Array:
    """The footprints of lights, bool like `saturated` (n, C, H, W): see `light_masks`."""
    xp = array_module(saturated)
    footprints = light_masks(luminance, saturated.any(axis=1), size, is_dark)[0]
    return xp.ascontiguousarray(xp.broadcast_to(footprints[:, None], saturated.shape))


def restore_each(part: Part, final: str, tile: int | None) -> list[Array]:
    """What `_restore` returns, image by image with its field or its kernel, in tiles if possible plane by plane."""
    images, fields = part.observed, part.fields or (None,) * len(part.kernel)
    in_planes = tile is not None and not color_option(final, images.image)
    indices = [*np.ndindex(images.image.shape[: 2 if in_planes else 1])]
    results, lights, size = [], lights_of(images), (part.kernel.shape[-2], part.kernel.shape[-1])
    planes = () if lights is None else (lights[0], footprints_of(*lights, size))
    for number, index in enumerate(indices):
        mask = None if images.valid is None else images.valid[index]
        progress = subrange(part.progress, number / len(indices), 1 / len(indices))
        field = fields[index[0]]
        kernel = part.kernel[index[0]] if field is None else field
        arrays = (images.image[index], kernel, *(array[index] for array in planes))
        results.append(_restore(*arrays, mask=mask, final=final, tile=tile, report=progress))
    return [
        images.xp.stack(column).reshape(*images.image.shape[:2], *column[0].shape[2 - len(indices[0]) :])
        for column in zip(*results, strict=True)
    ]


def _restore_stack(
    image: Array,
    kernel: Array,
    saturated: Array | None = None,
    luminance: Array | None = None,
    is_dark: Array | None = None,
    *,
    mask: Array | None,
    final: str,
    report: OnProgress,
) -> tuple[Array, ...]:
    """`_restore` of images (n, C, H, W) with kernels (n, 1, kh, kw), and what `lights_of` gives for them."""
    footprints = None
    if saturated is not None and luminance is not None and is_dark is not None:
        footprints = footprints_of(saturated, luminance, is_dark, (kernel.shape[-2], kernel.shape[-1]))
    return _restore(image, kernel, saturated, footprints, mask=mask, final=final, report=report)


def _restore(
    image: Array,
    kernel: Array | KernelField,
    saturated: Array | None = None,
    footprints: Array | None = None,
    *,
    mask: Array | None = None,
    final: str,
    tile: int | None = None,
    report: OnProgress,
) -> tuple[Array, ...]:
    """(restoration (..., H, W), its mean squared residual, its `result_signals`), (...) each.

    The last are those outside of the `footprints` of lights, where even the true kernel rings.
    """
    sharp = restore(image, kernel, final, report, saturated, mask, tile)
    error = residual_mse(image, sharp, kernel, saturated, mask)
    counted = mask
    if footprints is not None:
        counted = ~footprints if mask is None else mask & ~footprints
    return sharp, error, *result_signals(sharp, image, saturated, counted)


def join_parts(parts: Sequence[Part], n: int, shape: tuple[int, int]) -> tuple[Array, Array | None, dict[str, Array]]:
    """(kernels, restorations or None, signals) of all `n` images (H, W) = `shape` in their order.

    Smaller kernels are padded, and restorations of a window with 0.
    """
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
    images = [_whole(part, shape) for part in parts if part.sharp is not None]
    signals = {name: join([part.signals[name] for part in parts]) for name in parts[0].signals}
    return kernel, join(images) if images else None, signals


def _whole(part: Part, shape: tuple[int, int]) -> Array:
    """The restorations of a part, with 0 outside of its window."""
    if part.window is None:
        return part.sharp
    assert part.sharp is not None
    image = part.observed.xp.zeros((*part.sharp.shape[:-2], *shape), dtype=part.sharp.dtype)
    image[(..., *part.window)] = part.sharp
    return image


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


def gammas_of(parts: Sequence[Part], n: int) -> np.ndarray:
    """The gamma of each of `n` images."""
    gammas = np.empty(n)
    for part in parts:
        gammas[part.group] = part.gamma
    return gammas


def kernel_sides(parts: Sequence[Part], n: int, stack: tuple[int, ...]) -> Any:
    """The side of each image's kernel: an int for a single image, else an array."""
    sides = np.empty(n, dtype=int)
    for part in parts:
        sides[part.group] = part.kernel.shape[-1]
    return sides.reshape(stack) if stack else int(sides[0])
