"""The methods as users call them: arguments are looked at, and a kernel may have any sides and any positive sum."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import numpy as np

from ..images import checks
from ..images.kernels import pad_to_odd
from ..numerics.arrays import Array, array_module, move
from ..numerics.progress import make_progress

P = ParamSpec("P")
Check = Callable[[str, Any, tuple[int, ...]], Any]  # (name, value, the shape of the stack) -> the value as it is passed


def _count(least: int) -> Check:
    return lambda name, value, _: checks.check_count(name, value, minimum=least)


def _number(rule: str, holds: Callable[[float], bool]) -> Check:
    return lambda name, value, _: checks.check_number(name, value, rule, holds)


def _name(name: str, value: Any, _: tuple[int, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a name that the method has, got {value!r}; leave it out for the default")
    return value


_POSITIVE = _number("above 0", lambda number: number > 0)
_AT_LEAST_0 = _number("at least 0", lambda number: number >= 0)
# By name: an option means the same in every method that has it. Which names there are, the methods know.
CHECKS: dict[str, Check] = {
    "weight": checks.check_positive,
    "flat_weight": checks.check_positive,
    "noise_sigma": functools.partial(checks.check_positive, zero=True),
    "iterations": _count(1),
    "num_iter": _count(1),
    "reweightings": _count(0),
    "stride": _count(1),
    "burnin": _count(0),
    "min_num_iter": _count(0),
    "max_num_iter": _count(2),
    "exponent": _number("above 0 and at most 2", lambda number: 0 < number <= 2),
    "beta_rate": _number("above 1", lambda number: number > 1),
    "beta_max": _POSITIVE,
    "sigma": _POSITIVE,
    "range_sigma": _POSITIVE,
    "suppression": _number("between 0 and 1", lambda number: 0 <= number <= 1),
    "damping": _AT_LEAST_0,
    "tv_weight": _AT_LEAST_0,
    "discrepancy": _AT_LEAST_0,
    "threshold": _AT_LEAST_0,
    "boundary": _name,
    "prior": _name,
}


def checked(method: Callable[P, Array]) -> Callable[P, Array]:
    """`method`, f(blurred, kernel, *, ...), for users: what cannot be is refused, as `gpudeblur.deconvolve` does.

    The kernel is scaled to sum 1. Its sides may be even; its origin is its pixel (kh // 2, kw // 2). It is computed in
    the dtype of the picture. A callback that returns True ends the run by `gpudeblur.Stopped`.

    Raises
    ------
    TypeError, ValueError
        An argument breaks a rule, which the message names.
    """
    known = inspect.signature(method).parameters

    @functools.wraps(method)
    def door(blurred: Array, kernel: Array, **options: Any) -> Array:
        for name in options.keys() - known.keys():
            raise TypeError(
                f"{name} is no option of {method.__name__}, which has {', '.join([*known][2:])}; leave it out"
            )
        _check_picture(blurred)
        checks.check_kernel(kernel, odd=False)
        xp = array_module(blurred, kernel)
        boundary = options.get("boundary", known["boundary"].default if "boundary" in known else None)
        checks.check_kernel_fits(kernel, blurred, both=isinstance(boundary, str) and boundary == "wrap")
        for name, value in options.items():
            if name in CHECKS and not (value is None and known[name].default is None):
                number = CHECKS[name](name, value, blurred.shape[:-2])
                options[name] = move(number, xp) if np.ndim(number) else number
        if options.get("clipped") is not None:
            _check_clipped(options["clipped"], blurred)
        callback = options.get("callback")
        if callback is not None:
            told = callback if not callable(callback) else lambda _, fraction: callback(fraction)
            options["callback"] = make_progress(told, method.__name__)
        blurred = xp.asarray(blurred, dtype=blurred.dtype.newbyteorder("="), order="C")
        kernel = pad_to_odd(xp.asarray(kernel, dtype=np.float64))
        kernel = (kernel / kernel.sum(axis=(-2, -1), keepdims=True)).astype(blurred.dtype)
        call: Callable[..., Array] = method
        return call(blurred, kernel, **options)

    return door  # type: ignore[return-value]


def _check_clipped(clipped: Any, blurred: Array) -> None:
    checks.module_of(clipped, "clipped")
    array_module(blurred, clipped)
    if clipped.shape != blurred.shape or clipped.dtype != bool:
        raise ValueError(
            f"clipped must be bool and like blurred, shape {blurred.shape}, got {clipped.dtype}, shape "
            f"{clipped.shape}; blurred >= 1 is one"
        )


def _check_picture(blurred: Any) -> None:
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
    checks.check_finite(blurred, xp, "blurred", "mask or inpaint it first")
    checks.check_range(blurred, None, name="blurred")
