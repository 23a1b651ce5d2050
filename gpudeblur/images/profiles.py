"""Color conversion through ICC profiles."""

from __future__ import annotations

import io

from PIL import Image, ImageCms


def cmyk_to_srgb(image: Image.Image, icc: bytes) -> tuple[Image.Image, bytes]:
    """An image in CMYK, by its ICC profile, in sRGB, and the profile of sRGB."""
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    result = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    assert result is not None, "not in place"
    return result, target.tobytes()
