"""What pages in HTML have in common: pictures as data URIs, and the style of a slider between two pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

STYLE = Path(__file__).with_name("pages.css")


def style() -> str:
    """The style sheet."""
    return STYLE.read_text("utf-8").rstrip()


def data_uri(pixels: np.ndarray, form: str = "PNG", **settings: Any) -> str:
    """uint8 pixels, (h, w) or (h, w, 3), as an address that holds them; `settings` are those of Pillow's `save`."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form, **settings)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
