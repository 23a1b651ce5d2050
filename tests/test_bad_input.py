"""Whatever cannot work ends in a message that says what, why and what to do, and leaves no file behind."""

import contextlib
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gpudeblur.images.checks import check_kernel, check_kernel_size, check_picture
from gpudeblur.images.files import check_output, read_image, write_image, write_kernel

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def refuses(error, message):
    """The whole message, from its first to its last character."""
    return pytest.raises(error, match=f"^{message}$")


# ---- arrays


@pytest.mark.parametrize(
    ("image", "kind"), [([[1.0]], "list"), (None, "NoneType"), (3, "int"), (Path("a.png"), r"pathlib\.\w+")]
)
def test_not_an_array(image, kind):
    message = f"image must be a NumPy or CuPy array, got {kind}; convert it with numpy.asarray"
    with refuses(TypeError, message):
        check_picture(image)
    with refuses(TypeError, message.replace("image", "kernel")):
        check_kernel(image)


def test_a_masked_array():
    with refuses(TypeError, r"image must be a plain array, got a masked one; fill the mask first, .*"):
        check_picture(np.ma.masked_array(np.zeros((3, 3))))


@pytest.mark.parametrize(
    ("dtype", "name", "way_out"),
    [
        (complex, "complex128", "pass its real part or its magnitude"),
        (object, "object", r"convert it with \.astype\(float\)"),
        (bool, "bool", r"convert it with \.astype\(float\)"),
        ("U3", "<U3", "read the file first, .*"),
        ("S3", r"\|S3", "read the file first, .*"),
        ("M8[s]", r"datetime64\[s\]", "convert it to an integer or float dtype"),
        ("m8[s]", r"timedelta64\[s\]", "convert it to an integer or float dtype"),
        ([("a", "f4")], r"\[\('a', '<f4'\)\]", "convert it to an integer or float dtype"),
    ],
)
def test_dtypes_that_are_no_light(dtype, name, way_out):
    array = np.zeros((3, 3), dtype)
    for check, argument in ((check_picture, "image"), (check_kernel, "kernel")):
        with refuses(TypeError, rf"{argument} must have an integer or float dtype, got {name}; {way_out}"):
            check(array)


@pytest.mark.parametrize(
    ("shape", "way_out"),
    [((), "a 1-D signal is no picture"), ((7,), "a 1-D .*"), ((1, 1, 1, 5, 5), "pass fewer pictures at a time")],
)
def test_wrong_number_of_axes(shape, way_out):
    got = rf"got {len(shape)} \(shape .*\); {way_out}"
    with refuses(ValueError, rf"image must have 2 to 4 axes, \(\.\.\., H, W\), {got}"):
        check_picture(np.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "way_out"), [((5, 5), "leave channel_axis out .*"), ((1, 1, 1, 5, 5), "pass fewer pictures at a time")]
)
def test_wrong_number_of_axes_with_channels(shape, way_out):
    rule = "image must have 3 or 4 axes when channel_axis is given"
    with refuses(ValueError, rf"{rule}, got {len(shape)} \(shape .*\); {way_out}"):
        check_picture(np.zeros(shape), channel_axis=-1)


@pytest.mark.parametrize("axis", [3, -4, 100])
def test_channel_axis_that_is_not_there(axis):
    rule = r"channel_axis must be between -3 and 2 for shape \(5, 6, 3\)"
    with refuses(ValueError, rf"{rule}, got {axis}; use -1 for \(H, W, C\)"):
        check_picture(np.zeros((5, 6, 3)), channel_axis=axis)


@pytest.mark.parametrize(
    ("axis", "got"), [(1.0, r"1\.0 \(float\)"), ("last", r"'last' \(str\)"), (True, r"True \(bool\)")]
)
def test_channel_axis_that_is_no_integer(axis, got):
    with refuses(TypeError, rf"channel_axis must be an integer or None, got {got}; use -1 for \(H, W, C\)"):
        check_picture(np.zeros((5, 6, 3)), channel_axis=axis)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 5), (0, 0)])
def test_empty_arrays(shape):
    for check, name in ((check_picture, "image"), (check_kernel, "kernel")):
        with refuses(ValueError, rf"{name} must not be empty, got shape .*; every side must be at least 1"):
            check(np.zeros(shape))


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 4), st.integers(0, 6))
def test_one_bad_pixel_is_found(value, row, column):
    image = np.zeros((5, 7), np.float32)
    image[row, column] = value
    with refuses(
        ValueError,
        rf"image must be finite, got {value} at index \({row}, {column}\) \(1 bad pixel\); mask or inpaint it first",
    ):
        check_picture(image)


