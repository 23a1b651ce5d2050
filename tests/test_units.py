"""The unit of a picture at every door: white= for deblur, deconvolve, restore, batches, and the command line."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data
from test_bad_input_api import Trap
from test_cli import fails, run, wide

import gpudeblur as gd
from gpudeblur.images.checks import UnitWarning
from gpudeblur.images.files import read_image, write_image
from gpudeblur.synthesis import blur, trajectory_kernel

__all__ = ["wide"]  # a fixture
KERNEL = trajectory_kernel(9, rng=3)
SHARP = data.camera()[70:174, 180:284] / 255
QUICK = gd.TwoStepOptions(starts=("wide",), iterations=2, finest_iterations=2, kernel_iterations=5, refine=False)


@functools.cache
def blurred() -> np.ndarray:
    """In [0, 1], 96 x 96."""
    return np.clip(blur(SHARP, KERNEL, noise_sigma=0.005, rng=0), 0, 1)


def counts(top: float, dtype: Any) -> np.ndarray:
    return np.round(blurred() * top).astype(dtype)


def gain(result: Any, top: float) -> float:
    estimate = np.asarray(result, float)[8:-8, 8:-8] / top
    return float(-10 * np.log10(np.mean((estimate - SHARP[12:-12, 12:-12]) ** 2)))


# ---- what white= is for


@pytest.mark.parametrize("method", ["tv", "sparse", "hyper-laplacian", "epll", "l0", "ringing-suppressed", "wiener"])
@pytest.mark.parametrize("white", [4095, "auto"])
def test_12_bits_in_16_are_restored_as_8_bits_are(method: str, white: Any) -> None:
    eight = gain(gd.deconvolve(counts(255, np.uint8), KERNEL, method=method), 255)
    twelve = gain(gd.deconvolve(counts(4095, np.uint16), KERNEL, method=method, white=white), 4095)
    assert twelve == pytest.approx(eight, abs=0.2)


@pytest.mark.parametrize("white", [4095, "auto"])
def test_12_bits_in_16_are_deblurred_as_their_fractions_are(white: Any) -> None:
    """Against 8 bits there would be the rounding too, which a blind estimate on a small picture does not forgive."""
    counted = counts(4095, np.uint16)
    fractions = gd.deblur((counted.astype(np.float32) / 4095), 9, options=QUICK)
    result = gd.deblur(counted, 9, options=QUICK, white=white)
    assert result.image.dtype == np.uint16
    assert (fractions.info["white"], result.info["white"]) == (1, 4095)
    assert_same(result.kernel, fractions.kernel)
    assert_same(gd.estimate_kernel(counted, 9, options=QUICK, white=white), fractions.kernel)
    assert_close(result.image / 4095, np.clip(fractions.image, 0, 1), atol=0.51 / 4095)
    assert result.info["confidence"] == fractions.info["confidence"]


@pytest.mark.parametrize(
    ("top", "dtype"), [(4095, "u2"), (255, "u2"), (255, "i2"), (255, "i8"), (4095, ">i4"), (1e-3, "f4"), (1e-17, "f8"),
                       (255, "f4"), (4095, "f8"), (30000, "f4")],
)  # fmt: skip
def test_without_white_other_units_are_warned_of_and_lose_nothing(top: float, dtype: str) -> None:
    given = counts(top, dtype) if np.dtype(dtype).kind in "iu" else (blurred() * top).astype(dtype)
    expected = gain(gd.deconvolve(blurred(), KERNEL), 1)
    with pytest.warns(UnitWarning, match=r"^image has values up to .* as if full scale were .*give ") as caught:
        result = gd.deconvolve(given, KERNEL)
    assert caught[0].filename == __file__
    assert result.dtype == given.dtype
    assert gain(result, top) > expected - 0.5  # 30000 of 65535 is half as bright
    for function in (gd.deblur, gd.estimate_kernel):
        with pytest.warns(UnitWarning, match=r"^image has values up to "), pytest.raises(gd.Stopped):
            function(given, 9, callback=Trap())


def test_wiener_and_richardson_lucy_say_nothing() -> None:
    expected = gd.deconvolve(blurred(), KERNEL, method="richardson-lucy")
    for method in ("wiener", "richardson-lucy"):
        for top in (1e-3, 255):
            gd.deconvolve(blurred() * top, KERNEL, method=method)
    assert_close(gd.deconvolve(blurred() * 255, KERNEL, method="richardson-lucy") / 255, expected, atol=1e-4)


@pytest.mark.parametrize("white", [2.0**-20, 0.25, 1024.0])
def test_results_scale_with_white(white: float) -> None:
    image = blurred().astype(np.float32)
    for options in ({"method": "tv"}, {"method": "sparse", "gamma": 2.2}, {"noise_sigma": 0.01}, {"saturation": 0.7}):
        expected = gd.deconvolve(image, KERNEL, **options)
        assert_close(gd.deconvolve(image * white, KERNEL, white=white, **options), expected * white, rtol=1e-6)
    expected = gd.deblur(image, 9, options=QUICK, gamma=1.5)
    result = gd.deblur(image * white, 9, options=QUICK, gamma=1.5, white=white)
    assert_close(result.image, expected.image * white, rtol=1e-6)
    assert_same(result.kernel, expected.kernel)
    assert_same(gd.estimate_kernel(image * white, 9, options=QUICK, gamma=1.5, white=white), expected.kernel)
    assert gd.estimate_noise(image * white, white=white) == gd.estimate_noise(image)


def test_the_noise_is_a_fraction_of_full_scale_as_deconvolve_takes_it() -> None:
    image = counts(4095, np.uint16)
    in_16_bits, in_12_bits = gd.estimate_noise(image), gd.estimate_noise(image, white="auto")
    assert in_12_bits == pytest.approx(in_16_bits * 65535 / 4095)
    with pytest.warns(UnitWarning, match=r"as if full scale were 65535; give white=\"auto\" or white=4095 if that is"):
        expected = gd.deconvolve(image, KERNEL, noise_sigma=in_16_bits)
    assert_same(gd.deconvolve(image, KERNEL, noise_sigma=in_16_bits, white=65535), expected)
    assert (
        abs(gain(gd.deconvolve(image, KERNEL, noise_sigma=in_12_bits, white=4095), 4095) - gain(expected, 4095)) > 0.5
    )


def test_saturation_is_found_at_white() -> None:
    lamps = 0.2 * SHARP
    lamps[30:34, 40:44] = lamps[70:74, 60:64] = 20
    night = np.clip(blur(lamps, KERNEL), 0, 1)
    expected = gd.deconvolve(night, KERNEL)
    image = np.round(night * 4095).astype(np.uint16)
    result = gd.deconvolve(image, KERNEL, white="auto")
    assert result.max() == 4095
    assert_close(result / 4095, np.clip(expected, 0, 1), atol=2e-3)
    ignored = gd.deconvolve(image, KERNEL, white="auto", saturation=None)
    assert abs(ignored / 4095 - np.clip(expected, 0, 1)).max() > 0.05


def test_a_stack_has_one_white_level() -> None:
    stack = np.stack([counts(4095, np.uint16), counts(200, np.uint16)])
    result = gd.deblur(stack, 9, options=QUICK, final=None, white="auto")
    assert result.info["white"] == 4095
    assert_same(result.kernel[1], gd.estimate_kernel(stack[1], 9, options=QUICK, white=4095))


@pytest.mark.parametrize("function", [gd.deblur, gd.estimate_kernel, gd.deconvolve, gd.estimate_noise])
def test_white_levels_that_cannot_be(function: Any) -> None:
    arguments = {gd.deblur: (9,), gd.estimate_kernel: (9,), gd.deconvolve: (KERNEL,)}.get(function, ())
    for white in (0, -1, np.nan, "full", True):
        with pytest.raises(
            (TypeError, ValueError), match=r"^white must be .*, got .*; give the value of full scale, such"
        ):
            function(np.full((20, 20), np.nan), *arguments, white=white)  # before a pixel is read
    with pytest.raises(
        ValueError, match=r"^white must not be below the values of the image, got 255 for values up to "
    ):
        function(counts(4095, np.uint16), *arguments, white=255)


def test_methods_for_pictures_in_0_to_1_doubt_other_units() -> None:
    for top in (1e-3, 255):
        with pytest.warns(
            UserWarning, match=r"^blurred has values up to .*; divide by full scale, or use gpudeblur.dec"
        ):
            gd.nonblind.tv(blurred() * top, KERNEL, iterations=1)
        gd.nonblind.tv(blurred() * top, KERNEL, iterations=1, weight=1e-3 * top)
        gd.nonblind.wiener(blurred() * top, KERNEL)


# ---- networks


def test_restore_takes_white(network_weights: Path) -> None:
    rgba = np.random.default_rng(0).random((20, 26, 4), dtype=np.float32)
    restore = functools.partial(
        gd.restore, network="deepdeblur", channel_axis=-1, weights=network_weights, strength=1.0
    )
    expected = restore(rgba)
    unit = np.array([4096, 4096, 4096, 1], np.float32)
    result = restore(rgba * unit, white=4096)
    assert result.info["white"] == 4096
    assert_close(result.image / unit, expected.image, atol=1e-5)
    assert_same(result.image[..., 3], rgba[..., 3])
    image = (rgba * 4095).astype(np.uint16)
    image[..., 3] = 65535  # the alpha has a unit of its own
    assert restore(image, white="auto").info["white"] == 4095
    with pytest.warns(UnitWarning, match=r"^image has values up to 40\d\d, under 1/16 of the range of uint16"):
        restore(image)


# ---- batches


def test_in_a_batch_each_picture_has_its_white_level() -> None:
    pictures = [counts(top, np.uint16) for top in (4095, 60000, 4095, 200)] + [blurred() * 255]
    with gd.deblur_batch(pictures, 9, options=QUICK, final="tv", white="auto", workers=1) as results:
        for result, image in zip(results, pictures, strict=True):
            alone = gd.deblur(image, 9, options=QUICK, final="tv", white="auto")
            assert result.info["white"] == alone.info["white"]
            assert_same(result.image, alone.image)
    pictures = [counts(4095, np.uint16), counts(200, np.uint16)]
    with gd.deblur_batch(pictures, 9, options=QUICK, final=None, white=300) as results:
        first, second = results
    assert str(first.error).startswith("white must not be below the values of the image, got 300 for values up to ")
    assert second.error is None


def test_the_first_picture_in_another_unit_is_named() -> None:
    pictures = [counts(60000, np.uint16), *[counts(4095, np.uint16)] * 3]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = list(gd.deblur_batch(pictures, 9, options=QUICK, final=None))
    assert [result.info["white"] for result in results] == [65535, 4095, 4095, 4095]
    (warning,) = caught
    assert str(warning.message).startswith("picture 1 has values up to ")
    assert warning.filename == __file__
    with pytest.raises(ValueError, match=r"^white must be a positive number"):
        gd.deblur_batch(pictures, white="full")


# ---- the command line


@pytest.fixture
def dim(tmp_path: Path) -> Path:
    """A file of 12 bits in 16."""
    write_image(tmp_path / "dim.png", counts(4095, np.uint16)[:48, :48])
    return tmp_path / "dim.png"


@pytest.mark.filterwarnings("always::gpudeblur.images.checks.UnitWarning")
def test_the_command_line_says_white_level(dim: Path) -> None:
    result = run("kernel", dim, "-o", dim.with_name("k.npy"), "-k", "5")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: image has values up to ")
    assert "give --white-level auto or 4095 if that is right, or the right value" in result.stderr
    assert "white=" not in result.stderr
    for level in ("auto", "AUTO", "4095"):
        result = run("kernel", dim, "-o", dim.with_name("k.npy"), "-k", "5", "--white-level", level, "--overwrite")
        assert (result.exit_code, result.stderr) == (0, "")


def test_white_levels_that_the_command_line_refuses(dim: Path) -> None:
    commands = [("deblur",), ("kernel",), ("batch",), ("restore", "--network", "deepdeblur")]
    for command, *more in commands:
        out = dim.with_name({"kernel": "k.npy", "batch": "out"}.get(command, "out.png"))
        for level in ("0", "-1", "nan", "inf", "full"):
            result = run(command, dim, "-o", out, *more, "--white-level", level)
            fails(
                result, f"--white-level must be auto or a positive number, got {level!r}; give the value of full scale"
            )
    result = run("kernel", dim, "-o", dim.with_name("k.npy"), "-k", "5", "--white-level", "255")
    fails(result, "--white-level must not be below the values of the image, got 255 for values up to")


def test_files_of_another_depth_have_the_white_of_the_picture(dim: Path) -> None:
    arguments = ("-k", "5", "--final", "tv", "--white-level", "4095")
    for command, name in (("deblur", "out.jpg"), ("batch", "out"), ("deblur", "out.png"), ("deblur", "out.tif")):
        more = ("--format", "jpg") if command == "batch" else ()
        result = run(command, dim, "-o", dim.with_name(name), *arguments, *more)
        assert result.exit_code == 0, result.output
    deep, wide, eight = (read_image(dim.with_name(name)).pixels for name in ("out.png", "out.tif", "out.jpg"))
    assert_same(deep, wide)
    assert 2000 < deep.max() <= 4095
    assert abs(eight / 255 - deep / 4095).mean() < 0.02
    assert_same(read_image(dim.with_name("out") / "dim.jpg").pixels, eight)


@pytest.mark.filterwarnings("always::gpudeblur.images.checks.UnitWarning")
def test_floats_of_a_file_become_integers_by_the_unit_they_are_read_in(dim: Path) -> None:
    source = dim.with_name("floats.tif")
    write_image(source, counts(255, np.float32)[:48, :48])
    result = run("deblur", source, "-o", dim.with_name("out.png"), "-k", "5", "--final", "tv")
    assert "these as if full scale were 255; give --white-level auto, or the value of full scale" in result.stderr
    assert 0.1 < (read_image(dim.with_name("out.png")).pixels / 255).mean() < 0.8


def test_a_batch_of_files_fails_where_white_is_below(dim: Path) -> None:
    report = dim.with_name("r.csv")
    result = run("batch", dim, "-o", dim.with_name("out"), "-k", "5", "--white-level", "255", "--report", report)
    assert result.exit_code == 1
    assert "--white-level must not be below the values of the image, got 255 for values up to" in report.read_text()
