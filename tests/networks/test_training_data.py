"""Laws of the training data of the restoring networks: blur, kernels, degradation, folders, JPEG."""

from __future__ import annotations

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from gpudeblur import synthesis

torch = pytest.importorskip("torch")

from gpudeblur.networks.training.data import (  # noqa: E402
    BatchMaker,
    RestorationConfig,
    blur,
    load_pictures,
    make_kernels,
    symmetric_pad,
)
from gpudeblur.networks.training.jpeg import compress  # noqa: E402
from gpudeblur.networks.training.losses import charbonnier, psnr_gain, spectral, total_variation  # noqa: E402
from gpudeblur.networks.training.pictures import Pictures  # noqa: E402

# No degradation but the blur.
PLAIN: dict[str, Any] = {
    "noise": 0, "jpeg": 0, "rounded": 0, "saturated": 0, "sharp": 0, "linear_light": 0, "mirrored": 0, "gray": 0,
    "natural": 0,
}  # fmt: skip
CONFIG = RestorationConfig(batch=4, crop=(24, 40), kernels=(3, 9), pool=16, **PLAIN)
POOL = make_kernels(CONFIG)


def pictures(name: str, level: int | None = None, shape: tuple[int, int] = (64, 72), count: int = 2) -> Pictures:
    """Of a photograph, or of one level."""
    images = []
    for index in range(count):
        pixels = astronaut()[20 * index : 20 * index + shape[0], 180 : 180 + shape[1]].copy()
        pixels[:] = pixels if level is None else level
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return Pictures(Path(name), images, [])


FACES, DARK = pictures("faces"), pictures("dark", 20)


def maker(*folders: Pictures, **changes: Any) -> BatchMaker:
    config = replace(CONFIG, **changes)
    same_pool = all(getattr(config, name) == getattr(CONFIG, name) for name in ("seed", "kernels", "pool"))
    return BatchMaker(folders or (FACES,), config, kernels=POOL if same_pool else None)


def batches(make: BatchMaker, count: int = 20) -> list[Any]:
    return [make(index) for index in range(count)]


# ------------------------------------------------------------------ blur and kernels
@pytest.mark.parametrize(("shape", "side"), [((20, 31), 5), ((33, 24), 11), ((9, 9), 9)])
def test_blur_is_that_of_synthesis(shape: tuple[int, int], side: int) -> None:
    rng = np.random.default_rng(0)
    images, kernels = rng.random((2, 3, *shape), np.float32), rng.random((2, side, side), np.float32)
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    blurred = blur(torch.from_numpy(images), torch.from_numpy(kernels))
    r = side // 2
    mirrored = blur(symmetric_pad(torch.from_numpy(images), r), torch.from_numpy(kernels))
    for number in range(2):
        expected = synthesis.blur(images[number], kernels[number])
        np.testing.assert_allclose(blurred[number], expected, atol=1e-5)
        expected = synthesis.blur(images[number], kernels[number], mode="same")
        np.testing.assert_allclose(mirrored[number], expected, atol=1e-5)


def test_kernels_are_odd_centered_and_sum_to_one() -> None:
    kernels, sides = make_kernels(RestorationConfig(pool=60, kernels=(5, 27)))
    assert kernels.shape == (60, 27, 27)
    assert kernels.dtype == np.float32
    assert (kernels >= 0).all()
    assert (sides % 2 == 1).all()
    assert (sides[0], sides.max() <= 27) == (5, True)
    assert (np.diff(sides) >= 0).all()
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 1, atol=1e-5)
    grid = np.arange(27) - 13
    offsets = np.hypot((kernels.sum(axis=2) * grid).sum(axis=1), (kernels.sum(axis=1) * grid).sum(axis=1))
    assert offsets.max() < 2.5  # where the support leaves no room
    assert (offsets < 0.75).mean() > 0.8
    for kernel, side in zip(kernels, sides, strict=True):
        margin = (27 - side) // 2
        assert kernel[margin : 27 - margin, margin : 27 - margin].sum() == pytest.approx(1, abs=1e-5)


def test_sides_of_kernels_are_log_uniform() -> None:
    _, sides = make_kernels(RestorationConfig(pool=200, kernels=(3, 9)))
    shares = [(sides == side).mean() for side in (3, 5, 7, 9)]
    np.testing.assert_allclose(shares, np.log([2, 1.5, 4 / 3, 1.25]) / np.log(5), atol=0.1)


