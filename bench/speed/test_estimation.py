"""Kernel estimation and blind deblurring of one picture."""

from __future__ import annotations

import pytest

import gpudeblur as gd
from bench.cases import blurred_camera
from bench.speed.conftest import TINY

CASES = [((255, 255), 25), ((255, 255), 15), ((255, 255), 51), ((96, 112), 21), ((512, 512), 25), ((1024, 1024), 25),
         ((2048, 2048), 51)]  # fmt: skip
# Milliseconds of one picture alone, by device, case and starts.
BARS = {
    ("cpu", (255, 255), 25, "one start"): 300,
    ("cuda", (255, 255), 25, "one start"): 15,
    ("cuda", (255, 255), 25, "defaults"): 40,
    ("cuda", (2048, 2048), 51, "one start"): 1500,
}


@pytest.mark.parametrize("starts", ["defaults", "one start"])
@pytest.mark.parametrize(("shape", "size"), CASES, ids=lambda value: str(value).strip("()").replace(", ", "x"))
def test_estimate_kernel(measure, device, options, smallest, shape, size, starts) -> None:
    if starts == "defaults" and shape[0] > 512:
        pytest.skip("as at 512 x 512: the starts are of equal cost")
    if starts == "one start" and shape == (255, 255) and size != 25:
        pytest.skip("as at 25 px")
    limit = BARS.get((device.name, shape, size, starts))
    what = f"estimate_kernel {shape[0]} x {shape[1]}, k = {size}"
    if smallest:
        shape, size = TINY
    picture, how = device.put(blurred_camera(shape, size)), options(starts)
    seconds = measure(lambda: gd.estimate_kernel(picture, size, options=how), what)
    if limit is not None:
        measure.bar(f"{what}, {starts}, alone: ms", 1e3 * seconds, limit)


@pytest.mark.parametrize("final", ["tv", "hyper-laplacian", "sparse", None])
def test_deblur(measure, device, options, smallest, final) -> None:
    shape, size = TINY if smallest else ((255, 255), 25)
    picture, how = device.put(blurred_camera(shape, size)), options("defaults")
    measure(lambda: gd.deblur(picture, size, final=final, options=how), "deblur 255 x 255, k = 25")
