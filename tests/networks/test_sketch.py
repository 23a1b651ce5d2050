"""Laws of the sketch network: its closed forms are the library's own, and differentiable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpudeblur import nonblind  # noqa: E402
from gpudeblur.blind import kernel_step  # noqa: E402
from gpudeblur.networks.blocks import initialized, parameter_count  # noqa: E402
from gpudeblur.networks.sketch import steps  # noqa: E402
from gpudeblur.networks.sketch.network import Sketch, luminance  # noqa: E402
from gpudeblur.networks.sketch.training import SketchTask, fit_side  # noqa: E402
from gpudeblur.networks.training.data import BatchMaker, Pictures, RestorationConfig  # noqa: E402
from gpudeblur.networks.training.trainer import TrainConfig, train  # noqa: E402
from gpudeblur.networks.weights import read_weights  # noqa: E402
from gpudeblur.numerics import toeplitz  # noqa: E402
from gpudeblur.numerics.filters import gradient, gradient_adjoint  # noqa: E402
from gpudeblur.numerics.fourier import rfft2  # noqa: E402
from gpudeblur.synthesis import blur, trajectory_kernel  # noqa: E402


def picture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Rectangles of random brightness, float64."""
    rng, image = np.random.default_rng(seed), np.zeros(shape)
    for _ in range(40):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, n + 1, 2)) for n in shape)
        image[top:bottom, left:right] = rng.random()
    return image


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def tensor(array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))[None]


def test_kernel_equations_are_those_of_the_kernel_step() -> None:
    side, shape = 7, (40, 36)
    latent, blurred = np.zeros(shape), np.zeros(shape)  # a border of zeros: nothing wraps in the library's either
    latent[8:30, 8:28], weight = picture((22, 20)), np.random.default_rng(1).random(shape)
    blurred[8:30, 8:28] = picture((22, 20), 2)
    gx, gy = gradient(latent)
    selected = gradient_adjoint(weight * gx, weight * gy)
    expected = kernel_step.normal_equations(selected, latent, rfft2(blurred), (side, side))
    matrix, correlation = steps.normal_equations(tensor(latent), tensor(blurred), tensor(weight), side)
    np.testing.assert_allclose(correlation[0], expected[1], atol=1e-10)
    # The projection to positive spectra acts on grids of different sizes; without it both are the same sums.
    assert np.abs(matrix[0].numpy() - expected[0]).max() < 0.05 * expected[0].max()


def test_uniform_weights_give_the_autocorrelation_of_the_kernel_step_exactly() -> None:
    side, shape, latent = 7, (40, 36), np.zeros((40, 36))
    latent[8:30, 8:28] = picture((22, 20))
    expected, _ = kernel_step.normal_equations(
        gradient_adjoint(*gradient(latent)), latent, rfft2(latent), (side, side)
    )  # fmt: skip
    matrix, _ = steps.normal_equations(tensor(latent), tensor(latent), torch.ones(1, *shape), side)
    np.testing.assert_allclose(matrix[0], expected, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 5, 30])
def test_conjugate_gradients_are_those_of_the_library(iterations: int) -> None:
    side, latent = 5, picture((30, 26))
    uniform = torch.ones(1, 1, 1)
    matrix, correlation = steps.normal_equations(tensor(latent), tensor(picture((30, 26), 3)), uniform, side)
    ridge = 0.01 * matrix[:, side - 1, side - 1]
    a, b = matrix.numpy(), correlation.numpy()
    expected = toeplitz.toeplitz_cg(a, b, np.zeros((1, side, side)), ridge.numpy(), iterations)
    kernel = steps.toeplitz_cg(matrix, correlation, ridge, iterations)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(64, 60), (51, 47)])
def test_kernel_of_the_true_sharp_picture_is_the_true_kernel(shape: tuple[int, int]) -> None:
    kernel, sharp = trajectory_kernel(9, rng=4), picture(shape)
    periodic = blur(sharp, kernel, mode="wrap")
    found = steps.kernel_fft(tensor(sharp), tensor(periodic), torch.tensor(1e-9, dtype=torch.float64), 9)
    # Gradients do not determine the mean of k over the picture.
    np.testing.assert_allclose(found[0] + (1 - found.sum()) / 81, kernel, atol=1e-6)

    weight = np.zeros(shape)
    weight[6:-6, 6:-6] = 1  # the kernel reaches 4 pixels, and the photograph is not periodic
    same = blur(sharp, kernel, mode="same")
    matrix, correlation = steps.normal_equations(tensor(sharp), tensor(same), tensor(weight), 9)
    found = steps.toeplitz_cg(matrix, correlation, 1e-6 * matrix[:, 8, 8], 300)
    # Not exactly, since the matrix is made symmetric and positive.
    assert similarity(steps.normalize_kernel(found)[0].numpy(), kernel) > 0.98


