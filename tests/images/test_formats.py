"""The formats beside PNG, JPEG and TIFF, what is refused in files, and defects of decoders, each at its mechanism."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, features
from test_bad_input import refuses

from bench.fuzz import mutated, outcome, raw_file, valid_files
from gpudeblur.batch.folders import plan
from gpudeblur.images import formats
from gpudeblur.images.files import READ_SUFFIXES, read_image, result_suffix, write_image

COLOR = np.random.default_rng(3).integers(0, 256, (24, 30, 3), dtype=np.uint8)
SMOOTH = np.dstack(np.broadcast_arrays(np.arange(0, 240, 10)[:, None], np.arange(0, 240, 8), 90)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.webp", {"lossless": True}),
        ("a.bmp", {}),
        ("a.jp2", {}),
        ("a.avif", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_a_format_of_pillow(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    Image.fromarray(SMOOTH).save(tmp_path / name, **options)
    photo = read_image(tmp_path / name)
    assert abs(photo.pixels.astype(int) - SMOOTH).max() <= (9 if name == "a.avif" else 0)
    assert photo.alpha is None
    assert result_suffix(name) == ".png"


def test_depths_of_more_than_8_bits_stay(tmp_path: Path) -> None:
    deep = SMOOTH.astype(np.uint16) * 17
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, level=0, bitspersample=12, reversible=True))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2").pixels, np.rint(deep * (65535 / 4095)))
    if features.check("avif") and imagecodecs.AVIF.available:
        (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(deep >> 2, level=100, bitspersample=10))
        error = read_image(tmp_path / "a.avif").pixels - (deep >> 2) * (65535 / 1023)
        assert abs(error).max() < 2 * 65535 / 1023


def test_cmyk_is_converted_through_its_profile(tmp_path: Path) -> None:
    profile = cmyk_profile()
    cmyk = Image.merge("CMYK", [Image.fromarray(SMOOTH[..., band]) for band in (0, 1, 2, 2)])
    expected = ImageCms.profileToProfile(cmyk, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    for name in ("a.tif", "a.jpg"):
        options: Any = {"quality": 100} if name == "a.jpg" else {}
        cmyk.save(tmp_path / name, icc_profile=profile.tobytes(), **options)
        photo = read_image(tmp_path / name)
        assert abs(photo.pixels.astype(int) - np.asarray(expected)).max() <= (2 if name == "a.tif" else 12)
        assert photo.metadata.icc is not None
        assert photo.metadata.icc[16:20] == b"RGB "


def cmyk_profile() -> ImageCms.ImageCmsProfile:
    """A minimal profile, a table of 2^4 points: R = (1 - C)(1 - K) and so on, as Lab."""
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    rgb = np.rint(255 * (1 - corners[:, :3]) * (1 - corners[:, 3:])).astype(np.uint8)
    lab = ImageCms.profileToProfile(
        Image.fromarray(rgb[None]), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    values = np.asarray(lab)[0].astype(np.uint8)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += bytes(range(256)) * 4 + values.tobytes() + bytes(range(256)) * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    parts = [(b"desc", text), (b"wtpt", white), (b"A2B0", table), (b"cprt", b"text" + bytes(4) + b"none\0")]
    at, tags, body = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, part in parts:
        tags += struct.pack(">4sII", name, at + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"    ", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return ImageCms.ImageCmsProfile(io.BytesIO(head.ljust(128, b"\0") + tags + body))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_are_refused_unless_the_page_is_named(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 9, 3), 80 * number, np.uint8)) for number in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    with refuses(ValueError, f"...a.{suffix} must hold one picture, got 3 pages; save the one to use by itself, ..."):
        read_image(tmp_path / f"a.{suffix}")
    assert abs(read_image(tmp_path / f"a.{suffix}", page=2).pixels.astype(int) - 160).max() <= 1


def test_a_format_of_one_page_has_no_second(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", COLOR)
    assert read_image(tmp_path / "a.jpg", page=0).pixels.shape == COLOR.shape
    with refuses(ValueError, "page must be 0 to 0 for ...a.jpg, got 1; the first is 0"):
        read_image(tmp_path / "a.jpg", page=1)


def test_a_fourth_band_is_alpha_only_where_the_file_says_so(tmp_path: Path) -> None:
    path, four = tmp_path / "a.tif", np.dstack([COLOR, COLOR[..., 0]])
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=["unspecified"])
    with refuses(
        ValueError, "...a.tif must have 3 channels and perhaps alpha, got 4, of which the last is not said ..."
    ):
        read_image(path)
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path).alpha, COLOR[..., 0])


def test_white_is_zero_only_where_black_is_defined(tmp_path: Path) -> None:
    for dtype in ("u1", "u2"):
        tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), 10, dtype), photometric="miniswhite")
        assert (read_image(tmp_path / "a.tif").pixels == np.iinfo(dtype).max - 10).all()
    for dtype in ("i2", "f4"):
        tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), 10, dtype), photometric="miniswhite")
        with refuses(ValueError, "...a.tif must have unsigned integers where 0 is white (WhiteIsZero), got ..."):
            read_image(tmp_path / "a.tif")


def test_a_jpeg_file_has_sides_of_65500_pixels_at_most(tmp_path: Path) -> None:
    with refuses(ValueError, "JPEG holds sides of up to 65500 pixels, got 65501; write .png or .tif"):
        write_image(tmp_path / "a.jpg", np.zeros((2, 65501), np.uint8))


def test_what_a_missing_extra_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pillow_heif", "rawpy", "astropy", "astropy.io", "astropy.io.fits"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, head, extra in (
        ("a.heic", b"\0\0\0\x18ftypheic", "heif"),
        ("a.nef", b"II*\0", "raw"),
        ("a.fits", b"SIMPLE  =", "fits"),
    ):
        (tmp_path / name).write_bytes(head + bytes(100))
        with refuses(ValueError, f'...{name} needs the package ...; pip install "gpudeblur[{extra}]"'):
            read_image(tmp_path / name)


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs the extra heif")
@pytest.mark.parametrize("depth", [8, 10])
def test_heic(tmp_path: Path, depth: int) -> None:
    import pillow_heif

    exif = Image.Exif()
    exif[271] = "Maker"
    mode, pixels = ("RGB", SMOOTH) if depth == 8 else ("RGB;16", SMOOTH.astype(np.uint16) * 257)
    heif = pillow_heif.from_bytes(mode, (SMOOTH.shape[1], SMOOTH.shape[0]), pixels.tobytes())
    heif.save(tmp_path / "a.heic", quality=-1, chroma=444, exif=exif.tobytes())
    photo = read_image(tmp_path / "a.heic")
    with refuses(ValueError, "page must be 0 to 0 for ...a.heic, got 1; the first is 0"):
        read_image(tmp_path / "a.heic", page=1)
    assert photo.pixels.dtype == pixels.dtype
    assert abs(photo.pixels.astype(int) - pixels).max() <= (3 if depth == 8 else 800)
    assert b"Maker" in (photo.metadata.exif or b"")


@pytest.mark.skipif(importlib.util.find_spec("astropy") is None, reason="needs the extra fits")
def test_fits(tmp_path: Path) -> None:
    from astropy.io import fits

    for pixels in (COLOR[..., 0].astype(np.float32), COLOR[..., 0].astype(np.uint16), np.moveaxis(COLOR, -1, 0)):
        fits.PrimaryHDU(pixels).writeto(tmp_path / "a.fits", overwrite=True)
        photo = read_image(tmp_path / "a.fits")
        np.testing.assert_array_equal(photo.pixels, pixels if pixels.ndim == 2 else COLOR)
        assert photo.pixels.dtype == pixels.dtype
    fits.PrimaryHDU(np.zeros((5, 6, 7))).writeto(tmp_path / "a.fits", overwrite=True)
    with refuses(ValueError, "...a.fits must hold one picture, got shape (5, 6, 7); save the one to use by itself"):
        read_image(tmp_path / "a.fits")
    assert result_suffix("a.fits") == ".tif"


@pytest.mark.skipif(importlib.util.find_spec("rawpy") is None, reason="needs the extra raw")
def test_a_raw_file_is_developed_to_srgb_of_16_bits(tmp_path: Path) -> None:
    """A quarter of the light, behind a mosaic of filters, is 0.537 in sRGB."""
    (tmp_path / "a.dng").write_bytes(raw_file())
    photo = read_image(tmp_path / "a.dng")
    assert photo.pixels.dtype == np.uint16
    assert photo.pixels.ndim == 3
    assert photo.pixels[20, 20, 1] / 65535 == pytest.approx(0.537, abs=0.05)


def test_the_batch_reads_every_format_and_writes_what_holds_it(tmp_path: Path) -> None:
    for suffix in READ_SUFFIXES:
        (tmp_path / f"{suffix[1:]}{suffix}").touch()
    outputs = {task.source.suffix: task.output.suffix for task in plan([tmp_path], tmp_path / "out").tasks}
    assert set(outputs) == set(READ_SUFFIXES)
    assert {outputs[suffix] for suffix in (".heic", ".webp", ".nef", ".bmp")} == {".png"}
    assert (outputs[".fits"], outputs[".jpeg"], outputs[".tiff"]) == (".tif", ".jpeg", ".tiff")


# ---- what decoders do with damaged files


def test_directories_that_point_in_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for side in (24, 12):
            writer.write(np.full((side, side), 9, np.uint8), metadata=None, software=False, subfiletype=int(side < 24))
    data = bytearray(path.read_bytes())

    def behind(at: int) -> int:
        return int(at + 2 + 12 * struct.unpack_from("<H", data, at)[0])

    first = struct.unpack_from("<I", data, 4)[0]
    second = struct.unpack_from("<I", data, behind(first))[0]
    assert read_image(path).pixels.shape == (24, 24)
    for target in (first, second):
        struct.pack_into("<I", data, behind(second), target)
        path.write_bytes(data)
        with refuses(
            ValueError, "...a.tif is damaged or truncated and cannot be read (its directories do not end...)..."
        ):
            read_image(path)


@pytest.mark.parametrize("change", ["fewer", "offset 0", "0 bytes"])
def test_missing_strips_are_not_black(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((24, 20), 200, np.uint8), rowsperstrip=4, metadata=None, software=False)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages.first.tags[273], tiff.pages.first.tags[279]
    for tag in (offsets, counts):
        if change == "fewer":
            struct.pack_into("<I", data, tag.offset + 4, 3)
    if change != "fewer":
        tag = offsets if change == "offset 0" else counts
        width = {3: 2, 4: 4}[int(tag.dtype)]
        data[tag.valueoffset + 3 * width : tag.valueoffset + 6 * width] = bytes(3 * width)
    path.write_bytes(data)
    with refuses(ValueError, "...a.tif is damaged or truncated and cannot be read (...strips or tiles...); ..."):
        read_image(path)


def test_ome_metadata_does_not_lead_to_another_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.tif", np.full((24, 20), 77, np.uint8), metadata=None)
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="20" SizeY="24" SizeZ="1" '
        'SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="1"><UUID FileName="other.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.tif", np.full((24, 20), 200, np.uint8), metadata=None, description=ome)
    assert (read_image(tmp_path / "a.tif").pixels == 200).all()


@pytest.mark.parametrize("codec", ["jpeg8", "jpeg2k", "png", "webp", "jpegxl"])
def test_a_stream_that_is_larger_than_its_directory_says(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is looked up before it is decoded."""
    compression = {"jpeg8": 7, "jpeg2k": 34712, "png": 34933, "webp": 50001, "jpegxl": 50002}[codec]
    stream = getattr(imagecodecs, f"{codec}_encode")(
        np.zeros((1000, 1000, 3) if codec == "webp" else (1000, 1000), "u1")
    )
    tags = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    tags += [(278, 4, 64), (279, 4, len(stream))]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in tags)
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + stream)
    monkeypatch.setattr(imagecodecs, f"{codec}_decode", lambda *_, **__: pytest.fail("decoded"))
    with refuses(
        ValueError, "...a.tif ...JPEGXL..." if codec == "jpegxl" else "...a stream of (1000, 1000) in a strip ..."
    ):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("error", [AssertionError(), IndexError("x"), KeyError("y"), RecursionError("z")])