def test_bad_pixels_are_counted_and_the_first_is_named():
    image = np.zeros((2, 5, 7, 3), np.float16)
    image[1, 2, 3, 0], image[1, 4, 0, 2] = np.inf, np.nan
    with refuses(ValueError, r"image must be finite, got inf at index \(1, 2, 3, 0\) \(2 bad pixels\); .*"):
        check_picture(image, channel_axis=-1)


def test_the_argument_is_called_by_its_name():
    with refuses(ValueError, "latent must not be empty, .*"):
        check_picture(np.zeros((0, 1)), name="latent")
    with refuses(ValueError, "psf must not be empty, .*"):
        check_kernel(np.zeros((0, 1)), name="psf")


# ---- kernel sizes


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (24, ValueError, r"kernel_size must be odd, got 24; use 23 or 25"),
        ((24, 31), ValueError, r"kernel_size must be odd, got \(24, 31\); use \(23, 31\) or \(25, 31\)"),
        (0, ValueError, r"kernel_size must be at least 3, got 0; the smallest is 3"),
        (-5, ValueError, r"kernel_size must be at least 3, got -5; the smallest is 3"),
        (2, ValueError, r"kernel_size must be at least 3, got 2; the smallest is 3"),
        (1, ValueError, r"kernel_size must be at least 3, got 1; a 1 x 1 kernel is no blur, the smallest is 3"),
        ((5, 1), ValueError, r"kernel_size must be at least 3, got \(5, 1\); .*"),
        (25.0, TypeError, r"kernel_size must be an odd integer or a pair of them, got 25\.0 \(float\); use .*"),
        ("25", TypeError, r"kernel_size must be an odd integer or a pair of them, got '25' \(str\); use .*"),
        (True, TypeError, r"kernel_size must be an odd integer or a pair of them, got True \(bool\); use .*"),
        ((25, 3.5), TypeError, r"kernel_size must be an odd integer or a pair of them, got \(25, 3\.5\) \(tuple\); .*"),
        ((), ValueError, r"kernel_size must be one odd integer or a pair .*, got 0 numbers: \(\); .*"),
        ((3, 5, 7), ValueError, r"kernel_size must be one odd integer or a pair .*, got 3 numbers: \(3, 5, 7\); .*"),
    ],
)
def test_kernel_sizes_that_cannot_be(size, error, message):
    with refuses(error, message):
        check_kernel_size(size, (64, 64))


def test_kernel_larger_than_the_picture():
    rule = r"kernel_size must not exceed the picture, got"
    with refuses(ValueError, rf"{rule} \(41, 41\) for a picture of 32 x 32; use at most \(31, 31\)"):
        check_kernel_size(41, (32, 32))
    with refuses(ValueError, rf"{rule} \(5, 41\) for a picture of 50 x 33; use at most \(49, 33\)"):
        check_kernel_size((5, 41), (50, 33))
    with refuses(ValueError, rf"{rule} \(3, 3\) for a picture of 2 x 9; a picture must be at least 3 x 3; .*"):
        check_kernel_size(3, (2, 9))


def test_forgotten_channel_axis_is_named():
    with refuses(ValueError, r".* for a picture of 640 x 3; .*; a picture with channels .* needs channel_axis=-1"):
        check_kernel_size(25, (480, 640, 3))


# ---- kernels


def test_kernels_that_cannot_be():
    with refuses(ValueError, r"kernel must have at least 2 axes, .* got 1 \(shape \(5,\)\); .* kernel\[None, :\]"):
        check_kernel(np.ones(5))
    with refuses(
        ValueError, r"kernel must have odd sides, got a height of 4 \(shape \(4, 5\)\); pad it with one zero row"
    ):
        check_kernel(np.ones((4, 5)))
    with refuses(ValueError, r"kernel must have odd sides, got a width of 4 .*; pad it with one zero column"):
        check_kernel(np.ones((5, 4)))
    with refuses(ValueError, r"kernel must be finite, got nan at index \(0, 1\) \(1 bad pixel\); .*"):
        check_kernel(np.array([[1.0, np.nan, 1.0]]))


@pytest.mark.parametrize(
    "kernel", [np.zeros((3, 3)), [[0.1, 0.2, -0.3]], [[[1, 0, 0]], [[1, 0, -1]]], np.zeros((1, 1), np.uint8)]
)
def test_kernel_that_sums_to_zero(kernel):
    with refuses(ValueError, r"kernel must not sum to zero, got a sum of \S+; .* its kernel sums to 1"):
        check_kernel(np.asarray(kernel))


