"""The command line: what reaches the library, what is written, and how errors look. The library itself is faked."""

import io
import json
import logging
import shlex
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.main
from PIL import Image
from typer.testing import CliRunner

import gpudeblur
from gpudeblur.cli import app
from gpudeblur.cli.app import PANELS
from gpudeblur.cli.options import PRESETS
from gpudeblur.images.comparison import side_by_side
from gpudeblur.images.files import Metadata, read_image, write_image, write_kernel

COLOR = np.random.default_rng(5).integers(0, 256, (40, 50, 3), dtype=np.uint8)
KERNEL = np.outer([1.0, 2, 1], [1.0, 2, 4, 2, 1]) / 40


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Tables wide enough not to be wrapped, and no colours, whatever the terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def library(monkeypatch):
    """Stands in for the library: notes the call, and gives the picture back in negative."""
    calls = []
    confidence, field, strength = SimpleNamespace(value=0.9), SimpleNamespace(value=None), SimpleNamespace(value=1.0)

    def deblur(image, kernel_size, **options):
        calls.append((image, kernel_size, options))
        for fraction in (0.0, 0.5, 1.0):
            assert not options["callback"]("scale 1 of 1", fraction)  # true would stop the run
        backend = {"backend": "numpy", "confidence": confidence.value, "seconds": 1.234, "strength": strength.value}
        backend["gamma"] = 2.2
        if field.value is not None:
            backend["focal"] = 512.0
        negative = np.iinfo(image.dtype).max - image if image.dtype.kind == "u" else 1 - image
        return SimpleNamespace(image=negative, kernel=KERNEL, field=field.value, info=backend)

    monkeypatch.setattr(gpudeblur, "deblur", deblur, raising=False)
    monkeypatch.setattr(gpudeblur, "TwoStepOptions", dict, raising=False)
    return SimpleNamespace(calls=calls, confidence=confidence, field=field, strength=strength)


@pytest.fixture
def source(tmp_path):
    write_image(tmp_path / "in.png", COLOR)
    return tmp_path / "in.png"


def run(*arguments, **settings):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **settings)


def fails(result, message):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def table(result):
    """The rows; a value of several lines is one string."""
    rows, name = dict[str, str](), ""
    for line in result.stdout.splitlines():
        if line.startswith(" "):
            rows[name] += "\n" + line.strip()
        else:
            name, value = line.split("  ", 1)
            rows[name] = value.strip()
    return rows


def test_deblur_with_the_defaults(library, source, tmp_path):
    (tmp_path / "out.png").write_bytes(b"an older result")
    fails(
        run("deblur", source, "-o", tmp_path / "out.png"), f"{tmp_path / 'out.png'} exists; name another, or give --ov"
    )
    assert (tmp_path / "out.png").read_bytes() == b"an older result"
    result = run("deblur", source, "-o", tmp_path / "out.png", "--kernel-size", "5", "--overwrite")
    assert result.exit_code == 0, result.output
    ((image, size, options),) = library.calls
    np.testing.assert_array_equal(image, COLOR)
    assert size == 5
    assert options.pop("callback")
    blur = {"blur": "uniform", "focal": None}
    defaults = {"device": "auto", "final": "sparse", "gamma": "auto", "white": None, "mask": None, "options": None}
    defaults["region"] = "auto"
    assert options == {"channel_axis": -1, "defects": "auto", **defaults, **blur}
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, 255 - COLOR)
    assert names(tmp_path) == ["in.png", "out.png"]


@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_defects_may_be_kept(library, source, tmp_path, command):
    result = run(command, source, "-o", tmp_path / "out.png", "-k", "5", "--defects", "none")
    assert result.exit_code == 0, result.output
    assert library.calls[0][2]["defects"] is None


@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_a_region_arrives_as_slices(library, source, tmp_path, command):
    arguments = command, source, "-o", tmp_path / "out.png", "-k", "5", "--overwrite", "--region"
    result = run(*arguments, "3,2,10,8")
    assert result.exit_code == 0, result.output
    assert library.calls[0][2]["region"] == (slice(2, 10), slice(3, 13))
    for text in ("3,2,10", "a,b,c,d", "3,2,10,8.5"):
        fails(run(*arguments, text), "--region must be auto, all or four integers X,Y,W,H")
    fails(run(*arguments, "3,2,0,8"), "--region must begin inside the picture and have pixels")


@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_the_kernel_size_is_found_where_none_is_given(library, source, tmp_path, command):
    out = tmp_path / ("out.png" if command == "deblur" else "out.npy")
    for arguments in ((), ("-k", "auto"), ("--kernel-size", "Auto")):
        assert run(command, source, "-o", out, "--overwrite", *arguments).exit_code == 0
    assert [size for _, size, _ in library.calls] == [None] * 3
    assert out.exists()


