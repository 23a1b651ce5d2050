"""The latent step (L0 prior alone) beside the textbook as plain array expressions, in NumPy or CuPy.

The plain form transforms both gradients by themselves and makes an array for each operation; float32 and real
transforms as here, and both give the same picture. On a GPU ours also runs as one CUDA graph, as it does in `deblur`.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.cases import blurred_cameras
from gpudeblur.blind.latent import latent_step
from gpudeblur.numerics.arrays import fft_module
from gpudeblur.numerics.boundary import pad_liu_jia
from gpudeblur.synthesis import trajectory_kernel

WEIGHT, BETA_RATE, BETA_MAX = 4e-3, 2.0, 60.0
PLAIN: dict[str, float] = {}  # seconds, by group; the plain form is the first of a group


def plain_latent_step(xp, blurred, kernel):
    """[Chen2017] eq. 3-7 as a textbook has it, for either library; one kernel for all pictures."""
    fft, axes, shape = fft_module(xp), (-2, -1), blurred.shape[-2:]

    def transfer(psf):
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


def our_latent_step(blurred, kernels):
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

    def replayed():
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
