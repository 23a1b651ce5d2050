"""What a file says beside its pixels is in the result: ICC profile, EXIF, XMP and resolution."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from gpudeblur.images.files import read_image, write_image
from gpudeblur.images.metadata import Metadata, exif_of_bytes

XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa9</x:xmpmeta>"
CAMERA_PART, GPS_PART, ORIENTATION, FOCAL_LENGTH, SIDES = 0x8769, 0x8825, 0x0112, 0x920A, (0xA002, 0xA003)


def display_p3() -> bytes:
    """The profile of sRGB with the primaries of Display P3, adapted to D50."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189)}
    primaries[b"bXYZ"] = (0.1571, 0.06657, 0.78407)
    for number in range(struct.unpack_from(">I", data, 128)[0]):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * number)
        if name in primaries:
            struct.pack_into(">3i", data, offset + 8, *(round(65536 * value) for value in primaries[name]))
    return bytes(data)


P3 = display_p3()


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG file with a Display P3 profile, EXIF, XMP, 240 dpi, orientation 6 and a thumbnail's worth of rubbish."""
    path = tmp_path_factory.mktemp("photograph") / "a.jpg"
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    pixels = np.dstack(np.broadcast_arrays(ramp[:, None], ramp[None, :32], np.uint8(90)))
    exif = Image.Exif()
    exif[271], exif[272], exif[306], exif[ORIENTATION] = "Maker", "Model", "2024:05:06 07:08:09", 6
    exif[0x0103], exif[0xC4A5] = 6, b"print data"
    exif.get_ifd(CAMERA_PART).update({FOCAL_LENGTH: 35.0, 0x829A: 0.008, SIDES[0]: 32, SIDES[1]: 48})
    exif.get_ifd(GPS_PART).update({1: "N", 2: (48.0, 8.0, 30.0)})
    options: Any = {"icc_profile": P3, "exif": exif, "xmp": XMP, "dpi": (240, 240)}
    Image.fromarray(pixels).save(path, quality=98, subsampling=0, **options)
    return path


def in_srgb(path: Path) -> np.ndarray:
    """What a profile-aware viewer shows."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        shown = ImageCms.profileToProfile(upright, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(shown).astype(int)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_photograph_keeps_what_it_says(tmp_path: Path, photograph: Path, suffix: str, bits: int) -> None:
    photo, path = read_image(photograph), tmp_path / f"b.{suffix}"
    pixels = photo.pixels.astype(np.uint16) * 257 if bits == 16 else photo.pixels
    write_image(path, pixels, metadata=photo.metadata)
    again = read_image(path)
    assert again.metadata.icc == P3
    assert again.metadata.xmp == XMP
    assert again.metadata.dpi == pytest.approx((240, 240), abs=0.01)
    data = Image.Exif()
    data.load(again.metadata.exif or b"")
    assert (data[271], data[272], data[306], data[ORIENTATION]) == ("Maker", "Model", "2024:05:06 07:08:09", 1)
    assert 0x0103 not in data
    assert 0xC4A5 not in data
    assert data.get_ifd(CAMERA_PART)[FOCAL_LENGTH] == 35
    assert [data.get_ifd(CAMERA_PART)[tag] for tag in SIDES] == [48, 32]  # exchanged, as the pixels are upright
    assert data.get_ifd(GPS_PART)[2] == (48, 8, 30)
    assert again.pixels.shape == (32, 48, 3)
    if bits == 8 and suffix != "jpg":
        assert abs(in_srgb(path) - in_srgb(photograph)).max() <= 1
    with Image.open(path) as image:  # another program reads them too
        if image.mode == "RGB":
            assert image.getexif().get_ifd(CAMERA_PART)[FOCAL_LENGTH] == 35
        assert image.info["icc_profile"] == P3
    if suffix == "tif":
        with tifffile.TiffFile(path) as tiff:
            assert len(tiff.pages) == 1
            assert "FocalLength" in tiff.pages.first.tags["ExifTag"].value


def test_a_jpeg_file_without_a_change_of_pixels_looks_the_same(tmp_path: Path, photograph: Path) -> None:
    photo = read_image(photograph)
    write_image(tmp_path / "b.jpg", photo.pixels, metadata=photo.metadata)
    assert abs(in_srgb(tmp_path / "b.jpg") - in_srgb(photograph)).mean() < 1


def test_nothing_is_said_that_the_file_does_not_say(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "tif"):
        write_image(tmp_path / f"a.{suffix}", np.zeros((5, 6, 3), np.uint8))
        assert read_image(tmp_path / f"a.{suffix}").metadata == Metadata()


@pytest.mark.parametrize("form", [b'tiff:Orientation="6"', b"<tiff:Orientation>6</tiff:Orientation>"])
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_xmp_does_not_turn_the_picture_again(tmp_path: Path, form: bytes, suffix: str) -> None:
    """Pillow takes an orientation of XMP where EXIF data has none."""
    path, written, xmp = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}", b"<x:xmpmeta %b/>" % form
    pixels = np.zeros((32, 48), np.uint8)
    if suffix == "tif":
        extra = [(274, "H", 1, 6, True), (700, "B", len(xmp), xmp, True)]
        tifffile.imwrite(path, pixels, extratags=extra, metadata=None)
    else:
        write_image(path, pixels, metadata=Metadata(xmp=xmp))
    photo = read_image(path)
    assert photo.pixels.shape == (48, 32)
    assert photo.metadata.xmp == xmp.replace(b"6", b"1")
    write_image(written, photo.pixels, metadata=photo.metadata)
    assert read_image(written).pixels.shape == (48, 32)


def test_a_profile_of_colours_is_not_written_to_gray(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "tif"):
        write_image(tmp_path / f"a.{suffix}", np.zeros((5, 6), np.uint8), metadata=Metadata(icc=P3))
        assert read_image(tmp_path / f"a.{suffix}").metadata.icc is None


def test_what_a_jpeg_segment_cannot_hold_is_left_out_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="XMP data of 70000 bytes does not fit into a JPEG file and is left out"):
        write_image(tmp_path / "a.jpg", np.zeros((5, 6), np.uint8), metadata=Metadata(xmp=bytes(70000)))


def test_damaged_exif_counts_as_none() -> None:
    for data in (b"", b"MM\0*", b"II*\0\xff\xff\xff\xff", bytes(50)):
        assert exif_of_bytes(data) is None
