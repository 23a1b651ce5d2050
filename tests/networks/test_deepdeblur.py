"""Laws of DeepDeblur and of the U-Net that the default networks share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpudeblur.networks.blocks import UNet, initialized, pad_to_multiple, parameter_count  # noqa: E402
from gpudeblur.networks.deepdeblur.network import BRANCHES, DeepDeblur, Inception, pad_even  # noqa: E402
from gpudeblur.networks.deepdeblur.training import DeepDeblurTask  # noqa: E402
from gpudeblur.networks.training.data import BatchMaker, Pictures, RestorationConfig  # noqa: E402
from gpudeblur.networks.training.trainer import TrainConfig, train  # noqa: E402


def images(*shape: int, seed: int = 0) -> Any:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def random_network(seed: int = 0) -> Any:
    """A small network that changes pictures."""
    network = initialized(lambda: DeepDeblur("unet", (8, 8, 8), (1,) * 5), seed)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.1 * (images(*parameter.shape, seed=number) - 0.5)
    return network.eval()


def test_paper_has_its_layers() -> None:
    network = DeepDeblur.paper()
    assert parameter_count(network) == 1_847_491
    filters = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.kernel_size[0] for layer in filters[6:11]] == list(BRANCHES)  # after the entry and five reductions
    with torch.no_grad():
        assert network(images(1, 3, 33, 20)).shape == (1, 3, 33, 20)
    # Without the 1 x 1 reductions the paper counts filters of k x k x 64 x 32.
    unreduced = sum(64 * 32 * k * k for k in BRANCHES)
    assert parameter_count(Inception(64)) < 0.55 * unreduced


def test_default_fits_its_share_of_the_package() -> None:
    assert 2 * parameter_count(DeepDeblur()) < 2_000_000  # bytes in float16


@pytest.mark.parametrize("make", [DeepDeblur, DeepDeblur.paper])
def test_a_new_network_changes_nothing(make: Any) -> None:
    x = images(1, 3, 24, 19)
    with torch.no_grad():
        assert torch.equal(initialized(make, 0)(x), x)


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (31, 131), (64, 57)])
def test_every_size_from_16_pixels(shape: tuple[int, int]) -> None:
    with torch.no_grad():
        result = random_network()(images(1, 3, *shape))
    assert result.shape == (1, 3, *shape)
    assert torch.isfinite(result).all()


def test_batch_is_a_loop() -> None:
    network, x = random_network(), images(3, 3, 40, 33)
    with torch.no_grad():
        loop = torch.cat([network(x[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(network(x), loop, atol=1e-5)


def test_shift_by_the_multiple_commutes_inside() -> None:
    network, x = random_network(), images(1, 3, 160, 160)
    with torch.no_grad():
        whole, part = network(x), network(x[..., 8:, 16:])
    np.testing.assert_allclose(whole[..., 72:-64, 80:-64], part[..., 64:-64, 64:-64], atol=1e-5)


def test_even_filters_reach_further_to_the_end() -> None:
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[..., 20, 20] = 1
    response = torch.nn.functional.conv2d(pad_even(impulse, 14), torch.ones(1, 1, 14, 14))
    rows = response[0, 0].sum(dim=1).nonzero()[:, 0]
    assert response.shape == impulse.shape
    assert (20 - int(rows.min()), int(rows.max()) - 20) == (7, 6)


def test_padding_reflects_and_is_cropped() -> None:
    x = images(1, 1, 17, 24)
    padded = pad_to_multiple(x)
    assert padded.shape == (1, 1, 24, 24)
    assert torch.equal(padded[..., :17, :], x)
    assert torch.equal(padded[..., 17, :], x[..., 15, :])
    assert pad_to_multiple(x[..., :16, :]) is not None
    assert UNet(1, 1, (8, 8, 8), (1,) * 5)(x).shape == x.shape


def test_mirrored_picture_gives_the_mirrored_result() -> None:
    network, x = random_network(), images(1, 3, 33, 40)
    with torch.no_grad():
        np.testing.assert_allclose(network(x.flip(-1)).flip(-1), network(x), atol=1e-6)
        assert not torch.allclose(network.train()(x.flip(-1)).flip(-1), network(x), atol=1e-4)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    a, b, c = (initialized(DeepDeblur, seed).trunk.entry.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def squares(count: int = 8, side: int = 72) -> Pictures:
    rng, faces = np.random.default_rng(0), []
    for _ in range(count):
        image = np.kron(rng.integers(0, 256, (3, side // 12, side // 12)), np.ones((1, 12, 12)))
        faces.append(torch.from_numpy(image.astype(np.uint8)))
    return Pictures(Path("squares"), faces, [])


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "steps"),
    [(lambda: DeepDeblur("unet", (8, 16, 16), (1,) * 5), 200), (lambda: DeepDeblur("inception", (8,), (2,)), 100)],
    ids=["default", "paper"],
)
def test_steps_of_training_lower_the_loss(make: Any, steps: int, tmp_path: Any) -> None:
    config = RestorationConfig(
        batch=4, crop=(24, 32), kernels=(5, 9), pool=40, natural=0, noise=0, jpeg=0, linear_light=0, sharp=0
    )
    task = DeepDeblurTask(initialized(make, 0), BatchMaker([squares()], config))

    def loss() -> float:
        with torch.no_grad():
            return sum(float(next(task.losses(task.batch(index), 0.0)).value) for index in range(1000, 1008))

    before = loss()
    train(task, TrainConfig(steps=steps, rate=2e-3, warm_up=20, average=0), tmp_path / "c.safetensors")
    assert loss() < 0.99 * before
