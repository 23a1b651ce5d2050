"""Each CUDA kernel beside its CuPy expression, which is its NumPy twin on CuPy's arrays; needs a GPU.

Arrays are those that it meets when 256 pictures of 255 x 255 or 4 of 2048 x 2048 are deblurred. Twenty calls, one after
the other, are timed as one, with what Python takes to ask for them: small kernels cannot be faster than that here, and
are in `deblur`, in CUDA graphs. `share` is of the bandwidth of a copy, by the bytes that `roofline.moved` counts; that
of the Toeplitz solvers is of the rate of a matrix product.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from bench import roofline
from bench.cases import blurred_camera
from gpudeblur.blind import kernel_projection, kernel_step
from gpudeblur.blind.kernel_step import selection_window, window_pixels
from gpudeblur.images import noise
from gpudeblur.nonblind.methods.hyper_laplacian import dt_shrink
from gpudeblur.numerics import convolution, filters, fourier, resample, toeplitz, varying_blur
from gpudeblur.numerics.arrays import array_module
from gpudeblur.numerics.fourier import fast_size
from gpudeblur.numerics.poses import PoseGrid, Splatting, node_points
from gpudeblur.numerics.varying_blur import VaryingBlur, regular_nodes
from gpudeblur.synthesis import trajectory_kernel

STEPS, CALLS = 30, 20
ROWS = slice(0, 4)  # of cells
SIZES = (((255, 255), 31, 256), ((2048, 2048), 57, 4))


@functools.cache
def arrays(xp: Any, shape: tuple[int, int], support: int, batch: int) -> dict[str, Any]:
    """Pictures, spectra without zeros, kernels as they are found; on white gradients the solvers take as long."""
    grid = fast_size(shape[0] + support - 1), fast_size(shape[1] + support - 1)
    spectrum, side = (grid[0], grid[1] // 2 + 1), 2 * support - 1
    uniform = [np.random.default_rng(seed).random for seed in range(3)]
    lags = uniform[2]((side, side), np.float32) * 0.01
    lags[side // 2, side // 2] = 10
    made = {
        "u": blurred_camera(grid, 15),
        "mask": uniform[0](grid) < 0.02,
        "hat": np.exp(2j * np.pi * uniform[0](spectrum)).astype(np.complex64),  # of magnitude 1: stays so in place
        "power": uniform[1](spectrum, np.float32) + np.float32(0.1),
        "kernel": trajectory_kernel(support, rng=0).astype(np.float32),
        "autocorrelation": lags,
    }
    put = {name: xp.ascontiguousarray(xp.broadcast_to(xp.asarray(a), (batch, *a.shape))) for name, a in made.items()}
    return {**put, "shape": grid, "window": selection_window(shape, (support, support))}


class Field(NamedTuple):
    """A blur that varies over the pictures, its blocks, and what they are added to."""

    blur: VaryingBlur
    blocks: Any
    out: Any


@functools.cache
def make_field(xp: Any, shape: tuple[int, int], support: int, batch: int, launches: bool) -> Field:
    """For pictures of that shape, margins included; the two forms do not share theirs."""
    inside, kernel = (shape[0] - support + 1, shape[1] - support + 1), trajectory_kernel(support, rng=0)
    nodes = regular_nodes(5, inside[0]), regular_nodes(5, inside[1])
    kernels = xp.asarray(np.broadcast_to(kernel, (5, 5, support, support)).astype(np.float32))
    blur = VaryingBlur(kernels, nodes, inside, np.float32)
    blocks = xp.zeros((batch, 4, 4, *blur._grid), np.float32)
    return Field(blur, blocks, xp.zeros((batch, *shape), np.float32))


def field(a: Any) -> Field:
    return make_field(*_kind(a))


def cells_cut(a: Any) -> Any:
    blur = field(a).blur
    return blur._margined.cut(a.u, ROWS) if blur._cuda else blur._blocks(a.u, ROWS, blur._grid)


def cells_add(a: Any) -> Any:
    blur, blocks, out = field(a)
    return (blur._margined.add if blur._cuda else blur._add_blocks)(out, blocks, ROWS)


class Poses(NamedTuple):
    """Poses of one picture at 24 points."""

    splatting: Splatting
    weights: Any
    kernels: Any


@functools.cache
def make_poses(xp: Any, shape: tuple[int, int], support: int, batch: int, launches: bool) -> Poses:
    grid = PoseGrid((support, support), 9, shape, float(max(shape)))
    weights = xp.asarray(np.random.default_rng(0).random(9 * support**2, np.float32))
    splatting = grid.splatting(node_points((4, 6), shape), like=weights)
    return Poses(splatting, weights, splatting.expand(weights))


def poses(a: Any) -> Poses:
    return make_poses(*_kind(a))


def _kind(a: Any) -> tuple[Any, tuple[int, int], int, int, bool]:
    launches = varying_blur.goes_to_cuda(a.u)
    return array_module(a.u), a.shape, a.kernel.shape[-1], len(a.u), launches


# By `arrays`, and `hats`, which may be overwritten.
KERNELS: dict[str, Callable[[Any], Any]] = {
    "dt_l0": lambda a: filters.dt_l0(a.u, 1e-4),
    "spectral_solve": lambda a: filters.spectral_solve(a.hats[0], a.hats[1], a.power, 1.0, a.shape),
    "edge_mask": lambda a: filters.edge_mask(a.u, 1e-4),
    "dilate": lambda a: filters.dilate(a.mask, 8),
    "gaussian_smooth": lambda a: filters.gaussian_smooth(a.u, 1.5),
    "dt_smooth": lambda a: filters.dt_smooth(a.u, a.mask),
    "data_terms": lambda a: filters.data_terms(a.hats[0], a.hats[1]),
    "kernel_to_grid": lambda a: fourier.kernel_to_grid(a.kernel, a.shape),
    "dt_shrink": lambda a: dt_shrink(a.u, 64.0),
    "selection_threshold": lambda a: kernel_step.selection_threshold(a.u, a.window, window_pixels(a.window) // 5),
    "dt_selected": lambda a: kernel_step.dt_selected(a.u, 1e-4, a.window),
    "normal_spectra": lambda a: kernel_step.normal_spectra(a.hats[0], a.hats[1], a.hats[2], a.shape),
    "central_lags": lambda a: kernel_step.central_lags(a.u, a.kernel.shape[-1] - 1, a.kernel.shape[-1] - 1),
    "spectrum_max": lambda a: toeplitz.spectrum_max(a.hats[0]),
    "toeplitz_nnls": lambda a: toeplitz.toeplitz_nnls(a.autocorrelation, a.kernel, a.kernel, 0.1, STEPS),
    "toeplitz_cg": lambda a: toeplitz.toeplitz_cg(a.autocorrelation, a.kernel, a.kernel, 0.1, STEPS),
    "normalize": lambda a: kernel_projection.normalize(a.kernel),
    "project": lambda a: kernel_projection.project(a.kernel, share=0.05, component=0.03),
    "resample": lambda a: resample.resample(a.u, (a.shape[0] // 2, a.shape[1] // 2)),
    "pose_expand": lambda a: poses(a).splatting.expand(poses(a).weights),
    "pose_collect": lambda a: poses(a).splatting.collect(poses(a).kernels),
    "cells_cut": cells_cut,
    "cells_add": cells_add,
    "strided_convolution": lambda a: convolution.strided_convolution(
        a.u[:, None], a.kernel[0, :9, :16][None], a.kernel[0, 9, :16]
    ),
    "select": lambda a: noise.median(a.u.reshape(len(a.u), -1)),
}


@contextmanager
def expressions() -> Iterator[None]:
    """No CUDA kernel of ours takes any array."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("gpudeblur") and hasattr(module, "goes_to_cuda"):
                stack.enter_context(patch.object(module, "goes_to_cuda", lambda *_: False))
        yield


