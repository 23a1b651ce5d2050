"""The first minutes on a GPU: step by step what the library does there, a line of JSON as soon as each is done.

    python -m bench.smoke [STEP...] [--device cpu] [--out FILE] [--failed FILE]

A step that fails prints its traceback, and the next one begins. Several processes with different steps compile side by
side into one cache ($CUPY_CACHE_DIR). Where seconds are given as first, second and third, the first call compiles, the
second captures CUDA graphs, and the third replays them. Exits with 1 if a step failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import scipy.fft

import gpudeblur as gd
from gpudeblur import restoration
from gpudeblur.metrics import kernel_similarity
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import irfft2, rfft2
from gpudeblur.synthesis import trajectory_kernel

from .cases import blurred_camera, blurred_cameras
from .device import Cpu, Cuda
from .gpu_report import rows

FAST = gd.TwoStepOptions(starts=("wide",))
METHODS = ("tv", "sparse", "hyper-laplacian", "l0", "wiener", "richardson-lucy", "ringing-suppressed", "epll", "pnp")
DEFAULT = (255, 255), 25  # shape, kernel size
LEAK = 64 << 20  # bytes: what the driver keeps may differ by less
Row = dict[str, Any]
Step = Callable[[Cpu], Row]
STEPS: dict[str, Step] = {}


def step(function: Step) -> Step:
    """A step by the name of its function; it takes NumPy or CuPy, and returns figures."""
    STEPS[function.__name__] = function
    return function


def difference(a: Any, b: Any) -> float:
    """The largest one, over the largest value."""
    a, b = to_host(a), to_host(b)
    return float(np.abs(a - b).max() / np.abs(b).max())


def three_calls(work: Callable[[], Any]) -> tuple[list[Any], Row]:
    """The results of three calls, and their seconds, with the copy of the result to the host that waits for it."""
    results, seconds = [], {}
    for name in ("first", "second", "third"):
        begin = time.perf_counter()
        results.append(work())
        to_host(results[-1] if not hasattr(results[-1], "kernel") else results[-1].kernel)
        seconds[name] = round(time.perf_counter() - begin, 4)
    return results, seconds


@step
def transforms(device: Cpu) -> Row:
    """Batches, odd sides, a prime factor over 127, one row or column, a view that is not aligned."""
    errors = {}
    for shape in ((288, 288), (3, 280, 286), (2, 2, 49, 51), (131, 262), (1, 100, 72), (1, 64), (64, 1)):
        u = np.random.default_rng(0).random(shape, np.float32)
        spectrum = rfft2(device.put(u))
        back = irfft2(spectrum.copy(), shape[-2:]) / np.float32(shape[-2] * shape[-1])
        errors[str(shape)] = max(difference(spectrum, scipy.fft.rfft2(u)), difference(back, u))
    u = np.random.default_rng(0).random(1 + 60 * 64, np.float32)
    odd = device.put(u)[1:].reshape(60, 64)
    errors["at an odd address"] = difference(rfft2(odd), scipy.fft.rfft2(u[1:].reshape(60, 64)))
    assert max(errors.values()) < 1e-5, errors
    return {"errors": errors}


@step
def graph(device: Cpu) -> Row:
    """One start as it is, captured and replayed: the same bits."""
    from gpudeblur.numerics import cuda

    u, before = device.put(blurred_cameras(3, (128, 120), 15)), cuda.launches["graph"]
    kernels, seconds = three_calls(lambda: gd.estimate_kernel(u, 15, options=FAST))
    launches = cuda.launches["graph"] - before
    assert device.name == "cpu" or launches, "no graph was launched"
    differences = [difference(kernel, kernels[0]) for kernel in kernels[1:]]
    assert not any(differences), differences
    return {"seconds": seconds, "graph_launches": launches}


@step
def start(device: Cpu) -> Row:
    """One start, against NumPy: hard thresholds let them differ, but hardly after one iteration of a single scale."""
    u = blurred_camera(*DEFAULT)
    single = dataclasses.replace(FAST, iterations=1, finest_iterations=1, smallest_kernel=25)
    differences = {}
    for name, options in (("one iteration", single), ("all", FAST)):
        kernel = to_host(gd.estimate_kernel(device.put(u), 25, options=options))
        expected = gd.estimate_kernel(u, 25, options=options)
        differences[name] = difference(kernel, expected)
    assert differences["one iteration"] < 1e-3, differences
    similarity = kernel_similarity(kernel, expected)
    assert similarity > 0.9, similarity
    return {"differences": differences, "similarity": similarity}


@step
def default(device: Cpu) -> Row:
    """`deblur` of one picture, nothing said."""
    u = device.put(blurred_camera(*DEFAULT))
    results, seconds = three_calls(lambda: gd.deblur(u, 25))
    info = results[-1].info
    return {"seconds": seconds, "confidence": info["confidence"], "residual": info["residual"]}


@step
def finals(device: Cpu) -> Row:
    """Each final restoration of a stack."""
    u, residuals = device.put(blurred_cameras(4, (96, 112), 21)), {}
    for final in ("tv", "hyper-laplacian", "sparse"):
        result = gd.deblur(u, 21, final=final, options=FAST)
        assert bool(device.xp.isfinite(result.image).all()), final
        residuals[final] = to_host(result.info["residual"]).tolist()
    assert gd.deblur(u, 21, final=None, options=FAST).image is None
    return residuals


@step
def batch(device: Cpu) -> Row:
    """Pictures of two sizes on the host through `deblur_batch`, three times."""
    pictures = [blurred_camera((96, 112 + 4 * (i % 2)), 21, i % 3) for i in range(8 if device.name == "cpu" else 128)]
    options: Row = {"final": "hyper-laplacian", "options": FAST, "device": device.name, "batch_size": 16}
    rates = []
    for _ in range(3):
        begin = time.perf_counter()
        for result in gd.deblur_batch(pictures, 21, **options):
            assert result.error is None, result.error
        rates.append(round(len(pictures) / (time.perf_counter() - begin), 1))
    return {"per_second": rates}


@step
def deconvolve(device: Cpu) -> Row:
    """Each method against NumPy; all are tried, whichever fails."""
    u, kernel = blurred_cameras(2, (120, 131), 15), trajectory_kernel(15, rng=20).astype(np.float32)
    on_device = device.put(u), device.put(kernel)
    differences: Row = {}
    for method in METHODS:
        try:
            sharp = gd.deconvolve(*on_device, method=method)
            differences[method] = difference(sharp, gd.deconvolve(u, kernel, method=method))
        except Exception as why:  # noqa: BLE001 - the other methods are to be tried, too
            traceback.print_exc()
            differences[method] = f"{why!r}"[:200]
    options: Row = {"method": "hyper-laplacian", "boundary": "wrap", "weight": 1e-3}
    wrapped, _ = three_calls(lambda: gd.deconvolve(*on_device, **options))
    differences["replayed at sides of 120 x 131"] = difference(wrapped[2], wrapped[0])
    assert all(isinstance(value, float) and value < 0.1 for value in differences.values()), differences
    return differences


@step
def double(device: Cpu) -> Row:
    """float64, which has no CUDA kernels of ours."""
    u, options = blurred_camera((64, 72), 9), gd.TwoStepOptions(starts=("wide", "text"), dtype="float64")
    result, expected = (gd.deblur(v, 9, options=options) for v in (device.put(u), u))
    return {"kernel": difference(result.kernel, expected.kernel), "image": difference(result.image, expected.image)}


@step
def unknown_size(device: Cpu) -> Row:
    result = gd.deblur(device.put(blurred_camera((128, 128), 15)), final=None)
    return {"size": np.atleast_1d(result.info["kernel_size"]).tolist()}


@step
def odd_input(device: Cpu) -> Row:
    """NumPy pictures as files give them come back as they came: big-endian, integers, long double; colors."""
    u, dtypes = blurred_camera((96, 100), 9), (">f4", ">f8", "|u1", ">u2", "<i2", np.dtype(np.longdouble).str)
    for dtype in dtypes:
        largest = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 1
        image = np.asfortranarray((largest * u.clip(0, 1)).astype(dtype))
        result = gd.deblur(image, 9, options=FAST, device=device.name).image
        assert type(result) is np.ndarray
        assert result.dtype == image.dtype, (result.dtype, image.dtype)
    colors = device.put(np.stack([u, u**2, u], axis=-1))
    sharp = gd.deblur(colors, 9, channel_axis=-1, options=FAST).image
    assert sharp.shape == colors.shape
    return {"dtypes": dtypes}


@step
def volume(device: Cpu) -> Row:
    """Three axes, with a cuFFT plan of over a GiB where there is memory for twenty such volumes in a third of it."""
    side = 32 if device.name == "cpu" else int(min(520, (device.free_bytes() / 3 / 160) ** (1 / 3)))
    u = device.xp.zeros((side,) * 3, dtype="uint16")
    u[side // 2, side // 2, side // 2] = 1
    sharp = restoration.richardson_lucy(u, device.xp.ones((3, 3, 3)) / 27, 1)
    assert bool(device.xp.isfinite(sharp).all())
    del u, sharp
    device.free()
    return {"side": side}


@step
def network(device: Cpu) -> Row:
    """The learned prior: CuPy's arrays through PyTorch and back."""
    prior = gd.priors.DiscriminativePrior()
    u = device.put(blurred_camera((96, 112), 15))
    probability = float(prior.probability(u))
    kernels, seconds = three_calls(lambda: gd.estimate_kernel(u, 15, prior=prior, options=FAST))
    return {"seconds": seconds, "probability": probability, "sum": float(kernels[-1].sum())}


