"""Each CUDA kernel: the bytes it must move, its time, and its share of the bandwidth of a copy.

    python bench/kernels.py [--only NAME] [--seconds S]

One line of `KERNELS` is one CUDA kernel (all launches of one call; or a transform of cuFFT for comparison) on the
arrays that it meets when pictures of 255 x 255 or 2048 x 2048 are deblurred; the bytes are `roofline.BYTES`. Twenty
calls are replayed as one CUDA graph and timed by events, medians. What fits the GPU's cache (see column MB) can exceed
the copy. The Toeplitz solvers compute rather than move: their share is of the rate of a matrix product. Each row is
appended to results/kernels.jsonl as soon as it is measured. Needs a GPU: exits with 2, saying what is missing, where
there is none.
"""

from __future__ import annotations

import timing  # before NumPy

# isort: split
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from .evaluate import Row, arguments, device_name, recorded, show
from roofline import BYTES, Grid, solver_operations
from throughput import blurred_picture

from gpudeblur import pyramid
from gpudeblur.fourier import fast_size
from gpudeblur.kernel_step import voting_window, window_pixels
from gpudeblur.synthesis import trajectory_kernel

STEPS = 30  # of the solvers
SHARE = 0.2  # of the gradients that vote
# Real picture, kernel support, batch: one small picture, many, many tiny ones, a large one.
SIZES = (
    ((255, 255), 31, 1), ((255, 255), 31, 64), ((255, 255), 31, 1024), ((96, 112), 27, 4096), ((2048, 2048), 57, 4),
)  # fmt: skip
COLUMNS = {"case": "", "launches": "d", "MB": ".2f", "us": ".1f", "gb_per_s": ".0f", "share": ".0%", "replayed": ""}