@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_the_mask_arrives(library, source, tmp_path, command):
    out, mask = tmp_path / ("out.png" if command == "deblur" else "out.npy"), np.ones(COLOR.shape[:2], bool)
    mask[3:5, 7:9] = False
    write_image(tmp_path / "gray.png", mask.astype(np.uint8))
    write_image(tmp_path / "color.tif", mask[..., None] * np.array([0, 7, 0], np.uint16))
    for value in (tmp_path / "gray.png", tmp_path / "color.tif", "nan"):
        result = run(command, source, "-o", out, "-k", "5", "--mask", value, "--overwrite")
        assert result.exit_code == 0, result.output
    *masks, nan = [options["mask"] for _, _, options in library.calls]
    for given in masks:
        assert given.dtype == bool
        np.testing.assert_array_equal(given, mask)
    assert nan == "nan"


def test_bad_masks(library, source, tmp_path):
    for name, pixels in (("black.png", np.zeros((40, 50), np.uint8)), ("small.png", np.ones((40, 49), np.uint8))):
        write_image(tmp_path / name, pixels)
    for name, message in (
        ("black.png", "--mask must not be black all over"),
        ("small.png", "--mask must have the size of the picture, 40 x 50, got 40 x 49; black is not valid"),
        ("missing.png", "missing.png"),
    ):
        fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--mask", tmp_path / name), message)
    assert not library.calls


def test_nan_in_a_file_is_left_out_on_request(tmp_path):
    pixels = np.random.default_rng(0).random((24, 32)).astype(np.float32)
    pixels[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    kernel = ("kernel", tmp_path / "in.tif", "-o", tmp_path / "k.npy", "-k", "3")
    fails(run(*kernel), "got nan at index (3, 4) (1 bad pixel); --mask nan leaves such pixels out")
    assert run(*kernel, "--mask", "nan").exit_code == 0
    assert np.isfinite(np.load(tmp_path / "k.npy")).all()
    result = run("batch", tmp_path / "in.tif", "-o", tmp_path / "out", "-k", "3", "--mask", "nan")
    assert result.exit_code == 0, result.output
    assert np.isfinite(tifffile.imread(tmp_path / "out" / "in.tif")).all()


@pytest.mark.parametrize(("focal", "value"), [("auto", None), ("812.5", 812.5), ("inf", np.inf)])
def test_the_focal_length_arrives(library, source, tmp_path, focal, value):
    result = run("deblur", source, "-o", tmp_path / "out.png", "--blur", "rotation", "--focal", focal)
    assert result.exit_code == 0, result.output
    ((_, _, options),) = library.calls
    assert (options["blur"], options["focal"]) == ("rotation", value)
    assert "one kernel, as poses explain the picture no better" in result.output
    assert ("none in EXIF data" if focal == "auto" else "px, given") in result.output


def test_the_field_is_written(library, source, tmp_path):
    def write(name):
        command = ("deblur", source, "-o", tmp_path / "o.png", "--overwrite", "--blur", "rotation")
        return run(*command, "--kernel-out", tmp_path / name)

    assert write("one.npz").exit_code == 0
    one = gpudeblur.KernelField.load(tmp_path / "one.npz")
    assert one.kernels.shape[:2] == (1, 1)
    np.testing.assert_allclose(one.centre, KERNEL / KERNEL.sum())
    library.field.value = field = gpudeblur.KernelField(np.ones((2, 3, 5, 7)), COLOR.shape[:2])
    for name in ("field.npz", "field.png", "kernel.npy"):
        result = write(name)
        assert result.exit_code == 0, result.output
        assert "none in EXIF data; 512 px, estimated" in result.output
    loaded = gpudeblur.KernelField.load(tmp_path / "field.npz")
    assert loaded.shape == COLOR.shape[:2]
    np.testing.assert_array_equal(loaded.kernels, field.kernels)
    np.testing.assert_array_equal(read_image(tmp_path / "field.png").pixels, gpudeblur.show_kernels(field))
    np.testing.assert_array_equal(np.load(tmp_path / "kernel.npy"), KERNEL)
    fails(run("deblur", source, "-o", tmp_path / "p.png", "--kernel-out", "k.npz"), "end in .npy, .png")


def test_the_focal_length_of_exif_data_arrives(library, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 27
    Image.fromarray(COLOR).save(tmp_path / "in.jpg", exif=exif)
    result = run("deblur", tmp_path / "in.jpg", "-o", tmp_path / "out.png", "--blur", "rotation")
    assert library.calls[0][2]["focal"] == 37.5
    assert "38 px, from EXIF data" in result.output


def test_bad_focal_lengths(library, source, tmp_path):
    for arguments, text in (
        (("--focal", "500"), "--focal needs --blur rotation, got '500'; leave it out"),
        (("--blur", "rotation", "--focal", "27mm"), "--focal must be auto or a number of pixels, got '27mm'"),
    ):
        result = run("deblur", source, "-o", tmp_path / "out.png", *arguments)
        assert result.exit_code != 0
        assert text in result.output
    assert not library.calls


def test_every_option_arrives(library, source, tmp_path):
    result = run(
        *("deblur", source, "-o", tmp_path / "out.tif", "-k", "5x7", "--kernel-out", tmp_path / "k.npy"),
        *("--device", "cpu", "--final", "hyper-laplacian", "--gamma", "2.2"),
        *("--gradient-weight", "0.01", "--smooth-weight", "0"),
    )
    assert result.exit_code == 0, result.output
    ((_, size, options),) = library.calls
    assert size == (5, 7)
    assert options["device"] == "cpu"
    assert options["final"] == "hyper-laplacian"
    assert options["gamma"] == 2.2
    assert options["options"] == {"gradient_weight": 0.01, "smooth_weight": 0.0}
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), KERNEL)
    assert names(tmp_path) == ["in.png", "k.npy", "out.tif"]


