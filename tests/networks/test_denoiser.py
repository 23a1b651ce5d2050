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
from gpudeblur.networks.denoiser import training  # noqa: E402
from gpudeblur.networks.denoiser.evaluation import white_noise_psnr  # noqa: E402
from gpudeblur.networks.denoiser.levels import MIN_NOISE, STEPS, step_levels  # noqa: E402
from gpudeblur.networks.denoiser.network import Denoiser  # noqa: E402
from gpudeblur.networks.denoiser.training import (  # noqa: E402
    CAMERA_NOISE,
    DenoiserConfig,
    DenoiserTask,
    NoisyBatchMaker,
    PictureStore,
    draw_pages,
    lowpass,
    mirrored,
)
from gpudeblur.networks.denoiser.unrolled import (  # noqa: E402
    filtered,
    pnp_iterates,
    predicted,
    split_step,
    total_variation,
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
    options = {"batch": 16, "crop": 48, "pool": 8, "pages": 4, **changes}
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
    regions = store.regions(torch.tensor([0, 1]), place, 16)
    for region, picture, (top, left) in zip(regions, pictures, ((4, 0), (0, 0)), strict=True):
        padded = np.pad(picture.numpy(), ((0, 0), (0, 20), (0, 20)), "symmetric")
        expected = padded[:, top : top + 16, left : left + 16] / np.float32(255)
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
    torch.testing.assert_close((batch.noisy - batch.clear).std(dim=(1, 2, 3)), batch.sigma, rtol=0.1, atol=1e-3)
    assert float(batch.sigma.max()) <= 0.25


def test_gray_crops_have_equal_channels_and_noise() -> None:
    batch = maker(gray=1.0)(0)
    for tensor in (batch.clear, batch.noisy, batch.scene, batch.blurred):
        torch.testing.assert_close(tensor, tensor[:, :1].expand_as(tensor), rtol=0, atol=1e-5)


def test_blurred_crops_are_the_scene_with_its_kernel_and_noise() -> None:
    batch = maker(batch=32, wrong=0.0, misjudged=0.0, rounded=0.0, gray=0.0)(0)
    assert batch.scene.shape == (16, 3, 48, 48)
    assert batch.blurred.shape == (16, 3, 22, 22)
    torch.testing.assert_close(batch.kernels.sum(dim=(1, 2)), torch.ones(16))
    noise = predicted(batch.blurred, transfer_function(batch.kernels, (48, 48)), batch.scene) - filtered(
        batch.scene, transfer_function(batch.kernels, (48, 48))
    )
    level = noise[..., 13:-13, 13:-13].std(dim=(1, 2, 3))
    assert bool((level < 1.1 * batch.noise + 1e-5).all())
    is_judged = batch.noise > MIN_NOISE
    torch.testing.assert_close(level[is_judged], batch.noise[is_judged], rtol=0.1, atol=0)
    assert pytest.approx(float(batch.noise.min())) == MIN_NOISE
    assert 0.01 < float(batch.noise.max()) <= CAMERA_NOISE[1]


def test_wrong_kernels_are_near_the_right_ones() -> None:
    make = maker(batch=64, wrong=1.0)
    right, taken = make._kernels(_draw(), 200)
    for kernels in (right, taken):
        assert float(kernels.min()) >= 0
        torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(200))
    distance = (right - taken).abs().sum(dim=(1, 2))
    assert float((distance > 0.01).float().mean()) > 0.9
    assert float(distance.median()) < 0.5
    same = maker(batch=64, wrong=0.0)._kernels(_draw(), 20)
    torch.testing.assert_close(*same)
    pool = make_kernels(RestorationConfig(pool=8))
    pairs = [NoisyBatchMaker([folder("clear", (70, 90))], config, "cpu", pool, (pool[0], pool[0][::-1].copy()))
             for config in (DenoiserConfig(estimated=share, wrong=0.0, pages=4) for share in (0.0, 1.0))]  # fmt: skip
    torch.testing.assert_close(*pairs[0]._kernels(_draw(), 20))
    right, taken = pairs[1]._kernels(_draw(), 20)
    assert float((right - taken).abs().sum(dim=(1, 2)).min()) > 0.01  # the last of eight is no estimate of the first