@pytest.mark.parametrize("form", ["CuPy expression", "CUDA kernel"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("shape", "support", "batch"), SIZES, ids=lambda value: str(value).strip("()"))
def test_cuda_kernel(rates, measure, device, smallest, form, shape, support, batch, kernel) -> None:
    shape, support, batch, calls = ((40, 33), 9, 2, 2) if smallest else (shape, support, batch, CALLS)
    made = arrays(device.xp, shape, support, batch)
    given, facts = types.SimpleNamespace(**made, hats=[made["hat"].copy() for _ in range(3)]), {}
    group = f"{kernel} {batch}x{shape[0]}x{shape[1]} k{support}"
    if form == "CUDA kernel":
        with roofline.recorded() as launches:
            KERNELS[kernel](given)
        launches = [launch for launch in launches if launch.name == kernel]
        facts = {"launches": len(launches), "megabytes": sum(launch.bytes for launch in launches) / 1e6}
        facts["floor_us"] = 1e6 * roofline.floor_seconds(launches, *rates)

    def work() -> None:
        for _ in range(calls):
            KERNELS[kernel](given)

    with nullcontext() if facts else expressions():
        seconds = measure(work, group, calls=calls, budget=0.2, **facts)
    if facts:
        measure.benchmark.extra_info["share"] = 1e-6 * facts["floor_us"] / seconds
