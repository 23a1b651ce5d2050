"""Results for people: short in a terminal, small in a notebook, drawn, and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpudeblur as gd

INFO: dict[str, Any] = {
    "confidence": 0.834, "strength": 1.0, "gamma": 2.2, "kernel_size": (5, 7), "method": "two-step", "white": 255.0,
    "seconds": 2.125, "energy": -3.0,
}  # fmt: skip
KERNEL = np.ones((5, 7), np.float32) / 35
NOISE = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)


def result(image: Any, kernel: Any = KERNEL, axis: int | None = None, **more: Any) -> gd.BlindResult:
    info: Any = INFO | more
    return gd.BlindResult(image, kernel, info, channel_axis=axis)


def test_a_line_for_the_terminal() -> None:
    assert repr(result(NOISE, axis=-1)) == (
        "BlindResult(image=(700, 900, 3) uint8, kernel=(5, 7), confidence=0.834, strength=1, gamma=2.2, "
        "kernel_size=5 x 7, method=two-step, seconds=2.12)"
    )
    stack = result(None, np.stack([KERNEL] * 6), confidence=np.linspace(0, 1, 6))
    assert repr(stack).startswith("BlindResult(image=None, kernel=(6, 5, 7), confidence=0, 0.2, 0.4, 0.6, ..., stre")
    assert repr(gd.RestoreResult(NOISE, None, {"method": "sketch"})) == (
        "RestoreResult(image=(700, 900, 3) uint8, method=sketch)"
    )


@pytest.mark.parametrize(
    ("image", "kernel", "axis", "images", "kernels"),
    [
        (NOISE, KERNEL, -1, 1, 1),
        (NOISE[..., 0] / 255, KERNEL, None, 1, 1),
        (np.moveaxis(NOISE, -1, 0), KERNEL, 0, 1, 1),
        (np.stack([NOISE] * 6), np.stack([KERNEL] * 6), -1, 4, 4),
        (np.ma.masked_less(NOISE[..., 0], 9), KERNEL, None, 1, 1),
        (np.dstack([NOISE, NOISE[..., :2]]), KERNEL, -1, 1, 1),
        (None, np.stack([KERNEL] * 2), None, 0, 2),
        (np.full((40, 50), np.nan), np.ones((151, 151)), None, 1, 1),
    ],
)
def test_a_cell_of_a_notebook(image: Any, kernel: Any, axis: Any, images: int, kernels: int) -> None:
    """Noise is what compresses worst."""
    page = result(image, kernel, axis)._repr_html_()
    assert len(page) < 200_000
    assert page.count('alt="image"') == images
    assert page.count('alt="kernel"') == kernels
    assert "<tr><th>confidence</th><td>0.834</td></tr>" in page
    assert "energy" not in page


def test_a_figure() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    axes = result(NOISE, axis=-1).plot()
    assert [subplot.get_title() for subplot in axes.flat] == ["image", "kernel"]
    assert axes.flat[1].images[0].get_array().shape == KERNEL.shape
    with pytest.raises(ValueError, match=r"^axes must be 2, one for each image and kernel, got 1; leave it out"):
        result(NOISE, axis=-1).plot(axes.flat[0])
    plt.close("all")


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("alpha", [False, True])
def test_files_hold_the_result(axis: int | None, alpha: bool, tmp_path: Path) -> None:
    image = NOISE[:20, :30, 0] if axis is None else NOISE[:20, :30]
    if alpha and axis is not None:
        image = np.dstack([image, np.full((20, 30), 255, np.uint8)])
    image = image if axis is None else np.moveaxis(image, -1, axis)
    result(image, axis=axis).save(tmp_path / "a.png", kernel=tmp_path / "k.npy")
    read = gd.read_image(tmp_path / "a.png")
    expected = image if axis is None else np.moveaxis(image, axis, -1)
    np.testing.assert_array_equal(read.pixels, expected[..., :3] if axis is not None else expected)
    np.testing.assert_allclose(gd.read_kernel(tmp_path / "k.npy"), KERNEL, rtol=1e-7)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^save writes a single image, got a stack of shape \(2, 9, 9\); write each"):
        result(np.zeros((2, 9, 9))).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^there is no image to save for final=None; write_kernel"):
        result(None).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^kernel must be None for a network that estimates no kernel, got 'k.npy'"):
        gd.RestoreResult(NOISE, None, {}, -1).save(tmp_path / "a.png", kernel="k.npy")


def test_results_of_torch_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = result(torch.from_numpy(NOISE), torch.from_numpy(KERNEL), -1)
    assert repr(tensors) == repr(result(NOISE, axis=-1))
    assert tensors._repr_html_() == result(NOISE, axis=-1)._repr_html_()
    tensors.save(tmp_path / "a.png", kernel=tmp_path / "k.png")
