"""Defects that nobody told of: each kind is found, a picture without them has none."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
from laws import assert_same
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import data

import gpudeblur as gd
from gpudeblur.images.defects import find_defects
from gpudeblur.synthesis import blur, trajectory_kernel


@functools.cache
def scene(seed: int = 0, size: int = 13, noise: float = 0.004, name: str = "camera") -> np.ndarray:
    """(180, 220), uint8."""
    sharp = np.asarray(getattr(data, name)(), float)[60 : 60 + 179 + size, 80 : 80 + 219 + size] / 255
    blurred = blur(sharp, trajectory_kernel(size, rng=seed), noise_sigma=noise, rng=seed)
    return np.round(blurred.clip(0, 1) * 255).astype(np.uint8)


def drawn(image: np.ndarray, draw: Any, value: int = 255, alpha: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(`image` with the drawing over it, where that is)."""
    layer = Image.new("L", image.shape[::-1], 0)
    draw(ImageDraw.Draw(layer))
    cover = np.asarray(layer) / 255 * alpha
    return np.round(image * (1 - cover) + value * cover).astype(image.dtype), cover > 0


def missed_and_false(valid: np.ndarray, bad: np.ndarray, reach: int = 8) -> tuple[float, float]:
    """(share of `bad` that is valid, share of the image far from it that is not)."""
    far = ~ndimage.binary_dilation(bad, np.ones((3, 3)), iterations=reach)
    return float(valid[bad].mean()), float((~valid & far).mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("axis", [0, 1])
def test_dead_lines(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    image = scene(seed).copy()
    lines = sorted(rng.choice(np.arange(3, 170), seed + 1, replace=False).tolist())
    (image if axis == 0 else image.T)[lines] = (0, 255, 130)[seed]
    defects = find_defects(image)
    assert defects is not None
    found = np.flatnonzero(~defects.valid.any(axis=1 - axis))
    assert set(lines) <= set(found.tolist())
    assert len(found) <= len(lines) + 1
    assert defects.inside is None
    assert re.match(rf"dead {('row', 'column')[axis]}s? {lines[0]}", defects.names[0])


def test_adjacent_dead_lines_and_lines_at_the_border() -> None:
    image = scene(1).copy()
    image[:, 70:73] = 0
    image[-1] = 255
    defects = find_defects(image)
    assert defects is not None
    assert_same(np.flatnonzero(~defects.valid.any(axis=0)), np.arange(70, 73))
    assert_same(np.flatnonzero(~defects.valid.any(axis=1)), np.array([179]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_hot_pixels(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    image = scene(seed).astype(dtype) / (255 if dtype != np.uint8 else 1)
    bad = np.zeros(image.shape, bool)
    bad.flat[rng.choice(image.size, 40, replace=False)] = True
    image[bad] = image.dtype.type(255 if dtype == np.uint8 else 1) * rng.integers(0, 2, 40).astype(dtype)
    bad &= abs(image - scene(seed).astype(dtype) / (255 if dtype != np.uint8 else 1)) > 0.3 * image.max()
    defects = find_defects(image)
    assert defects is not None
    missed, _ = missed_and_false(defects.valid, bad)
    assert missed <= 0.1
    assert (~defects.valid).sum() <= 42
    assert defects.inside is None
    assert "hot or dead pixels" in defects.names[0]


OVERLAYS = {
    "time stamp": (lambda d: d.text((20, 120), "2024-03-02 14:07:55 CAM 3", fill=255), 255, 1.0),
    "dark time stamp": (lambda d: d.text((60, 30), "2024-03-02 14:07:55", fill=255), 0, 1.0),
    "logo": (lambda d: (d.rectangle((150, 20, 190, 60), fill=255), d.ellipse((160, 30, 180, 50), fill=0)), 255, 1.0),
    "strip": (lambda d: d.rectangle((0, 150, 220, 180), fill=255), 0, 1.0),
    "strip within": (lambda d: d.rectangle((0, 60, 220, 80), fill=255), 0, 1.0),
    "watermark": (lambda d: d.text((10, 70), "www.example.org", fill=255, font_size=20), 255, 0.4),
}


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("seed", range(2))
def test_overlays(name: str, seed: int) -> None:
    draw, value, alpha = OVERLAYS[name]
    image, bad = drawn(scene(seed), draw, value, alpha)
    if name == "strip":  # with text, so that it is no constant border
        image, _ = drawn(image, lambda d: d.text((8, 160), "2024-03-02 14:07:55", fill=255))
    defects = find_defects(image)
    assert defects is not None
    missed, false = missed_and_false(defects.valid, bad)
    assert missed <= 0.25
    assert false <= 0.01
    assert defects.inside is None
    assert "sharp overlays at [" in defects.names[-1]


CLEAN = {
    **{f"blurred by {size} px, noise {noise}": scene(size, size, noise) for size in (5, 9, 21) for noise in (0, 0.01)},
    "strong noise": scene(2, 15, 0.05),
    "text": scene(3, 15, 0.004, "page")[:, :200],
    "sharp": data.camera()[100:300, 100:300],
    "sharp coins": data.coins()[:200, :200],
    "ramp": np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)),
    "slanted ramp": np.add.outer(np.linspace(0, 1, 60), np.linspace(0, 2, 90)),
    "constant": np.full((60, 70), 0.5, np.float32),
    "zero": np.zeros((60, 70)),
    "noise": np.random.default_rng(0).standard_normal((80, 90)),
    "tiny": np.random.default_rng(0).random((12, 40)),
    "huge": scene(0).astype(np.float64) * 1e300,
    "faint": scene(0).astype(np.float32) * 1e-30,
    "64 bits": scene(0).astype(np.uint64) << np.uint64(50),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_images_have_none(name: str) -> None:
    assert find_defects(CLEAN[name]) is None


def test_sharp_things_beside_lights_in_a_dark_scene_are_no_overlays() -> None:
    """Clipped edges and the traces of small lights are as sharp as a time stamp."""
    stamped, _ = drawn(scene() // 3, lambda d: d.text((20, 150), "12.08.2024 17:46", fill=255))
    assert find_defects(stamped) is not None
    rows, columns = np.indices(stamped.shape)
    light = 2000 * np.exp(-((rows - 60) ** 2 + (columns - 120) ** 2) / (2 * 7**2))
    assert find_defects(np.minimum(stamped + light, 255).astype(np.uint8)) is None


def test_colors() -> None:
    """A defect of one channel is one of the pixel."""
    image = np.stack([scene(0), scene(0) // 2, 255 - scene(0)], axis=-1)
    assert find_defects(image, channel_axis=-1) is None
    image[40, 50, 1], image[:, 90, 2] = 255, 0
    image[..., 0], bad = drawn(image[..., 0], OVERLAYS["logo"][0])
    defects = find_defects(image, channel_axis=-1)
    assert defects is not None
    assert defects.valid.shape == image.shape
    assert not defects.valid[40, 50].any()
    assert not defects.valid[:, 90].any()
    assert missed_and_false(defects.valid[..., 2], bad)[0] == 0


def test_a_stack_is_a_loop() -> None:
    stack = np.stack([scene(0), drawn(scene(1), OVERLAYS["time stamp"][0])[0], scene(2)])
    stack[2, 80] = 0
    defects = find_defects(stack)
    assert defects is not None
    for image, valid in zip(stack, defects.valid, strict=True):
        single = find_defects(image)
        assert_same(valid, np.ones_like(valid) if single is None else single.valid)


def test_what_a_mask_leaves_out_is_not_looked_at() -> None:
    image, mask = scene(0).astype(np.float32), np.ones(scene(0).shape, bool)
    image[30:60, 30:60], mask[30:60, 30:60] = np.nan, False
    assert find_defects(image, mask) is None
    image[100] = 0
    defects = find_defects(image, mask)
    assert defects is not None
    expected = mask.copy()
    expected[100] = False
    assert_same(defects.valid, expected)


@pytest.mark.parametrize("value", ["all", True, 1, ["auto"]])
def test_what_defects_may_be(value: Any) -> None:
    for call in (gd.deblur, gd.estimate_kernel, lambda image, size, **rest: gd.deblur_batch([image], size, **rest)):
        with pytest.raises(ValueError, match=r"defects must be one of 'auto', None, got .*; give"):
            call(scene(0), 13, defects=value)


FAST = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2)


def test_clean_images_are_deblurred_as_ever() -> None:
    automatic, without = (gd.deblur(scene(0), 13, options=FAST, defects=defects) for defects in ("auto", None))
    assert_same(automatic.image, without.image)
    assert_same(automatic.kernel, without.kernel)


def test_overlays_and_lines_are_filled() -> None:
    image, bad = drawn(scene(0), OVERLAYS["time stamp"][0])
    image[:, 30] = 0
    with pytest.warns(UserWarning, match=r"image has dead column 30 and sharp overlays at \[.* give defects=None"):
        result = gd.deblur(image, 13, options=FAST)
    expected = gd.deblur(scene(0), 13, options=FAST)
    assert abs(result.image.astype(float) - expected.image)[bad].mean() < 30
    assert abs(image.astype(float) - expected.image)[bad].mean() > 60
    assert np.median(abs(result.image[:, 30].astype(float) - result.image[:, 29])) < 20
    with pytest.warns(UserWarning, match="dead column 30"):
        (batch,) = gd.deblur_batch([image], 13, options=FAST, workers=1)
    assert_same(batch.image, result.image)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["time stamp", "logo", "strip"])
def test_the_kernel_is_as_good_as_without_the_overlay(name: str) -> None:
    kernel = trajectory_kernel(13, rng=0)
    image, _ = drawn(scene(0), *OVERLAYS[name])
    with pytest.warns(UserWarning, match="image has"):
        found = gd.estimate_kernel(image, 13)
    similarity = [
        gd.metrics.kernel_similarity(estimate, kernel) for estimate in (found, gd.estimate_kernel(scene(0), 13))
    ]
    assert similarity[0] > similarity[1] - 0.05
