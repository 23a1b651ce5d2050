"""Arrays of other libraries, such as torch tensors: in and out through DLPack, without a copy. And images of Pillow.

`any_library` stands at the doors of the package; behind it arrays are NumPy's or CuPy's. No library is imported here
but CuPy, for an array on a GPU.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from .arrays import require_cuda

Function = TypeVar("Function", bound=Callable[..., Any])

# Values of DLPack's DLDeviceType.
CPU, CUDA, PINNED, MANAGED = 1, 2, 3, 13
PILLOW_MODES = ("L", "RGB", "RGBA", "I;16")  # those whose values are light; results have them, too


def any_library(function: Function) -> Function:
    """`function` for arrays of any library with DLPack, on a CPU or an NVIDIA GPU.

    Every argument that is such an array comes as NumPy's or CuPy's, with the same memory. If the first argument, the
    image, is one, the result's arrays are of its library, on its device. Of an image of Pillow the result has such an
    image; its kernel is NumPy's, and the colors are the last axis without ``channel_axis``.
    """
    code = getattr(function, "__code__")  # noqa: B009  # mypy: a Callable has none
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        if not any(map(is_foreign, (*arguments, *options.values()))):
            return function(*arguments, **options)
        image: Any = arguments[0] if arguments else options.get(names[0])
        library = library_of(image, names[0]) if is_foreign(image) else None
        has_colors = is_pillow(image) and len(image.getbands()) > 1
        if has_colors and "channel_axis" in names[len(arguments) :]:
            options.setdefault("channel_axis", -1)
        # An argument too many is for the function to refuse.
        positions = [*names[: len(arguments)], *[names[-1]] * (len(arguments) - len(names))]
        arguments = tuple(map(to_native, arguments, positions))
        result = function(*arguments, **{name: to_native(value, name) for name, value in options.items()})
        return result if library is None else to_library(result, library)

    return wrapper  # type: ignore[return-value]


def is_foreign(value: Any) -> bool:
    """Whether `value` is an array with DLPack of a library that is neither NumPy nor CuPy, or an image of Pillow."""
    if isinstance(value, np.ndarray) or not hasattr(type(value), "__dlpack__"):
        return is_pillow(value)
    cupy = sys.modules.get("cupy")
    return cupy is None or not isinstance(value, cupy.ndarray)


def is_pillow(value: Any) -> bool:
    """Whether `value` is an image of Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def to_native(value: Any, name: str) -> Any:
    """A foreign array as the NumPy or CuPy array that shares its memory; anything else as it is.

    Raises
    ------
    TypeError, ValueError
        The array needs a gradient, or its dtype, layout or device is none of NumPy's or CuPy's, or an image of Pillow
        is of another mode than PILLOW_MODES; the message names the way out.
    RuntimeError
        It is on a GPU, and CuPy cannot be used.
    """
    if not is_foreign(value):
        return value
    if is_pillow(value):
        if value.mode not in PILLOW_MODES:
            raise TypeError(
                f"{name} must be an image of mode {', '.join(PILLOW_MODES)}, got one of Pillow's mode {value.mode}; "
                f'convert it, such as {name}.convert("RGB")'
            )
        return np.asarray(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if getattr(value, "requires_grad", False):
        raise ValueError(
            f"{name} must not require a gradient, got a {kind} that does; there is none through this function, pass "
            f"{name}.detach()"
        )
    try:
        device = int(value.__dlpack_device__()[0])
        if device in (CPU, PINNED):
            return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise TypeError(
            f"{name} must be an array that NumPy can share, got a {kind} ({error}); convert it, for instance to "
            "float32 in dense memory"
        ) from error
    if device not in (CUDA, MANAGED):
        raise TypeError(
            f"{name} must be on a CPU or an NVIDIA GPU, got a {kind} on DLPack's device {device}; move it to the CPU"
        )
    try:
        cupy = require_cuda()
    except RuntimeError as error:
        raise RuntimeError(f"{name} is on a GPU and CuPy is not available, move it to the CPU; {error}") from error
    try:
        return cupy.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array that CuPy can share, got a {kind} ({error}); convert it, for instance to "
            "float32 in dense memory"
        ) from error


def library_of(array: Any, name: str) -> Any:
    """The module with `from_dlpack` of the library of a foreign array; Pillow's module of images."""
    if is_pillow(array):
        return sys.modules["PIL.Image"]
    try:
        library = array.__array_namespace__()
    except (AttributeError, TypeError):
        library = sys.modules[type(array).__module__.partition(".")[0]]
    if not hasattr(library, "from_dlpack"):
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        raise TypeError(
            f"{name} must be an array of a library with from_dlpack, got a {kind}; convert it with numpy.from_dlpack"
        )
    return library


def to_library(result: Any, library: Any) -> Any:
    """The arrays in the result of a public function as arrays of a library, which share their memory.

    For Pillow, those of integers are images, which are copies; the others, such as kernels, stay as they are.
    """
    pillow: Any = sys.modules.get("PIL.Image")
    if isinstance(result, np.ndarray) and library is pillow:
        return pillow.fromarray(result) if result.dtype.kind == "u" else result
    if isinstance(result, np.ndarray):
        is_plain = result.flags.writeable and all(stride >= 0 for stride in result.strides)
        return library.from_dlpack(result if is_plain else result.copy())
    if hasattr(result, "__dlpack__"):  # CuPy's
        return library.from_dlpack(result)
    if isinstance(result, tuple):
        return tuple(to_library(value, library) for value in result)
    if is_dataclass(result) and not isinstance(result, type) and hasattr(result, "kernel"):
        arrays = {"image": to_library(result.image, library), "kernel": to_library(result.kernel, library)}  # type: ignore[attr-defined]
        return replace(result, **arrays)
    return result