# ---- files to read


@pytest.fixture
def good(tmp_path):
    """The same picture in every format, 8 and 16 bits."""
    folder = tmp_path / "good"
    folder.mkdir()
    write_image(folder / "a.png", PICTURE)
    write_image(folder / "deep.png", PICTURE.astype(np.uint16) * 257)
    write_image(folder / "a.jpg", PICTURE)
    write_image(folder / "a.tif", PICTURE)
    tifffile.imwrite(folder / "lzw.tif", PICTURE, compression="lzw", rowsperstrip=8)
    return folder


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_zero_bytes(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.touch()
    with refuses(ValueError, rf".*a\.{suffix} is empty \(0 bytes\); get a fresh copy"):
        read_image(path)


@pytest.mark.parametrize("content", [b"hello, world", b"GIF89a" + bytes(40), b"\x93NUMPY", b"P", bytes(100)])
def test_not_a_picture(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with refuses(ValueError, r".*a\.png must be a PNG, JPEG or TIFF file, it begins with b'.*'; convert it first"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.tif", "lzw.tif"])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.8, 0.98])
def test_truncated(good, name, part):
    data = (good / name).read_bytes()
    (good / name).write_bytes(data[: max(9, int(part * len(data)))])
    with refuses(ValueError, rf".*{name} is damaged or truncated and cannot be read \((.|\n)*\); get a fresh copy"):
        read_image(good / name)


def test_tiff_cut_between_two_strips(tmp_path):
    """Its directory may stand before the pixels; the decoder would read the missing strips as black."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PICTURE, rowsperstrip=8, compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        cut = tiff.pages[0].dataoffsets[2]
    path.write_bytes(path.read_bytes()[:cut])
    with refuses(ValueError, r".*a\.tif is damaged or truncated and cannot be read \(it has \d+ of \d+ bytes\); .*"):
        read_image(path)


@given(st.integers(0, 2**32 - 1))
def test_damaged_tiff_directories_are_read_or_refused(tmp_path_factory, seed):
    """tifffile meets nonsense in its tags with errors of many types."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("damaged") / "a.tif"
    tifffile.imwrite(path, PICTURE[:8, :8], rowsperstrip=4, compression="zlib")
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[rng.integers(8, 200, 3)] ^= np.uint8(1) << rng.integers(0, 8, 3, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    with contextlib.suppress(ValueError):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "deep.png"])
def test_one_flipped_bit_in_a_png(good, name):
    data = bytearray((good / name).read_bytes())
    data[len(data) // 2] ^= 1
    (good / name).write_bytes(data)
    with refuses(ValueError, rf".*{name} is damaged or truncated .*"):
        read_image(good / name)


def png_head(width, height, depth, color):
    """A well-formed PNG that claims to be of this size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (60_000, 60_000)])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_bomb(tmp_path, width, height, depth):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_head(width, height, depth, 2))
    with refuses(
        ValueError,
        rf".*bomb\.png must not hold more than {Image.MAX_IMAGE_PIXELS} pixels \(it may be a decompression bomb\), "
        rf".*{width * height}.*; crop or reduce it, or raise PIL\.Image\.MAX_IMAGE_PIXELS if you trust it",
    ):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_the_limit_holds_for_every_format_and_can_be_moved(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    write_image(path, PICTURE)
    for limit in (1999, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        rule = rf".*a\.{suffix} must not hold more than {limit} pixels"
        with refuses(ValueError, rf"{rule} .*2000.*; crop or reduce it, .*"):
            read_image(path)
    for limit in (2000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_image(path).pixels.shape == PICTURE.shape


def test_a_small_tiff_with_huge_tiles(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, tile=(64, 128))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)
    with refuses(ValueError, r".*a\.tif must not hold more than 8000 pixels .*, got 128 x 64 = 8192; .*"):
        read_image(tmp_path / "a.tif")


def test_several_pictures_in_one_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 20, 30), np.uint8), photometric="minisblack")
    with refuses(ValueError, r".*a\.tif must hold one picture, got \(5, 20, 30\) \(axes .YX\); save the one to use .*"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_other_colour_spaces(tmp_path, suffix):
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / f"a.{suffix}")
    with refuses(ValueError, rf".*a\.{suffix} must be gray or RGB, got colour space \w+; convert it to RGB first"):
        read_image(tmp_path / f"a.{suffix}")


def test_more_channels_than_a_picture_has(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with refuses(ValueError, r".*a\.tif must have 1 channel and perhaps alpha, got 5; save the ones to use alone"):
        read_image(tmp_path / "a.tif")


# ---- files to write


@pytest.fixture
def folder(tmp_path):
    """Must be as empty after the test as before."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write", [lambda path: write_image(path, PICTURE), lambda path: write_kernel(path, np.ones((3, 3))), check_output]
)
def test_missing_folder(folder, write):
    with refuses(FileNotFoundError, r"output folder .*nowhere does not exist; create it first"):
        write(folder / "nowhere" / "a.png")


def test_a_file_for_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with refuses(NotADirectoryError, r"output folder .*file is not a folder; choose another place"):
        write_image(tmp_path / "file" / "a.png", PICTURE)


def test_a_folder_for_a_file(tmp_path):
    (tmp_path / "a.png").mkdir()
    with refuses(IsADirectoryError, r"output file .*a\.png is a folder; name a file in it"):
        write_image(tmp_path / "a.png", PICTURE)


def test_folder_that_is_not_writable(folder, monkeypatch):
    # The superuser may write everywhere, so the answer is put into the system's mouth.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with refuses(PermissionError, r"output folder .* is not writable; choose another place"):
        write_image(folder / "a.png", PICTURE)


def test_the_input_is_no_output(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    with refuses(ValueError, r"output file .*a\.png is the input; choose another name, so that the photograph is kept"):
        check_output(tmp_path / "a.png", source=tmp_path / "." / "a.png")
    assert check_output(tmp_path / "b.png", source=tmp_path / "a.png") == tmp_path / "b.png"


def test_unknown_suffixes(folder):
    with refuses(ValueError, r"output file must end in \.png, .*, \.tiff, got '\.gif' \(.*a\.gif\); rename it"):
        write_image(folder / "a.gif", PICTURE)
    with refuses(ValueError, r"output file must end in \.png, .*, \.tiff, got .*a without one; rename it"):
        write_image(folder / "a", PICTURE)
    with refuses(ValueError, r"output file must end in \.npy, \.png, got '\.txt' .*; rename it"):
        write_kernel(folder / "k.txt", np.ones((3, 3)))


def test_what_a_format_cannot_hold(folder):
    with refuses(ValueError, r"JPEG cannot hold the picture's alpha channel, got .*a\.jpg; write \.png or \.tif"):
        write_image(folder / "a.jpg", PICTURE, PICTURE[..., 0])
    with refuses(ValueError, r"bits must be 8 for JPEG, got 16; write \.png or \.tif"):
        write_image(folder / "a.jpg", PICTURE, bits=16)
    with refuses(ValueError, r"bits must be None for TIFF, which keeps .*, got 8; leave it out"):
        write_image(folder / "a.tif", PICTURE, bits=8)
    with refuses(ValueError, r"bits must be 8, 16 or None, got 12"):
        write_image(folder / "a.png", PICTURE, bits=12)
    with refuses(ValueError, r"PNG and JPEG hold uint8, uint16 or floats in \[0, 1\], got int32; convert it, .*"):
        write_image(folder / "a.png", PICTURE.astype(np.int32))
    with refuses(ValueError, r"kernel must be \(kh, kw\) for a \.png file, got shape \(2, 3, 3\); write it as \.npy"):
        write_kernel(folder / "k.png", np.ones((2, 3, 3)))


def test_arrays_that_are_no_picture_are_not_written(folder):
    with refuses(ValueError, r"pixels must be finite, got nan at index \(0, 0\) .*"):
        write_image(folder / "a.png", np.full((2, 2), np.nan))
    with refuses(ValueError, r"pixels must be \(H, W\) or \(H, W, 3\), got shape \(2, 2, 4\); opacity .* alpha="):
        write_image(folder / "a.png", np.zeros((2, 2, 4)))
    with refuses(ValueError, r"alpha must have the picture's height, width and dtype, .*; convert it first"):
        write_image(folder / "a.png", np.zeros((2, 2)), np.zeros((2, 2), np.uint8))
    with refuses(TypeError, "pixels must have an integer or float dtype, got complex128; .*"):
        write_image(folder / "a.png", np.zeros((2, 2), complex))
    with refuses(ValueError, "kernel must not sum to zero, .*"):
        write_kernel(folder / "k.npy", np.zeros((3, 3)))


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_failure_half_way_leaves_nothing(folder, monkeypatch, error, name):
    def fill_the_disk(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise error("disk full")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(error, match="disk full"):
        write_image(folder / name, PICTURE)


def test_failure_half_way_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(self, target):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError, match="no"):
        write_image(tmp_path / "a.png", PICTURE)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"
