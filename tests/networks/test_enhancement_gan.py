"""The enhancement GAN: its networks, its losses in closed form, and its training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.data import astronaut

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks import catalog  # noqa: E402
from gpudeblur.networks.blocks import DRDBU, RRRB, initialized, parameter_count  # noqa: E402
from gpudeblur.networks.deepdeblur.network import DeepDeblur  # noqa: E402
from gpudeblur.networks.enhancement_gan.network import Critic, EnhancementGAN  # noqa: E402
from gpudeblur.networks.enhancement_gan.training import EnhancementConfig, EnhancementTask  # noqa: E402
from gpudeblur.networks.training.data import Batch, BatchMaker, Pictures, RestorationConfig  # noqa: E402
from gpudeblur.networks.training.losses import critic_loss, generator_loss, gradient_penalty  # noqa: E402
from gpudeblur.networks.training.trainer import TrainConfig, optimize, train  # noqa: E402
from gpudeblur.networks.weights import unpack  # noqa: E402

SMALL: dict[str, Any] = {
    "widths": (8, 8, 8), "counts": (1, 1, 1, 1, 1), "dense": 8, "growth": 4, "enhancement_widths": (8, 8, 8),
}  # fmt: skip
DATA = RestorationConfig(batch=4, crop=(32, 40), kernels=(5, 9), pool=16, natural=0)
SCHEDULE = TrainConfig(steps=6, rate=1e-3, warm_up=0, checkpoint_every=1)


def perturbed(module: Any, seed: int = 0) -> Any:
    """A network whose zero weights are none."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return module


def random_images(*shape: int, seed: int = 0) -> Any:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Eight regions of a photograph, four of them mirrored."""
    regions = [astronaut()[60 * i : 60 * i + 64, 100:164] for i in range(4)]
    regions += [region[:, ::-1] for region in regions]
    return Pictures(Path("drawn"), [torch.from_numpy(region.transpose(2, 0, 1).copy()) for region in regions], [])


@pytest.fixture(scope="module")
def maker(pictures: Pictures) -> BatchMaker:
    return BatchMaker([pictures], DATA)


def make_task(maker: BatchMaker, **options: Any) -> EnhancementTask:
    network = initialized(lambda: EnhancementGAN(**SMALL), 0)
    critic: Any = initialized(lambda: Critic(4), 1)
    config = EnhancementConfig(**{"adversarial_from": 0.5, "penalty_every": 2, **options})
    return EnhancementTask(network, critic, maker, config)


# ------------------------------------------------------------------ networks
def test_numbers_of_weights() -> None:
    with torch.device("meta"):
        counts = [parameter_count(make()) for make in (EnhancementGAN.paper, EnhancementGAN, Critic.paper, Critic)]
    assert counts == [34_976_195, 1_143_824, 2_764_737, 694_241]


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: EnhancementGAN(**SMALL), 1e-5),
        (lambda: EnhancementGAN("recurrent", (4,)), 1e-4),  # instance norms of 2 x 2 pixels amplify rounding
    ],
    ids=["unet", "recurrent"],
)
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (33, 48), (64, 131)])
def test_any_size_from_16_pixels(make: Any, tolerance: float, size: tuple[int, int]) -> None:
    network = perturbed(initialized(make, 0))
    images = random_images(2, 3, *size)
    before = images.clone()
    with torch.inference_mode():
        restored = network(images)
        rows = torch.cat([network(image[None]) for image in images])
    assert restored.shape == images.shape
    assert restored.dtype == torch.float32
    assert torch.equal(images, before)
    torch.testing.assert_close(restored, rows, atol=tolerance, rtol=0)


@pytest.mark.training
@pytest.mark.slow
def test_generator_of_the_paper_runs() -> None:
    images = random_images(1, 3, 17, 24)
    network = initialized(EnhancementGAN.paper, 0)
    restored = network(images)
    assert restored.shape == images.shape
    assert float(restored.detach().min()) >= 0
    assert float(restored.detach().max()) <= 1
    restored.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_new_generator_is_the_identity() -> None:
    images = random_images(1, 3, 40, 33)
    assert torch.equal(initialized(EnhancementGAN, 0)(images), images)


def test_shift_by_8_pixels_commutes() -> None:
    """Away from the borders, which the receptive field of this small network leaves."""
    network = perturbed(EnhancementGAN(**SMALL, enhancement_counts=(0,) * 5)).double()
    images = random_images(1, 3, 264, 264).double()
    with torch.inference_mode():
        restored, shifted = network(images[..., :-8, :-8]), network(images[..., 8:, 8:])
    torch.testing.assert_close(restored[..., 128:136, 128:136], shifted[..., 120:128, 120:128], atol=1e-9, rtol=0)


def test_config_rebuilds_the_generator() -> None:
    for network in (EnhancementGAN(**SMALL), EnhancementGAN("recurrent", (4,))):
        rebuilt = EnhancementGAN(**json.loads(json.dumps(network.config)))
        assert rebuilt.config == network.config
        rebuilt.load_state_dict(network.state_dict())


@pytest.mark.parametrize("arguments", [{}, {"trunk": "recurrent", "widths": (4,)}], ids=["default", "paper"])
def test_weights_travel_through_a_file(arguments: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """Those of the first stage are in DeepDeblur's own file."""
    deepdeblur, entries = tmp_path / "d.safetensors", catalog.NETWORKS
    first = perturbed(DeepDeblur())
    checksum = catalog.write_network(deepdeblur, first, first.state_dict())
    monkeypatch.setitem(entries, "deepdeblur", catalog.Entry(entries["deepdeblur"].location, checksum))
    monkeypatch.setattr(catalog, "shipped_weights", lambda name: deepdeblur)
    path, network = tmp_path / "w.safetensors", perturbed(EnhancementGAN(**arguments))
    if not arguments:
        network.load_state_dict(first.state_dict(), strict=False)
    catalog.write_network(path, network, network.state_dict())
    loaded = catalog.load_network("enhancement-gan", path)
    images = random_images(1, 3, 24, 24)
    torch.testing.assert_close(loaded(images), network(images).detach(), atol=2e-2, rtol=0)
    if not arguments:
        assert path.stat().st_size < 0.5 * deepdeblur.stat().st_size
        monkeypatch.setitem(entries, "deepdeblur", catalog.Entry(entries["deepdeblur"].location, "0" * 64))
        with pytest.raises(ValueError, match="must be for the 'deepdeblur' of this version"):
            catalog.load_network("enhancement-gan", path)