def _draw() -> Any:
    return training._Draw(torch.device("cpu"), 0, 0)


# ------------------------------------------------------------------ steps
def observed_scene(noise: float) -> tuple[Any, Any, Any, Any]:
    """A scene, what is observed of it, its kernel and the noise."""
    make = maker(batch=2, wrong=0.0, misjudged=0.0, rounded=0.0, gray=0.0)
    kernels = make.kernels[-1:]
    scene = make.store.regions(torch.zeros(1, dtype=torch.long), torch.zeros(2, 1), 128)
    blurred = filtered(scene, transfer_function(kernels, (128, 128)))[..., 13:-13, 13:-13]
    blurred = blurred + noise * (images(*blurred.shape) - 0.5) * 12**0.5
    return scene, blurred, kernels, torch.tensor([max(noise, MIN_NOISE)])


def assert_equal_inside(a: np.ndarray, b: np.ndarray) -> None:
    """Root mean square of the difference; at the border both have other predictions of what lies beyond it."""
    inside = (..., slice(20, -20), slice(20, -20))
    assert float(np.sqrt(np.square(a[inside] - b[inside]).mean())) < 1e-3


def test_total_variation_is_that_of_the_method_tv() -> None:
    _, blurred, kernels, noise = observed_scene(0.01)
    start = torch.nn.functional.pad(blurred, (13,) * 4, mode="replicate")
    result = total_variation(blurred, transfer_function(kernels, (128, 128)), start, noise)[0, :, 13:-13, 13:-13]
    weight = gd.nonblind.regularization.WeightRule(1.34, 1.6).weight(0.01)
    expected = gd.nonblind.tv(blurred[0].numpy(), kernels[0].numpy(), weight=weight, iterations=20)
    assert_equal_inside(result.numpy(), expected)


def test_the_steps_are_those_of_the_method_pnp() -> None:
    """With a denoiser that smooths as much as the level says."""

    def smooth(x: Any, level: Any) -> Any:
        return filtered(x, lowpass(10 * level.reshape(-1), (x.shape[-2], x.shape[-1])))

    _, blurred, kernels, noise = observed_scene(0.01)
    *_, last = pnp_iterates(smooth, blurred, kernels, noise)
    result = gd.nonblind.pnp(blurred[0].numpy(), kernels[0].numpy(), weight=1e-4, color=True, denoiser=smooth)
    assert_equal_inside(last[0, :, 13:-13, 13:-13].numpy(), result)
    assert float(abs(result - blurred[0].numpy()).max()) > 0.05


def test_levels_fall_and_grow_with_the_noise() -> None:
    levels = step_levels(torch.tensor([0.0025, 0.05]))
    assert len(levels) == STEPS
    assert bool((torch.stack(levels).diff(dim=0) < 0).all())
    assert bool(torch.stack(levels).diff(dim=1).gt(0).all())


# ------------------------------------------------------------------ training
def test_training_lowers_the_loss_and_removes_noise(tmp_path: Path) -> None:
    network = initialized(lambda: Denoiser((8, 8, 8), (1,) * 5), 0)
    task = DenoiserTask(network, maker(batch=4, crop=40))
    config = TrainConfig(steps=25, rate=4e-3, warm_up=5, average=0.8)
    seen: list[float] = []
    train(task, config, tmp_path / "c.safetensors", progress=lambda *_: seen.append(loss(task)) if not seen else None)
    assert loss(task) < seen[0] - 0.3  # log10, with the weights of the steps


def loss(task: DenoiserTask) -> float:
    """Of a batch that is not trained on."""
    with torch.no_grad():
        return float(next(task.losses(task.batch(1000), 1.0)).value)


def test_psnr_of_white_noise() -> None:
    held = folder("held", (40, 40), (300, 30)).images
    new = initialized(Denoiser, 0)  # changes nothing
    for gray in (False, True):
        assert white_noise_psnr(new, held, 0.1, gray=gray) == pytest.approx(20, abs=0.2)
