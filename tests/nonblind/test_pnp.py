"""Laws of plug-and-play restoration, and what is asked of a user's denoiser."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from skimage import data

torch = pytest.importorskip("torch")

from laws import assert_close, assert_same  # noqa: E402

import gpudeblur as gd  # noqa: E402
from gpudeblur import nonblind  # noqa: E402
from gpudeblur.metrics import psnr  # noqa: E402
from gpudeblur.networks import bridge  # noqa: E402
from gpudeblur.networks.denoiser.levels import step_levels  # noqa: E402
from gpudeblur.nonblind.blurring import Uniform, Varying  # noqa: E402
from gpudeblur.nonblind.methods.pnp import LIMIT, RANGE, bundled_denoiser, denoise, quadratic_step  # noqa: E402
from gpudeblur.numerics.fourier import rfft2  # noqa: E402
from gpudeblur.synthesis import trajectory_kernel  # noqa: E402

KERNEL = trajectory_kernel(9, rng=3)
COLOR = data.astronaut()[60:164, 170:274] / 255
GRAY = data.camera()[100:204, 180:284] / 255


def blurred(scene: np.ndarray, noise: float = 0.01, kernel: np.ndarray = KERNEL) -> np.ndarray:
    """The valid part of a scene (H, W) or (H, W, C), with noise, float32."""
    from scipy.signal import fftconvolve

    kernel = kernel if scene.ndim == 2 else kernel[..., None]
    image = fftconvolve(scene, kernel, "valid", axes=(0, 1))
    return (image + noise * np.random.default_rng(0).standard_normal(image.shape)).astype(np.float32)


def inside(scene: np.ndarray) -> np.ndarray:
    return scene[4:-4, 4:-4]


def identity(images: Any, level: Any) -> Any:
    return images


# ---- equations
@pytest.mark.parametrize("kind", ["uniform", "varying"])
@pytest.mark.parametrize("has_holes", [False, True])
def test_the_quadratic_step_zeros_the_gradient(kind: str, has_holes: bool) -> None:
    """K^T M (K x - B) + c (x - z) = 0, on the pixels that are compared."""
    rng = np.random.default_rng(0)
    image, c = rng.random((20, 23)), 0.3
    kernel = trajectory_kernel(5, rng=1)
    field = gd.KernelField(np.stack([kernel, kernel.T]).reshape(1, 2, 5, 5), image.shape)
    operator = Uniform(image, kernel) if kind == "uniform" else Varying(image, field)
    z = rng.random(operator.grid)
    size = z.size
    compared = (rng.random(image.shape) > 0.3).astype(float) if has_holes else None
    data = operator.adjoint((image if compared is None else image * compared) * size**-0.5)
    x = quadratic_step(operator, data, rfft2(z) / size, c, compared, 60)
    misfit = operator.blur(rfft2(x) / size) - image * size**-0.5
    gradient = operator.adjoint(misfit if compared is None else misfit * compared) + c * rfft2(x - z) / size
    assert_close(abs(gradient), np.zeros(gradient.shape), atol=1e-9)


def test_without_a_denoiser_the_steps_approach_the_data() -> None:
    """With D = 1 the steps take the prior of "tv" back: without noise that is nearer to the truth."""
    image = blurred(GRAY, 0.0)
    tv = nonblind.tv(image, KERNEL, weight=1.34 * 1e-2**1.6)
    result = nonblind.pnp(image, KERNEL, weight=1e-4, denoiser=identity)
    assert psnr(result, inside(GRAY)) > psnr(tv, inside(GRAY))


def test_the_denoiser_gets_the_levels_and_both_libraries_one_memory() -> None:
    levels, shapes = [], []

    def watched(images: Any, level: Any) -> Any:
        levels.append(float(level[0, 0, 0, 0]))
        shapes.append((tuple(images.shape[:2]), tuple(level.shape)))
        return images

    nonblind.pnp(blurred(GRAY), KERNEL, weight=1e-4, denoiser=watched)
    assert levels == pytest.approx(step_levels(0.01), rel=1e-5)
    assert {*shapes} == {((1, 1), (1, 1, 1, 1))}
    array = np.zeros((2, 4, 5), np.float32)
    assert bridge.to_torch(array).data_ptr() == array.ctypes.data
    tensor = torch.zeros(2, 4, 5)
    assert bridge.from_torch(tensor, array).ctypes.data == tensor.data_ptr()


def test_lights_stay_and_no_pixel_changes_by_more_than_its_level() -> None:
    images = np.full((1, 8, 8), 0.5, np.float32)
    images[0, 4, 4] = 100.0
    out = denoise(images, 0.01, lambda x, level: x - 1, False, check=True)
    assert_close(out, images - np.float32(LIMIT * 0.01), atol=1e-5)
    largest: list[float] = []

    def watched(x: Any, level: Any) -> Any:
        largest.append(float(x.max()))
        return x

    denoise(images, 0.01, watched, False, check=True)
    assert largest == [RANGE[1]]


# ---- with the denoiser of the package
@pytest.mark.parametrize(("noise", "gain"), [(0.0, 0.5), (0.01, 0.7), (0.05, 0.1)])
def test_it_restores_more_than_total_variation(noise: float, gain: float) -> None:
    image = blurred(GRAY, noise)
    tv, pnp = (psnr(gd.deconvolve(image, KERNEL, method=method), inside(GRAY)) for method in ("tv", "pnp"))
    assert pnp > tv + gain


def test_colors_are_restored_together() -> None:
    image = blurred(COLOR, 0.03)
    together = gd.deconvolve(image, KERNEL, method="pnp", channel_axis=-1)
    alone = np.stack([gd.deconvolve(image[..., c], KERNEL, method="pnp") for c in range(3)], axis=-1)
    assert psnr(together, inside(COLOR)) > psnr(alone, inside(COLOR)) + 0.5


def test_gray_is_three_equal_channels() -> None:
    image = blurred(GRAY)
    gray = gd.deconvolve(image, KERNEL, method="pnp")
    color = gd.deconvolve(np.repeat(image[..., None], 3, axis=-1), KERNEL, method="pnp", channel_axis=-1)
    assert float(np.sqrt(np.square(color - gray[..., None]).mean())) < 2e-3  # a network's channels are not alike


def test_a_stack_in_color_is_a_loop() -> None:
    stack = np.stack([blurred(COLOR, noise) for noise in (0.0, 0.02)])[:, :40, :44]
    out = gd.deconvolve(stack, KERNEL, method="pnp", channel_axis=-1)
    for image, expected in zip(stack, out, strict=True):
        assert_same(gd.deconvolve(image, KERNEL, method="pnp", channel_axis=-1), expected)


def test_flips_change_the_quality_little() -> None:
    """By up to 0.15 dB here, and more in smaller images: a network's result is another one for a mirror image."""
    scene = data.camera()[100:308, 180:388] / 255
    image, values = blurred(scene), []
    for rows, columns in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        out = gd.deconvolve(image[::rows, ::columns].copy(), KERNEL[::rows, ::columns], method="pnp")
        values.append(psnr(out, inside(scene)[::rows, ::columns]))
    assert max(values) - min(values) < 0.25


