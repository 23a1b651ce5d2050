"""Restoring networks on arrays: what they are to a stack, to gray images, to tiles; and the signals of confidence."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpudeblur.networks import catalog, confidence, restore
from gpudeblur.networks.restore import load, restore_images
from gpudeblur.numerics.arrays import array_module, to_host
from gpudeblur.synthesis import blur, trajectory_kernel

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks.blocks import initialized  # noqa: E402
from gpudeblur.networks.deepdeblur.network import DeepDeblur  # noqa: E402

ODD_AND_EVEN = [(16, 16), (17, 31), (16, 131), (64, 47), (131, 130)]


@pytest.fixture
def network(network_weights: Path) -> Any:
    return load("deepdeblur", network_weights)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def restored(network: Any, x: Any, **options: Any) -> Any:
    result, kernels = restore_images(network, x, **options)
    assert kernels is None
    assert array_module(result) is array_module(x)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    return result


@pytest.mark.parametrize("shape", ODD_AND_EVEN)
def test_a_new_network_is_the_identity(shape: tuple[int, int]) -> None:
    fresh = initialized(lambda: DeepDeblur("unet", (8, 12, 16), (1, 1, 1, 1, 1)), 0).eval().requires_grad_(False)
    for dtype in (np.float32, np.float64):
        x = 3 * images(2, 3, *shape).astype(dtype) - 1  # outside of the range of the network, too
        np.testing.assert_array_equal(restored(fresh, x), x)


@pytest.mark.parametrize("shape", ODD_AND_EVEN)
def test_every_size_is_changed_and_a_stack_equals_a_loop(network: Any, shape: tuple[int, int]) -> None:
    x = images(restore.CPU_STACK + 1, 3, *shape)
    result = restored(network, x)
    assert abs(result - x).mean() > 1e-3
    for i in (0, len(x) - 1):
        np.testing.assert_allclose(result[i : i + 1], restored(network, x[i : i + 1]), atol=1e-5)


def test_gray_is_the_mean_of_three_equal_channels(network: Any) -> None:
    x = images(2, 1, 24, 33)
    expected = restored(network, np.repeat(x, 3, axis=1)).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(restored(network, x), expected, atol=1e-6)


def test_what_exceeds_the_range_is_added_back(network: Any) -> None:
    x = 4 * images(1, 3, 24, 33) - 1.5
    clipped = np.clip(x, *restore.INPUT_RANGE)
    np.testing.assert_allclose(restored(network, x) - x, restored(network, clipped) - clipped, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda: DeepDeblur("unet", (4, 4, 4), (1, 1, 1, 1, 1)), 160),
        (lambda: DeepDeblur("unet", (4, 4, 4), (1, 0, 2, 1, 0)), 160),
        (lambda: DeepDeblur("inception", (4,), (2,)), 64),
    ],
)
def test_no_pixel_beyond_the_reach_has_an_influence(make: Any, side: int) -> None:
    """By the gradient of a pixel in the middle: zero beyond the reach, and not zero just within it."""
    network, farthest = initialized(make, 0), 0
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 0.1)  # positive: influences cannot cancel
    for offset in (0, 3, 7):
        at = side // 2 + offset
        x = torch.ones(1, 3, side, side, requires_grad=True)
        network(x)[0, 0, at, at].backward()
        rows, columns = np.nonzero(x.grad[0].abs().sum(dim=0).numpy())
        farthest = max(farthest, *(abs(places - at).max() for places in (rows, columns)))
    assert network.reach - 2 <= farthest <= network.reach < side // 2


def test_reach_of_the_default() -> None:
    assert DeepDeblur().reach == 107


@pytest.mark.parametrize("shape", [(150, 170), (64, 201)])
def test_tiles_equal_the_whole(network: Any, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, 3, *shape)
    whole, fractions = restored(network, x), list[float]()
    for tile in (64, 77):
        np.testing.assert_allclose(restored(network, x, tile=tile, report=fractions.append), whole, atol=1e-5)
    assert fractions[-1] == 1
    assert len(fractions) > 4
    monkeypatch.setattr(restore, "MAX_PIXELS", 64 * 64)
    monkeypatch.setattr(restore, "TILE", 64)
    np.testing.assert_allclose(restored(network, x), whole, atol=1e-5)


def test_the_weights_of_tiles_add_up_to_one() -> None:
    for length, tile in ((16, 512), (65, 64), (640, 64), (33, 32)):
        total = np.zeros(length)
        for window, weights in restore._windows(length, tile, 21):
            assert window.start % restore.ALIGNMENT == 0
            total[window] += weights
        np.testing.assert_allclose(total, 1)


def test_a_shift_by_8_pixels_commutes_away_from_the_border(network: Any) -> None:
    x = images(1, 3, 144, 160)
    a, b = restored(network, x)[..., 8:, 8:], restored(network, np.ascontiguousarray(x[..., 8:, 8:]))
    inside = (..., slice(network.reach, -network.reach), slice(network.reach, -network.reach))
    assert b[inside].size
    np.testing.assert_allclose(a[inside], b[inside], atol=1e-5)


class InPlace(torch.nn.Module):  # type: ignore[name-defined]
    def forward(self, x: Any) -> Any:
        return x.mul_(0.5)


def test_networks_may_work_in_place_on_any_array() -> None:
    x = images(2, 3, 20, 22)
    for channels in (1, 3):
        given = x[:, :channels].copy()
        given.flags.writeable = False
        before = given.copy()
        np.testing.assert_allclose(restored(InPlace(), given), given / 2, atol=1e-7)
        np.testing.assert_array_equal(given, before)
    np.testing.assert_allclose(restored(InPlace(), x[..., ::-1]), x[..., ::-1] / 2, atol=1e-7)


class WithKernel(torch.nn.Module):  # type: ignore[name-defined]
    """Takes the mean of an image for its 'kernel', and adds it."""

    def forward(self, images: Any) -> Any:
        kernel = self.estimate_kernel(images)
        return self.restore(images, kernel), kernel

    def estimate_kernel(self, images: Any) -> Any:
        return images.mean(dim=(1, 2, 3))[:, None, None].expand(-1, 5, 5)

    def restore(self, images: Any, kernel: Any) -> Any:
        return images + kernel[:, None, :1, :1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_estimates_the_kernel(channels: int) -> None:
    x = images(9, channels, 20, 22)
    result, kernels = restore_images(WithKernel(), x)
    assert isinstance(kernels, np.ndarray)
    np.testing.assert_allclose(kernels[:, 2, 2], x.mean(axis=(1, 2, 3)), atol=1e-6)
    assert kernels.shape == (9, 5, 5)
    np.testing.assert_allclose(result, x + x.mean(axis=(1, 2, 3), keepdims=True), atol=1e-6)


def test_in_tiles_the_kernel_is_that_of_the_window_with_the_most_texture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "KERNEL_WINDOW", 64)
    x = np.zeros((2, 3, 150, 170), np.float32)
    x[0, :, 70:120, 100:150] = images(3, 50, 50)
    x[1, :, 3:40, 3:40] = images(3, 37, 37, seed=1)
    windows = restore.textured_window(x)
    assert windows.shape == (2, 3, 64, 64)
    np.testing.assert_allclose(windows.sum(axis=(1, 2, 3)), x.sum(axis=(1, 2, 3)), rtol=1e-5)
    result, kernels = restore_images(WithKernel(), x, tile=100)
    assert kernels is not None
    np.testing.assert_allclose(kernels[:, 0, 0], windows.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(result - x, np.broadcast_to(kernels[:, None, :1, :1], x.shape), atol=1e-6)


@pytest.mark.parametrize("tile", [None, 64])
def test_kernels_may_be_given(tile: int | None) -> None:
    """Whole or in tiles, for every image of a stack its own."""
    x, given = images(9, 1, 70, 80), images(9, 5, 5, seed=1).astype(np.float64)
    result, kernels = restore_images(WithKernel(), x, tile=tile, kernels=given)
    assert kernels is not None
    assert kernels.dtype == np.float32
    np.testing.assert_array_equal(kernels, given.astype(np.float32))
    np.testing.assert_allclose(result - x, np.broadcast_to(given[:, None, :1, :1], x.shape), atol=1e-6)


def test_what_a_network_must_not_return() -> None:
    x = images(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"^network must return finite numbers, got NaN or infinity; its weights"):
        restore_images(lambda batch: batch / 0, x)
    with pytest.raises(
        ValueError, match=r"^network must return the shape that it gets, \(1, 3, 16, 16\), got \(1, 3, 1"
    ):
        restore_images(lambda batch: batch[..., 1:], x)


def test_a_network_is_made_once_for_each_file(network_weights: Path, tmp_path: Path, monkeypatch: Any) -> None:
    path, made, original = tmp_path / "w.safetensors", list[Any](), catalog.load_network

    def slow(*args: Any) -> Any:
        made.append(args)
        return original(*args)

    monkeypatch.setattr(catalog, "load_network", slow)
    path.write_bytes(network_weights.read_bytes())
    networks: list[Any] = []
    threads = [threading.Thread(target=lambda: networks.append(load("deepdeblur", path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(network is networks[0] for network in networks)
    os.utime(path, ns=(1, 1))  # written anew
    assert load("deepdeblur", path) is not networks[0]


@pytest.mark.gpu
@pytest.mark.usefixtures("full_float32")
def test_numpy_and_cupy_agree(cupy: Any, network_weights: Path) -> None:
    x = images(3, 3, 61, 50)
    expected = restored(load("deepdeblur", network_weights), x)
    network, on_device = load("deepdeblur", network_weights, "cuda:0"), cupy.asarray(x)
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream:
            np.testing.assert_allclose(to_host(restored(network, on_device)), expected, atol=1e-4)
    for name, values in confidence.signals(cupy.asarray(expected), on_device).items():
        np.testing.assert_allclose(to_host(values), confidence.signals(expected, x)[name], rtol=1e-3)


# ---- confidence

SCENE = np.random.default_rng(0).random((24, 30)).repeat(4, 0).repeat(4, 1)
BLURRED = blur(SCENE, trajectory_kernel(9, rng=3), noise_sigma=0.01, rng=0)


def stack(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([picture[None] for picture in pictures]).astype(np.float32)


def test_signals_of_a_true_picture_and_of_a_wrong_one() -> None:
    wrong = np.random.default_rng(1).random((24, 30)).repeat(4, 0).repeat(4, 1)
    true, wrong = SCENE[4:-4, 4:-4], wrong[4:-4, 4:-4]  # `blur` leaves half a kernel away on each side
    signals = confidence.signals(stack(true, wrong, BLURRED), stack(*[BLURRED] * 3))
    assert signals["reblur"][0] < 4 < signals["reblur"][1]
    assert signals["reblur"][2] < 1.5
    assert signals["change"][2] == 0
    assert signals["change"][0] < signals["change"][1]
    assert signals["gradient_energy"][0] > 1
    assert signals["gradient_energy"][2] == 1
    features = confidence.features(**signals)
    assert features.shape == (3, 5)
    for name in (*catalog.NETWORKS, "face"):
        certainty, share = confidence.confidence(name, features), confidence.strength(name, features)
        assert ((certainty > 0) & (certainty <= 1) & (share >= 0) & (share <= 1)).all()


@pytest.mark.parametrize("name", confidence.CONFIDENCE)
def test_confidence_and_strength_are_logistic_functions_of_the_features(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    signals = dict(zip(("change", "reblur", "gradient_energy"), rng.exponential(size=(3, 50)), strict=True))
    features = confidence.features(**signals)
    expected = np.log(
        np.stack([np.full(50, math.e), *(value + confidence.OFFSET for value in signals.values())], axis=1)
    )
    np.testing.assert_allclose(features[:, :-1], expected)
    for table in (confidence.CONFIDENCE, confidence.STRENGTH):
        assert len(table[name]) == features.shape[1]
        monkeypatch.setitem(table, name, (1.5, 0.3, -2.0, 0.7, 0.1))
    score = 1.5 + features[:, 1:] @ (0.3, -2.0, 0.7, 0.1)
    np.testing.assert_allclose(confidence.confidence(name, features), 1 / (1 + np.exp(-score)))
    share = confidence.strength(name, features)
    np.testing.assert_allclose(share, np.minimum(confidence.STRENGTH_SCALE / (1 + np.exp(-score)), 1))
    assert share.max() == 1
    assert share.min() < 0.5


@pytest.mark.parametrize("shape", [(16, 16), (31, 18)])
def test_signals_are_finite_and_do_not_mix_images(shape: tuple[int, int]) -> None:
    x, y = images(4, 3, *shape), images(4, 3, *shape, seed=1)
    x[1], y[1], x[2], y[3] = 0, 0, 0.5, 1
    for name, values in confidence.signals(x, y).items():
        assert values.shape == (4,)
        assert np.isfinite(values).all(), name
        for i in range(4):
            alone = confidence.signals(x[i : i + 1], y[i : i + 1])[name]
            np.testing.assert_allclose(values[i : i + 1], alone, rtol=1e-5)