@step
def large(device: Cpu) -> Row:
    """A stack too large for graphs."""
    u = device.put(blurred_camera((256, 256) if device.name == "cpu" else (2048, 2048), 51))
    _, seconds = three_calls(lambda: gd.estimate_kernel(u, 51, options=FAST))
    return {"seconds": seconds}


@step
def streams(device: Cpu) -> Row:
    """Two threads on two non-blocking streams, both from the very first constant on: the bits of a call alone."""
    u = device.put(blurred_camera((100, 120), 15))
    expected = to_host(gd.estimate_kernel(u, 15, options=FAST))
    device.free()
    together = Barrier(2)

    def estimate(_: int) -> list[float]:
        with nullcontext() if device.name == "cpu" else device.xp.cuda.Stream(non_blocking=True):
            together.wait(60)
            differences = [difference(gd.estimate_kernel(u, 15, options=FAST), expected) for _ in range(3)]
            together.wait(60)  # CUDA refuses to synchronize the device while the other thread captures
            device.free()
        return differences

    with ThreadPoolExecutor(2) as pool:
        differences = list(pool.map(estimate, range(2)))
    assert differences == 2 * [3 * [0.0]], differences
    return {"calls": 6}


@step
def masked(device: Cpu) -> Row:
    """Pixels without data, a black bar and 12 bits in uint16, against NumPy, of one iteration of one scale."""
    u = blurred_camera((160, 180), 15)
    mask = np.random.default_rng(0).random(u.shape) > 0.01
    bar = u.copy()
    bar[-20:] = 0
    single = dataclasses.replace(FAST, iterations=1, finest_iterations=1, smallest_kernel=15)
    counts = (4095 * u.clip(0, 1)).astype(np.uint16)
    inputs: Row = {"mask": (u, {"mask": mask}), "bar": (bar, {}), "12 bits": (counts, {})}
    differences = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (picture, options) in inputs.items():
            given = {key: device.put(value) for key, value in options.items()}
            kernel = gd.estimate_kernel(device.put(picture), 15, options=single, **given)
            differences[name] = difference(kernel, gd.estimate_kernel(picture, 15, options=single, **options))
            gd.deblur(device.put(picture), 15, options=FAST, **given)
    assert max(differences.values()) < 1e-3, differences
    return differences


