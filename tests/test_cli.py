"""The command line: what reaches the library, what is written, and how errors look. The library itself is faked."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import gpudeblur
from gpudeblur.cli import app
from gpudeblur.images.files import read_image, write_image

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
    confidence = SimpleNamespace(value=0.9)

    def deblur(image, kernel_size, **options):
        calls.append((image, kernel_size, options))
        for fraction in (0.0, 0.5, 1.0):
            assert not options["callback"]("scale 1 of 1", fraction)  # true would stop the run
        backend = {"backend": "numpy", "confidence": confidence.value, "seconds": 1.234}
        negative = np.iinfo(image.dtype).max - image if image.dtype.kind == "u" else 1 - image
        return SimpleNamespace(image=negative, kernel=KERNEL, info=backend)

    def estimate_kernel(image, kernel_size, **options):
        assert "final" not in options
        return deblur(image, kernel_size, **options).kernel

    def two_step_options(**given):
        return given

    monkeypatch.setattr(gpudeblur, "deblur", deblur, raising=False)
    monkeypatch.setattr(gpudeblur, "estimate_kernel", estimate_kernel, raising=False)
    monkeypatch.setattr(gpudeblur, "TwoStepOptions", two_step_options, raising=False)
    return SimpleNamespace(calls=calls, confidence=confidence)


@pytest.fixture
def source(tmp_path):
    write_image(tmp_path / "in.png", COLOR)
    return tmp_path / "in.png"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(result, message):
    """Exit code 2, one line on stderr, nothing else."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_deblur_with_the_defaults(library, source, tmp_path):
    result = run("deblur", source, "-o", tmp_path / "out.png", "--kernel-size", "5")
    assert result.exit_code == 0, result.output
    ((image, size, options),) = library.calls
    np.testing.assert_array_equal(image, COLOR)
    assert size == 5
    assert options.pop("callback")
    assert options == {"channel_axis": -1, "device": "auto", "final": "sparse", "gamma": 1.0, "options": None}
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, 255 - COLOR)
    assert names(tmp_path) == ["in.png", "out.png"]


@pytest.mark.parametrize("given", [(), ("-k", "auto"), ("--kernel-size", "Auto")])
@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_the_kernel_size_is_found_where_none_is_given(library, source, tmp_path, command, given):
    out = tmp_path / ("out.png" if command == "deblur" else "out.npy")
    result = run(command, source, "-o", out, *given)
    assert result.exit_code == 0, result.output
    assert [size for _, size, _ in library.calls] == [None]
    assert out.exists()


def test_every_option_arrives(library, source, tmp_path):
    result = run(
        *("deblur", source, "-o", tmp_path / "out.tif", "-k", "5x7", "--kernel-out", tmp_path / "k.npy"),
        *("--device", "cpu", "--method", "two-step", "--final", "hyper-laplacian", "--gamma", "2.2"),
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
    ("name", "expected"),
    [("dark-channel", gpudeblur.priors.DarkChannel()), ("intensity", gpudeblur.priors.L0Intensity(which="both"))],
)
def test_a_prior_arrives(library, source, tmp_path, name, expected):
    result = run("kernel", source, "-o", tmp_path / "k.npy", "--prior", name)
    assert result.exit_code == 0, result.output
    ((_, _, options),) = library.calls
    assert options["options"] == {"prior": expected}


def test_the_learned_prior_without_torch(library, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    fails(run("kernel", source, "-o", tmp_path / "k.npy", "--prior", "discriminative"), "needs PyTorch")
    assert not library.calls


def test_the_table_says_what_was_done(library, source, tmp_path):
    result = run("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--kernel-out", tmp_path / "[k].png")
    shown = dict(line.split("  ", 1) for line in result.stdout.splitlines() if not line.startswith(" "))
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown["picture"] == "40 x 50 x 3"
    assert shown["kernel size"] == "3 x 5"
    assert shown["backend"] == "numpy"
    assert shown["confidence"] == "0.90"
    assert shown["seconds"] == "1.23"
    assert shown["written"].endswith("out.png")
    assert result.stdout.rstrip().endswith("[k].png")
    assert result.stderr == ""


def test_low_confidence_is_said_plainly(library, source, tmp_path):
    library.confidence.value = 0.21
    result = run("deblur", source, "-o", tmp_path / "out.png", "-k", "5")
    assert "0.21, low: the kernel is a guess; try another --kernel-size" in result.stdout


def test_gray_has_no_channel_axis_and_16_bits_stay(library, tmp_path):
    gray = COLOR[..., 0].astype(np.uint16) * 257
    write_image(tmp_path / "in.png", gray)
    assert run("deblur", tmp_path / "in.png", "-o", tmp_path / "out.png", "-k", "5").exit_code == 0
    assert library.calls[0][2]["channel_axis"] is None
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, 65535 - gray)


