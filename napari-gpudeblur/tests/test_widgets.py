"""The widgets in a viewer without a screen (QT_QPA_PLATFORM=offscreen)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from magicgui.widgets import FunctionGui
from napari.utils import progress
from napari.utils.notifications import notification_manager
from napari_gpudeblur.layers import kernel_properties, rectangle
from skimage import data

import gpudeblur as gd
from gpudeblur import synthesis

SIZE = 5


@pytest.fixture(scope="session")
def blurred() -> np.ndarray:
    kernel = synthesis.trajectory_kernel(SIZE, rng=1)
    sharp = data.camera()[50:102, 190:242] / 255
    return synthesis.blur(sharp, kernel, noise_sigma=0.005, rng=0).astype(np.float32)


@pytest.fixture
def messages() -> Iterator[list[tuple[str, str]]]:
    """Severity and text of the notifications."""
    seen: list[tuple[str, str]] = []

    def record(notification: Any) -> None:
        seen.append((str(notification.severity), notification.message))

    notification_manager.notification_ready.connect(record)
    yield seen
    notification_manager.notification_ready.disconnect(record)


def dock(viewer: Any, name: str) -> FunctionGui:
    return viewer.window.add_plugin_dock_widget("napari-gpudeblur", name)[1]


def press(qtbot: Any, widget: FunctionGui) -> None:
    """Press the button, and wait for the end of the run."""
    widget.call_button.changed.emit(True)
    qtbot.waitUntil(lambda: widget.call_button.enabled and widget.status.value != "running", timeout=60_000)


def replaced(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> list[dict[str, Any]]:
    """`function` in place of `gd.deblur`; the arguments of each call."""
    calls: list[dict[str, Any]] = []

    def call(image: Any, kernel_size: Any, **arguments: Any) -> Any:
        calls.append({"image": image, "kernel_size": kernel_size} | arguments)
        return function(image, kernel_size, **arguments)

    monkeypatch.setattr(gd, "deblur", call)
    return calls


def fast(deblur: Callable[..., Any]) -> Callable[..., Any]:
    """With one initialization and one iteration a scale."""
    options = gd.TwoStepOptions(starts=("wide",), iterations=1, strength=1)
    return lambda *arguments, **named: deblur(*arguments, **named | {"options": options})


def test_results_are_those_of_gpudeblur(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the place of the image; the kernel to the right, its pixels as large; confidence in status and metadata."""
    deblur = fast(gd.deblur)
    calls = replaced(monkeypatch, deblur)
    viewer = make_napari_viewer()
    layer = viewer.add_image(blurred, name="page", scale=(2, 3), translate=(10, 20))
    widget = dock(viewer, "Deblur")
    widget.kernel_size.value, widget.gamma.value, widget.preset.value = SIZE, 1.0, "best"
    press(qtbot, widget)
    sharp, kernel = viewer.layers["page deblurred"], viewer.layers["page kernel"]
    expected = deblur(blurred, SIZE)
    np.testing.assert_array_equal(sharp.data, expected.image)
    np.testing.assert_array_equal(kernel.data, expected.kernel)
    np.testing.assert_array_equal(sharp.extent.world, layer.extent.world)
    np.testing.assert_array_equal(kernel.scale, layer.scale)
    assert kernel.extent.world[0, 1] > layer.extent.world[1, 1]
    assert kernel.interpolation2d == "nearest"
    assert sharp.metadata["gpudeblur"]["confidence"] == expected.info["confidence"]
    assert f"confidence {expected.info['confidence']:.2f}, strength" in widget.status.value
    assert calls[0]["options"] == gd.TwoStepOptions(finest_candidates=5)
    assert calls[0]["channel_axis"] is None
    assert calls[0]["region"] == "auto"