@pytest.mark.parametrize(
    ("name", "prior", "expected"),
    [
        ("k.npy", "dark-channel", gpudeblur.priors.DarkChannel()),
        ("k.png", "intensity", gpudeblur.priors.L0Intensity(which="both")),
    ],
)
def test_the_kernel_command(library, source, tmp_path, name, prior, expected):
    arguments = ("--kernel-size", "5", "--smooth-weight", "0.001", "--prior", prior)
    result = run("kernel", source, "-o", tmp_path / name, *arguments)
    assert result.exit_code == 0, result.output
    ((_, size, options),) = library.calls
    assert size == 5
    assert options["channel_axis"] == -1
    assert options["options"] == {"smooth_weight": 0.001, "prior": expected}
    assert "kernel size  3 x 5" in result.stdout
    assert names(tmp_path) == ["in.png", name]


def test_the_learned_prior_without_torch(library, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    fails(run("kernel", source, "-o", tmp_path / "k.npy", "--prior", "discriminative"), "needs PyTorch")
    assert not library.calls


def test_the_table_says_what_was_done(library, source, tmp_path):
    result = run("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--kernel-out", tmp_path / "[k].png")
    shown = table(result)
    assert shown["picture"] == "40 x 50 x 3"
    assert shown["kernel size"] == "3 x 5"
    assert shown["backend"] == "numpy"
    assert shown["confidence"] == "0.90"
    assert shown["seconds"] == "1.23"
    assert [Path(line).name for line in shown["written"].splitlines()] == ["out.png", "[k].png"]
    assert result.stderr == ""
    library.confidence.value = 0.21
    result = run("deblur", source, "-o", tmp_path / "low.png", "-k", "5")
    assert "0.21, low: the kernel is a guess; try another --kernel-size" in result.stdout
    assert "(12,10,25,20 is the middle)" in result.stdout


@pytest.mark.parametrize(("strength", "shown"), [(0.3149, "0.31"), (0.9999, "0.99"), (0.0, "0.00")])
def test_what_is_withheld_is_said(library, source, tmp_path, strength, shown):
    """A result that is blended with the blurred picture, and the option that returns the restoration itself."""
    library.strength.value = strength
    row = table(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5"))["strength"]
    assert row.startswith(f"{shown} of the restoration, the rest is the blurred picture; --strength 1 returns")
    assert library.calls[-1][2]["options"] is None
    library.strength.value = 1.0
    command = ("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--overwrite")
    assert table(run(*command, "--strength", "1"))["strength"] == "1.00, all of the restoration"
    assert library.calls[-1][2]["options"] == {"strength": 1}
    library.strength.value = 0.25
    assert table(run(*command, "--strength", "0.25"))["strength"].endswith("the rest is the blurred picture")
    assert library.calls[-1][2]["options"] == {"strength": 0.25}


def test_gray_has_no_channel_axis_and_dtypes_stay(library, tmp_path):
    gray, light = COLOR[..., 0].astype(np.uint16) * 257, np.random.default_rng(0).random((20, 30), dtype=np.float32)
    write_image(tmp_path / "in.png", gray)
    write_image(tmp_path / "in.tif", light)
    for source, *more in (("in.png", "out.png"), ("in.tif", "out.tif"), ("in.tif", "deep.png", "--bits", "16")):
        out, *bits = more
        assert run("deblur", tmp_path / source, "-o", tmp_path / out, "-k", "5", *bits).exit_code == 0
        assert library.calls[-1][2]["channel_axis"] is None
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, 65535 - gray)
    np.testing.assert_array_equal(read_image(tmp_path / "out.tif").pixels, 1 - light)
    assert read_image(tmp_path / "deep.png").pixels.dtype == np.uint16


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_alpha_is_kept_apart_and_comes_back(library, tmp_path, shape):
    pixels, alpha = COLOR if len(shape) == 3 else COLOR[..., 0], COLOR[..., 1]
    write_image(tmp_path / "in.png", pixels, alpha)
    assert run("deblur", tmp_path / "in.png", "-o", tmp_path / "out.png", "-k", "5").exit_code == 0
    assert library.calls[0][0].shape == shape
    photo = read_image(tmp_path / "out.png")
    np.testing.assert_array_equal(photo.pixels, 255 - pixels)
    np.testing.assert_array_equal(photo.alpha, alpha)


def test_the_photograph_itself_is_never_replaced(library, source, tmp_path):
    before = source.read_bytes()
    fails(run("deblur", source, "-o", source, "-k", "5"), "in.png is the input; choose another name")
    fails(run("deblur", source, "-o", tmp_path / "o.png", "--kernel-out", source, "-k", "5"), "in.png is the input")
    fails(run("kernel", source, "-o", source, "-k", "5"), "in.png is the input")
    assert library.calls == []
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("24", "--kernel-size must be odd, got 24; use 23 or 25"),
        ("3x5x7", "--kernel-size must be one odd integer or a pair (height, width), got 3 numbers: (3, 5, 7)"),
        (
            "41",
            "--kernel-size must not exceed the picture, got (41, 41) for a picture of 40 x 50; use at ",
        ),
        *(
            (size, f"--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto, got {size!r}; use for ")
            for size in ("25.0", "big", "5x", "")
        ),
    ],
)
def test_bad_kernel_sizes(source, tmp_path, size, message):
    for command in ("deblur", "kernel"):
        fails(run(command, source, "-o", tmp_path / "out.png", "--kernel-size", size), message)
    assert names(tmp_path) == ["in.png"]


