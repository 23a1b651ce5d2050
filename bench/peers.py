"""Ours beside what else there is, on the same pictures in the same run.

    python bench/peers.py [--device cuda] [--seconds S]

1. Restoration with the true kernel: scikit-image's Richardson-Lucy and Wiener filters (cuCIM's on a GPU, where it is
   installed) and `deconvolve`. Three photographs of 255 x 255, cropped as a camera crops, without noise and with 1 %.
   Ours run as they are. The peers get what is best on this very picture and no user knows: the number of iterations or
   the balance, and whether they see the picture alone or wrapped smoothly by `boundary.wrap`, as ours have it inside.
   PSNR at the best shift, 15 px of the border dropped; time of one picture, CPU time where there is no GPU.
2. The latent step (L0 prior alone): `latent_step` against the textbook as array expressions, where both gradients are
   transformed by themselves; float32 and real transforms as here, and both give the same picture. On a GPU also as one
   CUDA graph, which is how `deblur` runs it.

Each row is appended to results/peers.jsonl as soon as it is measured.
"""

from __future__ import annotations

import timing  # before NumPy

# isort: split
import functools
import importlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from .cases import Case, make_case
from .evaluate import Row, arguments, recorded, settings, show
from throughput import BAR_COLUMNS, bar, blurred_picture

import gpudeblur
from gpudeblur.boundary import unwrap, wrap
from gpudeblur.latent import latent_step
from gpudeblur.metrics import scores
from gpudeblur.synthesis import trajectory_kernel

ITERATIONS = (10, 30, 100)  # of Richardson-Lucy
BALANCES = (1e-3, 1e-2, 1e-1, 1.0)  # of the Wiener filter
LOADS = ((255, 1), (255, 64), (1024, 1), (1024, 16))  # side, batch of the latent step; batches on a GPU
WEIGHT, BETA_RATE, BETA_MAX = 4e-3, 2.0, 60.0
COLUMNS = {"case": "", "method": "", "setting": "", "ms": ".2f", "psnr": ".2f"}
STEP_COLUMNS = {"case": "", "passes": "d", "plain_ms": ".3f", "ours_ms": ".3f", "times": ".2f", "difference": ".1e"}


# ------------------------------------------------------------------ restoration
def cases() -> Iterator[Case]:
    """Three photographs with kernels of 15, 25 and 31 px, without noise and with 1 %."""
    from skimage import data

    corners = (("camera", 60, 150, 15), ("brick", 100, 100, 25), ("coins", 20, 40, 31))
    for name, top, left, size in corners:
        side = 255 + size - 1
        sharp = getattr(data, name)()[top : top + side, left : left + side] / 255
        for noise in (0.0, 0.01):
            yield make_case(f"{name}_k{size}_{noise:.0%}", sharp, trajectory_kernel(size, rng=size), noise=noise)


def methods(module: Any) -> Iterator[tuple[str, str, Callable[[Any, Any], Any]]]:
    """(method, setting, call) of a peer's restoration module and of ours."""
    if module is not None:
        title = module.__name__.split(".")[0]
        settings: list[tuple[str, str, float]] = [("richardson_lucy", "num_iter", count) for count in ITERATIONS]
        settings += [("wiener", "balance", balance) for balance in BALANCES]
        for name, key, value in settings:
            call = functools.partial(getattr(module, name), clip=False, **{key: value})
            yield f"{title} {name}", f"{key} {value:g}", call
            yield f"{title} {name}", f"{key} {value:g}, wrapped", functools.partial(on_wrapped, call)
    for method in ("hyper-laplacian", "sparse"):
        yield f"gpudeblur {method}", "as it is", lambda x, k, m=method: gpudeblur.deconvolve(x, k, method=m)


def on_wrapped(call: Callable[[Any, Any], Any], blurred: Any, kernel: Any) -> Any:
    whole = wrap(blurred, (kernel.shape[0] - 1, kernel.shape[1] - 1))
    return unwrap(call(whole, kernel), blurred.shape)


def peer(device: str) -> Any:
    """The restoration module to compare with; None, saying so, where there is none for this device."""
    name = "cucim.skimage.restoration" if device == "cuda" else "skimage.restoration"
    try:
        return importlib.import_module(name)
    except ImportError as why:
        print(f"no {name}: {why}\n")
        return None


def restorations(backend: timing.Host, deadline: timing.Deadline) -> Iterator[Row]:
    """The best setting of each method on each picture."""
    module = peer(backend.device)
    for case in cases():
        blurred, kernel = (backend.put(a.astype(np.float32)) for a in (case.blurred, case.kernel))
        best: dict[str, dict[str, Any]] = {}
        for method, setting, call in methods(module):
            if deadline.left <= 0:
                print(f"{case.name}, {method}: left out, the time is up")
                continue
            found = call(blurred, kernel)
            psnr = scores(found, case.sharp).psnr
            if method not in best or psnr > best[method]["psnr"]:
                time = backend.time(lambda c=call, x=blurred, k=kernel: c(x, k), seconds=0.3, most=10)
                best[method] = {"case": case.name, "method": method, "setting": setting, "psnr": psnr}
                best[method]["ms"] = 1e3 * time.own
        yield from best.values()


