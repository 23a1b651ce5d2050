"""Many pictures: `deblur_batch` over single calls on the CPU; full batches, and from and to the host, on a GPU."""

from __future__ import annotations

import time

import pytest

import gpudeblur as gd
from bench import roofline
from bench.cases import blurred_cameras
from bench.evaluate import device_name
from bench.speed.conftest import TINY

TIMER = time.perf_counter  # two workers: on the wall
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
# Shape, kernel size, starts and restoration of a GPU's full batches; pictures/s to reach.
LOADS = {
    "255 x 255, k = 25, defaults": ((255, 255), 25, "defaults", None),
    "255 x 255, k = 25, one start": ((255, 255), 25, "one start", None),
    "96 x 112, k = 21, one start, hyper-laplacian": ((96, 112), 21, "one start", "hyper-laplacian"),
    "96 x 112, k = 21, defaults, hyper-laplacian": ((96, 112), 21, "defaults", "hyper-laplacian"),
    "512 x 512, k = 25, one start": ((512, 512), 25, "one start", None),
    "1024 x 1024, k = 25, one start": ((1024, 1024), 25, "one start", None),
}
BARS = {"255 x 255, k = 25, one start": 1500, "96 x 112, k = 21, one start, hyper-laplacian": 5000}
DEFAULT_BARS = {"H100": 400, "H200": 550}  # of the first load, by the GPU; others have none
LONGEST = 1.0  # seconds: a larger batch is not tried after a call this long
finished: set[str] = set()  # loads that had such a call, or no memory left
seconds_of: dict[str, float] = {}


def per_second_to_reach(load: str) -> float | None:
    of_this_gpu = (limit for name, limit in DEFAULT_BARS.items() if name in device_name())
    return next(of_this_gpu, None) if load == next(iter(LOADS)) else BARS.get(load)


def test_from_and_to_the_host(measure, device, options, smallest) -> None:
    """What a user of a GPU sees: pictures on the host, copied both ways."""
    if device.name == "cpu":
        pytest.skip("on a GPU only")
    shape, size, count = (*TINY, 8) if smallest else ((255, 255), 25, 1024)
    stack, how = blurred_cameras(count, shape, size), options("one start")

    def work():
        for result in gd.deblur_batch(stack, size, final=None, options=how, device="cuda"):
            assert result.error is None, result.error

    seconds = measure(work, "deblur_batch from and to the host, 255 x 255, k = 25, one start", pictures=count)
    what = "255 x 255, k = 25, one start, through deblur_batch from and to the host: pictures/s"
    measure.bar(what, count / seconds, 1000, least=True)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("load", LOADS)
def test_full_batches(measure, device, options, rates, smallest, batch, load) -> None:
    """Growing stacks on the device, until memory ends or a call takes too long."""
    if device.name == "cpu" or load in finished or (smallest and batch > 4):
        pytest.skip("on a GPU, while there is memory and time")
    measure.skip_if_late()
    shape, size, starts, final = LOADS[load]
    shape, size = TINY if smallest else (shape, size)
    how = options(starts)

    def work():
        return gd.deblur(stack, size, final=final, options=how)

    try:
        stack = device.put(blurred_cameras(batch, shape, size))
        with roofline.recorded() as launches:
            work()
        device.free()
        floor = roofline.floor_seconds(launches, *rates)
        facts = {"launches": len(launches), "transforms": roofline.transforms(launches)}
        facts |= {"gigabytes": sum(launch.bytes for launch in launches) / batch / 1e9, "floor_ms": 1e3 * floor / batch}
        facts |= {"copy_gb_per_s": rates[0] / 1e9, "product_tflop_per_s": rates[1] / 1e12}
        seconds = measure(work, f"full batches, {load}", pictures=batch, budget=0.5, **facts)
    except Exception as error:
        from gpudeblur.numerics.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        finished.add(load)
        pytest.skip(f"{type(error).__name__}: no memory for {batch}")
    if seconds > LONGEST:
        finished.add(load)
    measure.bar(f"{load}, full batches: pictures/s", batch / seconds, per_second_to_reach(load), least=True)
    if final is None and shape[0] == 255:
        measure.bar(f"{load}, full batches: measured over floor", seconds / floor, 3)


@pytest.mark.parametrize("way", ["single calls", "one worker", "two workers"])
@pytest.mark.parametrize(("shape", "count"), [((255, 255), 64), ((96, 112), 128), ((512, 512), 16)])
def test_deblur_batch(measure, device, options, smallest, shape, count, way) -> None:
    """One start of k = 25, no restoration; two workers are only faster where two CPUs are free."""
    if device.name == "cuda":
        pytest.skip("on the CPU only")
    group = f"{count} pictures of {shape[0]} x {shape[1]}, k = 25, one start"
    shape, size, count = (*TINY, 4) if smallest else (shape, 25, count)
    stack, how = blurred_cameras(count, shape, size), options("one start")

    def work() -> None:
        if way == "single calls":
            for picture in stack:
                gd.estimate_kernel(picture, size, options=how)
            return
        workers = 1 if way == "one worker" else 2
        for result in gd.deblur_batch(stack, size, final=None, options=how, workers=workers):
            assert result.error is None, result.error

    seconds_of[f"{group}, {way}"] = measure(work, group, pictures=count)
    # 2 %: two medians of the same differ by as much
    before, limit = {"one worker": ("single calls", 1 / 1.02), "two workers": ("one worker", 1.7)}.get(way, ("", 0))
    if shape == (255, 255) and f"{group}, {before}" in seconds_of:
        ratio = seconds_of[f"{group}, {before}"] / seconds_of[f"{group}, {way}"]
        measure.bar(f"{group}, {way} over {before}: times", ratio, limit, least=True)
