"""Each CUDA kernel beside its CuPy expression, which is its NumPy twin on CuPy's arrays; needs a GPU.

Arrays are those that it meets when 256 pictures of 255 x 255 or 4 of 2048 x 2048 are deblurred. Twenty calls, one after
the other, are timed as one, with what Python takes to ask for them: small kernels cannot be faster than that here, and
are in `deblur`, in CUDA graphs. `share` is of the bandwidth of a copy, by the bytes that `roofline.moved` counts; that
of the Toeplitz solvers is of the rate of a matrix product.
"""

from __future__ import annotations

import functools
import sys
from unittest.mock import patch

import numpy as np
import pytest

from bench import roofline
from bench.cases import blurred_camera
from gpudeblur.blind import kernel_projection, kernel_step
from gpudeblur.blind.kernel_step import selection_window, window_pixels
from gpudeblur.images import noise
from gpudeblur.nonblind.methods.hyper_laplacian import dt_shrink
from gpudeblur.numerics import filters, fourier, resample, toeplitz
from gpudeblur.numerics.fourier import fast_size
from gpudeblur.synthesis import trajectory_kernel

STEPS, CALLS = 30, 20
SIZES = (((255, 255), 31, 256), ((2048, 2048), 57, 4))


class Arrays:
    """Arrays of one size: pictures, spectra without zeros, kernels as they are found."""

    def __init__(self, xp, shape, support, batch) -> None:
        self.xp, self.batch, self.support = xp, batch, support
        self.window = selection_window(shape, (support, support))
        self.shape = tuple(fast_size(side + support - 1) for side in shape)
        self.spectrum = (self.shape[0], self.shape[1] // 2 + 1)

    def stack(self, array):
        array = self.xp.asarray(array)
        return self.xp.ascontiguousarray(self.xp.broadcast_to(array, (self.batch, *array.shape)))

    @functools.cached_property
    def u(self):
        return self.stack(blurred_camera(self.shape, 15))

    @functools.cached_property
    def mask(self):
        return self.stack(np.random.default_rng(0).random(self.shape) < 0.02)

    def hat(self):
        """Complex numbers of magnitude 1, so that what is written in place stays in range."""
        angle = 2 * np.pi * np.random.default_rng(0).random(self.spectrum)
        return self.stack(np.exp(1j * angle).astype(np.complex64))

    @functools.cached_property
    def power(self):
        return self.stack(np.random.default_rng(1).random(self.spectrum, np.float32) + 0.1)

    @functools.cached_property
    def kernel(self):
        return self.stack(trajectory_kernel(self.support, rng=0).astype(np.float32))

    @functools.cached_property
    def autocorrelation(self):
        """Of white gradients: the solvers take as long whatever the matrix."""
        side = 2 * self.support - 1
        lags = np.random.default_rng(2).random((side, side), np.float32) * 0.01
        lags[side // 2, side // 2] = 10
        return self.stack(lags)


def of(function, *names, **keywords):
    """A call of `function` with attributes of `Arrays` by their names; "hat" makes an array that may be overwritten."""

    def call(a):
        args = [a.hat() if name == "hat" else getattr(a, name) if isinstance(name, str) else name for name in names]
        return functools.partial(function, *args, **keywords)

    return call


KERNELS = {
    "dt_l0": of(filters.dt_l0, "u", 1e-4),
    "spectral_solve": of(filters.spectral_solve, "hat", "hat", "power", 1.0, "shape"),
    "edge_mask": of(filters.edge_mask, "u", 1e-4),
    "dilate": of(filters.dilate, "mask", 8),
    "gaussian_smooth": of(filters.gaussian_smooth, "u", 1.5),
    "dt_smooth": of(filters.dt_smooth, "u", "mask"),
    "data_terms": of(filters.data_terms, "hat", "hat"),
    "kernel_to_grid": of(fourier.kernel_to_grid, "kernel", "shape"),
    "dt_shrink": of(dt_shrink, "u", 64.0),
    "selection_threshold": lambda a: functools.partial(
        kernel_step.selection_threshold, a.u, a.window, window_pixels(a.window) // 5
    ),
    "dt_selected": of(kernel_step.dt_selected, "u", 1e-4, "window"),
    "normal_spectra": of(kernel_step.normal_spectra, "hat", "hat", "hat", "shape"),
    "central_lags": lambda a: functools.partial(kernel_step.central_lags, a.u, a.support - 1, a.support - 1),
    "spectrum_max": of(toeplitz.spectrum_max, "hat"),
    "toeplitz_nnls": of(toeplitz.toeplitz_nnls, "autocorrelation", "kernel", "kernel", 0.1, STEPS),
    "toeplitz_cg": of(toeplitz.toeplitz_cg, "autocorrelation", "kernel", "kernel", 0.1, STEPS),
    "normalize": of(kernel_projection.normalize, "kernel"),
    "project": of(kernel_projection.project, "kernel", share=0.05, component=0.03),
    "resample": lambda a: functools.partial(resample.resample, a.u, (a.shape[0] // 2, a.shape[1] // 2)),
    "select": lambda a: functools.partial(noise.median, a.u.reshape(a.batch, -1)),
}


def as_expression(call):
    """`call` as CuPy's expressions, where no CUDA kernel of ours takes its arrays."""
    modules = [module for name, module in sys.modules.items() if name.startswith("gpudeblur")]
    patches = [patch.object(module, "goes_to_cuda", lambda *_: False) for module in modules
               if hasattr(module, "goes_to_cuda")]  # fmt: skip

    def patched():
        for each in patches:
            each.start()
        try:
            return call()
        finally:
            for each in patches:
                each.stop()

    return patched


@pytest.fixture(scope="module")
def rates(request):
    device = request.config.device
    if device.name == "cpu":
        pytest.skip("needs --device cuda")
    sizes = (1 << 10, 16) if request.config.getoption("--smallest") else (1 << 28, 8192)
    return device.copy_bandwidth(sizes[0]), device.operation_rate(sizes[1])


@pytest.mark.parametrize("form", ["CuPy expression", "CUDA kernel"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("shape", "support", "batch"), SIZES, ids=lambda value: str(value).strip("()"))
def test_cuda_kernel(rates, measure, device, smallest, form, shape, support, batch, kernel) -> None:
    shape, support, batch, calls = ((40, 33), 9, 2, 2) if smallest else (shape, support, batch, CALLS)
    call, facts = KERNELS[kernel](Arrays(device.xp, shape, support, batch)), {}
    group = f"{kernel} {batch}x{shape[0]}x{shape[1]} k{support}"
    if form == "CUDA kernel":
        with roofline.recorded() as launches:
            call()
        launches = [launch for launch in launches if launch.name == kernel]
        facts = {"launches": len(launches), "megabytes": sum(launch.bytes for launch in launches) / 1e6}
        facts["floor_us"] = 1e6 * roofline.floor_seconds(launches, *rates)
    else:
        call = as_expression(call)

    def work():
        for _ in range(calls):
            call()

    seconds = measure(work, group, calls=calls, budget=0.2, **facts)
    if facts:
        measure.benchmark.extra_info["share"] = 1e-6 * facts["floor_us"] / seconds
