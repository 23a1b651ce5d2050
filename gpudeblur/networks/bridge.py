"""Run PyTorch networks on the arrays of this library, sharing memory and stream through DLPack.

Apart from the network itself no torch type enters or leaves, and torch is imported when a function here is first
called. A network receives images (..., H, W) as one tensor (N, 1, H, W). Arrays that torch cannot represent (reversed,
read-only) are copied, and so is what enters a network outside autograd, as layers may work in place. A round trip takes
some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module


def torch_module() -> Any:
    """The `torch` module; an ImportError that says how to install it where it is missing."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"a network needs PyTorch, which cannot be imported ({error}); pip install 'gpudeblur[torch]'"
        ) from error
    return torch


def to_torch(array: Array) -> Any:
    """The tensor that shares the memory of `array`. Within `stream_of(array)` it is ready on torch's stream."""
    if any(stride < 0 for stride in array.strides) or (type(array) is np.ndarray and not array.flags.writeable):
        array = array.copy()
    return torch_module().from_dlpack(array)


def from_torch(tensor: Any, like: Array) -> Array:
    """The array that shares the memory of `tensor`, of the same library as `like`; a ValueError on another device."""
    xp = array_module(like)
    if (tensor.device.type == "cpu") != (xp is np):
        raise ValueError(
            f"module must return a tensor on {device_of(like)}, where the picture is, got {tensor.device}; move it back"
        )
    return xp.from_dlpack(tensor.detach())


def device_of(array: Array) -> Any:
    """The torch device of an array."""
    torch = torch_module()
    if array_module(array) is np:
        return torch.device("cpu")
    device: Any = array.device
    return torch.device("cuda", device.id)


@contextmanager
def stream_of(array: Array) -> Iterator[None]:
    """Torch uses CuPy's current stream, so that neither library waits for the other. No effect on the CPU."""
    if array_module(array) is np:
        yield
        return
    import cupy

    cuda, device = torch_module().cuda, device_of(array)
    pointer = cupy.cuda.get_current_stream().ptr
    with cuda.stream(cuda.ExternalStream(pointer, device) if pointer else cuda.default_stream(device)):
        yield


def check_module(module: Any, array: Array) -> None:
    """Refuse a network on another device, of another dtype, or one that mixes the images of a stack."""
    torch, device = torch_module(), device_of(array)
    dtype = torch.float32 if array.dtype == np.float32 else torch.float64
    if not isinstance(module, torch.nn.Module):
        return  # a function has no parameters to check
    for name, parameter in (*module.named_parameters(), *module.named_buffers()):
        if parameter.device != device:
            raise ValueError(
                f"module must be on {device}, where the picture is, got {name} on {parameter.device}; call "
                f"module.to({str(device)!r}), or give device= for the picture"
            )
        if parameter.is_floating_point() and parameter.dtype != dtype:
            raise ValueError(
                f"module must compute in {dtype}, as the picture does, got {name} in {parameter.dtype}; call "
                f"module.to({dtype}), or give TwoStepOptions(dtype=...)"
            )
    mixing = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    for name, layer in module.named_modules():
        if layer.training and isinstance(layer, mixing):
            raise ValueError(
                f"module must be in evaluation mode, got {type(layer).__name__} {name!r} in training; "
                "call module.eval()"
            )


def apply_network(
    module: Callable[..., Any], images: Array, *arguments: Any, channels: int = 1, check: bool = True
) -> Array:
    """module(images, *arguments) for a network from images to images, called once for a whole stack, without autograd.

    Parameters
    ----------
    module : from (N, channels, H, W) to the same shape.
    images : (..., H, W) float32 or float64; the last of the leading axes has the channels if there are several.
    arguments : of the module; arrays become tensors.
    check : whether the result is checked to be finite, for which a device waits.

    Raises
    ------
    ValueError
        As `check_module`; or the network does not accept these images, changes their shape, or returns NaN or infinity
        for a finite image.
    """
    check_module(module, images)
    with stream_of(images), torch_module().no_grad():
        batch = _to_batch(images, channels)
        tensors = [to_torch(a) if hasattr(a, "__dlpack__") else a for a in arguments]
        output = _call(module, batch.clone(), *tensors)
        if output.shape != batch.shape:
            shapes = f"{tuple(batch.shape)}, got {tuple(output.shape)}"
            raise ValueError(f"module must return the shape that it gets, {shapes}; use a network for pictures")
        if check:
            _check_finite(output, batch)
        return from_torch(output, images).reshape(images.shape)


def evaluate(module: Callable[..., Any], images: Array) -> Array:
    """module(images) for a network with one number per image: (...). Parameters and errors as in `gradient`."""
    check_module(module, images)
    with stream_of(images), torch_module().no_grad():
        return from_torch(_call_scalar(module, _to_batch(images).clone()), images).reshape(images.shape[:-2])


def gradient(module: Callable[..., Any], images: Array) -> Array:
    """d module(image) / d image for each image of a stack, by autograd in one pass.

    Parameters
    ----------
    module : from (N, 1, H, W) to one number per image, (N,) or (N, 1, ...); differentiable.
    images : (..., H, W) float32 or float64.

    Raises
    ------
    ValueError
        As `apply_network`; or the result is not one number per image, or does not depend on the image.
    """
    torch = torch_module()
    check_module(module, images)
    with stream_of(images), torch.enable_grad():
        batch = _to_batch(images).detach().requires_grad_()
        values = _call_scalar(module, batch)
        if not values.requires_grad:
            name = type(module).__name__
            raise ValueError(f"module must be differentiable, {name}'s result has no gradient; leave out no_grad")
        # No image influences the value of another, so the gradient of the sum holds each image's own gradient.
        (result,) = torch.autograd.grad(values.sum(), batch)
        _check_finite(result, batch)
        return from_torch(result, images).reshape(images.shape)


def _to_batch(images: Array, channels: int = 1) -> Any:
    """(..., H, W) as the tensor (N, channels, H, W)."""
    return to_torch(images.reshape(-1, channels, *images.shape[-2:]))


def _call_scalar(module: Callable[..., Any], batch: Any) -> Any:
    values = _call(module, batch)
    if values.numel() != len(batch) or (values.ndim and len(values) != len(batch)):
        raise ValueError(f"module must return one number a picture, ({len(batch)},), got shape {tuple(values.shape)}")
    _check_finite(values, batch)
    return values.reshape(-1)


def _call(module: Callable[..., Any], batch: Any, *arguments: Any) -> Any:
    torch = torch_module()
    try:
        output = module(batch, *arguments)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        extra = "".join(f", {argument!r}" for argument in arguments)
        raise ValueError(
            f"module must take gray pictures, module(tensor of shape {tuple(batch.shape)}{extra}); "
            f"{type(module).__name__} says: {error}"
        ) from error
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"module must return a tensor, got {type(output).__name__}")
    if output.device != batch.device or output.dtype != batch.dtype:
        raise ValueError(
            f"module must return {batch.dtype} on {batch.device}, as it gets, got {output.dtype} on {output.device}"
        )
    return output


def _check_finite(output: Any, batch: Any) -> None:
    """Refuse NaN or infinity where the image is finite. On a device this waits, for little beside a network's time."""
    finite_output, finite_input = (t.detach().reshape(len(batch), -1).isfinite().all(dim=1) for t in (output, batch))
    failed = finite_input & ~finite_output
    if bool(failed.any()):
        raise ValueError(
            f"module must return finite numbers, got NaN or infinity for picture {int(failed.nonzero()[0, 0])} of "
            f"{len(batch)}, which is finite; its weights may not be those of a trained network"
        )
