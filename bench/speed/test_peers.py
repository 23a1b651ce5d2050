"""Ours beside others that do the same work: scikit-image's filters (cuCIM's on a GPU), and plain array expressions.

The plain form of the latent step (L0 prior alone) transforms both gradients by themselves and makes an array for each
operation; float32 and real transforms as here, and both give the same picture. On a GPU ours also runs as one CUDA
graph, as it does in `deblur`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.data import camera
from skimage.transform import resize

import gpudeblur as gd
from bench.cases import blurred_camera, blurred_cameras
from bench.speed.conftest import TINY
from gpudeblur import restoration
from gpudeblur.blind.latent import latent_step
from gpudeblur.numerics.arrays import fft_module
from gpudeblur.numerics.boundary import pad_liu_jia
from gpudeblur.synthesis import trajectory_kernel

METHODS = ("tv", "sparse", "hyper-laplacian", "wiener", "richardson-lucy", "epll", "pnp")
# Of known kernels. Their work is less: periodic borders, and a number of iterations or a weight that a user must know.
PEERS = {
    "peer richardson_lucy, 30 iterations": lambda library, *x: library.richardson_lucy(*x, num_iter=30, clip=False),
    "peer wiener": lambda library, *x: library.wiener(*x, 0.1, clip=False),
}
# Of `gpudeblur.restoration`: the same calls.
DROP_INS = {
    "richardson_lucy, 30 iterations": lambda m, *x: m.richardson_lucy(*x, 30),
    "unsupervised_wiener": lambda m, *x: m.unsupervised_wiener(*x)[0],
    "unsupervised_wiener, same rng": lambda m, *x: m.unsupervised_wiener(*x, rng=0)[0],
    "wiener": lambda m, *x: m.wiener(*x, 0.1),
}
WEIGHT, BETA_RATE, BETA_MAX = 4e-3, 2.0, 60.0
PLAIN: dict[str, float] = {}  # seconds, by group; the plain form is the first of a group


@pytest.fixture
def theirs(device):
    return pytest.importorskip(f"{'skimage' if device.name == 'cpu' else 'cucim.skimage'}.restoration")


@pytest.mark.parametrize("method", [*METHODS, *PEERS])
def test_deconvolve(measure, device, smallest, request, method) -> None:
    """512 x 512 under 25 px, with 1 % noise."""
    shape, size = TINY if smallest else ((512, 512), 25)
    noise = 0.01 * np.random.default_rng(0).standard_normal(shape)
    kernel = device.put(trajectory_kernel(size, rng=20).astype(np.float32))
    observed = device.put((blurred_camera(shape, size) + noise).astype(np.float32)), kernel
    library = request.getfixturevalue("theirs") if method in PEERS else None
    work = PEERS.get(method, lambda _, *x: gd.deconvolve(*x, method=method))
    measure(lambda: work(library, *observed), "deconvolve 512 x 512, k = 25")


@pytest.mark.parametrize("library", ["theirs", "ours"])
@pytest.mark.parametrize("call", DROP_INS)
def test_drop_in(measure, device, smallest, theirs, call, library) -> None:
    """512 x 512 float32, a random psf of 15 x 15."""
    if device.name == "cuda" and call == "unsupervised_wiener, same rng":
        pytest.skip("cuCIM draws its numbers on the GPU")
    side, work = 64 if smallest else 512, DROP_INS[call]
    psf = np.random.default_rng(0).random((15, 15), np.float32)
    image, psf = device.put(resize(camera(), (side, side)).astype(np.float32)), device.put(psf / psf.sum())
    if call != "unsupervised_wiener":  # which draws other random numbers
        difference = abs(work(theirs, image, psf) - work(restoration, image, psf)).max()
        assert float(difference) < 1e-4, "these are not the same work"
    # 32 MB, freed at once. In a process whose allocator gives memory back to the system at once, as a fresh one does,
    # scikit-image's temporary arrays cost it more: glibc raises that threshold when a larger array is freed.
    np.ones(1 << 22)
    module = theirs if library == "theirs" else restoration
    measure(lambda: work(module, image, psf), f"{call}, {side} x {side}")


def plain_latent_step(xp: Any, blurred: Any, kernel: Any) -> Any:
    """[Chen2017] eq. 3-7 as a textbook has it, for either library; one kernel for all pictures."""
    fft, axes, shape = fft_module(xp), (-2, -1), blurred.shape[-2:]

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


def our_latent_step(blurred: Any, kernels: Any) -> Any:
    return latent_step(blurred, kernels, gradient_weight=WEIGHT, beta_rate=BETA_RATE, beta_max=BETA_MAX)


@pytest.mark.parametrize("form", ["plain", "ours", "ours, as a graph"])
@pytest.mark.parametrize(("side", "batch"), [(255, 1), (1024, 1), (255, 64), (1024, 16)])
def test_latent_step(measure, device, smallest, form, side, batch) -> None:
    if device.name == "cpu" and (batch > 1 or form == "ours, as a graph"):
        pytest.skip("on a GPU only")
    group = f"latent step, {batch} x {side} x {side}"
    side, batch, size = (40, min(batch, 2), 9) if smallest else (side, batch, 25)
    kernel = device.put(trajectory_kernel(size, rng=0).astype(np.float32))
    kernels = device.xp.broadcast_to(kernel, (batch, size, size))
    blurred = pad_liu_jia(device.put(blurred_cameras(batch, (side, side), size)), (size - 1, size - 1))

    def replayed() -> Any:
        from gpudeblur.numerics import cuda_graphs

        return cuda_graphs.replay("bench", lambda *x, report: (our_latent_step(*x),), blurred, kernels)[0]

    forms = {
        "plain": lambda: plain_latent_step(device.xp, blurred, kernel),
        "ours": lambda: our_latent_step(blurred, kernels),
        "ours, as a graph": replayed,
    }
    # Rounding decides which way a gradient at the threshold falls: most pixels agree far better than the worst.
    difference = float(device.xp.quantile(abs(forms["plain"]() - forms[form]()), 0.99))
    assert difference < 1e-5, "these are not the same work"
    seconds = measure(forms[form], group, pictures=batch)
    if form == "plain":
        PLAIN[group] = seconds
    elif form == "ours" and device.name == "cuda" and group in PLAIN:
        measure.bar(f"{group}, over plain CuPy expressions: times", PLAIN[group] / seconds, 2, least=True)
