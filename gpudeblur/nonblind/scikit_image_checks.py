"""Checks and warnings of the functions in `scikit_image`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from ..images import checks, kernels
from ..images.known_kernel import FLOOR, MAX_ON_HOST, warn_of_measured
from ..numerics.arrays import Array, array_module, to_host
from ..numerics.user_warnings import warn

SUM_TOLERANCE = 0.05  # of the sum of a psf
SAMPLER_DEFAULTS: dict[str, Any] = {
    "threshold": 1e-4,
    "max_num_iter": 200,
    "min_num_iter": 30,
    "burnin": 15,
    "callback": None,
}


def sampler_parameters(user_params: dict[str, Any] | None) -> dict[str, Any]:
    if not isinstance(user_params, Mapping | None):
        kind = type(user_params).__name__
        raise TypeError(f"user_params must be a dictionary, got {user_params!r} ({kind}); {{}} has the defaults")
    user_params = user_params or {}
    if unknown := sorted(map(str, set(user_params) - set(SAMPLER_DEFAULTS))):
        warn(
            f"user_params has no {', '.join(unknown)}: ignored; it has {', '.join(sorted(SAMPLER_DEFAULTS))}",
        )
    params = {name: user_params.get(name, default) for name, default in SAMPLER_DEFAULTS.items()}
    for name in ("burnin", "min_num_iter", "max_num_iter"):
        params[name] = checks.check_count(f"user_params[{name!r}]", params[name], minimum=0)
    check_not_negative("user_params['threshold']", params["threshold"])
    if not (params["callback"] is None or callable(params["callback"])):
        raise TypeError(f"user_params['callback'] must be a function, got {params['callback']!r}; leave it out")
    if params["max_num_iter"] < params["burnin"] + 2:
        raise ValueError(
            f"user_params must have a max_num_iter of at least burnin + 2, got {params['max_num_iter']} and a burnin "
            f"of {params['burnin']}; no sample is left for the mean"
        )
    return params


def check_array(array: Any, name: str, way_out: str, kinds: str) -> None:
    xp = checks.module_of(array, name)
    if array.dtype.kind not in kinds:
        allowed = "a real or complex" if "c" in kinds else "an integer or float"
        raise TypeError(f"{name} must have {allowed} dtype, got {array.dtype}; convert it, or pass its real part")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}; every side must be at least 1")
    for part in (array.real, array.imag) if array.dtype.kind == "c" else (array,):
        checks.check_finite(part, xp, name, way_out)


def check_boundary(boundary: str | None, choices: tuple[str, ...]) -> None:
    if boundary is not None:
        checks.check_choice("boundary", boundary, choices)


def check_psf_axes(psf: Array, image: Array, lead: int, axis: int | None, ndim: int) -> None:
    """`psf` has the `ndim` axes of space, or those of the stack, `lead`, before them."""
    stack = [side for i, side in enumerate(image.shape) if i != axis][:lead]
    if psf.ndim != ndim and (psf.ndim != ndim + lead or psf.shape[:lead] != tuple(stack)):
        alternative = f", or {ndim + lead} that begin with {tuple(stack)}" if lead else ""
        fewer = psf.ndim < ndim
        way_out = "channels need channel_axis=, a stack needs batch=" if fewer else "channels share one psf"
        raise ValueError(
            f"psf must have the {ndim} axes of the picture{alternative}, got {psf.ndim} (shape {psf.shape}) for an "
            f"image of shape {image.shape}; {way_out}"
        )


def check_channels(image: Array, psf: Array, lead: int, axis: int | None, ndim: int) -> None:
    """Refuse a picture with channels as a stack of narrow ones; warn if the last of three axes looks like channels."""
    if axis is None and lead and ndim == 2:
        checks.check_axes(image.shape, None)
    elif (
        axis is None
        and ndim == 3
        and image.shape[-1] <= checks.MAX_COLORS
        and min(image.shape[:2]) >= checks.MIN_LONG
        and psf.shape[-1] > 1
    ):
        warn(
            f"psf of shape {psf.shape} is applied along all 3 axes of the image of shape {image.shape}, and mixes the "
            f"last, which looks like channels; give channel_axis=-1 and the psf of one channel, psf[..., 0]"
        )


def check_lucy(psf: Array, ndim: int, floor: Any = None) -> None:
    if psf.dtype.kind == "c":
        raise TypeError(f"psf must have an integer or float dtype, got {psf.dtype}; wiener takes transfer functions")
    total = kernels.kernel_sum(psf, ndim)
    if bool((total <= 0).any()):
        raise ValueError(
            f"psf must have a positive sum, got {float(total.min()):g}; a blur keeps the light, so it sums to 1"
        )
    warn_of_negative(psf)
    _warn_of_psf(psf, ndim, floor)


def _warn_of_psf(psf: Array, ndim: int, floor: Any) -> None:
    """Warn of the sum of a real `psf`, of a floor, and of an origin in the corner."""
    psf = to_host(psf) if psf.size <= MAX_ON_HOST else psf
    warn_of_measured(psf, ndim, name="psf", way_out="" if isinstance(floor, str) else f'give floor="{FLOOR}"')
    total = kernels.kernel_sum(psf, ndim)
    if bool(((total > 0) & (abs(total - 1) > SUM_TOLERANCE)).any()):
        worst = float(total.reshape(-1)[int(abs(total - 1).argmax())])
        warn(
            f"psf sums to {worst:.4g}, and is not scaled, as in scikit-image: the result is divided by it; use "
            "psf / psf.sum()"
        )


def warn_of_negative_light(planes: Array, offset: float, boundary: str | None, ndim: int) -> None:
    if boundary is not None:
        checks.warn_of_cut(planes, offset, ndim=ndim)
    elif (least := float(planes.min())) < -offset:
        warn(
            f"image has negative values, down to {least:.3g}, with which scikit-image's iteration diverges; give "
            f"offset={-least:.3g} or more, which is added before and subtracted after, and a boundary="
        )


def check_spectral(
    psf: Array,
    reg: Any,
    planes: Array,
    bins: tuple[int, ...],
    is_real: bool,
    boundary: str | None,
    ndim: int,
    floor: Any = None,
) -> bool:
    """Check the arguments of both Wiener functions together; whether `psf` is a transfer function (of shape `bins`)."""
    shape, is_otf = planes.shape[-ndim:], psf.dtype.kind == "c"
    if not is_otf and psf.shape[-ndim:] == bins:
        is_otf = True
        warn(
            f"psf is real and has the shape of a transfer function, {bins}: it is taken for one, as scikit-image does; "
            "pass psf.astype(complex) to say so, or pad it with zeros if it is a point spread function",
        )
    elif is_otf and psf.shape[-ndim:] != bins:
        raise ValueError(
            f"psf must have the shape of a transfer function, {bins} with is_real={is_real}, if it is complex, got "
            f"{psf.shape}; pass the real point spread function instead"
        )
    if not is_otf:
        check_fits(psf, planes, ndim)
        if bool((psf == 0).all(axis=tuple(range(-ndim, 0))).any()):
            raise ValueError("psf must not be all zeros, got nothing else; a blur keeps the light, so it sums to 1")
        warn_of_negative(psf)
        _warn_of_psf(psf, ndim, floor)
    if reg is not None:
        check_array(reg, "reg", "set it to zero there", "biufc")
        array_module(planes, reg)  # refuses a mixture
        if reg.dtype.kind == "c" and reg.shape != bins:
            raise ValueError(
                f"reg must have the shape of a transfer function, {bins} with is_real={is_real}, if it is complex, got "
                f"{reg.shape}; pass a real impulse response"
            )
        if reg.dtype.kind != "c" and (reg.ndim != ndim or any(map(operator.gt, reg.shape, shape))):
            raise ValueError(
                f"reg must have the {ndim} axes of the picture and fit into it, got shape {reg.shape} for {shape}; "
                "None is the Laplacian"
            )
    if boundary not in (None, "wrap") and (is_otf or not is_real or (reg is not None and reg.dtype.kind == "c")):
        raise ValueError(
            f"boundary must be None or 'wrap' with transfer functions or is_real=False, got {boundary!r}; they are "
            "made for the picture's own grid, so pass the real point spread function and reg"
        )
    if boundary == "unknown" and ndim != 2:
        raise ValueError(f"boundary must not be 'unknown' for a picture of {ndim} axes of space; use 'edge'")
    if boundary == "unknown" and bool((kernels.kernel_sum(psf, 2) <= 0).any()):
        raise ValueError("boundary must not be 'unknown' for a psf whose sum is not positive; use 'edge'")
    return is_otf


def check_fits(psf: Array, planes: Array, ndim: int) -> None:
    sides, shape = psf.shape[-ndim:], planes.shape[-ndim:]
    if any(map(operator.gt, sides, shape)):
        raise ValueError(
            f"psf must not exceed the picture, got {format_shape(sides)} for a picture of {format_shape(shape)}; "
            "crop its empty border"
        )


def warn_of_negative(psf: Array) -> None:
    if bool((psf < 0).any()):
        warn(
            f"psf has negative values, down to {float(psf.min()):g}: no blur has; cut them off with "
            "numpy.maximum(psf, 0) unless they are meant",
        )


def warn_of_even(sides: tuple[int, ...]) -> None:
    if any(side % 2 == 0 for side in sides):
        warn(
            f"psf has an even side ({format_shape(sides)}): scikit-image's correction is then a pixel off its blur and "
            "many iterations diverge; pad it in front with one zero, or give a boundary=",
        )


def check_not_negative(name: str, value: Any, way_out: str = "leave it out for the default") -> float:
    return checks.check_number(name, value, "at least 0", lambda number: number >= 0, way_out=way_out)


def check_channel_axis(channel_axis: Any, ndim: int) -> int:
    axis = checks.as_integer(channel_axis)
    if axis is None:
        kind = type(channel_axis).__name__
        raise TypeError(f"channel_axis must be an integer, got {channel_axis!r} ({kind}); use -1 for (M, N, C)")
    if not -ndim <= axis < ndim:
        raise ValueError(f"channel_axis must be between {-ndim} and {ndim - 1}, got {axis}; use -1 for (M, N, C)")
    return axis % ndim


def format_shape(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))