def test_circular_kernel_step_solves_its_normal_equations() -> None:
    sharp, blurred, beta = picture((24, 20)), picture((24, 20), 1), 0.3
    full = steps.kernel_fft(tensor(sharp), tensor(blurred), torch.tensor(beta, dtype=torch.float64), 19)
    grid = np.zeros((24, 20))
    # Eq. 9 on all lags, by the definition: (sum |F D s|^2 + beta) F k = sum conj(F D s) F D y.
    spectra = [np.fft.fft2(np.stack([np.roll(x, -1, a) - x for a in (0, 1)])) for x in (sharp, blurred)]
    numerator = (spectra[0].conj() * spectra[1]).sum(axis=0)
    grid = np.fft.ifft2(numerator / ((np.abs(spectra[0]) ** 2).sum(axis=0) + beta)).real
    expected = np.roll(grid, (9, 9), (0, 1))[:19, :19]
    np.testing.assert_allclose(full[0], expected, atol=1e-10)


def test_scaled_sketch_gives_the_same_kernel() -> None:
    sharp, blurred = tensor(picture((40, 40))), tensor(picture((40, 40), 1))
    kernels = []
    for scale in (1.0, 3.0):
        matrix, correlation = steps.normal_equations(scale * sharp, blurred, torch.ones(1, 1, 1), 9)
        found = steps.toeplitz_cg(matrix, correlation, 0.01 * matrix[:, 8, 8], 20)
        kernels.append(steps.normalize_kernel(found))
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-8)


def test_picture_step_is_the_wiener_filter_with_periodic_borders() -> None:
    kernel, gamma = trajectory_kernel(7, rng=2), 0.01
    blurred = picture((30, 34))
    expected = nonblind.wiener(blurred, kernel, weight=gamma, prior="identity", boundary="wrap")
    found = steps.wiener(tensor(blurred)[:, None], tensor(kernel), torch.tensor(gamma, dtype=torch.float64))
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def test_corrected_picture_is_the_wiener_filter_of_the_residual() -> None:
    kernel, blurred = tensor(trajectory_kernel(7, rng=2)), tensor(picture((30, 34)))[:, None]
    again = tensor(blur(blurred[0, 0].numpy(), kernel[0].numpy(), mode="wrap"))[:, None]
    for gamma, start in zip((0.01, 0.3), steps.corrected(blurred, kernel, torch.tensor([0.01, 0.3])), strict=True):
        expected = blurred + steps.wiener(blurred - again, kernel, torch.tensor(gamma, dtype=torch.float32))
        np.testing.assert_allclose(start, expected, atol=1e-6)


def test_delta_without_regularization_changes_nothing() -> None:
    blurred, delta = tensor(picture((30, 34)))[:, None], torch.zeros(1, 5, 5, dtype=torch.float64)
    delta[:, 2, 2] = 1
    np.testing.assert_allclose(steps.wiener(blurred, delta, torch.tensor(0.0)), blurred, atol=1e-12)
    padded = steps.periodic_border(blurred, delta)
    np.testing.assert_allclose(padded[..., 2:32, 2:36], blurred, atol=1e-12)


def test_taper_makes_the_border_periodic() -> None:
    kernel = torch.full((1, 5, 5), 1 / 25, dtype=torch.float64)
    padded = steps.periodic_border(tensor(np.outer(np.linspace(0, 1, 40), np.ones(40)))[:, None], kernel)
    steps_across = (padded[..., 0, :] - padded[..., -1, :]).abs().max()
    assert float(steps_across) < 0.5  # 1 without the taper


def test_all_steps_are_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    sketch = torch.rand(1, 12, 14, generator=generator, dtype=torch.float64, requires_grad=True)
    blurred = torch.rand(1, 12, 14, generator=generator, dtype=torch.float64)
    weight = torch.rand(1, 12, 14, generator=generator, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)

    def default(sketch: Any, weight: Any, beta: Any) -> Any:
        matrix, correlation = steps.normal_equations(sketch, blurred, weight, 5)
        kernel = steps.normalize_kernel(steps.toeplitz_cg(matrix, correlation, beta * matrix[:, 4, 4], 4))
        return steps.wiener(blurred[:, None], kernel, beta)

    def paper(sketch: Any, beta: Any) -> Any:
        return steps.wiener(blurred[:, None], steps.normalize_kernel(steps.kernel_fft(sketch, blurred, beta, 5)), beta)

    assert torch.autograd.gradcheck(default, (sketch, weight, beta))
    assert torch.autograd.gradcheck(paper, (sketch, beta))