def test_files_that_cannot_be_read(library, tmp_path):
    (tmp_path / "note.png").write_text("hello")
    write_image(tmp_path / "cut.png", COLOR)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    for command in ("deblur", "kernel"):
        out = ("-o", tmp_path / "out.png", "-k", "5")
        fails(run(command, tmp_path / "nothing.png", *out), "nothing.png")
        fails(run(command, tmp_path / "note.png", *out), "note.png must be an image (PNG, JPEG, TIFF, ")
        fails(run(command, tmp_path / "cut.png", *out), "cut.png is damaged or truncated")
    assert not (tmp_path / "out.png").exists()


def test_outputs_are_judged_before_the_work(library, source, tmp_path):
    fails(run("deblur", source, "-o", tmp_path / "no" / "out.png", "-k", "5"), "does not exist; create it first")
    fails(run("deblur", source, "-o", tmp_path / "o.png", "-k", "5", "--kernel-out", "k.txt"), "end in .npy, .png")
    two = run("deblur", source, "-o", tmp_path / "o.png", "--kernel-out", tmp_path / "o.png", "-k", "5")
    fails(two, "--kernel-out must be another file than --out")
    fails(run("kernel", source, "-o", tmp_path / "out.jpg", "-k", "5"), "output file must end in .npy, .png")
    fails(
        run("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--bits", "12"), "--bits must be 8 or 16, got 12"
    )
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((20, 30), np.int16))
    result = run("deblur", tmp_path / "in.tif", "-o", tmp_path / "out.png", "-k", "5")
    fails(result, "PNG and JPEG hold uint8, uint16 or floats in [0, 1], got int16; convert it, or write .tif")
    write_image(tmp_path / "in.png", COLOR, COLOR[..., 0])
    result = run("deblur", source, "-o", tmp_path / "out.jpg", "-k", "5")
    fails(result, "JPEG cannot hold the picture's alpha channel")
    assert library.calls == []
    assert names(tmp_path) == ["in.png", "in.tif"]


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, OSError, MemoryError])
def test_what_the_library_refuses_is_one_line(source, tmp_path, monkeypatch, error):
    for words, message in ((("because\nof this",), "error: because of this"), ((), f"error: {error.__name__}")):

        def refuse(*arguments, words=words, **options):
            raise error(*words)

        monkeypatch.setattr(gpudeblur, "deblur", refuse, raising=False)
        fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5"), message)
    assert names(tmp_path) == ["in.png"]


def test_help_and_usage_errors_name_the_choices():
    for arguments in (["deblur"], ["deblur", "x.png", "-o", "y.png"], ["nonsense"], ["kernel", "x"]):
        assert run(*arguments).exit_code == 2
    result = run("deblur", "x.png", "-o", "y.png", "-k", "5", "--device", "tpu")
    assert result.exit_code == 2
    assert "cuda" in result.stderr
    result = run("--help")
    assert result.exit_code == 0
    for command in ("deblur", "restore", "batch", "kernel", "demo", "train", "info"):
        assert command in result.stdout


@pytest.mark.parametrize("command", ["deblur", "batch"])
def test_what_the_file_says_is_in_the_result_unless_stripped(library, tmp_path, command):
    write_image(tmp_path / "in.jpg", COLOR, metadata=Metadata(dpi=(240.0, 240.0), xmp=b"<x/>"))
    out = tmp_path / "out" / "in.jpg"
    out.parent.mkdir()
    arguments = ("-o", out if command == "deblur" else out.parent, "-k", "5", "--overwrite")
    for more, expected in (((), Metadata(dpi=(240.0, 240.0), xmp=b"<x/>")), (("--strip",), Metadata())):
        result = run(command, tmp_path / "in.jpg", *arguments, *more)
        assert result.exit_code == 0, result.output
        assert read_image(out).metadata == expected