# ------------------------------------------------------------------ the latent step
def plain_latent_step(backend: timing.Host, blurred: Any, kernel: Any) -> Any:
    """The L0 latent step as a textbook has it, for either library."""
    xp, fft, axes, shape = backend.xp, backend.fft, (-2, -1), blurred.shape[-2:]

    def transfer(psf: Any) -> Any:
        grid = xp.zeros(shape, dtype=xp.float32)
        grid[: psf.shape[0], : psf.shape[1]] = psf
        return fft.rfft2(xp.roll(grid, (-(psf.shape[0] // 2), -(psf.shape[1] // 2)), axes))

    otf = transfer(kernel)
    over_x = transfer(xp.asarray(np.array([[1, -1, 0]], np.float32)))  # x[j + 1] - x[j] as a convolution
    over_y = transfer(xp.asarray(np.array([[1], [-1], [0]], np.float32)))
    data = xp.conj(otf) * fft.rfft2(blurred, axes=axes)
    power, laplace = xp.abs(otf) ** 2, xp.abs(over_x) ** 2 + xp.abs(over_y) ** 2
    latent, beta = blurred, 2 * WEIGHT
    while beta < BETA_MAX:
        gx = xp.roll(latent, -1, -1) - latent
        gy = xp.roll(latent, -1, -2) - latent
        keep = gx**2 + gy**2 >= WEIGHT / beta
        gx = xp.where(keep, gx, 0)
        gy = xp.where(keep, gy, 0)
        split = xp.conj(over_x) * fft.rfft2(gx, axes=axes) + xp.conj(over_y) * fft.rfft2(gy, axes=axes)
        latent = fft.irfft2((data + beta * split) / (power + beta * laplace), s=shape, axes=axes)
        beta *= BETA_RATE
    return latent


def our_latent_step(blurred: Any, kernel: Any) -> Any:
    return latent_step(blurred, kernel, gradient_weight=WEIGHT, beta_rate=BETA_RATE, beta_max=BETA_MAX)


def latent_steps(backend: timing.Host, deadline: timing.Deadline) -> Iterator[Row]:
    """Seconds of both on the same pictures, in turn, and how far their results are apart; at the end a GPU's bar."""
    size, ratios = 25, []
    passes = int(np.ceil(np.log(BETA_MAX / (2 * WEIGHT)) / np.log(BETA_RATE)))
    kernel = backend.put(trajectory_kernel(size, rng=0).astype(np.float32))
    for side, batch in LOADS:
        if (batch > 1 and backend.device == "cpu") or deadline.left <= 0:
            continue
        stack = np.stack([blurred_picture((side, side), size, i % 4) for i in range(batch)])
        blurred = wrap(backend.put(stack), (size - 1, size - 1))
        kernels = backend.xp.broadcast_to(kernel, (batch, size, size))
        runs = {"ours": lambda b=blurred, k=kernels: our_latent_step(b, k)}
        if backend.device == "cuda":
            from gpudeblur import _graphs

            def replayed(b: Any = blurred, k: Any = kernels) -> Any:
                return _graphs.replay("bench", lambda *x, report: (our_latent_step(*x),), b, k)

            runs["replayed"] = replayed
        textbook = functools.partial(plain_latent_step, backend, blurred, kernel)
        # Rounding decides which way a gradient at the threshold falls: most pixels agree far better than the worst.
        difference = float(backend.xp.quantile(abs(textbook() - runs["ours"]()), 0.99))
        row: dict[str, Any] = {"case": f"{side}x{side}_b{batch}", "passes": passes, "difference": difference}
        for name, work in runs.items():
            # In turn, so that both meet the same machine.
            turns = np.array([
                [backend.time(one, seconds=0.3).own for one in (work, textbook)]
                for _ in range(3)
            ])  # fmt: skip
            row[f"{name}_ms"], row["plain_ms"] = 1e3 * np.median(turns, axis=0)
            row["times" if name == "ours" else f"times_{name}"] = float(np.median(turns[:, 1] / turns[:, 0]))
        yield row
        ratios.append(row["times"])
        backend.free()
    if ratios and backend.device == "cuda":
        yield bar("latent step over plain CuPy expressions, worst case: times", min(ratios), 2, least=True)


def main(argv: list[str] | None = None) -> None:
    names = ("device", "seconds", "no-record")
    args = arguments(__doc__, *names, device={"choices": ["cpu", "cuda"], "default": "cpu"}).parse_args(argv)
    backend, deadline = timing.backend(args.device), timing.Deadline(args.seconds)
    steps = STEP_COLUMNS if args.device == "cpu" else {**STEP_COLUMNS, "replayed_ms": ".3f", "times_replayed": ".2f"}
    rows: Iterator[Row] = itertools.chain(latent_steps(backend, deadline), restorations(backend, deadline))
    if not args.no_record:
        line = {**settings(args, "device", "seconds"), "load_average": os.getloadavg()[0]}
        rows = recorded("peers", line, rows)
    show(rows, BAR_COLUMNS, steps, COLUMNS)


if __name__ == "__main__":
    main()