@step
def field(device: Cpu) -> Row:
    """A field of kernels against NumPy, in the methods that take one."""
    u = blurred_camera((200, 220), 15)
    kernels = [[trajectory_kernel(15, rng=3 * i + j) for j in range(3)] for i in range(3)]
    blur, on_device = gd.KernelField(np.asarray(kernels, np.float32), u.shape), device.put(u)
    differences, seconds = {}, {}
    for method in ("sparse", "richardson-lucy"):
        restore = functools.partial(gd.deconvolve, kernel=blur.to(device.xp), method=method)
        sharp, seconds[method] = three_calls(lambda restore=restore: restore(on_device))  # type: ignore[misc]
        differences[method] = difference(sharp[-1], gd.deconvolve(u, blur, method=method))
    assert max(differences.values()) < 0.1, differences
    return {"differences": differences, "seconds": seconds}


@step
def rotation(device: Cpu) -> Row:
    """`blur="rotation"`, whose poses are sought by paths."""
    u = device.put(blurred_camera((200, 220), 15))
    results, seconds = three_calls(lambda: gd.deblur(u, 15, blur="rotation"))
    return {"seconds": seconds, "field": results[-1].field is not None, "confidence": results[-1].info["confidence"]}


@step
def restore_after_clear(device: Cpu) -> Row:
    """Free memory after `clear()`, round by round of several graphs and a `deblur_batch`; needs the GPU to itself."""
    shapes = ((64, 72),) if device.name == "cpu" else ((96, 100), (128, 120), (160, 150))
    free: Row = {"held": [], "cleared": []}
    for _ in range(3):
        for shape in shapes:
            u = device.put(blurred_cameras(4, shape, 15))
            for _ in range(3):
                gd.estimate_kernel(u, 15, options=FAST)
        pictures = [blurred_camera((96, 112), 21, i % 3) for i in range(2 if device.name == "cpu" else 16)]
        for result in gd.deblur_batch(pictures, 21, options=FAST, device=device.name, batch_size=8):
            assert result.error is None, result.error
        free["held"].append(device.free_bytes())
        del u
        device.free()
        free["cleared"].append(device.free_bytes())
    lost = free["cleared"][0] - free["cleared"][-1]  # the first round loads what stays
    assert lost < LEAK, f"{lost} bytes fewer after two more rounds: {free}"
    return {"free_bytes": free, "lost_bytes": lost}