class Arrays:
    """The arrays of one size, made when first asked for: pictures, spectra without zeros, kernels as they are found."""

    def __init__(self, xp: Any, shape: tuple[int, int], support: int, batch: int) -> None:
        self.xp, self.shape = xp, shape
        self.window = voting_window(shape, (support, support))
        sides = [fast_size(side + support - 1) for side in shape]
        self.grid = Grid(batch, sides[0], sides[1], support, support, batch * window_pixels(self.window))
        self._made: dict[str, Any] = {}

    @property
    def lagged(self) -> Grid:
        """With a kernel of as many pixels as there are lags."""
        return dataclasses.replace(self.grid, kh=2 * self.grid.kh - 1, kw=2 * self.grid.kw - 1)

    @property
    def halved(self) -> Grid:
        """Half as wide, made of the whole width."""
        return dataclasses.replace(self.grid, w=self.grid.w // 2, window=self.grid.pixels)

    @property
    def whole(self) -> Grid:
        """With all pixels in the window."""
        return dataclasses.replace(self.grid, window=self.grid.pixels)

    def __call__(self, name: str) -> Any:
        """The array of that name; a number behind it asks for other memory of the same kind."""
        if name not in self._made:
            self._made[name] = getattr(self, f"_{name.rstrip('1234')}")()
        return self._made[name]

    def _stack(self, one: np.ndarray) -> Any:
        return self.xp.ascontiguousarray(self.xp.broadcast_to(self.xp.asarray(one), (self.grid.n, *one.shape)))

    def _u(self) -> Any:
        return self._stack(blurred_picture((self.grid.h, self.grid.w), 15, 0))

    def _mask(self) -> Any:
        return self._stack(np.random.default_rng(0).random((self.grid.h, self.grid.w)) < 0.02)

    def _hat(self) -> Any:
        """Complex numbers of magnitude 1, so that what is written in place stays in range."""
        angle = 2 * np.pi * np.random.default_rng(0).random((self.grid.h, self.grid.w // 2 + 1))
        return self._stack(np.exp(1j * angle).astype(np.complex64))

    def _power(self) -> Any:
        return self._stack(np.random.default_rng(1).random((self.grid.h, self.grid.w // 2 + 1), np.float32) + 0.1)

    def _kernel(self) -> Any:
        return self._stack(trajectory_kernel(self.grid.kh, rng=0).astype(np.float32))

    def _lags(self) -> Any:
        """Of white gradients: the solvers take as long whatever the matrix."""
        sides = 2 * self.grid.kh - 1, 2 * self.grid.kw - 1
        lags = np.random.default_rng(2).random(sides, np.float32) * 0.01
        lags[sides[0] // 2, sides[1] // 2] = 10
        return self._stack(lags)

    def _half(self) -> Any:
        return self._stack(np.zeros((self.grid.h, self.grid.w // 2), np.float32))

    def _first(self) -> Any:
        return self.xp.asarray(pyramid._first_taps(pyramid._resampling, self.grid.w, self.grid.w // 2))

    def _weights(self) -> Any:
        return self.xp.asarray(pyramid._tap_weights(pyramid._resampling, self.grid.w, self.grid.w // 2))

    def _one(self) -> Any:
        """A number for each picture."""
        return self.xp.asarray(np.full(self.grid.n, 20, np.float32))


@dataclasses.dataclass(frozen=True)
class Kernel:
    """`call(launch functions, arrays)` launches CUDA kernel `name` on what `grid` says, once or more."""

    name: str
    call: Callable[[Any, Arrays], Any]
    grid: Callable[[Arrays], Grid] = lambda a: a.grid
    computes: bool = False


def _fft(inverse: bool) -> Callable[[Any, Arrays], Any]:
    def call(_: Any, a: Arrays) -> Any:
        from gpudeblur import _device

        shape = (a.grid.h, a.grid.w)
        return _device.irfft2(a("hat4"), shape, a("u2")) if inverse else _device.rfft2(a("u"), a("hat4"))

    return call


KERNELS = (
    Kernel("l0_split", lambda c, a: c.l0_split(a("u"), 1e-4, out=a("u2"))),
    Kernel("cufft_r2c", _fft(False)),
    Kernel("spectral_solve", lambda c, a: c.spectral_solve(a("hat"), a("hat2"), a("power"), 1.0, (a.grid.h, a.grid.w))),
    Kernel("cufft_c2r", _fft(True)),
    Kernel("edge_mask", lambda c, a: c.edge_mask(a("u"), 1e-4, out=a("mask"))),
    Kernel("dilate", lambda c, a: c.dilate(a("mask"), a.grid.kh // 4, out=a("mask2"), scratch=a("mask3"))),
    Kernel("gaussian_smooth", lambda c, a: c.gaussian_smooth(a("u"), 1.5, out=a("u2"), scratch=a("u3"))),
    Kernel("smooth_split", lambda c, a: c.smooth_split(a("u"), a("mask"), 0.1, a("u2"))),
    Kernel("kernel_grid", lambda c, a: c.kernel_grid(a("kernel"), (a.grid.h, a.grid.w), out=a("u2"))),
    Kernel("transfer", lambda c, a: c.transfer(a("hat"), a("hat3"), out=a("power"))),
    Kernel("shrink_split", lambda c, a: c.shrink_split(a("u"), 64.0, out=a("u2"))),
    Kernel(
        "voting_threshold",
        lambda c, a: c.voting_threshold(a("u"), a.window, int(SHARE * window_pixels(a.window)), out=a("one2")),
    ),
    Kernel("voting_split", lambda c, a: c.voting_split(a("u"), 1e-4, a.window, out=a("u2"))),
    # What it writes in place dies away; nothing in it depends on the values.
    Kernel("normal_spectra", lambda c, a: c.normal_spectra(a("hat"), a("hat2"), a("hat3"), (a.grid.h, a.grid.w))),
    Kernel("lags", lambda c, a: c.lags(a("u"), a.grid.kh - 1, a.grid.kw - 1, out=a("lags2")), grid=lambda a: a.lagged),
    Kernel("spectrum_max", lambda c, a: c.spectrum_max(a("hat"), out=a("one2"))),
    Kernel(
        "toeplitz_nnls",
        lambda c, a: c.toeplitz_nnls(a("lags"), a("kernel"), a("kernel2"), 0.1, a("one"), STEPS, out=a("kernel3")),
        computes=True,
    ),
    Kernel(
        "toeplitz_cg",
        lambda c, a: c.toeplitz_cg(a("lags"), a("kernel"), a("kernel2"), 0.1, STEPS, out=a("kernel3")),
        computes=True,
    ),
    Kernel("normalise", lambda c, a: c.normalise(a("kernel"), out=a("kernel2"))),
    Kernel("project", lambda c, a: c.project(a("kernel"), 0.05, 0.03, out=a("kernel2"))),
    Kernel(
        "resample",
        lambda c, a: c.resample(a("u"), a("first"), a("weights"), 1, out=a("half")),
        grid=lambda a: a.halved,
    ),
    Kernel(
        "select",
        lambda c, a: c.select(a("u").reshape(a.grid.n, -1), a.grid.h * a.grid.w // 2, out=a("one2")),
        grid=lambda a: a.whole,
    ),
)


def measure(backend: timing.Cuda, kernel: Kernel, arrays: Arrays, bandwidth: float, rate: float) -> dict[str, Any]:
    """One row; the seconds are those of all launches of one call."""
    from gpudeblur import _cuda

    before = _cuda.launches[kernel.name]
    kernel.call(_cuda, arrays)
    launches = _cuda.launches[kernel.name] - before
    seconds, replayed = backend.time_launches(lambda: kernel.call(_cuda, arrays))
    grid = kernel.grid(arrays)
    moved = launches * BYTES[kernel.name](grid)
    (h, w), n = arrays.shape, grid.n
    row = {
        "case": f"{kernel.name} {n}x{h}x{w} k{arrays.grid.kh}", "launches": launches, "MB": moved / 1e6,
        "us": 1e6 * seconds, "gb_per_s": moved / seconds / 1e9, "share": moved / seconds / bandwidth,
        "replayed": replayed,
    }  # fmt: skip
    if kernel.computes:
        row["gigaoperations_per_s"] = solver_operations(grid, STEPS) / seconds / 1e9
        row["share"] = 1e9 * row["gigaoperations_per_s"] / rate
    return row


def measured(backend: timing.Cuda, deadline: timing.Deadline, only: str, rates: tuple[float, float]) -> Iterator[Row]:
    for shape, support, batch in SIZES:
        arrays = Arrays(backend.xp, shape, support, batch)
        for kernel in KERNELS:
            if only not in kernel.name:
                continue
            if deadline.left <= 0:
                print(f"{kernel.name} {batch}x{shape[0]}x{shape[1]}: left out, the time is up", file=sys.stderr)
                continue
            yield measure(backend, kernel, arrays, *rates)
        del arrays
        backend.free()


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, "only", "seconds", "no-record", only={"help": "substring of the kernels to run; not recorded"}
    ).parse_args(argv)  # fmt: skip
    try:
        backend = timing.Cuda()
    except RuntimeError as why:
        print(why, file=sys.stderr)
        raise SystemExit(2) from None
    deadline = timing.Deadline(args.seconds)
    rates = bandwidth, rate = backend.copy_bandwidth(), backend.operation_rate()
    print(f"{device_name()}: copy {bandwidth / 1e9:.0f} GB/s, product {rate / 1e12:.1f} TFLOP/s\n")
    rows = measured(backend, deadline, args.only, rates)
    if not args.no_record and not args.only:
        line = {"gpu": device_name(), "copy_gb_per_s": bandwidth / 1e9, "product_tflop_per_s": rate / 1e12}
        rows = recorded("kernels", line, rows)
    show(rows, COLUMNS)


if __name__ == "__main__":
    main()
