"""Files: what comes out is what went in, for every format; what is not a picture is refused; files are whole."""

import contextlib
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
from test_bad_input import refuses

from gpudeblur.images.files import check_output, kernel_gamma, read_image, read_kernel, write_image, write_kernel
from gpudeblur.images.kernel_field import KernelField

RNG = np.random.default_rng(7)
COLOR = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
KERNEL = np.outer([1.0, 2, 1], [1.0, 2, 4, 2, 1]) / 40


def integers(shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_lossless_formats_keep_every_bit(tmp_path, suffix, dtype, shape, has_alpha):
    pixels, alpha = integers(shape, dtype), integers((7, 5), dtype) if has_alpha else None
    path = tmp_path / f"picture{suffix}"
    write_image(path, pixels, alpha)
    photo = read_image(str(path))
    assert photo.pixels.flags.writeable
    assert photo.pixels.dtype == dtype
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert (photo.alpha is None) == (not has_alpha)
    if photo.alpha is not None:
        assert photo.alpha.dtype == dtype
        np.testing.assert_array_equal(photo.alpha, alpha)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@settings(max_examples=25, deadline=None)
@given(
    st.data(),
    st.sampled_from([np.uint8, np.uint16, np.float32, np.float64, np.dtype(">u2"), np.dtype(">f4")]),
    st.sampled_from([(), (3,)]),
)
def test_tiff_keeps_dtype_and_values(tmp_path_factory, data, dtype, channels):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    finite = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None
    pixels = data.draw(hnp.arrays(dtype, (height, width, *channels), elements=finite))
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    write_image(path, pixels)
    photo = read_image(path)
    assert photo.pixels.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(photo.pixels, pixels)


def test_jpeg_is_close(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    for pixels in (ramp, np.stack([ramp, ramp[:, ::-1], ramp], axis=-1)):
        write_image(tmp_path / "a.jpg", pixels)
        photo = read_image(tmp_path / "a.jpg")
        assert photo.pixels.dtype == np.uint8
        assert photo.pixels.shape == pixels.shape
        assert abs(photo.pixels.astype(int) - pixels).mean() < 2


def test_floats_become_8_bits_clipped_and_rounded(tmp_path):
    write_image(tmp_path / "a.png", np.array([[-1.0, 0.0, 0.5, 1.0, 3.0]], np.float32))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.array([[0, 0, 128, 255, 255]], np.uint8))


def test_bits_choose_the_depth_but_for_jpeg(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0.5, 1.0]]), bits=16)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.array([[32768, 65535]], np.uint16))
    write_image(tmp_path / "a.png", np.array([[0, 65535]], np.uint16), bits=8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.array([[0, 255]], np.uint8))
    write_image(tmp_path / "a.jpg", np.full((16, 16), 257 * 100, np.uint16))
    assert abs(int(read_image(tmp_path / "a.jpg").pixels[8, 8]) - 100) <= 1


def test_a_single_channel_axis_is_squeezed(tmp_path):
    write_image(tmp_path / "a.png", integers((4, 5, 1)))
    assert read_image(tmp_path / "a.png").pixels.shape == (4, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientation_is_applied(tmp_path, orientation, suffix):
    picture = Image.fromarray(np.kron(integers((3, 2, 3)), np.ones((16, 16, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture.save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path).pixels, expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_harms_no_pixel(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03\0\0\xff\xff"
    Image.fromarray(integers((16, 16, 3))).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("mode", "expanded"), [("P", "RGB"), ("1", "L")])
def test_palettes_and_bits_are_expanded(tmp_path, suffix, mode, expanded):
    picture = Image.fromarray(integers((6, 7, 3))).convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    photo = read_image(tmp_path / f"a.{suffix}")
    assert photo.pixels.dtype == np.uint8
    np.testing.assert_array_equal(photo.pixels, np.asarray(picture.convert(expanded)))


def test_a_transparent_colour_is_alpha(tmp_path):
    colors = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    colors.putpalette([255, 0, 0, 0, 255, 0])
    colors.save(tmp_path / "a.png", transparency=1)
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(photo.alpha, [[255, 0], [0, 255]])
    Image.fromarray(np.array([[10, 20]], np.uint8)).save(tmp_path / "a.png", transparency=20)
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, [[10, 20]])
    np.testing.assert_array_equal(photo.alpha, [[255, 0]])


DEEP, PLANES = integers((30, 20, 3), np.uint16), RNG.random((9, 8, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        *((DEEP, {"compression": c, "rowsperstrip": 7}, DEEP) for c in ("lzw", "zlib", "zstd", "packbits")),
        (np.moveaxis(PLANES, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, PLANES),
        (np.array([[0, 200]], np.uint8), {"photometric": "miniswhite"}, [[255, 55]]),  # white as zero
    ],
)
def test_tiffs_of_other_programs(tmp_path, stored, options, expected):
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, expected)


def test_tiff_of_12_bits_fills_16(tmp_path):
    """By a name of its own, as old imagecodecs cannot write it: `make test-floors` leaves it out."""
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 4095, 2048, 1]], np.uint16), bitspersample=12)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, [[0, 65535, 32776, 16]])