def without_success(file: Path) -> list[str]:
    """Steps that have no line without an error in `file`: all, where it is not there."""
    done = {row["step"] for row in rows(file) if "error" not in row}
    return [name for name in STEPS if name not in done]


def run(name: str, device: Cpu) -> Row:
    """The step's figures, or its error, with seconds and warnings."""
    begin, row = time.perf_counter(), {"step": name}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            row |= STEPS[name](device)
        except Exception as why:  # noqa: BLE001 - whatever it is, the next step is to be run
            traceback.print_exc()
            row["error"] = f"{type(why).__name__}: {why}"[:1000]
    messages = sorted({str(warning.message)[:300] for warning in caught})
    return {**row, **({"warnings": messages} if messages else {}), "all_seconds": round(time.perf_counter() - begin, 2)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"all, if none is named: {', '.join(STEPS)}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--failed", type=Path, metavar="FILE", help="the steps without success in an earlier --out")
    args = parser.parse_args(argv)
    names = args.steps or (list(STEPS) if args.failed is None else without_success(args.failed))
    if unknown := set(names) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    device, failures = {"cpu": Cpu, "cuda": Cuda}[args.device](), 0
    for name in names:
        row = run(name, device)
        failures += "error" in row
        print(line := json.dumps(row, default=str), flush=True)
        if args.out is not None:
            with args.out.open("a") as file:
                print(line, file=file)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