@pytest.mark.parametrize("mirrored", [0, 1])
def test_batch_is_the_blur_of_its_sharp_crops(mirrored: int) -> None:
    """Inside, where the kernel reaches no border of the crop; mirrored, everywhere."""
    for batch in batches(maker(mirrored=mirrored), 5):
        r = batch.kernel.shape[-1] // 2
        assert batch.sharp.shape == batch.blurred.shape
        assert 24 <= min(batch.sharp.shape[2:]) <= max(batch.sharp.shape[2:]) <= 40
        torch.testing.assert_close(batch.kernel.sum(dim=(1, 2)), torch.ones(4), atol=1e-5, rtol=0)
        for sharp, blurred, kernel in zip(
            batch.sharp.numpy(), batch.blurred.numpy(), batch.kernel.numpy(), strict=True
        ):
            if mirrored:
                np.testing.assert_allclose(blurred, synthesis.blur(sharp, kernel, mode="same"), atol=1e-5)
            else:
                inside = blurred[:, r : blurred.shape[1] - r, r : blurred.shape[2] - r]
                np.testing.assert_allclose(inside, synthesis.blur(sharp, kernel), atol=1e-5)


def test_linear_light_is_the_blur_of_the_light() -> None:
    for batch in batches(maker(mirrored=1, linear_light=1), 3):
        assert batch.linear_light
        light = synthesis.blur(batch.sharp[0].numpy() ** 2.2, batch.kernel[0].numpy(), mode="same")
        np.testing.assert_allclose(batch.blurred[0], light.clip(0) ** (1 / 2.2), atol=2e-3)


@pytest.mark.parametrize(("linear_light", "tolerance"), [(0, 1e-5), (1, 3e-3)])
def test_delta_kernel_changes_nothing(linear_light: int, tolerance: float) -> None:
    """In linear light the rounding of black grows by the power."""
    for batch in batches(maker(sharp=1, linear_light=linear_light, mirrored=0.5), 5):
        torch.testing.assert_close(batch.blurred, batch.sharp, atol=tolerance, rtol=0)
        assert (batch.kernel.flatten(1).max(dim=1).values == 1).all()


# ------------------------------------------------------------------ batches
def test_batch_depends_on_its_index_alone() -> None:
    """Also in another thread, and of another maker."""
    halves: dict[str, Any] = {name: 0.5 for name in PLAIN if name != "noise"}
    config = replace(CONFIG, **halves, noise=0.03)
    one, other = (BatchMaker([FACES, DARK], config, kernels=POOL) for _ in range(2))
    expected = [one(index) for index in range(6)]
    with ThreadPoolExecutor(1) as executor:
        for index in (5, 0, 3):
            for batch in (one(index), other(index), executor.submit(other, index).result()):
                for name in ("sharp", "blurred", "kernel"):
                    assert torch.equal(getattr(batch, name), getattr(expected[index], name))
    assert threading.active_count() < 20
    assert not torch.equal(expected[0].kernel[0], expected[1].kernel[0]) or expected[0][0].shape != expected[1][0].shape


def test_values_stay_in_range() -> None:
    everything = {name: 1 for name in PLAIN if name not in ("noise", "rounded", "jpeg")}
    for batch in batches(maker(FACES, DARK, **everything, noise=0.2), 10):
        for images in (batch.sharp, batch.blurred):
            assert images.dtype == torch.float32
            assert 0 <= images.min() <= images.max() <= 1


def test_largest_kernels_leave_the_smallest_crop() -> None:
    """A small picture among the others gets smaller kernels, not smaller crops."""
    small = pictures("small", shape=(28, 64), count=1)
    for batch in batches(maker(FACES, small, kernels=(3, 9), natural=0.5), 10):
        assert batch.kernel.shape[-1] <= 5
        assert min(batch.sharp.shape[2:]) >= 24


