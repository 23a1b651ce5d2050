"""Kernels that users give: floors, origins in the corner, stacks; and no warning of ordinary kernels."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from test_bad_input import refuses

import gpudeblur as gd
from gpudeblur import nonblind
from gpudeblur.images.known_kernel import MAX_ON_HOST, border_level, check_kernel_stack, known_kernel, subtract_floor
from gpudeblur.metrics import psnr
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, gaussian_process_kernel, linear_kernel, trajectory_kernel

KERNEL = trajectory_kernel(15, rng=3)
WIDE = np.pad(KERNEL, 24)  # a cut-out around a point source
SCENE = np.random.default_rng(0).random((12, 12)).repeat(8, 0).repeat(8, 1)
BLURRED = blur(SCENE, KERNEL, noise_sigma=0.004, rng=0)
SHARP = SCENE[7:-7, 7:-7]
FLOOR = r"kernel has a floor, a constant along its border that holds \d+ % of its sum and blurs widely; if it is .*"
SHIFTED = r"kernel has its values around its corners, .*: numpy\.fft\.fftshift\(kernel\) puts it there"


def gaussian(side: int, sigma: float) -> np.ndarray:
    line = np.exp(-((np.arange(side) - side // 2) ** 2) / 2 / sigma**2)
    return np.outer(line, line)


def ordinary_kernels() -> Iterator[np.ndarray]:
    for side in (3, 5, 9, 15, 31):
        for seed in range(6):
            for make in (trajectory_kernel, gaussian_process_kernel):
                kernel = make(side, rng=seed)
                yield kernel
                yield kernel[kernel.any(axis=1)][:, kernel.any(axis=0)]  # up to its border
    for length in (1, 2, 5, 13, 20.5):
        yield from (linear_kernel(length, angle) for angle in range(0, 180, 15))
    for height in (1, 2, 3, 5, 8, 13, 25, 40):
        for width in (1, 2, 3, 5, 9, 31):
            yield np.ones((height, width))  # boxes, lines
            delta = np.zeros((height, width))
            delta[height // 2, width // 2] = 1
            yield delta
            yield np.roll(delta, (height // 2, width // 2), (0, 1))  # shifts the image
            yield np.outer(np.bartlett(height + 2)[1:-1], np.bartlett(width + 2)[1:-1])
        y, x = np.mgrid[:height, :height] - (height - 1) / 2
        for radius in (height / 2, height / 2.5, height / 4):  # disks that reach the border, and rings
            yield (np.hypot(y, x) <= radius) + 1e-12
            yield ((np.hypot(y, x) <= radius) & (np.hypot(y, x) >= 0.8 * radius)) + 1e-12
        for sigma in (0.5, 1, 2, 4, 7, 20):  # tails that the border cuts off
            yield gaussian(height, sigma)
            yield gaussian(height, sigma)[height // 2][None]
            yield (1 + (x * x + y * y) / sigma**2) ** -2.5
            yield np.exp(-np.hypot(y, x) / sigma)
        yield np.eye(height) + np.eye(height)[::-1]
    for double in (np.eye(9)[:, [0]] + np.eye(9)[:, [8]], np.diag([0.6, 0, 0, 0, 0, 0, 0, 0.4])):
        yield double  # a double image
        yield double.T


def test_ordinary_kernels_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kernel in ordinary_kernels():
            for scale in (1 / kernel.sum(), 1 / kernel.max()):
                assert_same(known_kernel(kernel * scale), kernel * scale)
        assert_close(gd.deconvolve(BLURRED, KERNEL / KERNEL.max()), gd.deconvolve(BLURRED, KERNEL))


@pytest.mark.parametrize("peak_fraction", [0.01, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("kernel", [KERNEL, WIDE, gaussian(15, 2), KERNEL[7][None]])
def test_a_floor_is_warned_of_and_subtracted(xp: Any, kernel: np.ndarray, peak_fraction: float) -> None:
    offset = peak_fraction * kernel.max()
    given = xp.asarray(kernel + offset)
    with pytest.warns(UserWarning, match=FLOOR + r'give floor="auto"$'):
        known_kernel(given)
    for floor in ("auto", offset):
        result = known_kernel(given, floor=floor)
        assert_close(result, kernel, atol=2e-3 * kernel.max())  # the tail of the Gaussian is in its border
    assert result.dtype == np.float64


def test_the_noise_of_a_measured_kernel_is_subtracted_with_its_floor() -> None:
    counts = 100 + 4000 * WIDE / WIDE.max() + 10 * np.random.default_rng(0).standard_normal(WIDE.shape)
    level, sigma = border_level(counts, 2)
    assert abs(level - 100) < 0.5
    assert abs(sigma - 10) < 1
    right = psnr(gd.deconvolve(BLURRED, KERNEL), SHARP)
    with pytest.warns(UserWarning, match=FLOOR):
        assert psnr(gd.deconvolve(BLURRED, counts), SHARP) < right - 20
    for kernel in (counts, np.rint(counts).astype(np.uint16)):
        assert psnr(gd.deconvolve(BLURRED, kernel, floor="auto"), SHARP) > right - 1
    field = gd.KernelField(counts[None, None], BLURRED.shape, floor="auto")
    assert psnr(gd.deconvolve(BLURRED, field), SHARP) > right - 1
    assert gd.estimate_noise(BLURRED, counts, floor="auto") < 0.01


def test_each_kernel_of_a_stack_has_its_own_floor(xp: Any) -> None:
    stack = np.stack([KERNEL, KERNEL[::-1]])
    given = xp.asarray(stack + np.array([0.01, 0.02])[:, None, None] * KERNEL.max())
    with pytest.warns(UserWarning, match=FLOOR):
        known_kernel(given / given.sum(axis=(-2, -1), keepdims=True))
    assert_close(subtract_floor(given, "auto", 2), stack, atol=1e-12)


@pytest.mark.parametrize(
    "kernel",
    [KERNEL, WIDE, np.pad(KERNEL, ((0, 1), (3, 4))), gaussian(16, 1.5), np.pad(linear_kernel(9, 30), 8),
     np.pad(linear_kernel(9, 0), 8), gaussian(15, 1.5)[7][None]],
)  # fmt: skip
def test_an_origin_in_the_corner_is_warned_of(xp: Any, kernel: np.ndarray) -> None:
    for noise in (0, 1e-3 * kernel.max()):
        shifted = np.fft.ifftshift(np.maximum(kernel + noise * np.random.default_rng(0).random(kernel.shape), 0))
        with pytest.warns(UserWarning, match=SHIFTED):
            known_kernel(xp.asarray(shifted))
        known_kernel(xp.asarray(np.fft.fftshift(shifted)), floor="auto" if noise else None)


def test_kernels_too_large_for_the_host_are_examined_where_they_are() -> None:
    side = int(MAX_ON_HOST**0.5) + 10
    large = np.zeros((side, side))
    large[side // 2 - 7 : side // 2 + 8, side // 2 - 7 : side // 2 + 8] = KERNEL
    known_kernel(large)
    with pytest.warns(UserWarning, match=FLOOR):
        known_kernel(large + 1e-4)
    with pytest.warns(UserWarning, match=SHIFTED):
        known_kernel(np.fft.ifftshift(large))


def test_every_door_for_a_known_kernel_warns() -> None:
    for kernel, message in ((WIDE + 0.01, FLOOR), (np.fft.ifftshift(WIDE), SHIFTED)):
        with pytest.warns(UserWarning, match=message):
            gd.deconvolve(BLURRED, kernel)
        with pytest.warns(UserWarning, match=message):
            gd.estimate_noise(BLURRED, kernel)
        with pytest.warns(UserWarning, match=message.replace("kernel", "kernels")):
            gd.KernelField(kernel[None, None], BLURRED.shape)
        for name in nonblind.__all__:
            with pytest.warns(UserWarning, match=message) as caught:
                getattr(nonblind, name)(BLURRED[:70, :70], kernel, callback=None)
            assert message is SHIFTED or 'use gpudeblur.deconvolve(..., floor="auto")' in str(caught[0].message)


def test_floors_that_cannot_be() -> None:
    floor: Any
    for floor in ("none", True, [1], None.__class__):
        with pytest.raises(TypeError, match=re.escape(f"floor must be a number, got {floor!r} (")):
            gd.deconvolve(BLURRED, KERNEL, floor=floor)
    nothing = "floor must leave something of the kernel, got ... for a maximum of ...; give a smaller number, or ..."
    for kernel, floor in ((KERNEL, 1.0), (np.ones((5, 5)), "auto")):
        with refuses(ValueError, nothing):
            gd.deconvolve(BLURRED, kernel, floor=floor)
    with refuses(ValueError, "kernel must be finite, ..."):
        gd.deconvolve(BLURRED, KERNEL * np.nan, floor="auto")
    field = gd.KernelField(KERNEL[None, None], BLURRED.shape)
    with refuses(ValueError, "floor must be None for a KernelField, got 'auto'; use KernelField(..., floor=)"):
        gd.deconvolve(BLURRED, field, floor="auto")


# ---- stacks of kernels

Z, Y, X = np.mgrid[-4:5, -6:7, -6:7]
WIDTHS = 1.2 + 0.6 * abs(Z)
WIDEFIELD = np.exp(-(X * X + Y * Y) / 2 / WIDTHS**2) / WIDTHS**2  # the same light in each plane
CONFOCAL = WIDEFIELD * np.exp(-Z * Z / 8.0)


@pytest.mark.parametrize(
    ("psf", "likeness"),
    [
        (CONFOCAL / CONFOCAL.sum(), "sum to 1 together"),
        (CONFOCAL / CONFOCAL.max(), r"have sums from \S+ to \S+"),
        (WIDEFIELD / WIDEFIELD.sum(), "sum to 1 together"),
        (WIDEFIELD / WIDEFIELD.sum((1, 2), keepdims=True) * 7, "mirror each other"),
    ],
)
def test_a_volume_is_no_stack_of_kernels(xp: Any, psf: np.ndarray, likeness: str) -> None:
    message = (
        rf"^kernel must have the sum 1 for each picture, got shape \(9, 13, 13\), whose slices {likeness}, as the "
        r"planes of a 3-D point spread function do; use gpudeblur\.restoration\.richardson_lucy for one, and kernel / "
    )
    stack = np.zeros((9, 40, 40))
    for call in (gd.deconvolve, nonblind.tv):
        with pytest.raises(ValueError, match=message):
            call(xp.asarray(stack), xp.asarray(psf))
    check_kernel_stack(xp.asarray(psf / psf.sum((1, 2), keepdims=True)))  # the way out


def test_stacks_of_kernels_are_one_a_picture(xp: Any) -> None:
    kernels = np.stack([trajectory_kernel(9, rng=seed) for seed in range(3)])
    pictures = np.stack([BLURRED] * 3)
    alone = [gd.deconvolve(xp.asarray(BLURRED), xp.asarray(kernel)) for kernel in kernels]
    peaks = kernels / kernels.max(axis=(1, 2), keepdims=True)
    for given, tolerance in ((kernels, 1e-5), (peaks, 1e-5), (np.rint(255 * peaks).astype(np.uint8), 0.05)):
        result = to_host(gd.deconvolve(xp.asarray(pictures), xp.asarray(given)))
        assert_close(result, np.stack([to_host(image) for image in alone]), atol=tolerance)
    for boxes in (np.ones((4, 5, 5)), np.ones((2, 1, 7)), np.stack([KERNEL, KERNEL]) * 9):
        check_kernel_stack(boxes)


# ---- on a device


def test_the_checks_on_a_device_of_numpy(request: pytest.FixtureRequest) -> None:
    """No implicit conversion, nothing mixed, and few waits."""
    pytest.importorskip("cupy", reason="gpudeblur.numerics.device needs it; no GPU is needed")
    from cuda_on_cpu import device

    stack = np.stack([KERNEL, KERNEL[::-1]])
    color = np.dstack([BLURRED[:64, :64].astype(np.float32)] * 3 + [np.ones((64, 64), np.float32)])
    side = int(MAX_ON_HOST**0.5) + 1
    large = np.zeros((side, side))
    large[side // 2, side // 2 - 3 : side // 2 + 4] = 1
    with device.installed(request.getfixturevalue("cpu_kernel")) as cupy:
        before = device.counts["waits"]
        known_kernel(cupy.asarray(KERNEL))
        assert device.counts["waits"] - before <= 5
        with pytest.warns(UserWarning, match=FLOOR):
            known_kernel(cupy.asarray(WIDE + 0.01))
        for kernel in (KERNEL, stack):
            assert_close(known_kernel(cupy.asarray(kernel + 0.01), floor="auto"), kernel, atol=1e-12)
            assert_close(known_kernel(cupy.asarray(kernel + 0.01), floor=0.01), kernel, atol=1e-12)
        with pytest.warns(UserWarning, match=SHIFTED):
            known_kernel(cupy.asarray(np.fft.ifftshift(WIDE)))
        known_kernel(cupy.asarray(large))
        with pytest.warns(UserWarning, match=SHIFTED):
            known_kernel(cupy.asarray(np.fft.ifftshift(large)))
        with pytest.raises(ValueError, match="sum to 1 together"):
            known_kernel(cupy.asarray(CONFOCAL / CONFOCAL.sum()))
        result = gd.deconvolve(cupy.asarray(color), cupy.asarray(KERNEL + 0.01), channel_axis=-1, floor="auto")
        assert_same(result[..., 3], color[..., 3])
        with pytest.warns(UserWarning, match=r"^image has negative values, down to -"):
            gd.deconvolve(cupy.asarray(color - 0.5), cupy.asarray(KERNEL), channel_axis=-1, method="richardson-lucy")