def test_generator_starts_as_deepdeblur() -> None:
    """Exactly: the second stage ends in a convolution whose weights are 0."""
    deepdeblur, network = perturbed(DeepDeblur()), EnhancementGAN()
    images = random_images(1, 3, 37, 40)
    network.load_state_dict(deepdeblur.state_dict(), strict=False)
    with torch.inference_mode():
        assert torch.equal(network(images), deepdeblur(images))
        assert not torch.equal(network(images), images)
    assert not any(parameter.requires_grad for parameter in network.trunk.parameters())


def test_recurrent_block_runs_each_filter_three_times() -> None:
    """For f = identity and W = w I the block is a polynomial of w."""
    w, block = 0.3, RRRB(2, lambda x: x)
    with torch.no_grad():
        for convolution in (module for module in block.modules() if isinstance(module, torch.nn.Conv2d)):
            convolution.weight.zero_()
            convolution.weight[:, :, 1, 1] = w * torch.eye(2)
    images = random_images(1, 2, 8, 8)
    recurrent = w * (1 + w * (1 + w))  # w, w (1 + w), w (1 + w (1 + w))
    with torch.no_grad():
        torch.testing.assert_close(block(images), (1 + (1 + recurrent**2) ** 2) * images)
    assert parameter_count(block) == 4 * (9 * 4 + 2)


def test_dense_blocks_are_scaled() -> None:
    """With weights of 0 in what joins the blocks the unit is the identity; with 1 it adds alpha times the last one."""
    images = random_images(1, 4, 8, 8)
    unit: Any = DRDBU(4, growth=2)
    with torch.no_grad():
        for parameter in unit.joins.parameters():
            parameter.zero_()
        assert torch.equal(unit(images), images)
        unit.joins[-1].weight[:, -4:, 0, 0] = torch.eye(4)
        last = unit.blocks[-1](torch.zeros_like(images))  # its input is joined by weights of 0
        torch.testing.assert_close(unit(images), images + 0.2 * last)