def test_info_names_versions_and_backends(monkeypatch):
    def no_gpu():
        raise RuntimeError("device='cuda' needs an NVIDIA GPU, CUDA sees none")

    monkeypatch.setattr("gpudeblur.cli.info.require_cuda", no_gpu)
    result = run("info")
    assert result.exit_code == 0, result.output
    for name in ("gpudeblur", "python", "scipy", "cupy", "torch", "numpy backend", "cupy backend", "FFT"):
        assert name in result.stdout
    assert np.__version__ in result.stdout
    assert "SHA-256 0e0a9c0c5c3c, research use: trained on CelebA" in table(result)["weights of classifier"]
    assert table(result)["cupy backend"] == "no NVIDIA GPU found: computing on the CPU"
    assert json.loads(run("info", "--json").stdout) == table(result)


def test_restore(network_weights, source, tmp_path):
    write_image(source, COLOR, COLOR[..., 1])
    out = tmp_path / "out.png"
    command = ("restore", source, "-o", out, "--network", "deepdeblur", "--weights", network_weights)
    result = run(*command, "--strength", "0.5", "--tile", "64", "--device", "cpu")
    assert result.exit_code == 0, result.output
    expected = gpudeblur.restore(
        COLOR, "deepdeblur", channel_axis=-1, weights=network_weights, strength=0.5, tile=64, device="cpu"
    )
    np.testing.assert_array_equal(read_image(out).pixels, expected.image)
    np.testing.assert_array_equal(read_image(out).alpha, COLOR[..., 1])
    rows = table(result)
    assert (rows["network"], rows["backend"], rows["strength"]) == ("deepdeblur", "numpy", "0.50")
    assert rows["written"] == str(out)
    out.unlink()
    for arguments, message in {
        ("--strength", "full"): "--strength must be auto or a number from 0 to 1, got 'full'; auto decides",
        ("--strength", "2"): "--strength must be auto or a number from 0 to 1, got '2'; auto decides",
        ("--network", "magic"): "--network must be one of 'deepdeblur'",
        ("--kernel-out", tmp_path / "k.npy"): "--kernel-out needs a method that estimates the kernel, got 'deepdeblur'",
        ("--weights", tmp_path / "none"): "No such file or directory",
        ("--weights", source): "must be safetensors, got a damaged file",
    }.items():
        fails(run(*command, *arguments), message)
    assert names(tmp_path) == ["in.png"]


