"""The way to torch and back: the same memory, no types that leak, errors that say what to do."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from gpudeblur.networks import bridge

torch = pytest.importorskip("torch")


def pictures(*lead: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(1).random((*lead, 7, 9)).astype(dtype)


class Square(torch.nn.Module):
    """One number a picture, with a known gradient: 2 x."""

    def forward(self, x: Any) -> Any:
        return (x * x).sum(dim=(1, 2, 3))


def test_the_memory_is_the_same_both_ways() -> None:
    x = pictures(2)
    tensor = bridge.to_torch(x)
    back = bridge.from_torch(tensor, x)
    assert tensor.data_ptr() == x.ctypes.data == back.ctypes.data
    assert type(back) is np.ndarray
    back[0, 0, 0] = 5
    assert x[0, 0, 0] == 5


def test_a_round_trip_copies_nothing() -> None:
    x = np.zeros((1, 1024, 1024), np.float32)
    bridge.from_torch(bridge.to_torch(x), x)
    tracemalloc.start()
    for _ in range(10):
        bridge.from_torch(bridge.to_torch(x), x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 16


def test_arrays_that_torch_cannot_hold_are_copied() -> None:
    x = pictures()
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (x[::-1], x[:, ::-2], frozen):
        tensor = bridge.to_torch(array)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert not np.shares_memory(tensor.numpy(), x)


@pytest.mark.gpu
def test_on_a_device_memory_and_stream_are_the_same(cupy: Any) -> None:
    x = cupy.asarray(pictures(2))
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream, bridge.stream_of(x):
            tensor = bridge.to_torch(x)
            assert torch.cuda.current_stream().cuda_stream == stream.ptr
            back = bridge.from_torch(tensor, x)
        assert tensor.data_ptr() == x.data.ptr == back.data.ptr
        assert type(back) is cupy.ndarray
    np.testing.assert_allclose(bridge.gradient(Square(), x).get(), 2 * x.get(), rtol=1e-6)


@pytest.mark.gpu
def test_on_a_device_a_module_on_the_cpu_is_refused(cupy: Any) -> None:
    with pytest.raises(ValueError, match="module must be on cuda:0, where the picture is, got weight on cpu"):
        bridge.apply_network(torch.nn.Conv2d(1, 1, 3, padding=1), cupy.zeros((8, 8), np.float32))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slope_is_the_gradient_of_each_picture(lead: tuple[int, ...], dtype: Any) -> None:
    x = pictures(*lead, dtype=dtype)
    found = bridge.gradient(Square(), x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, 2 * x, rtol=1e-6)
    np.testing.assert_allclose(bridge.evaluate(Square(), x), (x * x).sum(axis=(-2, -1)), rtol=1e-5)


def test_answers_keep_their_shape_and_know_their_arguments() -> None:
    x = pictures(2, 3)
    np.testing.assert_array_equal(bridge.apply_network(lambda p, sigma: p * sigma, x, 2.0), 2 * x)


def test_autograd_works_where_it_is_switched_off_and_leaves_no_gradients() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(1))
    with torch.no_grad():
        bridge.gradient(network, pictures(2))
    assert all(one.grad is None for one in network.parameters())


def test_a_nan_picture_does_not_disturb_its_neighbours() -> None:
    x = pictures(3)
    x[1, 2, 2] = np.nan
    found = bridge.gradient(Square(), x)
    np.testing.assert_allclose(found[[0, 2]], 2 * x[[0, 2]], rtol=1e-6)
    assert np.isnan(bridge.evaluate(Square(), x)[1])


class Training(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x: Any) -> Any:
        return self.norm(x)


ANSWERS: list[tuple[Any, str]] = [
    (lambda p: p[..., 1:], r"must return the shape that it gets, \(1, 1, 7, 9\), got \(1, 1, 7, 8\)"),
    (lambda p: p / 0 * 0, "must return finite numbers, got NaN or infinity for picture 0 of 1"),
    (lambda p: None, "must return a tensor, got NoneType"),
    (lambda p: p.double(), "must answer as it is asked, torch.float32 on cpu, got torch.float64 on cpu"),
    (lambda: None, r"must take gray pictures, module\(tensor of shape \(1, 1, 7, 9\)\)"),
    (
        torch.nn.Conv2d(3, 3, 3),
        r"must take gray pictures.*Conv2d says: .*expected input\[1, 1, 7, 9\] to have 3 channels",
    ),
    (
        torch.nn.Conv2d(1, 1, 3, device="meta"),
        r"must be on cpu, where the picture is, got weight on meta; call module.to",
    ),
    (
        torch.nn.Conv2d(1, 1, 3).double(),
        "must compute in torch.float32, as the picture does, got weight in torch.float64",
    ),
    (Training(), "must be in evaluation mode, got BatchNorm2d 'norm' in training; call module.eval()"),
]


@pytest.mark.parametrize(("module", "message"), ANSWERS, ids=range(len(ANSWERS)))
def test_what_a_module_does_wrong_is_told(module: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"module {message}"):
        bridge.apply_network(module, pictures())


SLOPES: list[tuple[Any, str]] = [
    (lambda p: p.mean(), r"must return one number a picture, \(2,\), got shape \(\)"),
    (lambda p: p, r"must return one number a picture, \(2,\), got shape \(2, 1, 7, 9\)"),
    (lambda p: p.detach().mean((1, 2, 3)), "must be differentiable, function's result has no gradient"),
    (lambda p: (p.mean((1, 2, 3)) - 9).sqrt(), "must return finite numbers, got NaN"),
]


@pytest.mark.parametrize(("module", "message"), SLOPES, ids=range(len(SLOPES)))
def test_what_a_scalar_module_does_wrong_is_told(module: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"module {message}"):
        bridge.gradient(module, pictures(2))


def test_without_torch_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ImportError, match=r"needs PyTorch, which cannot be imported .* pip install 'gpudeblur\[torch\]'"
    ):
        bridge.to_torch(pictures())
