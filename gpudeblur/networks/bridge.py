"""Networks of PyTorch on the arrays of this library, through DLPack: the same memory both ways, on the same stream.

No torch type goes in or out but for the network itself, and torch is imported when a function here is first called. A
picture (..., H, W) is shown to a network as (N, 1, H, W). No byte is copied, but of arrays that torch cannot hold
(reversed, read-only); a round trip takes some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module

WAY_OUT = "pip install 'gpudeblur[torch]'"


def torch_module() -> Any:
    """The `torch` module.

    Raises
    ------
    ImportError
        There is none; the message says how to get it.
    """
    try:
        import torch
    except ImportError as why:
        raise ImportError(f"a learned prior needs PyTorch, which cannot be imported ({why}); {WAY_OUT}") from why
    return torch


def to_torch(array: Array) -> Any:
    """The torch tensor in the memory of `array`; within `stream_of` it is ready on torch's stream."""
    if any(step < 0 for step in array.strides) or (type(array) is np.ndarray and not array.flags.writeable):
        array = array.copy()
    return torch_module().from_dlpack(array)


def from_torch(tensor: Any, like: Array) -> Array:
    """The array in the memory of `tensor`, of the library of `like`.

    Raises
    ------
    ValueError
        The tensor is on another device than `like`.
    """
    xp = array_module(like)
    if (tensor.device.type == "cpu") != (xp is np):
        raise ValueError(f"module must answer on {device_of(like)}, where the picture is, got {tensor.device}")
    return xp.from_dlpack(tensor.detach())


def device_of(array: Array) -> Any:
    """The torch device that `array` is on."""
    torch = torch_module()
    if array_module(array) is np:
        return torch.device("cpu")
    number: Any = array.device
    return torch.device("cuda", number.id)


@contextmanager
def stream_of(array: Array) -> Iterator[None]:
    """Torch's work goes to the stream that CuPy uses now, so that neither waits for the other; nothing on the CPU."""
    if array_module(array) is np:
        yield
        return
    import cupy

    cuda, device = torch_module().cuda, device_of(array)
    pointer = cupy.cuda.get_current_stream().ptr
    with cuda.stream(cuda.ExternalStream(pointer, device) if pointer else cuda.default_stream(device)):
        yield


def check_module(module: Any, array: Array) -> None:
    """That a network can be asked about `array`: its device, its dtype, and that pictures do not see each other.

    Raises
    ------
    ValueError
        Names what does not fit, and how to change it.
    """
    torch, device = torch_module(), device_of(array)
    dtype = torch.float32 if array.dtype == np.float32 else torch.float64
    if not isinstance(module, torch.nn.Module):
        return  # a function: it knows where it computes
    for name, one in (*module.named_parameters(), *module.named_buffers()):
        if one.device != device:
            raise ValueError(
                f"module must be on {device}, where the picture is, got {name} on {one.device}; call "
                f"module.to({str(device)!r}), or give device= for the picture"
            )
        if one.is_floating_point() and one.dtype != dtype:
            raise ValueError(
                f"module must compute in {dtype}, as the picture does, got {name} in {one.dtype}; call "
                f"module.to({dtype}), or give TwoStepOptions(dtype=...)"
            )
    mixing = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    for name, part in module.named_modules():
        if part.training and isinstance(part, mixing):
            raise ValueError(
                f"module must be in evaluation mode, got {type(part).__name__} {name!r} in training; call module.eval()"
            )


def apply_network(module: Callable[..., Any], pictures: Array, *arguments: Any) -> Array:
    """module(pictures, *arguments) for a network from pictures to pictures, all of a stack at once.

    Parameters
    ----------
    module : from (N, 1, H, W) to the same shape; no gradient is kept.
    pictures : (..., H, W) float32 or float64.

    Returns
    -------
    (..., H, W), in the memory that the network answered in.

    Raises
    ------
    ValueError
        As `check_module`; or the network does not take these pictures, changes their shape, or makes a number out of
        a finite picture that is none.
    """
    check_module(module, pictures)
    with stream_of(pictures), torch_module().no_grad():
        given = to_torch(pictures.reshape(-1, 1, *pictures.shape[-2:]))
        found = _call(module, given, *arguments)
        if found.shape != given.shape:
            shapes = f"{tuple(given.shape)}, got {tuple(found.shape)}"
            raise ValueError(f"module must return the shape that it gets, {shapes}; it must be a network for pictures")
        _check_numbers(found, given)
        return from_torch(found, pictures).reshape(pictures.shape)


def evaluate(module: Callable[..., Any], pictures: Array) -> Array:
    """module(pictures) for a network that gives one number a picture: (...). Parameters and errors as `slope`."""
    check_module(module, pictures)
    with stream_of(pictures), torch_module().no_grad():
        given = to_torch(pictures.reshape(-1, 1, *pictures.shape[-2:]))
        return from_torch(_call_scalar(module, given), pictures).reshape(pictures.shape[:-2])


def gradient(module: Callable[..., Any], pictures: Array) -> Array:
    """d module(picture) / d picture of each picture of a stack, by autograd, all at once.

    Parameters
    ----------
    module : from (N, 1, H, W) to one number a picture, (N,) or (N, 1, ...); differentiable.
    pictures : (..., H, W) float32 or float64.

    Returns
    -------
    (..., H, W)

    Raises
    ------
    ValueError
        As `answer`; or the network does not give one number a picture, or its number does not depend on the picture.
    """
    torch = torch_module()
    check_module(module, pictures)
    with stream_of(pictures), torch.enable_grad():
        given = to_torch(pictures.reshape(-1, 1, *pictures.shape[-2:])).detach().requires_grad_()
        numbers = _call_scalar(module, given)
        if not numbers.requires_grad:
            name = type(module).__name__
            raise ValueError(f"module must be differentiable, {name}'s result has no gradient; leave out no_grad")
        # The sum's gradient holds each picture's own: none sees another.
        (found,) = torch.autograd.grad(numbers.sum(), given)
        _check_numbers(found, given)
        return from_torch(found, pictures).reshape(pictures.shape)


def _call_scalar(module: Callable[..., Any], given: Any) -> Any:
    found = _call(module, given)
    if found.numel() != len(given) or (found.ndim and len(found) != len(given)):
        raise ValueError(f"module must return one number a picture, ({len(given)},), got shape {tuple(found.shape)}")
    _check_numbers(found, given)
    return found.reshape(-1)


def _call(module: Callable[..., Any], given: Any, *arguments: Any) -> Any:
    torch = torch_module()
    try:
        found = module(given, *arguments)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as why:
        extra = "".join(f", {argument!r}" for argument in arguments)
        raise ValueError(
            f"module must take gray pictures, module(tensor of shape {tuple(given.shape)}{extra}); "
            f"{type(module).__name__} says: {why}"
        ) from why
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"module must return a tensor, got {type(found).__name__}")
    if found.device != given.device or found.dtype != given.dtype:
        raise ValueError(
            f"module must answer as it is asked, {given.dtype} on {given.device}, got {found.dtype} on {found.device}"
        )
    return found


def _check_numbers(found: Any, given: Any) -> None:
    """A picture that is finite must get what is finite. On a device this waits; beside a network that is little."""
    fine, came = (one.detach().reshape(len(given), -1).isfinite().all(dim=1) for one in (found, given))
    bad = came & ~fine
    if bool(bad.any()):
        raise ValueError(
            f"module must return finite numbers, got NaN or infinity for picture {int(bad.nonzero()[0, 0])} of "
            f"{len(given)}, which is finite; its weights may not be those of a trained network"
        )