def measure(**changes: Any) -> dict[str, float]:
    """Figures of some batches, one of which each setting moves."""
    folders = (FACES, DARK) if "natural" in changes else (FACES,)
    made = batches(maker(*folders, **changes))
    n = [len(batch.sharp) for batch in made]
    blurred = [image for batch in made for image in batch.blurred]
    pixels = [image.shape[-2:] for image in blurred]
    residual = [
        (image - torch.from_numpy(synthesis.blur(sharp.numpy(), kernel.numpy(), mode="same"))).abs().mean()
        for batch in made
        for image, sharp, kernel in zip(batch.blurred, batch.sharp, batch.kernel, strict=True)
    ]
    levels = [float((255 * image - (255 * image).round()).abs().max()) for image in blurred]
    return {
        "seed": float(made[0].sharp.mean()),
        "batch": float(np.mean(n)),
        "crop": float(max(max(shape) for shape in pixels)),
        "kernels": float(max(batch.kernel.shape[-1] for batch in made)),
        "mirrored": float(np.mean([value < 1e-5 for value in residual])),
        "linear_light": float(np.mean([batch.linear_light for batch in made])),
        "sharp": float(np.mean([float(k.max()) == 1 for batch in made for k in batch.kernel])),
        "noise": float(np.mean(residual)),
        "saturated": float(np.mean([float((batch.sharp == 1).float().mean()) for batch in made])),
        "jpeg": float(np.mean([level < 1e-3 for level in levels])),
        "rounded": float(np.mean([level < 1e-3 for level in levels])),
        "gray": float(np.mean([float((image[0] - image[2]).abs().max()) < 1e-5 for image in blurred])),
        "natural": float(np.mean([float(image.std()) < 1e-4 for image in blurred])),
    }


CHANGES: list[tuple[dict[str, Any], float | None]] = [
    ({"seed": 1}, None),
    ({"batch": 3}, 3),
    ({"crop": (24, 30)}, 30),
    ({"kernels": (3, 5)}, 5),
    ({"mirrored": 1}, 1),
    ({"linear_light": 1}, 1),
    ({"sharp": 1}, 1),
    ({"noise": 0.3}, None),
    ({"saturated": 1}, None),
    ({"jpeg": 1}, 1),
    ({"rounded": 1}, 1),
    ({"gray": 1}, 1),
    ({"natural": 1}, 1),
]


@pytest.fixture(scope="module")
def unchanged() -> dict[str, float]:
    return measure()


@pytest.mark.parametrize(("change", "figure"), CHANGES, ids=[next(iter(change)) for change, _ in CHANGES])
def test_every_setting_matters(unchanged: dict[str, float], change: dict[str, Any], figure: float | None) -> None:
    (name,) = change
    value = measure(**change)[name]
    assert value != pytest.approx(unchanged[name], rel=0.05)
    assert figure is None or value == figure


def test_every_setting_is_tested() -> None:
    names = {name for change, _ in CHANGES for name in change}
    assert names | {"pool"} == {field.name for field in fields(RestorationConfig)}
    assert len(maker(pool=8).kernels) == 8


def test_share_of_the_other_pictures() -> None:
    """The second and third folder together have it, whatever their number of pictures."""
    others = (DARK, pictures("black", 3, count=5))
    levels = [float(image.mean()) for batch in batches(maker(FACES, *others, natural=0.3), 60) for image in batch.sharp]
    assert np.mean(np.array(levels) < 0.11) == pytest.approx(0.3, abs=0.09)
    assert np.mean(np.array(levels) < 0.02) == pytest.approx(0.15, abs=0.07)


