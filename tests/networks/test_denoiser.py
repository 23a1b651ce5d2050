"""Laws of the denoiser, of the noise that it is trained on, and of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gpudeblur as gd  # noqa: E402
from gpudeblur.networks.blocks import initialized, parameter_count  # noqa: E402
from gpudeblur.networks.catalog import load_network, write_network  # noqa: E402
from gpudeblur.networks.denoiser.evaluation import white_noise_psnr  # noqa: E402
from gpudeblur.networks.denoiser.network import Denoiser  # noqa: E402
from gpudeblur.networks.denoiser.training import (  # noqa: E402
    MAX_STEP_SIGMA,
    MIN_SIGMA,
    DenoiserConfig,
    DenoiserTask,
    NoisyBatchMaker,
    PictureStore,
    draw_pages,
    filtered,
    lowpass,
    mirrored,
    split_step,
    transfer_function,
)
from gpudeblur.networks.training.data import RestorationConfig, make_kernels  # noqa: E402
from gpudeblur.networks.training.pictures import Pictures  # noqa: E402
from gpudeblur.networks.training.trainer import TrainConfig, train  # noqa: E402


def images(*shape: int, seed: int = 0) -> Any:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def random_network(seed: int = 0) -> Any:
    """A small network that changes pictures."""
    network = initialized(lambda: Denoiser((8, 8, 8), (1,) * 5), seed)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.1 * (images(*parameter.shape, seed=number) - 0.5)
    return network.eval()


def folder(name: str, *shapes: tuple[int, int]) -> Pictures:
    """Smooth random pictures, bytes."""
    pictures = []
    for seed, shape in enumerate(shapes):
        smooth = filtered(images(1, 3, *shape, seed=seed), lowpass(torch.full((1,), 3.0), shape))[0]
        pictures.append((255 * (0.5 + 4 * (smooth - 0.5)).clamp(0, 1)).to(torch.uint8))
    return Pictures(Path(name), pictures, [])


def maker(**changes: Any) -> NoisyBatchMaker:
    options = {"batch": 16, "crop": 32, "margin": 16, "pool": 8, "pages": 4, **changes}
    return NoisyBatchMaker([folder("clear", (70, 90), (90, 70)), folder("faces", (40, 30))], DenoiserConfig(**options))


# ------------------------------------------------------------------ network
def test_denoiser_is_small_and_has_no_biases() -> None:
    assert parameter_count(Denoiser()) <= 1_500_000
    assert all(parameter.ndim == 4 for parameter in Denoiser().parameters())


def test_a_new_denoiser_changes_nothing() -> None:
    x = images(2, 3, 24, 19)
    with torch.no_grad():
        assert torch.equal(initialized(Denoiser, 0)(x, 0.1), x)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (5, 8), (7, 30), (17, 31)])
def test_any_size(shape: tuple[int, int]) -> None:
    x = images(2, 3, *shape)
    with torch.no_grad():
        result = random_network()(x, 0.1)
    assert result.shape == x.shape
    assert bool(torch.isfinite(result).all())


def test_denoiser_is_homogeneous() -> None:
    x, network = images(1, 3, 24, 24), random_network()
    with torch.no_grad():
        torch.testing.assert_close(network(3 * x, 0.3), 3 * network(x, 0.1), rtol=1e-4, atol=1e-5)


def test_levels_are_numbers_or_one_a_picture() -> None:
    x, network = images(2, 3, 16, 16), random_network()
    with torch.no_grad():
        each = network(x, torch.tensor([0.1, 0.3]))
        torch.testing.assert_close(network(x, torch.tensor([0.1, 0.3]).reshape(2, 1, 1, 1)), each)
        for row, sigma in enumerate((0.1, 0.3)):
            torch.testing.assert_close(network(x[row : row + 1], sigma), each[row : row + 1])
        assert not torch.allclose(network(x, 0.1)[1], each[1])


def test_gray_is_three_equal_channels_and_their_mean() -> None:
    x, network = images(2, 1, 16, 16), random_network()
    with torch.no_grad():
        color = network(x.expand(-1, 3, -1, -1), 0.1)
        torch.testing.assert_close(network(x, 0.1), color.mean(dim=1, keepdim=True))


def test_denoiser_is_the_step_of_a_prior() -> None:
    image = images(20, 20).numpy()
    result = gd.priors.DenoiserPrior(random_network()).step(image, 0.02)
    with torch.no_grad():
        expected = random_network()(torch.from_numpy(image)[None, None], 0.1)[0, 0].numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_weights_pass_through_a_file(tmp_path: Path) -> None:
    network = random_network().half().float()
    write_network(tmp_path / "d.safetensors", network, network.state_dict())
    with torch.no_grad():
        x = images(1, 3, 16, 16)
        assert torch.equal(load_network("denoiser", tmp_path / "d.safetensors")(x, 0.1), network(x, 0.1))


# ------------------------------------------------------------------ data
def test_regions_are_those_of_the_pictures_mirrored_outside() -> None:
    pictures = folder("clear", (20, 30), (12, 10)).images
    store = PictureStore(pictures, torch.device("cpu"))
    place = torch.tensor([[0.99, 0.0], [0.0, 0.5]])
    regions = store.regions(torch.tensor([0, 1]), place, 16, 4)
    for region, picture, (top, left) in zip(regions, pictures, ((4, 0), (0, 0)), strict=True):
        padded = np.pad(picture.numpy(), ((0, 0), (4, 20), (4, 20)), "symmetric")
        expected = padded[:, top : top + 24, left : left + 24] / np.float32(255)
        np.testing.assert_allclose(region, expected, atol=1e-6)
    assert mirrored(torch.arange(-3, 7), torch.tensor(3)).tolist() == [2, 1, 0, 0, 1, 2, 2, 1, 0, 0]


def test_pages_hold_dark_and_light_text() -> None:
    pages = torch.stack(draw_pages(26)).float()
    assert float(pages.std(dim=(1, 2, 3)).min()) > 15  # each font has the letters
    assert bool((pages[0::2].median(dim=-1)[0].mean(dim=(1, 2)) > 150).all())
    assert bool((pages[1::2].median(dim=-1)[0].mean(dim=(1, 2)) < 110).all())


def test_split_step_zeros_the_gradient() -> None:
    kernels, _ = make_kernels(RestorationConfig(pool=8))
    otf = transfer_function(torch.from_numpy(kernels[-2:]).double(), (32, 40))
    y, x0, mu = images(2, 3, 32, 40).double(), images(2, 3, 32, 40, seed=1).double(), 0.03
    x = split_step(y, otf, x0, mu)
    gradient = filtered(filtered(x, otf) - y, otf.conj()) + mu * (x - x0)
    assert float(gradient.abs().max()) < 1e-12
    torch.testing.assert_close(split_step(y, otf, x0, 1e9), x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(split_step(filtered(x0, otf), otf, x0, 0.1), x0)


def test_transfer_function_of_a_delta_is_one() -> None:
    kernel = torch.zeros(1, 5, 5)
    kernel[0, 2, 2] = 1
    otf = transfer_function(kernel, (16, 18))
    torch.testing.assert_close(otf, torch.ones_like(otf))
    assert float(lowpass(torch.zeros(1), (8, 8)).min()) == 1


def test_a_batch_depends_on_its_index_alone() -> None:
    make = maker()
    first, other = make(3), make(4)
    for a, b in zip(make(3), first, strict=True):
        assert a == b if isinstance(a, int) else torch.equal(a, b)
    assert not torch.equal(first.clear, other.clear)


def test_white_noise_has_its_level() -> None:
    batch = maker(batch=32, gray=0.0)(0)
    noise = (batch.noisy - batch.clear)[:16]
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)), batch.sigma[:16], rtol=0.1, atol=1e-3)
    assert float(batch.sigma[:16].max()) <= 0.25


def test_gray_crops_have_equal_channels_and_noise() -> None:
    batch = maker(gray=1.0)(0)
    for tensor in (batch.clear, batch.noisy):
        torch.testing.assert_close(tensor, tensor[:, :1].expand_as(tensor), rtol=0, atol=1e-5)


def test_residues_are_near_the_clear_crops() -> None:
    make = maker(batch=64, wrong=0.0)
    residues, levels = [], []
    for index in range(4):
        batch = make(index)
        assert batch.clear.shape == batch.noisy.shape == (64, 3, 32, 32)
        assert bool(torch.isfinite(batch.noisy).all())
        residues.append((batch.noisy - batch.clear)[32:].square().mean(dim=(1, 2, 3)).sqrt())
        levels.append(batch.sigma[32:])
    residue, level = torch.cat(residues), torch.cat(levels)
    assert MIN_SIGMA <= float(level.min()) < float(level.max()) <= MAX_STEP_SIGMA
    assert float(residue[level < 0.02].mean()) < 0.03  # nearly what the step began with
    assert float(residue.max()) < 0.3


# ------------------------------------------------------------------ training
def test_training_lowers_the_loss_and_removes_noise(tmp_path: Path) -> None:
    network = initialized(lambda: Denoiser((16, 16, 16), (1,) * 5), 0)
    task = DenoiserTask(network, maker(batch=8))
    config = TrainConfig(steps=41, rate=4e-3, warm_up=5, average=0.9)
    seen: list[float] = []
    train(task, config, tmp_path / "c.safetensors", progress=lambda *_: seen.append(loss(task)) if not seen else None)
    assert loss(task) < 0.85 * seen[0]


def loss(task: DenoiserTask) -> float:
    """Of a batch that is not trained on."""
    with torch.no_grad():
        return float(next(task.losses(task.batch(1000), 1.0)).value)


def test_psnr_of_white_noise() -> None:
    held = folder("held", (40, 40), (300, 30)).images
    new = initialized(Denoiser, 0)  # changes nothing
    for gray in (False, True):
        assert white_noise_psnr(new, held, 0.1, gray=gray) == pytest.approx(20, abs=0.2)
