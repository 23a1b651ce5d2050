"""Public wrappers of the methods: validate the arguments and normalize the kernel before the call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from ..images import checks
from ..images.kernel_field import KernelField
from ..images.kernels import prepare_kernel
from ..images.known_kernel import known_kernel
from ..images.masks import NAN_ADVICE, check_enough, valid_pixels, with_mask_of, without_mask
from ..images.white import MIN_RANGE, bright_level
from ..numerics.arrays import Array, array_module, move
from ..numerics.inpainting import inpaint
from ..numerics.interchange import any_library
from ..numerics.progress import make_progress
from ..numerics.user_warnings import warn
from .blurring import check_field
from .specs import METHOD_SPECS, UNSUPERVISED_WIENER, MethodSpec

P = ParamSpec("P")


def checked(method: Callable[P, Array], spec: MethodSpec | None = None) -> Callable[P, Array]:
    """`method` with its arguments checked by `spec`, its row in `specs`, and a kernel of any size and positive sum.

    It computes in the dtype of the image. A callback that returns True ends the run by `gpudeblur.Stopped`.

    Raises
    ------
    TypeError, ValueError
        An argument breaks a rule, which the message names.
    """
    if spec is None:
        spec = next(row for row in (*METHOD_SPECS.values(), UNSUPERVISED_WIENER) if row.function is method)
    parameters, names, boundaries = spec.parameters, spec.parameter_names, spec.boundaries

    def wrapper(blurred: Array, kernel: Array | KernelField, **options: Any) -> Array:
        for name in options:
            if name not in names:
                raise TypeError(f"{name} is no option of {method.__name__}, which has {', '.join(names)}; leave it out")
        image, mask = blurred, options.pop("mask", None)
        if spec.mask:
            blurred = without_mask(image)
            advice = NAN_ADVICE if mask is None else None
            _check_picture(blurred, advice if blurred is image else None)
            mask = valid_pixels(image, mask, name="blurred")
        else:
            _check_picture(blurred)
        if isinstance(kernel, KernelField) and not spec.varying:
            name = method.__name__
            raise TypeError(
                f"kernel must be an array for {name}, got a KernelField; use sparse, pnp or richardson_lucy"
            )
        if isinstance(kernel, KernelField):
            check_field(kernel, blurred, boundary=options.get("boundary", "unknown"))
        else:
            kernel = known_kernel(kernel, way_out='use gpudeblur.deconvolve(..., floor="auto")')
        kernels = kernel.kernels[0, 0] if isinstance(kernel, KernelField) else kernel
        xp = array_module(blurred, kernels)
        if "boundary" in options:
            checks.check_choice("boundary", options["boundary"], boundaries)
        checks.check_kernel_fits(kernels, blurred, both=options.get("boundary") == "wrap")
        for name, check in parameters.items():
            if name in options:
                value = check(name, options[name], blurred.shape[:-2])
                options[name] = move(value, xp) if getattr(value, "ndim", 0) else value
        if options.get("saturated") is not None:
            _check_saturated(options["saturated"], blurred, options.get("boundary", "unknown"))
        if mask is not None:
            if options.get("boundary", "unknown") != "unknown":
                raise ValueError(
                    f"boundary must be 'unknown' with mask, got {options['boundary']!r}; leave out one of them"
                )
            check_enough(mask, (kernels.shape[-2], kernels.shape[-1]))
            options["mask"] = mask = xp.ascontiguousarray(mask)
            if options.get("saturated") is not None:
                options["saturated"] = options["saturated"] & mask
        callback = options.get("callback")
        if callback is not None:
            adapter = callback if not callable(callback) else lambda _, fraction: callback(fraction)
            options["callback"] = make_progress(adapter, method.__name__)
        blurred = xp.asarray(blurred, dtype=blurred.dtype.newbyteorder("="), order="C")
        if mask is not None:
            blurred = inpaint(blurred, mask)
            checks.check_range(blurred, None, name="blurred")
        if spec.weight_rule is not None and options.get("weight") is None:  # the others accept any unit
            _check_unit(blurred)
        if spec.nonnegative:
            checks.warn_of_cut(blurred, options.get("offset", 0.0), name="blurred")
        if isinstance(kernel, KernelField):
            kernel = kernel.prepared(blurred.dtype)
        else:
            kernel = prepare_kernel(xp.asarray(kernel)).astype(blurred.dtype)
        call: Callable[..., Array] = method
        return with_mask_of(image, call(blurred, kernel, **options))

    return functools.wraps(method)(any_library(wrapper))  # type: ignore[return-value]


def _check_saturated(saturated: Any, blurred: Array, boundary: str) -> None:
    checks.module_of(saturated, "saturated")
    array_module(blurred, saturated)
    if saturated.shape != blurred.shape or saturated.dtype != bool:
        raise ValueError(
            f"saturated must be bool and like blurred, shape {blurred.shape}, got {saturated.dtype}, shape "
            f"{saturated.shape}; blurred >= 1 is one"
        )
    if boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with saturated, got {boundary!r}; leave out one of them")


def _check_unit(blurred: Array) -> None:
    """Warn of a picture in another unit than the one in which the methods' weights are given. Waits for a device."""
    advice = (
        "intensities of about [0, 1] are expected; divide by full scale, or use gpudeblur.deconvolve and its white="
    )
    largest, bright = float(abs(blurred).max()), float(bright_level(blurred))
    checks.check_largest(largest, blurred.dtype, advice, name="blurred")
    if 0 < bright < MIN_RANGE:
        warn(f"blurred has values up to {bright:.4g}, under 1/16: {advice}")


def _check_picture(blurred: Any, nan_advice: str | None = "inpaint it first") -> None:
    """`nan_advice` ends the error of NaN; None accepts NaN, and values of any size."""
    xp = checks.module_of(blurred, "blurred")
    checks.check_dtype(blurred.dtype, "blurred")
    if blurred.dtype.kind != "f" or blurred.dtype.itemsize not in (4, 8):
        raise TypeError(
            f"blurred must have dtype float32 or float64, got {blurred.dtype}; gpudeblur.deconvolve reads integers "
            "too, as fractions of their full range"
        )
    if blurred.ndim < 2:
        raise ValueError(
            f"blurred must have at least 2 axes, (..., H, W), got {blurred.ndim} (shape {blurred.shape}); "
            "a 1-D signal is no picture"
        )
    if blurred.size == 0:
        raise ValueError(f"blurred must not be empty, got shape {blurred.shape}; every side must be at least 1")
    checks.check_axes(blurred.shape, None, "blurred", way_out="use gpudeblur.deconvolve(..., channel_axis=-1)")
    if nan_advice is not None:
        checks.check_finite(blurred, xp, "blurred", nan_advice)
        checks.check_range(blurred, None, name="blurred")
