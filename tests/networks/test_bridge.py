"""Torch networks on arrays: shared memory, gradients image by image, and errors that say what to do."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

from gpudeblur.networks import bridge
from gpudeblur.numerics.arrays import to_host

torch = pytest.importorskip("torch")


def images(*lead: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(1).random((*lead, 7, 9)).astype(dtype)


def square(x: Any) -> Any:
    """One number per image with the gradient 2 x."""
    return (x * x).sum(dim=(1, 2, 3))


def test_round_trip_shares_memory() -> None:
    x = images(2)
    tensor = bridge.to_torch(x)
    result = bridge.from_torch(tensor, x)
    assert tensor.data_ptr() == x.ctypes.data == result.ctypes.data
    assert type(result) is np.ndarray
    result[0, 0, 0] = 5
    assert x[0, 0, 0] == 5


def test_arrays_that_torch_cannot_hold_are_copied() -> None:
    x = images()
    read_only = x.copy()
    read_only.flags.writeable = False
    for array in (x[::-1], x[:, ::-2], read_only):
        tensor = bridge.to_torch(array)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert not np.shares_memory(tensor.numpy(), x)


@pytest.mark.gpu
def test_device_memory_and_stream_are_shared(cupy: Any) -> None:
    x = cupy.asarray(images(2))
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream, bridge.stream_of(x):
            tensor = bridge.to_torch(x)
            assert torch.cuda.current_stream().cuda_stream == stream.ptr
            result: Any = bridge.from_torch(tensor, x)
        assert tensor.data_ptr() == x.data.ptr == result.data.ptr
        assert type(result) is cupy.ndarray
    np.testing.assert_allclose(to_host(bridge.gradient(square, x)), 2 * x.get(), rtol=1e-6)
    with pytest.raises(ValueError, match="module must be on cuda:0, where the picture is, got weight on cpu"):
        bridge.apply_network(torch.nn.Conv2d(1, 1, 3, padding=1), x)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_of_each_image(lead: tuple[int, ...], dtype: Any) -> None:
    """A NaN in one does not disturb its neighbours."""
    x = images(*lead, dtype=dtype)
    if lead:
        x[-1, ..., 2, 2] = np.nan
    result = bridge.gradient(square, x)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, 2 * x, rtol=1e-6)
    np.testing.assert_allclose(bridge.evaluate(square, x), (x * x).sum(axis=(-2, -1)), rtol=1e-5)


def test_apply_network_keeps_the_shape_and_passes_arguments() -> None:
    x = images(2, 3)
    np.testing.assert_array_equal(bridge.apply_network(lambda batch, sigma: batch * sigma, x, 2.0), 2 * x)


def test_networks_that_work_in_place_leave_the_images_alone() -> None:
    x = images(2)
    before = x.copy()
    np.testing.assert_array_equal(bridge.apply_network(lambda batch: batch.mul_(2), x), 2 * before)
    sums = (2 * before[:, None]) ** 2
    np.testing.assert_allclose(bridge.evaluate(lambda batch: square(batch.mul_(2)), x), sums.sum((1, 2, 3)), rtol=1e-5)
    with pytest.raises(ValueError, match="in-place operation"):
        bridge.gradient(lambda batch: square(batch.mul_(2)), x)
    np.testing.assert_array_equal(x, before)


def test_gradient_overrides_no_grad_and_leaves_none_in_the_network() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(1))
    with torch.no_grad():
        bridge.gradient(network, images(2))
    assert all(parameter.grad is None for parameter in network.parameters())


REFUSED_NETWORKS: list[tuple[Any, str]] = [
    (lambda x: x[..., 1:], "return the shape that it gets, (1, 1, 7, 9), got (1, 1, 7, 8)"),
    (lambda x: x / 0 * 0, "return finite numbers, got NaN or infinity for picture 0 of 1"),
    (lambda x: None, "return a tensor, got NoneType"),
    (lambda x: x.double(), "return torch.float32 on cpu, as it gets, got torch.float64 on cpu"),
    (lambda: None, "take gray pictures, module(tensor of shape (1, 1, 7, 9)); function says: "),
    (torch.nn.Conv2d(3, 3, 3), "take gray pictures, module(tensor of shape (1, 1, 7, 9)); Conv2d says: "),
    (torch.nn.Conv2d(1, 1, 3, device="meta"), "be on cpu, where the picture is, got weight on meta; call module.to"),
    (torch.nn.Conv2d(1, 1, 3).double(), "compute in torch.float32, as the picture does, got weight in torch.float64"),
    (torch.nn.Sequential(torch.nn.BatchNorm2d(1)), "be in evaluation mode, got BatchNorm2d '0' in training; call mod"),
]
REFUSED_ENERGIES: list[tuple[Any, str]] = [
    (lambda x: x.mean(), "return one number a picture, (2,), got shape ()"),
    (lambda x: x, "return one number a picture, (2,), got shape (2, 1, 7, 9)"),
    (lambda x: x.detach().mean((1, 2, 3)), "be differentiable, function's result has no gradient"),
    (lambda x: (x.mean((1, 2, 3)) - 9).sqrt(), "return finite numbers, got NaN"),
]


def test_errors_say_what_the_module_does_wrong() -> None:
    for module, message in REFUSED_NETWORKS:
        with pytest.raises(ValueError, match=re.escape(f"module must {message}")):
            bridge.apply_network(module, images())
    for module, message in REFUSED_ENERGIES:
        with pytest.raises(ValueError, match=re.escape(f"module must {message}")):
            bridge.gradient(module, images(2))


def test_without_torch_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs PyTorch, which cannot be imported .* pip install 'gpudeblur\[torch"):
        bridge.to_torch(images())