def test_float_tiff_stays_float_and_bits_choose_a_deep_png(library, tmp_path):
    light = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    write_image(tmp_path / "in.tif", light)
    assert run("deblur", tmp_path / "in.tif", "-o", tmp_path / "out.tif", "-k", "5").exit_code == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.tif").pixels, 1 - light)
    assert run("deblur", tmp_path / "in.tif", "-o", tmp_path / "out.png", "-k", "5", "--bits", "16").exit_code == 0
    assert read_image(tmp_path / "out.png").pixels.dtype == np.uint16


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_alpha_is_kept_apart_and_comes_back(library, tmp_path, shape):
    pixels, alpha = COLOR if len(shape) == 3 else COLOR[..., 0], COLOR[..., 1]
    write_image(tmp_path / "in.png", pixels, alpha)
    assert run("deblur", tmp_path / "in.png", "-o", tmp_path / "out.png", "-k", "5").exit_code == 0
    assert library.calls[0][0].shape == shape
    photo = read_image(tmp_path / "out.png")
    np.testing.assert_array_equal(photo.pixels, 255 - pixels)
    np.testing.assert_array_equal(photo.alpha, alpha)


def test_alpha_and_jpeg_is_refused_before_the_work(library, tmp_path):
    write_image(tmp_path / "in.png", COLOR, COLOR[..., 0])
    fails(
        run("deblur", tmp_path / "in.png", "-o", tmp_path / "out.jpg", "-k", "5"),
        "JPEG cannot hold the picture's alpha channel",
    )
    assert library.calls == []


@pytest.mark.parametrize("name", ["k.npy", "k.png"])
def test_kernel_command(library, source, tmp_path, name):
    result = run("kernel", source, "-o", tmp_path / name, "--kernel-size", "5", "--smooth-weight", "0.001")
    assert result.exit_code == 0, result.output
    ((_, size, options),) = library.calls
    assert size == 5
    assert options["channel_axis"] == -1
    assert options["options"] == {"smooth_weight": 0.001}
    assert "kernel size  3 x 5" in result.stdout
    assert names(tmp_path) == ["in.png", name]


def test_the_photograph_itself_is_never_replaced(library, source, tmp_path):
    before = source.read_bytes()
    fails(run("deblur", source, "-o", source, "-k", "5"), "in.png is the input; choose another name")
    fails(run("deblur", source, "-o", tmp_path / "o.png", "--kernel-out", source, "-k", "5"), "in.png is the input")
    fails(run("kernel", source, "-o", source, "-k", "5"), "in.png is the input")
    assert library.calls == []
    assert source.read_bytes() == before


def test_other_files_are_replaced(library, source, tmp_path):
    (tmp_path / "out.png").write_bytes(b"an older result")
    assert run("deblur", source, "-o", tmp_path / "out.png", "-k", "5").exit_code == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, 255 - COLOR)


def test_picture_and_kernel_need_two_names(library, source, tmp_path):
    fails(
        run("deblur", source, "-o", tmp_path / "o.png", "--kernel-out", tmp_path / "o.png", "-k", "5"),
        "--kernel-out must be another file than --out",
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("24", "kernel_size must be odd, got 24; use 23 or 25"),
        ("5x4", "kernel_size must be odd, got (5, 4); use (5, 3) or (5, 5)"),
        ("0", "kernel_size must be at least 3, got 0"),
        ("-7", "kernel_size must be at least 3, got -7"),
        ("41", "kernel_size must not exceed the picture, got (41, 41) for a picture of 40 x 50; use at most (39, 49)"),
        ("3x5x7", "kernel_size must be one odd integer or a pair (height, width), got 3 numbers: (3, 5, 7)"),
        ("25.0", "--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto, got '25.0'; use for instance 31"),
        ("big", "--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto, got 'big'"),
        ("5x", "--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto, got '5x'"),
        ("", "--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto, got ''"),
    ],
)
@pytest.mark.parametrize("command", ["deblur", "kernel"])
def test_bad_kernel_sizes(library, source, tmp_path, command, size, message):
    fails(run(command, source, "-o", tmp_path / "out.png", "--kernel-size", size), message)
    assert library.calls == []
    assert names(tmp_path) == ["in.png"]