def test_tiles_are_the_whole() -> None:
    image = blurred(data.camera()[:208, 100:308] / 255)
    whole = gd.deconvolve(image, KERNEL, method="pnp", noise_sigma=0.01)
    tiles = gd.deconvolve(image, KERNEL, method="pnp", noise_sigma=0.01, tile=100)
    assert float(np.sqrt(np.square(tiles - whole)[20:-20, 20:-20].mean())) < 5e-4


def test_deblur_ends_in_it() -> None:
    image = blurred(COLOR)
    sparse, pnp = (gd.deblur(image, 9, final=final, channel_axis=-1) for final in ("sparse", "pnp"))
    assert_same(sparse.kernel, pnp.kernel)
    assert pnp.info["final"] == "pnp"
    assert not np.array_equal(sparse.image, pnp.image)


# ---- a user's denoiser
def writes_in_place(images: Any, level: Any) -> Any:
    return images.mul_(0.9)


@pytest.mark.parametrize(
    ("denoiser", "error", "message"),
    [
        (lambda x, s: x[..., 1:], ValueError, "module must return the shape that it gets"),
        (lambda x, s: x * float("nan"), ValueError, "module must return finite numbers, got NaN or infinity"),
        (lambda x, s: x.double(), ValueError, "module must return torch.float32 on cpu, as it gets, got torch.float64"),
        (lambda x, s: x.numpy(), ValueError, "module must return a tensor, got ndarray"),
        (lambda x: x, ValueError, "module must take gray pictures"),
        ("drunet", TypeError, "denoiser must be callable, got str; pass a torch.nn.Module"),
    ],
)
def test_bad_denoisers_are_refused(denoiser: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nonblind.pnp(blurred(GRAY)[:30, :30], KERNEL, denoiser=denoiser)


def test_a_denoiser_that_writes_in_place_writes_into_no_array_of_the_caller() -> None:
    image, kernel = blurred(GRAY)[:40, :40], KERNEL.copy()
    before = image.copy(), kernel.copy()
    nonblind.pnp(image, kernel, denoiser=writes_in_place)
    assert_same(image, before[0])
    assert_same(kernel, before[1])


def test_color_needs_three_channels() -> None:
    with pytest.raises(ValueError, match=r"color must be False where axis -3 has no three colors, got a stack \(2,\)"):
        nonblind.pnp(np.ones((2, 20, 20), np.float32), KERNEL, color=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda image: gd.deconvolve(image, KERNEL, method="pnp"),
        lambda image: gd.deblur(image, 9, final="pnp"),
        lambda image: gd.deblur_batch([image], 9, final="pnp"),
        lambda image: nonblind.pnp(image, KERNEL),
    ],
)
def test_without_torch_it_says_what_to_install(call: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bundled_denoiser.cache_clear()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"a network needs PyTorch, .* pip install 'gpudeblur\[torch\]'"):
        call(blurred(GRAY))
