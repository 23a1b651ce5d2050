"""The focal length of EXIF data, in pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpudeblur.images.exif import focal_in_pixels


def write(path: Path, value: int | None) -> Path:
    image = Image.fromarray(np.zeros((20, 72), np.uint8))
    exif = Image.Exif()
    if value is not None:
        exif.get_ifd(0x8769)[0xA405] = value
    image.save(path, exif=exif)
    return path


def test_the_focal_length_in_pixels(tmp_path: Path) -> None:
    assert focal_in_pixels(write(tmp_path / "a.jpg", 27)) == 54
    for value in (None, 0):
        assert focal_in_pixels(write(tmp_path / "b.jpg", value)) is None


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_file_that_is_no_picture_has_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    assert focal_in_pixels(tmp_path / "x.png") is None