def test_files_that_cannot_be_read(library, tmp_path):
    out = ("-o", tmp_path / "out.png", "-k", "5")
    fails(run("deblur", tmp_path / "nothing.png", *out), "nothing.png")
    (tmp_path / "empty.png").touch()
    fails(run("deblur", tmp_path / "empty.png", *out), "empty.png is empty (0 bytes)")
    (tmp_path / "note.png").write_text("hello")
    fails(run("kernel", tmp_path / "note.png", *out), "note.png must be a PNG, JPEG or TIFF file")
    write_image(tmp_path / "cut.png", COLOR)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    fails(run("deblur", tmp_path / "cut.png", *out), "cut.png is damaged or truncated")
    tifffile.imwrite(tmp_path / "cut.tif", COLOR, compression="lzw", rowsperstrip=4)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:3000])
    fails(run("deblur", tmp_path / "cut.tif", *out), "cut.tif is damaged or truncated")
    assert not (tmp_path / "out.png").exists()


def test_decompression_bomb(library, source, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5"), "must not hold more than 100 pixels")


def test_outputs_are_judged_before_the_work(library, source, tmp_path, monkeypatch):
    fails(run("deblur", source, "-o", tmp_path / "no" / "out.png", "-k", "5"), "does not exist; create it first")
    fails(run("deblur", source, "-o", source / "out.png", "-k", "5"), "is not a folder; choose another place")
    fails(run("deblur", source, "-o", tmp_path / "out.gif", "-k", "5"), "output file must end in .png, .jpg")
    fails(run("deblur", source, "-o", tmp_path / "o.png", "-k", "5", "--kernel-out", "k.txt"), "end in .npy, .png")
    fails(run("kernel", source, "-o", tmp_path / "out.jpg", "-k", "5"), "output file must end in .npy, .png")
    fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--bits", "12"), "bits must be 8, 16 or None")
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5"), "is not writable; choose another place")
    assert library.calls == []
    assert names(tmp_path) == ["in.png"]


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, OSError, MemoryError])
def test_what_the_library_refuses_is_one_line(source, tmp_path, monkeypatch, error):
    def refuse(*arguments, **options):
        raise error("because\nof this")

    monkeypatch.setattr(gpudeblur, "deblur", refuse, raising=False)
    fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5"), "error: because of this")
    assert names(tmp_path) == ["in.png"]


def test_an_error_without_words_is_named(source, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(gpudeblur, "deblur", refuse, raising=False)
    fails(run("deblur", source, "-o", tmp_path / "out.png", "-k", "5"), "error: MemoryError")


def test_nan_in_a_file(source, tmp_path):
    """Read as it is; the library's own check refuses it, and says where."""
    from gpudeblur.images.checks import check_picture

    tifffile.imwrite(tmp_path / "nan.tif", np.full((9, 9), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"image must be finite, got nan at index \(0, 0\) \(81 bad pixels\)"):
        check_picture(read_image(tmp_path / "nan.tif").pixels)


@pytest.mark.parametrize("arguments", [["deblur"], ["deblur", "x.png", "-o", "y.png"], ["nonsense"], ["kernel", "x"]])
def test_usage_errors_exit_with_2(arguments):
    assert run(*arguments).exit_code == 2


def test_unknown_choices_name_the_known_ones(source, tmp_path):
    result = run("deblur", source, "-o", tmp_path / "out.png", "-k", "5", "--device", "tpu")
    assert result.exit_code == 2
    assert "cuda" in result.stderr


def test_info_names_versions_and_backends():
    result = run("info")
    assert result.exit_code == 0, result.output
    assert np.__version__ in result.stdout
    for name in ("gpudeblur", "python", "scipy", "cupy", "torch", "numpy backend", "cupy backend", "FFT"):
        assert name in result.stdout


def test_info_says_why_the_gpu_does_not_work(monkeypatch):
    def no_gpu():
        raise RuntimeError("device='cuda' needs an NVIDIA GPU, CUDA sees none")

    monkeypatch.setattr("gpudeblur.numerics.arrays.require_cuda", no_gpu)
    assert "does not work: device='cuda' needs an NVIDIA GPU, CUDA sees none" in run("info").stdout


def test_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("deblur", "kernel", "info", "demo"):
        assert command in result.stdout


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


def test_import_is_light():
    """Neither the file libraries nor the command line's are loaded by the package itself."""
    heavy = {"torch", "cupy", "PIL", "typer", "tifffile", "skimage", "matplotlib"}
    code = f"import sys, gpudeblur, gpudeblur.images.checks; print({heavy} & {{*sys.modules}})"
    root = next(iter(gpudeblur.__path__)).removesuffix("gpudeblur")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_a_picture_that_the_format_cannot_hold_is_refused_before_the_work(library, tmp_path):
    tifffile.imwrite(tmp_path / "i16.tif", np.zeros((20, 30), np.int16))
    result = run("deblur", tmp_path / "i16.tif", "-o", tmp_path / "out.png", "-k", "5")
    fails(result, "PNG and JPEG hold uint8, uint16 or floats in [0, 1], got int16; convert it, or write .tif")
    assert library.calls == []
    assert not (tmp_path / "out.png").exists()