def test_restore_without_torch(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("restore", source, "-o", tmp_path / "out.png", "--network", "deepdeblur")
    fails(result, "a network needs PyTorch, which cannot be imported")
    assert "pip install 'gpudeblur[torch]'" in result.stderr


# ---- a kernel that is known


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Stands in for `gpudeblur.deconvolve`, with a kernel in a file: notes the call, and returns the negative."""
    calls = []

    def deconvolve(image, kernel, **options):
        assert not options.pop("callback")("restoration", 0.5)
        calls.append((image, kernel, options))
        return np.iinfo(image.dtype).max - image

    monkeypatch.setattr(gpudeblur, "deconvolve", deconvolve, raising=False)
    write_kernel(tmp_path / "k.npy", KERNEL)
    return calls


DECONVOLVE_DEFAULTS: dict[str, Any] = {
    "method": None,
    "boundary": "unknown",
    "weight": None,
    "noise_sigma": None,
    "floor": None,
}
DECONVOLVE_DEFAULTS |= {"iterations": None, "tile": None, "gamma": 1.0, "white": None, "mask": None}
DECONVOLVE_DEFAULTS |= {"defects": "auto", "device": "auto", "channel_axis": -1}


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ((), {}),
        (("--method", "wiener", "--weight", "0.5"), {"method": "wiener", "weight": 0.5}),
        (("--noise", "0.02", "--boundary", "wrap"), {"noise_sigma": 0.02, "boundary": "wrap"}),
        (("--floor", "auto", "--tile", "auto"), {"floor": "auto", "tile": "auto"}),
        (("--floor", "0.1", "--tile", "64", "--iterations", "7"), {"floor": 0.1, "tile": 64, "iterations": 7}),
        (("--gamma", "2.2", "--white-level", "200"), {"gamma": 2.2, "white": 200.0}),
        (("--defects", "none", "--device", "cpu"), {"defects": None, "device": "cpu"}),
    ],
)
def test_deconvolve(known, source, tmp_path, arguments, changes):
    result = run("deconvolve", source, "--kernel", tmp_path / "k.npy", *arguments)
    assert result.exit_code == 0, result.output
    ((image, kernel, options),) = known
    np.testing.assert_array_equal(image, COLOR)
    np.testing.assert_allclose(kernel, KERNEL)
    assert options == DECONVOLVE_DEFAULTS | changes
    np.testing.assert_array_equal(read_image(tmp_path / "in_deblurred.png").pixels, 255 - COLOR)
    assert table(result)["kernel"] == f"3 x 5, of {tmp_path / 'k.npy'}; nothing was estimated"


@pytest.mark.parametrize("name", ["k.npy", "k.tif", "k.npz"])
def test_kernels_of_files_are_applied(source, tmp_path, name):
    """By the library itself, as in Python."""
    field = gpudeblur.KernelField(KERNEL[None, None], COLOR.shape[:2])
    if name == "k.npz":
        field.save(tmp_path / name)
    else:
        write_kernel(tmp_path / name, KERNEL)
    result = run("deconvolve", source, "--kernel", tmp_path / name, "--device", "cpu")
    assert result.exit_code == 0, result.output
    kernel = field if name == "k.npz" else gpudeblur.read_kernel(tmp_path / name)
    expected = gpudeblur.deconvolve(COLOR, kernel, channel_axis=-1)
    np.testing.assert_array_equal(read_image(tmp_path / "in_deblurred.png").pixels, expected)
    assert table(result)["method"] == ("sparse" if name == "k.npz" else "tv")


def test_deblur_with_a_known_kernel_estimates_nothing(library, known, source, tmp_path):
    command = ("deblur", source, "--kernel", tmp_path / "k.npy")
    assert run(*command, "--final", "hyper-laplacian").exit_code == 0
    assert library.calls == []
    assert known[0][2]["method"] == "hyper-laplacian"
    for option in (("-k", "5"), ("--region", "all"), ("--preset", "fast"), ("--prior", "intensity")):
        name = "--kernel-size" if option[0] == "-k" else option[0]
        fails(run(*command, "--overwrite", *option), f"{name} must be left out with --kernel")
    fails(run(*command, "--overwrite", "--gamma", "auto"), "--gamma must be a number with --kernel")


@pytest.mark.parametrize("command", ["deblur", "deconvolve"])
def test_a_kernel_brings_the_gamma_it_was_estimated_with(library, known, source, tmp_path, command):
    kernel = tmp_path / "2.2.npy"
    assert run("kernel", source, "-o", kernel).exit_code == 0
    for options, gamma, shown, warning in (
        ((), 2.2, f"2.2, of {kernel}", ""),
        (("--gamma", "2.2"), 2.2, "2.2", ""),
        (("--gamma", "1"), 1.0, "1", f"warning: --gamma 1 differs from that of the kernel, 2.2 in {kernel}; leave it"),
    ):
        result = run(command, source, "--kernel", kernel, "--overwrite", *options)
        assert result.exit_code == 0, result.output
        assert known[-1][2]["gamma"] == gamma
        assert table(result)["gamma"] == shown
        assert result.stderr.startswith(warning)
        assert bool(result.stderr) == bool(warning)
    row = table(run(command, source, "--kernel", tmp_path / "k.npy", "--overwrite"))["gamma"]
    assert row.startswith(f"1, as {tmp_path / 'k.npy'} says none; --gamma 2.2 if")
    assert known[-1][2]["gamma"] == 1.0


def test_traces_of_lights(source, tmp_path):
    fails(run("kernel", source, "--from-streak"), "got fewer; leave out --from-streak")
    fails(run("kernel", source, "--from-streak", "-k", "9"), "--kernel-size must be left out with --from-streak")


def test_bad_kernel_files(known, source, tmp_path):
    np.save(tmp_path / "stack.npy", np.ones((2, 3, 3)))
    for name, message in (
        ("missing.npy", "--kernel must be a file, there is none at"),
        ("in.png", "must be a gray image without alpha to be a kernel"),
        ("stack.npy", "--kernel must hold one kernel, got 2 x 3 x 3 in"),
    ):
        fails(run("deconvolve", source, "--kernel", tmp_path / name), message)
    fails(run("deconvolve", source, "--kernel", tmp_path / "k.npy", "--tile", "big"), "--tile must be auto or a number")
    assert known == []


# ---- files


def test_standard_input_and_output(library, source, tmp_path):
    result = run("deblur", "-", "-k", "5", input=source.read_bytes())
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(result.stdout_bytes))), 255 - COLOR)
    assert "confidence" in result.stderr
    result = run("kernel", source, "-k", "5", "-o", "-")
    np.testing.assert_array_equal(np.load(io.BytesIO(result.stdout_bytes)), KERNEL)
    fails(run("deblur", "-", input=b"hello"), "error: standard input must be an image (PNG, JPEG, TIFF")
    assert names(tmp_path) == ["in.png"]


def test_default_names_and_folders(library, tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "in.JPG")
    (tmp_path / "out").mkdir()
    for arguments, name in (
        (("deblur", "-k", "5"), "in_deblurred.JPG"),
        (("deblur", "-k", "5", "-o", tmp_path / "out"), "out/in_deblurred.JPG"),
        (("kernel", "-k", "5"), "in_kernel.npy"),
        (("kernel", "-k", "5", "-o", tmp_path / "out"), "out/in_kernel.npy"),
    ):
        command, *options = arguments
        result = run(command, tmp_path / "in.JPG", *options)
        assert result.exit_code == 0, result.output
        assert table(result)["written"] == str(tmp_path / name)
        assert (tmp_path / name).exists()
        fails(run(command, tmp_path / "in.JPG", *options), f"{name} exists; name another, or give --overwrite")
        assert run(command, tmp_path / "in.JPG", *options, "--overwrite").exit_code == 0
    applied = table(run("kernel", tmp_path / "in.JPG", "--overwrite"))["apply it"]
    assert applied == f"gpudeblur deconvolve {tmp_path / 'in.JPG'} --kernel {tmp_path / 'in_kernel.npy'}"


@pytest.mark.parametrize("command", ["deblur", "deconvolve"])
def test_pages_and_metadata(library, known, tmp_path, command):
    tifffile.imwrite(tmp_path / "two.tif", np.stack([COLOR, COLOR // 2]), photometric="rgb", resolution=(240, 240))
    extra = ("--kernel", tmp_path / "k.npy") if command == "deconvolve" else ()
    fails(run(command, tmp_path / "two.tif", *extra), "save the one to use by itself, or name it by --page, from 0")
    for name, options, dpi in (("a.png", (), 240), ("b.png", ("--strip",), None)):
        result = run(command, tmp_path / "two.tif", *extra, "--page", "1", "-o", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, 255 - COLOR // 2)
        with Image.open(tmp_path / name) as image:
            assert image.info.get("dpi", (None,))[0] == (dpi if dpi is None else pytest.approx(dpi, abs=0.01))


def test_files_that_exist_are_refused_before_the_work(library, source, tmp_path):
    for option in ("--kernel-out", "--compare"):
        path = tmp_path / f"old{option}.png"
        path.write_bytes(b"old")
        fails(run("deblur", source, option, path), f"{option} must be a new file, {path} exists; name another, or give")
        assert path.read_bytes() == b"old"
    (tmp_path / "index.html").touch()
    fails(run("demo", "-o", tmp_path), "index.html exists; name another, or give --overwrite")
    assert library.calls == []


def test_files_that_are_written_differ(library, source, tmp_path):
    same = tmp_path / "s.png"
    for options, names_of_options in (
        (("-o", same, "--kernel-out", same), ("--kernel-out", "--out")),
        (("-o", same, "--compare", same), ("--compare", "--out")),
        (("--kernel-out", same, "--compare", same), ("--compare", "--kernel-out")),
    ):
        one, other = names_of_options
        fails(run("deblur", source, *options), f"{one} must be another file than {other}, got {same} for both")
    assert library.calls == []


def test_quality(library, source, tmp_path):
    sizes = []
    for quality in ("95", "30"):
        result = run("deblur", source, "-o", tmp_path / "o.jpg", "--quality", quality, "--overwrite")
        assert result.exit_code == 0, result.output
        sizes.append((tmp_path / "o.jpg").stat().st_size)
    assert sizes[1] < sizes[0] / 1.5
    calls = len(library.calls)
    fails(run("deblur", source, "--quality", "80"), "--quality must be left out for .png files, which lose nothing")
    fails(run("deblur", source, "-o", tmp_path / "n.jpg", "--quality", "101"), "--quality must be an integer from 1 to")
    fails(run("deblur", "-", "--bits", "12", input=source.read_bytes()), "--bits must be 8 or 16, got 12")
    tifffile.imwrite(tmp_path / "int.tif", np.zeros((20, 30), np.int16))
    fails(
        run("deblur", tmp_path / "int.tif", "-o", "-"), "PNG and JPEG hold uint8, uint16 or floats in [0, 1], got int"
    )
    assert len(library.calls) == calls


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_reader_that_has_enough_is_no_error(source):
    """As of `gpudeblur info | head -1`."""
    command = f"{shlex.quote(sys.executable)} -m gpudeblur info --json"
    code = f"{command} | (exec <&-); echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, cwd=source.parent)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_command(source, tmp_path, monkeypatch, number):
    """With the exit code of the signal; nothing is written."""
    monkeypatch.setattr(gpudeblur, "deblur", lambda *_, **__: signal.raise_signal(number))
    result = run("deblur", source)
    assert (result.exit_code, result.output) == (128 + number, "")
    assert names(tmp_path) == ["in.png"]


def test_what_is_no_picture(library, source, tmp_path):
    fails(run("deblur", tmp_path), f"is a folder; gpudeblur batch {tmp_path} -o DIR takes all of its pictures")
    fails(run("deblur", tmp_path / "no.png"), f"IN must exist, there is no file {tmp_path / 'no.png'}; check the name")
    result = run("kernel", source, "b c.png", "-o", "x.npy")
    fails(result, f"IN must be one picture, got {source} 'b c.png'; use gpudeblur batch {source} 'b c.png' -o DIR")


@pytest.mark.parametrize("command", ["deblur", "deconvolve"])
def test_compare(library, known, source, tmp_path, command):
    extra = ("--kernel", tmp_path / "k.npy") if command == "deconvolve" else ()
    result = run(command, source, *extra, "--compare", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    expected = side_by_side({"blurred": COLOR, "result": 255 - COLOR}, {"kernel": KERNEL})
    np.testing.assert_array_equal(read_image(tmp_path / "sheet.png").pixels, expected)
    assert str(tmp_path / "sheet.png") in table(result)["written"]
    same = (command, source, *extra, "-o", tmp_path / "s.png", "--compare", tmp_path / "s.png")
    fails(run(*same), "--compare must be another file than --out")


@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_presets(library, source, tmp_path, command):
    for preset in ("fast", "standard", "best"):
        assert run(command, source, "--preset", preset, "--overwrite").exit_code == 0
    fast, standard, best = (options["options"] for _, _, options in library.calls)
    assert (fast, standard) == ({"starts": ("wide",)}, None)
    assert best == PRESETS["best"]


# ---- options in a file


def test_a_file_of_options(library, source, tmp_path):
    config = tmp_path / "g.toml"
    config.write_text("""
        [deblur]
        kernel-size = 5
        gamma = 1.8
        preset = "fast"
        overwrite = true
        kernel-out = "k.png"
        [batch]
        kernel-size = 7
        strip = true
    """)
    command = ("deblur", source, "--config", config, "--kernel-out", tmp_path / "k.npy", "--preset", "standard")
    for _ in range(2):  # it may overwrite
        assert run(*command).exit_code == 0
    _, size, options = library.calls[0]
    assert (size, options["gamma"], options["options"]) == (5, 1.8, None)
    assert names(tmp_path) == ["g.toml", "in.png", "in_deblurred.png", "k.npy"]
    report = tmp_path / "r.json"
    for report_count in (1, 2):  # of the second run, from the journal
        result = run("batch", source, "-o", tmp_path / "out", "--gamma", "2", "--report", report, "--config", config)
        assert result.exit_code == 0, result.output
        (row,) = json.loads(report.read_text())
        assert row["options"] == "--gamma 2 --kernel-size 7 --strip", report_count
    assert row["status"] == "skipped"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[deblur]\nkernal-size = 5",
            "must name options of gpudeblur deblur, got 'kernal-size' in g.toml; use kernel-size",
        ),
        ("[deblurr]", "must have commands as sections, got 'deblurr' in g.toml; use deblur"),
        ("[deblur]\noverwrite = 'yes'", "must have true or false for overwrite, got 'yes' in g.toml"),
        ("[deblur]\nregion = [1, 2, 3, 4]", "must have a text or a number for region, got [1, 2, 3, 4] in g.toml"),
        ("deblur = 3", "must have a section [deblur], got deblur = 3 in g.toml"),
        ("[deblur", "must be a TOML file, g.toml is none (Expected ']'"),
        (None, "must be a file, there is none at g.toml; check the name"),
    ],
)
def test_bad_files_of_options(library, source, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "g.toml").write_text(text)
    fails(run("deblur", source, "--config", "g.toml"), f"error: --config {message}")
    assert library.calls == []


# ---- what is shown


def test_help_fits_80_columns_and_its_examples_are_right(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        lines = run(name, "-h").stdout.splitlines()
        assert max(map(len, lines)) <= 80, name
        assert not any("\u2026" in line for line in lines), name
        if name == "train":
            continue
        panels = [line.split()[1] for line in lines if line.startswith("\u256d")]
        assert [panel for panel in panels if panel in PANELS] == [panel for panel in PANELS if panel in panels]
        (example,) = [line for line in lines if line.startswith(" Example: gpudeblur ")]
        words = shlex.split(example)[2:]
        assert words[0] == name
        assert command.make_context(name, words[1:]).args == []


def test_version_and_h():
    assert run("--version").stdout.strip() == metadata.version("gpudeblur")
    assert run("-h").stdout == run("--help").stdout
    assert "--install-completion" in run("-h").stdout


def test_lines_of_progress_where_there_is_no_terminal(library, source, tmp_path, monkeypatch):
    assert run("deblur", source, "-o", tmp_path / "a.png").stderr == ""
    monkeypatch.setattr("gpudeblur.cli.terminal.LINE_SECONDS", 0.0)
    lines = run("deblur", source, "-o", tmp_path / "b.png").stderr.splitlines()
    assert lines[1] == "scale 1 of 1: 50% of the run after 0 s"
    assert run("deblur", source, "-o", tmp_path / "c.png", "-q").output == ""
    fails(run("deblur", source, "-o", tmp_path / "d.png", "-q", "-v"), "-q must be given without -v, got both")


def test_the_log_file_holds_everything(library, source, tmp_path):
    log = tmp_path / "run.log"
    for name in ("a.png", "b.png"):
        assert run("deblur", source, "-o", tmp_path / name, "-q", "--log-file", log).output == ""
    assert run("deblur", tmp_path / "no.png", "--log-file", log).exit_code == 2
    text = log.read_text()
    assert text.count("DEBUG scale 1 of 1 begins") == text.count("INFO confidence: 0.90") == 2
    assert "ERROR IN must exist, there is no file" in text
    assert "scale 1 of 1 begins" in run("deblur", source, "-v", "-o", tmp_path / "c.png").stderr
    assert logging.getLogger("gpudeblur").handlers == []
    assert "No such file" in run("info", "--log-file", tmp_path / "no" / "run.log").stderr


@pytest.mark.slow
def test_the_command_as_a_process(tmp_path):
    """The real entry point, with warnings as errors; torch stays out."""
    code = "import sys; from gpudeblur.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    (tmp_path / "empty.png").touch()
    arguments = ["deblur", "empty.png", "-o", "out.png", "-k", "5"]
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    root = next(iter(gpudeblur.__path__)).removesuffix("gpudeblur")
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: empty.png is empty (0 bytes); get a fresh copy\n"
    assert done.stdout == ""
    assert names(tmp_path) == ["empty.png"]