@pytest.mark.parametrize("shape", [(16, 16), (17, 31), (64, 50), (131, 96)])
def test_a_new_network_changes_nothing_and_has_a_kernel(shape: tuple[int, int]) -> None:
    network = initialized(Sketch, 0)
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image, kernel = network(images)
    assert image.shape == images.shape
    assert kernel.shape == (2, 27, 27)
    assert float(kernel.min()) >= 0
    np.testing.assert_allclose(kernel.sum(dim=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(image, images, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_array_equal(network.estimate_kernel(images), kernel)
        alone = [network(images[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(image, torch.cat([picture for picture, _ in alone]), atol=1e-5)


def test_paper_has_the_layers_of_figure_3() -> None:
    network = Sketch.paper()
    assert parameter_count(network.generator) == 9_418_113
    assert parameter_count(network.artifacts) == 1_943_310
    convolutions = [m for m in network.generator.modules() if isinstance(m, torch.nn.Conv2d)]
    transposed = [m for m in network.generator.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert (len(convolutions), len(transposed)) == (10 + 2 * 6, 2)
    with torch.no_grad():
        image, kernel = network(torch.rand(1, 3, 67, 83))
    assert image.shape == (1, 3, 67, 83)
    assert kernel.shape == (1, 51, 51)


def test_flat_picture_has_a_delta_and_stays() -> None:
    network, images = initialized(Sketch, 0), torch.full((1, 3, 40, 40), 0.4)
    with torch.no_grad():
        image, kernel = network(images)
    assert torch.isfinite(image).all()
    assert float(kernel[0, 13, 13]) == 1


def test_delta_kernel_keeps_a_sharp_picture() -> None:
    network, images = initialized(Sketch, 0), torch.rand(1, 3, 40, 36, generator=torch.Generator().manual_seed(2))
    delta = torch.zeros(1, 27, 27)
    delta[:, 13, 13] = 1
    for start in network.wiener(images, delta):
        np.testing.assert_allclose(start.detach(), images, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(network.restore(images, delta), images, atol=1e-5)


def test_kernels_are_padded_and_cropped_around_the_middle() -> None:
    kernel = torch.arange(25.0).reshape(1, 5, 5)
    assert fit_side(kernel, 9)[0, 4, 4] == kernel[0, 2, 2]
    assert torch.equal(fit_side(fit_side(kernel, 9), 5), kernel)


def small_task(stages: tuple[float, float], layout: str = "default") -> SketchTask:
    faces = [torch.from_numpy(np.stack([(255 * picture((72, 72), seed)).astype(np.uint8)] * 3)) for seed in range(8)]
    config = RestorationConfig(
        batch=4, crop=(40, 48), kernels=(5, 9), pool=40, natural=0, noise=0.0, jpeg=0, linear_light=0, sharp=0
    )

    def make() -> Sketch:
        if layout == "paper":
            return Sketch("paper", (8,), (), (8,), (), 11)
        return Sketch("default", (8, 8, 8), (1,) * 5, (8, 8, 8), (1,) * 5, 11)

    return SketchTask(initialized(make, 0), BatchMaker([Pictures(Path("faces"), faces, [])], config), stages)


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["default", "paper"])
def test_training_finds_better_kernels_and_pictures(layout: str, tmp_path: Any) -> None:
    task, lines = small_task((0.5, 0.8), layout), []
    config = TrainConfig(steps=120, rate=3e-3, warm_up=10, average=0)
    train(task, config, tmp_path / "c.safetensors", progress=lambda _, share, figures: lines.append(dict(figures)))
    assert lines[58]["similarity"] > lines[9]["similarity"]
    last = "gain_1" if layout == "paper" else "gain_2"
    assert lines[-1][last] > lines[70][last]


def test_resumed_training_is_the_same_in_every_stage(tmp_path: Any) -> None:
    config = TrainConfig(steps=6, checkpoint_every=2, warm_up=2)
    paths = [tmp_path / f"{name}.safetensors" for name in ("whole", "parts")]
    train(small_task((0.34, 0.67)), config, paths[0])
    for stop in (1, 3, 6):
        train(small_task((0.34, 0.67)), config, paths[1], resume=True, progress=lambda n, *_, end=stop: n == end)
    whole, parts = (read_weights(path)[0] for path in paths)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_luminance_is_that_of_the_library() -> None:
    from gpudeblur.images.planes import luminance as expected

    images = np.random.default_rng(0).random((2, 3, 5, 4))
    np.testing.assert_allclose(luminance(torch.from_numpy(images)), expected(images), atol=1e-12)