def test_noise_has_its_deviation() -> None:
    """Uniform up to `noise` over the crops: a half of it in the mean."""
    gray = pictures("gray", 128)
    deviations = [float(image.std()) for batch in batches(maker(gray, noise=0.04), 30) for image in batch.blurred]
    assert np.mean(deviations) == pytest.approx(0.02, rel=0.2)
    assert max(deviations) < 0.05


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"batch": 0}, "batch must be at least 1, got 0"),
    ({"pool": 3}, "pool must be at least 8, got 3"),
    ({"crop": (8, 40)}, "crop must be two sides of at least 16 pixels, smallest first, got (8, 40)"),
    ({"crop": (40, 30)}, "crop must be two sides"),
    ({"crop": (16, 40), "kernels": (5, 35)}, "crop must be at least half of the largest kernel, 17, got 16"),
    ({"kernels": (5, 8)}, "kernels must be two odd sides of at least 3, smallest first, got (5, 8)"),
    ({"kernels": (9, 5)}, "kernels must be two odd sides"),
    ({"noise": 0.5}, "noise must be in [0, 0.5), and finite, got 0.5"),
    *(({name: 1.1}, f"{name} must be in [0, 1], and finite, got 1.1") for name in PLAIN if name != "noise"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        RestorationConfig(**change)


def test_crops_larger_than_the_pictures_are_refused() -> None:
    message = "crop must fit with a kernel of 3 pixels into the smallest picture, 64 x 72, got 63; use a smaller crop"
    with pytest.raises(ValueError, match=re.escape(message)):
        maker(crop=(63, 80))
    (batch,) = batches(maker(crop=(62, 80)), 1)
    assert batch.sharp.shape[2] == 62


@pytest.mark.gpu
def test_batches_on_a_device_have_the_shapes_of_the_cpu(cupy: Any) -> None:
    """And, without noise, their values."""
    device = BatchMaker([FACES], CONFIG, "cuda", POOL)
    for index in range(3):
        for a, b in zip(device(index)[:3], maker()(index)[:3], strict=True):
            assert a.is_cuda
            torch.testing.assert_close(a.cpu(), b, atol=1e-5, rtol=0)


# ------------------------------------------------------------------ JPEG
@pytest.mark.parametrize("shape", [(64, 80), (61, 77), (16, 17)])
@pytest.mark.parametrize("quality", [20, 60, 80, 95])
def test_jpeg_is_that_of_pillow(shape: tuple[int, int], quality: int) -> None:
    """To within rounding, in the mean; colors at half size as Pillow's default."""
    pixels = astronaut()[40 : 40 + shape[0], 180 : 180 + shape[1]]
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).astype(float)
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    # In a batch each picture has its own quality.
    result = compress(images.expand(2, -1, -1, -1), torch.tensor([50.0, quality]))[1].permute(1, 2, 0).numpy() * 255
    error, loss = abs(result - expected).mean(), abs(pixels - expected).mean()
    assert error < min(1, 0.4 * loss)
    np.testing.assert_allclose(result, result.round(), atol=1e-4)


# ------------------------------------------------------------------ losses
def test_losses_in_closed_form() -> None:
    sharp = torch.zeros(2, 3, 8, 8)
    assert float(charbonnier(sharp, sharp)) == pytest.approx(1e-3)
    assert float(charbonnier(sharp + 0.5, sharp)) == pytest.approx(0.5, rel=1e-4)
    assert float(spectral(sharp, sharp)) == 0
    one_frequency = 2 * 8 * 0.5 / (2 * 8 * 5 * 2)  # the constant: |F| = 0.5 * 64 / 8 in one of 8 x 5 x 2 numbers
    assert float(spectral(sharp + 0.5, sharp)) == pytest.approx(one_frequency)
    ramp = torch.arange(8.0).expand(2, 3, 8, 8)
    assert float(total_variation(3 * ramp)) == pytest.approx(9)
    assert psnr_gain(sharp + 0.1, sharp + 1, sharp) == pytest.approx(20, abs=1e-4)
    assert psnr_gain(sharp, sharp, sharp) == 0


# ------------------------------------------------------------------ folders
def test_folders_of_any_kind(tmp_path: Path) -> None:
    """Gray, color with opacity and 16 bits are read; what is no picture or too small is listed with the reason."""
    gray, color = np.full((64, 70), 51, np.uint8), astronaut()[:64, :70]
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([color, gray])).save(tmp_path / "b.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "c.png")
    Image.fromarray(color[:40]).save(tmp_path / "small.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    (tmp_path / "notes.txt").write_text("no picture")
    folder = load_pictures(tmp_path)
    assert [image.shape for image in folder.images] == [(3, 64, 70)] * 3
    assert {image.dtype for image in folder.images} == {torch.uint8}
    for index in (0, 2):
        assert (folder.images[index] == 51).all()
    np.testing.assert_array_equal(folder.images[1].permute(1, 2, 0), color)
    reasons = dict(folder.skipped)
    assert reasons.keys() == {"broken.jpg", "small.png"}
    assert reasons["small.png"] == "40 x 70 pixels, less than 64"
    assert "damaged or truncated" in reasons["broken.jpg"]
    assert len(load_pictures(tmp_path, limit=slice(0, 1)).images) == 1
    assert len(load_pictures(tmp_path, min_side=40).images) == 4
    BatchMaker([folder], CONFIG, kernels=POOL)(0)


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"folder of sharp pictures .*none is not a folder"):
        load_pictures(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must hold pictures \(.png, .*\), got none"):
        load_pictures(tmp_path)
    Image.new("L", (20, 20)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"must hold usable pictures, none of 1 is; small.png: 20 x 20 pixels"):
        load_pictures(tmp_path)
