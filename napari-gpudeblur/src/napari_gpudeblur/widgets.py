"""The two widgets. Each function returns a new one; napari calls them (napari.yaml).

magicgui reads the annotations of the inner functions, which must therefore be types, not their names.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from magicgui import magicgui
from magicgui.widgets import FunctionGui
from napari import Viewer
from napari.layers import Image, Shapes
from napari.utils.notifications import show_error, show_warning

import gpudeblur as gd
from gpudeblur.cli.options import PRESETS
from gpudeblur.images.files import kernel_gamma

from .layers import channel_axis, doubt, kernel_properties, pixels, properties, rectangle, summary
from .thread import Callback, add_cancel_and_status, run

PresetName = Literal["fast", "standard", "best"]
MethodName = Literal[
    "tv", "sparse", "hyper-laplacian", "epll", "pnp", "l0", "ringing-suppressed", "wiener", "richardson-lucy"
]
LINEAR, PHOTOGRAPH = ("1: linear light, as of a sensor", 1.0), ("2.2: a photograph in a file", 2.2)


def deblur_widget() -> FunctionGui:
    """Deblur: the sharp image and its kernel, two new layers."""

    @magicgui(call_button="Deblur")
    def widget(
        viewer: Viewer,
        image: Image,
        region: Annotated[
            Shapes | None,
            {"tooltip": "The kernel is estimated under the first rectangle of this layer; the whole image is restored"},
        ] = None,
        kernel_size: Annotated[
            int,
            {"min": 0, "max": 999, "tooltip": "Odd, in pixels, a little larger than the blur is long; 0: estimated"},
        ] = 0,
        preset: Annotated[
            PresetName,
            {"tooltip": "fast: two thirds of the time, more kernels fail; best: 1.3 times the time, a little better"},
        ] = "standard",
        gamma: Annotated[
            Any,
            {"choices": [("automatic", "auto"), LINEAR, PHOTOGRAPH], "tooltip": "The image is light ** (1 / gamma)"},
        ] = "auto",
        automatic_strength: Annotated[
            bool, {"tooltip": "Blend with the blurred image where the result is not to be trusted"}
        ] = True,
        strength: Annotated[
            float,
            {
                "widget_type": "FloatSlider",
                "max": 1.0,
                "enabled": False,
                "tooltip": "The share of the restoration in the result; the rest is the blurred image",
            },
        ] = 1.0,
        shared_kernel: Annotated[
            bool, {"tooltip": "One kernel for all images of a stack; otherwise each has its own"}
        ] = False,
    ) -> None:
        try:
            part: Any = "auto" if region is None else rectangle(region, image)
        except ValueError as why:
            show_error(str(why))
            return
        name, axis, place, kernel_place = image.name, channel_axis(image), properties(image), kernel_properties(image)
        options = gd.TwoStepOptions(**PRESETS[preset], strength=None if automatic_strength else strength)

        def compute(callback: Callback) -> gd.BlindResult:
            return gd.deblur(
                pixels(image),
                kernel_size or None,
                channel_axis=axis,
                gamma=gamma,
                region=part,
                shared_kernel=shared_kernel,
                options=options,
                callback=callback,
            )

        def finish(result: gd.BlindResult) -> str:
            metadata = {"gpudeblur": dict(result.info) | {"version": gd.__version__, "preset": preset}}
            viewer.add_image(result.image, name=f"{name} deblurred", metadata=metadata, **place)
            viewer.add_image(result.kernel, name=f"{name} kernel", metadata=metadata, **kernel_place)
            if warning := doubt(result.info):
                show_warning(f"{name}: {warning}")
            viewer.status = f"{name}: {summary(result.info)}"
            return summary(result.info)

        run(widget, f"Deblur {name}", compute, finish)

    add_cancel_and_status(widget)
    widget.automatic_strength.changed.connect(lambda automatic: setattr(widget.strength, "enabled", not automatic))
    return widget


def deconvolve_widget() -> FunctionGui:
    """Deconvolve: the sharp image for a kernel of a layer or a file, a new layer."""

    @magicgui(call_button="Deconvolve")
    def widget(
        viewer: Viewer,
        image: Image,
        kernel_layer: Image | None = None,
        kernel_file: Annotated[
            Path | None,
            {"nullable": True, "filter": "Kernels (*.npy *.npz *.tif *.tiff *.png)", "tooltip": "Instead of a layer"},
        ] = None,
        method: Annotated[
            MethodName,
            {"tooltip": "tv: good under noise; sparse: better without; pnp: best on photographs, slow, needs PyTorch"},
        ] = "tv",
        gamma: Annotated[
            Any,
            {
                "choices": [("that of the kernel, or 1", "kernel"), LINEAR, PHOTOGRAPH],
                "tooltip": "The image is light ** (1 / gamma)",
            },
        ] = "kernel",
    ) -> None:
        if (kernel_layer is None) == (kernel_file is None):
            show_error("the kernel must be a layer or a file, one of the two; clear the other, or choose one")
            return
        name, axis, place = image.name, channel_axis(image), properties(image)

        def compute(callback: Callback) -> tuple[np.ndarray, float]:
            if kernel_layer is not None:
                kernel = pixels(kernel_layer)
                of_kernel = kernel_layer.metadata.get("gpudeblur", {}).get("gamma")
            elif kernel_file is not None:
                kernel, of_kernel = gd.read_kernel(kernel_file), kernel_gamma(kernel_file)
            value = _single(of_kernel) if gamma == "kernel" else gamma
            sharp = gd.deconvolve(
                pixels(image), kernel, method=method, channel_axis=axis, gamma=value, callback=callback
            )
            return sharp, value

        def finish(result: tuple[np.ndarray, float]) -> str:
            sharp, value = result
            source = str(kernel_file) if kernel_layer is None else kernel_layer.name
            metadata = {"gpudeblur": {"method": method, "gamma": value, "kernel": source, "version": gd.__version__}}
            viewer.add_image(sharp, name=f"{name} deconvolved", metadata=metadata, **place)
            viewer.status = f"{name}: deconvolved with {source}"
            return f"gamma {value:g}"

        run(widget, f"Deconvolve {name}", compute, finish)

    add_cancel_and_status(widget)
    return widget


def _single(gamma: Any) -> float:
    """The gamma that the kernel was estimated with, 1 if that is not known."""
    values = np.unique([1.0 if gamma is None else gamma])
    if values.size > 1:
        raise ValueError(f"gamma must be the same for all kernels of the layer, got {values.tolist()}; choose 1 or 2.2")
    return float(values[0])
