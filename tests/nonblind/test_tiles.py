"""Tiles: without seams, within their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same, peak_on_numpy
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.regularization import FLOOR, WEIGHT_RULES, estimate_weight
from gpudeblur.nonblind.tiles import LIVE_ARRAYS, TILED, _cuts, _fade, _grown, _reach, tiled
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import fast_size
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3).astype("float32")
SCENE = data.camera()[:200, 100:360] / 255


def blurred_picture(noise: float = 0.01) -> np.ndarray:
    return blur(SCENE, KERNEL.astype(float), noise_sigma=noise, rng=0).astype("float32")


def untiled(blurred: Any, kernel: Any, method: str, weight: Any) -> Any:
    options: dict[str, Any] = {} if method == "sparse" else {"boundary": "unknown"}
    return METHODS[method](blurred, kernel, weight=weight, **options)


@pytest.mark.parametrize("method", ["tv", "sparse", "hyper-laplacian"])
def test_no_seams(xp: Any, method: str) -> None:
    """As near to the untiled result at the cuts as elsewhere."""
    given, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    weight = float(estimate_weight(given, kernel, method))
    whole = to_host(untiled(given, kernel, method, weight))
    out = to_host(tiled(given, kernel, method=method, weight=weight, tile=100, overlap=64))
    assert out.shape == whole.shape
    difference = (out - whole)[10:-10, 10:-10]
    assert np.sqrt((difference**2).mean()) < 1e-3
    assert psnr(out, SCENE[4:-4, 4:-4]) > psnr(whole, SCENE[4:-4, 4:-4]) - 0.05


def test_one_tile_is_the_whole(xp: Any) -> None:
    given, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    assert_same(tiled(given, kernel, weight=1e-3, tile=1000), untiled(given, kernel, "tv", 1e-3))


@pytest.mark.parametrize("n", [1, 7, 100, 257])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (50, 50), (30, 0), (300, 64)])
def test_the_fades_add_up_to_one(n: int, tile: int, overlap: int) -> None:
    total = np.zeros(n)
    cuts = [*_cuts(n, tile)]
    reach = _reach(cuts, overlap)
    for cut in cuts:
        assert cut.stop - cut.start <= tile
        grown = _grown(cut, overlap, n)
        fade = _fade(cut, grown, reach, n)
        total[grown] += fade
        if reach > 1 and grown.start > 0:
            assert fade[: overlap - reach].max(initial=0) == 0
    assert_close(total, np.ones(n), rtol=1e-12)


def test_a_stack_in_tiles_is_a_loop(xp: Any) -> None:
    stack = np.stack([blurred_picture(), blurred_picture(0.03)])[:, :90, :120]
    together = to_host(tiled(xp.asarray(stack), xp.asarray(KERNEL), tile=60, overlap=20))
    for i in range(2):
        alone = to_host(tiled(xp.asarray(stack[i]), xp.asarray(KERNEL), tile=60, overlap=20))
        assert_close(together[i], alone, atol=1e-6 if xp is np else 1e-3)


def test_a_small_memory_makes_small_tiles(xp: Any) -> None:
    given, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    calls: list[float] = []
    tiled(given, kernel, memory=3 << 20, overlap=24, callback=calls.append)
    assert len(calls) >= 4 * 30
    assert calls == sorted(calls)
    assert calls[-1] == pytest.approx(1)


@pytest.mark.parametrize("method", sorted(TILED))
def test_the_planes_are_what_a_method_takes(method: str) -> None:
    u, kernel = np.random.default_rng(0).random((300, 320), dtype=np.float32), np.full((15, 15), 1 / 225, np.float32)
    grid = fast_size(314) * fast_size(334)
    peak = peak_on_numpy(lambda: untiled(u, kernel, method, 1e-3)) / u.itemsize / grid
    assert LIVE_ARRAYS["numpy"][method] == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of 'sparse', .*, got 'magic'"),
        ({"overlap": -1}, "overlap must not be negative, got -1"),
        ({"tile": 10, "overlap": 20}, "tile must be at least overlap = 20, got 10"),
        ({"memory": 1000}, "memory must hold a tile of 64 pixels with an overlap of 64, .* MiB, got 0 MiB"),
    ],
)
def test_bad_options_are_refused(xp: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiled(xp.asarray(blurred_picture()), xp.asarray(KERNEL), **options)


# ---- automatic weights


@pytest.mark.parametrize("method", sorted(WEIGHT_RULES))
def test_the_weight_follows_the_noise(xp: Any, method: str) -> None:
    """By its law above the floor, and no further down."""
    factor, power = WEIGHT_RULES[method]
    kernel = xp.asarray(KERNEL)
    found = {s: float(estimate_weight(xp.asarray(blurred_picture(s)), kernel, method)) for s in (0.0, 1e-3, 0.02, 0.05)}
    assert found[0.0] == found[1e-3] == pytest.approx(factor * FLOOR**power)
    for sigma in (0.02, 0.05):
        assert found[sigma] == pytest.approx(factor * sigma**power, rel=0.2)


@pytest.mark.parametrize("method", ["tv", "hyper-laplacian", "sparse"])
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_the_automatic_weight_is_near_the_best(xp: Any, method: str, noise: float) -> None:
    given, kernel = xp.asarray(blurred_picture(noise)), xp.asarray(KERNEL)
    weight, true = float(estimate_weight(given, kernel, method)), SCENE[4:-4, 4:-4]
    quality = [psnr(to_host(untiled(given, kernel, method, weight * f)), true) for f in (1, 0.25, 0.5, 2, 4)]
    assert quality[0] > max(quality) - 0.4
    assert quality[0] > psnr(to_host(given), true) + 1.5