def test_jpeg_inside_tiff(tmp_path):
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="jpeg")
    assert abs(read_image(tmp_path / "a.tif").pixels.astype(int) - pixels).max() < 6


def test_colours_multiplied_by_alpha_are_divided(tmp_path):
    stored = np.array([[[60, 30, 0, 128], [7, 7, 7, 0], [255, 9, 0, 255]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels[0, 0], [120, 60, 0])
    np.testing.assert_array_equal(photo.pixels[0, 2], [255, 9, 0])
    np.testing.assert_array_equal(photo.alpha, stored[..., 3])


def test_thumbnails_in_a_tiff_are_left_aside(tmp_path):
    pixels = integers((20, 30, 3))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels, photometric="rgb", metadata=None)
        tiff.write(pixels[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_content_and_not_the_name_says_what_it_is(tmp_path):
    """And colours of 16 bits are what libpng wrote."""
    for pixels in (integers((4, 5)), integers((33, 21, 3), np.uint16)):
        (tmp_path / "a.jpg").write_bytes(bytes(imagecodecs.png_encode(pixels)))
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, pixels)


def test_a_kernel_is_read_as_it_was_written(tmp_path):
    kernel = RNG.random((2, 5, 8))  # a stack, of even width
    write_kernel(tmp_path / "k.npy", kernel[..., 1:])
    scaled = kernel / kernel.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(read_kernel(str(tmp_path / "k.npy")).sum(axis=(1, 2)), 1, rtol=1e-15)
    np.save(tmp_path / "even.npy", kernel.astype(np.float32))
    read = read_kernel(tmp_path / "even.npy")
    assert read.dtype == np.float64
    np.testing.assert_allclose(read, np.pad(scaled, [(0, 0), (0, 0), (0, 1)]), rtol=1e-6)
    write_kernel(tmp_path / "k.tif", 7 * kernel[0, :, 1:])
    assert read_image(tmp_path / "k.tif").pixels.dtype == np.float32
    np.testing.assert_allclose(read_kernel(tmp_path / "k.tif"), kernel[0, :, 1:] / kernel[0, :, 1:].sum(), rtol=1e-6)


def test_a_kernel_field_is_read(tmp_path):
    field = KernelField(np.stack([KERNEL, KERNEL[:, ::-1]])[None], shape=(20, 30))
    field.save(tmp_path / "k.npz")
    np.testing.assert_allclose(read_kernel(tmp_path / "k.npz").kernels, field.kernels, rtol=1e-15)


@pytest.mark.parametrize("name", ["k.png", "k.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_gray_image_is_a_kernel_of_sum_1(tmp_path, name, dtype):
    pixels = integers((5, 7), dtype)
    write_image(tmp_path / name, pixels)
    np.testing.assert_allclose(read_kernel(tmp_path / name), pixels / pixels.sum(dtype=float), rtol=1e-15)


def test_a_gray_image_saved_as_rgb_is_a_kernel(tmp_path):
    pixels = integers((5, 7))
    opaque = np.full((5, 7), 255, np.uint8)
    for image, alpha in ((np.dstack([pixels] * 3), None), (np.dstack([pixels] * 3), opaque), (pixels, opaque)):
        write_image(tmp_path / "k.png", image, alpha)
        np.testing.assert_allclose(read_kernel(tmp_path / "k.png"), pixels / pixels.sum(dtype=float), rtol=1e-15)
    write_image(tmp_path / "k.png", pixels, pixels)
    with pytest.raises(ValueError, match=r"k\.png must be a gray image without alpha to be a kernel"):
        read_kernel(tmp_path / "k.png")


def test_a_file_that_is_not_a_kernel(tmp_path):
    write_image(tmp_path / "a.png", integers((5, 7, 3)))
    with pytest.raises(ValueError, match=r"a\.png must be a gray image without alpha to be a kernel; convert it, or"):
        read_kernel(tmp_path / "a.png")
    write_image(tmp_path / "a.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png holds no kernel: kernel must not sum to zero"):
        read_kernel(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"a\.npy holds no kernel: kernel must have at least 2 axes"):
        read_kernel(tmp_path / "a.npy")
    for content in ((tmp_path / "a.npy").read_bytes()[:-1], b"\x93NUMPY"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy is damaged or truncated and cannot be read"):
            read_kernel(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy is damaged or truncated and cannot be read"):
        read_kernel(tmp_path / "a.npy")


def test_kernels_are_white_at_most_as_png(tmp_path):
    write_kernel(tmp_path / "k.png", np.array([[0.0, 0.02, 0.01]]))
    np.testing.assert_array_equal(read_image(tmp_path / "k.png").pixels, [[0, 255, 128]])


def test_a_link_is_written_through(tmp_path):
    write_image(tmp_path / "real.png", integers((2, 2)))
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    pixels = integers((3, 3))
    write_image(tmp_path / "link.png", pixels)
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(read_image(tmp_path / "real.png").pixels, pixels)


def test_new_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_image(tmp_path / "a.png", integers((2, 2)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pillow_reads_what_is_written(tmp_path):
    pixels = integers((5, 6, 3))
    for suffix in ("png", "tif"):
        write_image(tmp_path / f"a.{suffix}", pixels)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)


# ---- files to read


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    write_image(folder / "a.png", COLOR)
    write_image(folder / "deep.png", COLOR.astype(np.uint16) * 257)
    write_image(folder / "a.jpg", COLOR)
    write_image(folder / "a.tif", COLOR)
    tifffile.imwrite(folder / "lzw.tif", COLOR, compression="lzw", rowsperstrip=8)
    return folder


def cannot_read(path: Path, message: str, error: type[Exception] = ValueError) -> None:
    with refuses(error, f"...{path.name} {message}"):
        read_image(path)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    for read in (read_image, read_kernel):
        with refuses(ValueError, "...x.png must be a regular file, got a pipe, socket or device; copy it ..."):
            read(tmp_path / "x.png")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"hello, world", b"GIF88a" + bytes(40), b"\x93NUMPY", b"P", bytes(100), b""])
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    for path in (tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "a.tif"):
        path.write_bytes(content)
        begins = "must be an image (PNG, JPEG, ..., camera RAW), it begins with b'...'; convert it first"
        cannot_read(path, begins if content else "is empty (0 bytes); get a fresh copy")


DAMAGED = "is damaged or truncated and cannot be read (...); get a fresh copy"


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.tif", "lzw.tif"])
def test_truncated(good: Path, name: str) -> None:
    data = (good / name).read_bytes()
    for part in (0.01, 0.1, 0.5, 0.8, 0.98):
        (good / name).write_bytes(data[: max(9, int(part * len(data)))])
        cannot_read(good / name, DAMAGED)
    if name.endswith(".png"):  # its checksums tell of one flipped bit
        half = len(data) // 2
        (good / name).write_bytes(data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])
        cannot_read(good / name, DAMAGED)


def test_tiff_cut_between_two_strips(tmp_path: Path) -> None:
    """Its directory may stand before the pixels; the decoder would read the missing strips as black."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(COLOR, rowsperstrip=8, compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        cut = tiff.pages[0].dataoffsets[2]
    path.write_bytes(path.read_bytes()[:cut])
    cannot_read(path, "is damaged or truncated and cannot be read (it has ... of ... bytes); get a fresh copy")


def test_damaged_tiff_directories_are_read_or_refused(tmp_path: Path) -> None:
    """tifffile meets nonsense in its tags with errors of many types."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    tifffile.imwrite(tmp_path / "a.tif", COLOR[:8, :8], rowsperstrip=4, compression="zlib")
    good = np.frombuffer((tmp_path / "a.tif").read_bytes(), np.uint8)
    for seed in range(100):
        rng, data = np.random.default_rng(seed), good.copy()
        data[rng.integers(8, 200, 3)] ^= np.uint8(1) << rng.integers(0, 8, 3, dtype=np.uint8)
        (tmp_path / "a.tif").write_bytes(data.tobytes())
        with contextlib.suppress(ValueError):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("side", "depth"), [(10_000, 8), (10_000, 16), (60_000, 8), (60_000, 16)])
def test_png_bomb(tmp_path: Path, side: int, depth: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + rest)
    limit = f"must not hold more than {Image.MAX_IMAGE_PIXELS} pixels (it may be a decompression bomb)"
    trust = "crop or reduce it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    cannot_read(tmp_path / "bomb.png", f"{limit}, ...{side**2}...; {trust}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_the_limit_holds_for_every_format_and_can_be_moved(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_image(path, COLOR)
    limit: int | None
    for limit in (1999, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        cannot_read(path, f"must not hold more than {limit} pixels ...2000...; crop or reduce it, ...")
    for limit in (2000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_image(path).pixels.shape == COLOR.shape


def test_tiffs_that_are_no_single_gray_or_rgb_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    stack = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None], (5, 20, 30))
    tifffile.imwrite(path, stack, photometric="minisblack")
    cannot_read(
        path, "must hold one picture, got 5 pages; save the one to use by itself, or ... read_image(path, page=0)"
    )
    for page in range(5):
        assert (read_image(path, page=page).pixels == page).all()
    with refuses(ValueError, "page must be 0 to 4 for ...a.tif, got 5; the first is 0"):
        read_image(path, page=5)
    tifffile.imwrite(path, np.zeros((9, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    cannot_read(path, "must have 1 channel and perhaps alpha, got 5; save the ones to use alone")
    for other in (path, tmp_path / "a.jpg"):
        Image.fromarray(COLOR).convert("CMYK").save(other)
        cannot_read(
            other, "must be gray or RGB, got colour space ...; give it a colour profile, or convert it to RGB first"
        )
    tifffile.imwrite(path, COLOR, tile=(64, 128))  # small, but with huge tiles
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)
    cannot_read(path, "must not hold more than 8000 pixels ..., got 128 x 64 = 8192; ...")


# ---- files to write


GRAY = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("nowhere/a.png", (COLOR,), FileNotFoundError, "output folder ...nowhere does not exist; create it first"),
        ("nowhere/k.npy", (KERNEL,), FileNotFoundError, "output folder ...nowhere does not exist; create it first"),
        ("a.gif", (COLOR,), ValueError, "output file must end in .png, ..., .tiff, got '.gif' (...a.gif); rename it"),
        ("a", (COLOR,), ValueError, "output file must end in .png, ..., .tiff, got ...a without one; rename it"),
        ("k.txt", (KERNEL,), ValueError, "output file must end in .npy, .png, .tif, .tiff, got '.txt' (...k.txt); "
         "rename it"),
        ("a.jpg", (COLOR, COLOR[..., 0]), ValueError, "JPEG cannot hold the picture's alpha channel, got ...; write "
         ".png or .tif"),
        ("a.jpg", (COLOR, None, 16), ValueError, "bits must be 8 for JPEG, got 16; write .png or .tif"),
        ("a.tif", (COLOR, None, 8), ValueError, "bits must be None for TIFF, which keeps ..., got 8; leave it out"),
        ("a.png", (COLOR, None, 12), ValueError, "bits must be 8, 16 or None, got 12"),
        ("a.png", (COLOR.astype("i4"),), ValueError, "PNG and JPEG hold uint8, uint16 or floats in [0, 1], got int32; "
         "convert it, or write .tif"),
        ("a.png", (GRAY + np.nan,), ValueError, "pixels must be finite, got nan at index (0, 0) (4 bad pixels); ..."),
        ("a.png", (np.ones((2, 2, 4)),), ValueError, "pixels must be (H, W) or (H, W, 3), got shape (2, 2, 4); opacity "
         "goes into alpha="),
        ("a.png", (GRAY, GRAY.astype("u1")), ValueError, "alpha must have the picture's height, width and dtype, ...; "
         "convert it first"),
        ("a.png", (GRAY + 0j,), TypeError, "pixels must have an integer or float dtype, got complex128; ..."),
        ("k.npy", (0 * KERNEL,), ValueError, "kernel must not sum to zero, ..."),
        ("k.png", (np.ones((2, 3, 5)),), ValueError, "kernel must be (kh, kw) for a .png file, got shape (2, 3, 5); "
         "write it as .npy"),
    ],
)  # fmt: skip
def test_what_is_not_written(tmp_path: Path, name: str, arguments: Any, error: type[Exception], message: str) -> None:
    pixels, alpha, bits = (*arguments, None, None)[:3]
    with refuses(error, message):
        if Path(name).name.startswith("k"):
            write_kernel(tmp_path / name, pixels)
        else:
            write_image(tmp_path / name, pixels, alpha, bits=bits)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with refuses(NotADirectoryError, "output folder ...file is not a folder; choose another place"):
        write_image(tmp_path / "file" / "a.png", COLOR)
    (tmp_path / "a.png").mkdir()
    with refuses(IsADirectoryError, "output file ...a.png is a folder; name a file in it"):
        write_image(tmp_path / "a.png", COLOR)
    # The superuser may write everywhere, so the system's answer is made up.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with refuses(PermissionError, "output folder ... is not writable; choose another place"):
        write_image(tmp_path / "b.png", COLOR)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "file"]


def test_the_input_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    with refuses(FileNotFoundError, "output folder ...nowhere does not exist; create it first"):
        check_output(tmp_path / "nowhere" / "a.png")
    with refuses(ValueError, "output file ...a.png is the input; choose another name, so that the photograph is kept"):
        check_output(tmp_path / "a.png", source=tmp_path / "." / "a.png")
    assert check_output(str(tmp_path / "b.PNG"), source=tmp_path / "a.png") == tmp_path / "b.PNG"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_half_way_keeps_the_old_file(tmp_path, monkeypatch, error, name, step):
    def fail(*_: Any) -> None:
        raise error("disk full")

    (tmp_path / name).write_text("old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(error, match="disk full"):
        write_image(tmp_path / name, COLOR)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "old")]


@pytest.mark.parametrize("name", ["k.npy", "k.tif", "k.png", "k.npz"])
def test_the_file_of_a_kernel_says_its_gamma(tmp_path, name):
    """And is read as before; None where it says nothing."""
    kernel, path = np.outer([1.0, 2, 1], [1.0, 2, 1]) / 16, tmp_path / name
    for gamma in (None, 2.2, 1.0):
        if name == "k.npz":
            KernelField(kernel[None, None], (20, 30)).save(path, gamma=gamma)
        else:
            write_kernel(path, kernel, gamma=gamma)
        assert kernel_gamma(path) == gamma
        values = read_kernel(path)
        values = values.kernels[0, 0] if name == "k.npz" else values
        np.testing.assert_allclose(values, kernel, atol=2e-3)
    if name == "k.npy":
        np.testing.assert_array_equal(np.load(path), kernel)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ValueError, match=r"k\.npy is damaged or truncated"):
            kernel_gamma(path)