def test_colors_and_strength(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = replaced(monkeypatch, fast(gd.deblur))
    viewer = make_napari_viewer()
    viewer.add_image(np.stack([blurred] * 3, axis=-1).clip(0, 1), name="rgb", rgb=True)
    widget = dock(viewer, "Deblur")
    assert not widget.strength.enabled
    widget.kernel_size.value, widget.automatic_strength.value, widget.strength.value = SIZE, False, 0.5
    assert widget.strength.enabled
    press(qtbot, widget)
    assert viewer.layers["rgb deblurred"].rgb
    assert not viewer.layers["rgb kernel"].rgb
    assert calls[0]["channel_axis"] == -1
    assert calls[0]["options"].strength == 0.5


@pytest.mark.parametrize("shared", [False, True])
def test_stack(
    shared: bool, make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, fast(gd.deblur))
    viewer = make_napari_viewer()
    viewer.add_image(np.stack([blurred, blurred[::-1]]), name="stack", scale=(5, 1, 1))
    widget = dock(viewer, "Deblur")
    widget.kernel_size.value, widget.shared_kernel.value = SIZE, shared
    press(qtbot, widget)
    kernels = viewer.layers["stack kernel"].data
    assert kernels.shape == (2, SIZE, SIZE)
    assert np.array_equal(kernels[0], kernels[1]) == shared
    assert viewer.layers["stack deblurred"].data.shape == (2, 48, 48)
    assert " to " in widget.status.value


def test_rectangle_in_pixels_of_the_image(make_napari_viewer: Any) -> None:
    """In world coordinates, clipped; pixel i reaches from i - 0.5 to i + 0.5."""
    viewer = make_napari_viewer()
    image = viewer.add_image(np.zeros((3, 40, 60)), scale=(1, 2, 2), translate=(0, 100, 0))
    shapes = viewer.add_shapes()
    with pytest.raises(ValueError, match="region must have a rectangle"):
        rectangle(shapes, image)
    shapes.add_ellipses([[0, 0], [0, 9], [9, 9], [9, 0]])
    corners = np.array([[9.5, -7.5], [9.5, 19.5], [29.5, 19.5], [29.5, -7.5]])
    shapes.add_rectangles(corners * 2 + [100, 0])
    assert rectangle(shapes, image) == (slice(10, 30), slice(0, 20))
    beside = viewer.add_shapes(corners, shape_type="rectangle")
    with pytest.raises(ValueError, match="region must lie on the image"):
        rectangle(beside, image)
    assert kernel_properties(image)["translate"].tolist() == [0, 100, 122]


def test_region(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch, messages: list[Any]
) -> None:
    calls = replaced(monkeypatch, fast(gd.deblur))
    viewer = make_napari_viewer()
    viewer.add_image(blurred, name="page")
    shapes = viewer.add_shapes([[3.5, 3.5], [3.5, 43.5], [60, 43.5], [60, 3.5]], shape_type="rectangle")
    widget = dock(viewer, "Deblur")
    widget.kernel_size.value, widget.region.value = SIZE, shapes
    press(qtbot, widget)
    assert calls[0]["region"] == (slice(4, 48), slice(4, 44))
    assert viewer.layers["page deblurred"].data.shape == blurred.shape
    shapes.data = []
    press(qtbot, widget)
    assert messages[-1][0] == "error"
    assert "region must have a rectangle" in messages[-1][1]


def test_errors_and_doubts_are_notifications(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch, messages: list[Any]
) -> None:
    """And the widget can be used again."""
    viewer = make_napari_viewer()
    viewer.add_image(blurred, name="page")
    widget = dock(viewer, "Deblur")
    widget.kernel_size.value = 4
    press(qtbot, widget)
    assert [kind for kind, text in messages if "kernel_size must be odd" in text] == ["error"]
    assert widget.status.value == "failed"
    assert len(viewer.layers) == 1
    result = fast(gd.deblur)(blurred, SIZE)
    result.info["confidence"] = 0.2

    def deblur(*_: Any, **__: Any) -> gd.BlindResult:
        warnings.warn("bars are left out", stacklevel=2)
        return result

    replaced(monkeypatch, deblur)
    press(qtbot, widget)
    assert ("warning", "bars are left out") in messages
    assert [kind for kind, text in messages if "may be wrong: confidence 0.20" in text] == ["warning"]
    assert len(viewer.layers) == 3


def endless(begun: threading.Event, ended: threading.Event) -> Callable[..., Any]:
    """A run that reports progress until it is stopped."""

    def deblur(image: Any, kernel_size: Any, *, callback: Callable[[str, float], bool], **_: Any) -> None:
        while not callback("kernel", 0.5):
            begun.set()
            ended.wait(0.01)
        ended.set()
        raise gd.Stopped("stopped")

    return deblur


def test_cancel(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch, messages: list[Any]
) -> None:
    begun, ended = threading.Event(), threading.Event()
    replaced(monkeypatch, endless(begun, ended))
    viewer = make_napari_viewer()
    viewer.add_image(blurred, name="page")
    widget = dock(viewer, "Deblur")
    widget.call_button.changed.emit(True)
    qtbot.waitUntil(lambda: begun.is_set() and not widget.call_button.enabled)
    qtbot.waitUntil(lambda: [bar.n for bar in progress._all_instances] == [50])
    widget.cancel.changed.emit(True)
    qtbot.waitUntil(lambda: widget.call_button.enabled)
    assert ended.is_set()
    assert not progress._all_instances
    assert widget.status.value == "cancelled"
    assert not widget.cancel.enabled
    assert len(viewer.layers) == 1
    assert messages == []


def test_closing_the_viewer_ends_the_thread(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()
    replaced(monkeypatch, endless(begun, ended))
    viewer = make_napari_viewer()
    viewer.add_image(blurred, name="page")
    widget = dock(viewer, "Deblur")
    widget.call_button.changed.emit(True)
    qtbot.waitUntil(begun.is_set)
    viewer.close()
    qtbot.waitUntil(ended.is_set)


def test_deconvolve(
    make_napari_viewer: Any, qtbot: Any, blurred: np.ndarray, tmp_path: Path, messages: list[Any]
) -> None:
    """With a kernel of a layer or of a file, and the gamma that it was estimated with."""
    kernel = synthesis.trajectory_kernel(SIZE, rng=1)
    viewer = make_napari_viewer()
    page = viewer.add_image(blurred, name="page")
    layer = viewer.add_image(kernel, name="kernel", metadata={"gpudeblur": {"gamma": 2.2}})
    widget = dock(viewer, "Deconvolve")
    press(qtbot, widget)
    assert messages[-1][0] == "error"
    assert "the kernel must be a layer or a file" in messages[-1][1]
    widget.image.value, widget.kernel_layer.value, widget.method.value = page, layer, "wiener"
    press(qtbot, widget)
    expected = gd.deconvolve(blurred, kernel, method="wiener", gamma=2.2)
    np.testing.assert_array_equal(viewer.layers["page deconvolved"].data, expected)
    gd.write_kernel(tmp_path / "kernel.npy", kernel)
    widget.kernel_layer.value, widget.kernel_file.value = None, tmp_path / "kernel.npy"
    press(qtbot, widget)
    expected = gd.deconvolve(blurred, gd.read_kernel(tmp_path / "kernel.npy"), method="wiener")
    np.testing.assert_array_equal(viewer.layers["page deconvolved [1]"].data, expected)
    widget.kernel_file.value = tmp_path / "missing.npy"
    press(qtbot, widget)
    assert messages[-1][0] == "error"
    assert "missing.npy" in messages[-1][1]