def test_any_error_of_a_decoder_names_the_file(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    write_image(tmp_path / "a.tif", COLOR)
    write_image(tmp_path / "a.png", COLOR)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: fail())
    monkeypatch.setattr(formats, "_gray_or_rgb", fail)
    for name in ("a.tif", "a.png"):
        with refuses(ValueError, f"...{name} is damaged or truncated and cannot be read (...); get a fresh copy"):
            read_image(tmp_path / name)


def test_mutated_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    """`python -m bench fuzz` has thousands."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in valid_files().items():
            (tmp_path / name).write_bytes(data)
            if name not in ("animated.gif", "a.dng"):
                assert outcome(tmp_path / name) == "read"
            for _ in range(4):
                (tmp_path / name).write_bytes(mutated(data, rng))
                assert outcome(tmp_path / name) in ("read", "refused")


def test_no_more_is_asked_of_a_file_than_it_has(tmp_path: Path) -> None:
    """A box of 1 GiB in the head of a JPEG 2000 file: `read` of the operating system's file would make room for it."""
    Image.fromarray(COLOR).save(tmp_path / "a.jp2")
    data = (tmp_path / "a.jp2").read_bytes()
    at = data.find(b"jp2h")
    (tmp_path / "a.jp2").write_bytes(data[: at - 4] + struct.pack(">I", 1 << 30) + data[at:])
    tracemalloc.start()
    with refuses(ValueError, "...a.jp2 is damaged or truncated and cannot be read (...); get a fresh copy"):
        read_image(tmp_path / "a.jp2")
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


def test_reading_in_threads_leaves_the_filters_of_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`catch_warnings` is of the whole process, so it is not used."""
    for name in ("a.png", "a.tif", "a.jpg"):
        write_image(tmp_path / name, COLOR)
        monkeypatch.setattr(warnings, "catch_warnings", lambda *_, **__: pytest.fail("called"))
        threads = [threading.Thread(target=read_image, args=(tmp_path / name,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        read_image(tmp_path / name)


def test_bytes_are_on_the_disk_before_the_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, replace = [], Path.replace

    def replace_and_note(*paths: Any) -> Path:
        steps.append("replace")
        return replace(*paths)

    monkeypatch.setattr(os, "fsync", lambda file: steps.append("fsync"))
    monkeypatch.setattr(Path, "replace", replace_and_note)
    write_image(tmp_path / "a.png", COLOR)
    assert steps == ["fsync", "replace"]


def test_a_failed_write_names_its_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path / 'a.png'}'") as caught:
        write_image(tmp_path / "a.png", COLOR)
    assert caught.value.errno == 28
    assert not list(tmp_path.iterdir())