def test_patches_of_the_critic_have_70_pixels() -> None:
    """By the gradient of one score, of a critic whose weights are positive and whose norms are left out."""
    critic: Any = Critic(2)
    images = random_images(1, 3, 128, 128).requires_grad_()
    x = images
    for filters in critic.filters:
        x = torch.nn.functional.conv2d(x, filters.weight.detach().abs(), stride=filters.stride, padding=1)
    x[0, 0, x.shape[2] // 2, x.shape[3] // 2].backward()
    assert images.grad is not None
    rows, columns = torch.nonzero(images.grad[0].sum(dim=0), as_tuple=True)
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (70, 70)
    assert critic(images).shape == x.shape


# ------------------------------------------------------------------ losses
def test_losses_of_a_linear_critic() -> None:
    """D(x) = a . x has the gradient a everywhere: the penalty is (|a| - 1)^2, and the losses are means of a . x."""
    slope = 0.1 * random_images(3, 8, 8, seed=3).double()
    sharp, restored, positions = (random_images(*shape) for shape in ((5, 3, 8, 8), (5, 3, 8, 8), (5,)))
    linear = torch.nn.Conv2d(3, 1, 8).float()
    with torch.no_grad():
        linear.weight.copy_(slope[None])
    penalty = gradient_penalty(linear, sharp, restored, positions)
    torch.testing.assert_close(float(penalty.detach()), float((slope.norm() - 1) ** 2), rtol=1e-5, atol=0)
    penalty.backward()
    expected = 2 * (slope.norm() - 1) * slope / slope.norm()
    assert linear.weight.grad is not None
    torch.testing.assert_close(linear.weight.grad[0].double(), expected, rtol=1e-4, atol=1e-6)
    scores = linear(sharp).detach(), linear(2 * sharp).detach()
    mean = float((slope * sharp).sum(dim=(1, 2, 3)).mean())
    difference = critic_loss(*scores)
    torch.testing.assert_close(float(difference), mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(float(generator_loss(scores[0])), -mean - float(linear.bias.detach()), rtol=1e-4, atol=0)


def test_penalty_is_the_same_under_autocast() -> None:
    critic: Any = initialized(lambda: Critic(4), 0)
    sharp, restored, positions = random_images(2, 3, 32, 32), random_images(2, 3, 32, 32, seed=1), random_images(2)
    expected = gradient_penalty(critic, sharp, restored, positions)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(critic, sharp.bfloat16().float(), restored, positions)
        assert torch.equal(gradient_penalty(critic, sharp, restored, positions), expected)
        penalty.backward()
    assert penalty.dtype == torch.float32
    assert all(filters.weight.grad is not None for filters in critic.filters)


def test_penalty_of_a_flat_critic_has_a_gradient() -> None:
    """Where the norm is 0 too."""
    critic: Any = Critic(2)
    with torch.no_grad():
        critic.filters[-1].weight.zero_()
    images = random_images(2, 3, 32, 32)
    penalty = gradient_penalty(critic, images, images, torch.zeros(2))
    penalty.backward()
    assert float(penalty.detach()) == 1
    assert all(w.grad is None or w.grad.isfinite().all() for w in critic.parameters())


# ------------------------------------------------------------------ training
def test_critic_comes_in_after_its_share_of_the_run(maker: BatchMaker) -> None:
    task = make_task(maker)
    index, pair = task.batch(3)
    assert [loss.module for loss in task.losses((index, pair), 0.49)] == ["network"]
    losses = list(task.losses((index, pair), 0.5))
    assert [loss.module for loss in losses] == ["network", "critic"]
    assert "penalty" not in losses[1].figures  # of every second step
    assert "penalty" in list(task.losses((4, pair), 0.5))[1].figures
    losses[0].value.backward()
    assert all(weight.grad is None and weight.requires_grad for weight in task.critic.parameters())


def difference(image: Any, batch: Batch) -> Any:
    return (image - batch.sharp).abs().mean()


def test_every_weight_of_the_losses_matters(maker: BatchMaker) -> None:
    def value(**options: Any) -> list[float]:
        task = make_task(maker, adversarial_from=0, **options)
        task.perceptual = difference
        perturbed(task.network)
        return [float(loss.value.detach()) for loss in task.losses(task.batch(2), 0)]

    network, critic = value()
    for change in ({"content_weight": 2}, {"perceptual_weight": 2}, {"adversarial_weight": 2}, {"content": "mse"}):
        assert value(**change)[0] != network
    for change in ({"penalty_weight": 2}, {"penalty_every": 4}):
        assert value(**change)[1] != critic
    with pytest.raises(ValueError, match=r"adversarial_from must be in \[0, 1\], and finite, got 2"):
        EnhancementConfig(adversarial_from=2)


def test_killed_run_resumes_bit_for_bit(maker: BatchMaker, tmp_path: Path) -> None:
    """Before and after the critic comes in, weights, moments and average."""

    def tensors(name: str) -> dict[str, np.ndarray]:
        return {key: tensor.numpy() for key, tensor in unpack(tmp_path / name)[0].items()}

    train(make_task(maker), SCHEDULE, tmp_path / "whole")
    expected = tensors("whole")
    assert any(name.startswith("moment.critic.") for name in expected)
    for killed_at in (2, 5):
        name = f"killed{killed_at}"

        def kill(step: int, *_: Any, at: int = killed_at) -> None:
            if step > at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(make_task(maker), SCHEDULE, tmp_path / name, progress=kill)
        train(make_task(maker), SCHEDULE, tmp_path / name, resume=True)
        resumed = tensors(name)
        assert resumed.keys() == expected.keys()
        assert all(np.array_equal(resumed[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match=r"is of another run: penalty_weight 10.0 there, 1.0 here"):
        train(make_task(maker, penalty_weight=1.0), SCHEDULE, tmp_path / "whole", resume=True)


@pytest.mark.training
@pytest.mark.slow
def test_penalty_holds_the_critic(maker: BatchMaker) -> None:
    """Its gradient's norm stays near 1 with a penalty on every fourth step; clipped as a network's it reaches 10."""
    task = make_task(maker, adversarial_from=0, penalty_every=4)
    optimizers = {
        name: torch.optim.AdamW(module.parameters(), betas=(0.5, 0.99)) for name, module in task.modules.items()
    }
    batch = task.batch(0)[1]
    steps = [optimize(task, optimizers, (index, batch), 0.0, 1e-3, SCHEDULE) for index in range(81)]
    penalties = [figures["penalty"] for figures in steps if "penalty" in figures]
    assert len(penalties) == 21
    assert max(penalties[10:]) < 1


@pytest.mark.training
def test_both_precisions_train(maker: BatchMaker) -> None:
    for precision in ("float32", "bfloat16"):
        task = make_task(maker, adversarial_from=0)
        config = replace(SCHEDULE, precision=precision)
        optimizers = {name: torch.optim.AdamW(module.parameters()) for name, module in task.modules.items()}
        for index in range(3):
            figures = optimize(task, optimizers, task.batch(index), 0.0, 1e-3, config)
            assert all(map(np.isfinite, figures.values()))


class EasyMaker(BatchMaker):
    """Pictures of half the contrast, the same in every batch: a task that a few steps solve."""

    def __call__(self, index: int) -> Any:
        batch = super().__call__(0)
        return batch._replace(blurred=0.5 * batch.sharp + 0.25)


@pytest.mark.training
@pytest.mark.slow
def test_30_steps_lower_the_content_loss_by_half(pictures: Pictures, tmp_path: Path) -> None:
    maker = EasyMaker([pictures], replace(DATA, batch=8))
    task = EnhancementTask(initialized(EnhancementGAN, 0), initialized(Critic, 1), maker)
    before = content_of(task)
    train(task, replace(SCHEDULE, steps=30, checkpoint_every=30), tmp_path / "c")
    assert content_of(task) < 0.5 * before


def content_of(task: EnhancementTask) -> float:
    with torch.no_grad():
        return next(task.losses(task.batch(0), 0.0)).figures["content"]


@pytest.mark.training
@pytest.mark.slow
def test_paper_trains(pictures: Pictures, tmp_path: Path) -> None:
    """Its structure and losses, with four channels."""
    maker = EasyMaker([pictures], DATA)
    network = initialized(lambda: EnhancementGAN("recurrent", (4,)), 0)
    config = EnhancementConfig.paper()
    task = EnhancementTask(network, initialized(lambda: Critic(8), 1), maker, config)
    before = content_of(task)
    train(task, replace(SCHEDULE, steps=12, rate=3e-3, betas=(0.5, 0.999), average=0), tmp_path / "c")
    assert content_of(task) < 0.7 * before
