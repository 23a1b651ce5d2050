"""Tiles: without seams, within their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same, peak_on_numpy
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.regularization import FLOOR, equivalent_weight, estimate_weight
from gpudeblur.nonblind.specs import METHOD_SPECS, METHODS
from gpudeblur.nonblind.tiles import _cuts, _fade, _grown, _ramp, _tile_that_fits, tiled
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.fourier import fast_size
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3).astype("float32")
RULES = {name: spec.weight_rule for name, spec in METHOD_SPECS.items() if spec.weight_rule}
SCENE = data.camera()[:200, 100:360] / 255


def blurred_picture(noise: float = 0.01) -> np.ndarray:
    return blur(SCENE, KERNEL.astype(float), noise_sigma=noise, rng=0).astype("float32")


def untiled(blurred: Any, kernel: Any, method: str, weight: Any) -> Any:
    options: dict[str, Any] = {} if method == "sparse" else {"boundary": "unknown"}
    return METHODS[method](blurred, kernel, weight=weight, **options)


@pytest.mark.parametrize(
    "method", ["tv", *(pytest.param(m, marks=pytest.mark.slow) for m in ("sparse", "hyper-laplacian"))]
)
def test_no_seams(xp: Any, method: str) -> None:
    """As near to the untiled result at the cuts as elsewhere."""
    given, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    weight = float(estimate_weight(given, kernel, RULES[method]))
    whole = to_host(untiled(given, kernel, method, weight))
    out = to_host(tiled(given, kernel, method=method, weight=weight, tile=100))
    assert out.shape == whole.shape
    difference = (out - whole)[10:-10, 10:-10]
    assert np.sqrt((difference**2).mean()) < 1e-3
    assert psnr(out, SCENE[4:-4, 4:-4]) > psnr(whole, SCENE[4:-4, 4:-4]) - 0.05


def test_one_tile_is_the_whole(xp: Any) -> None:
    given, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    assert_same(tiled(given, kernel, weight=1e-3, tile=1000), untiled(given, kernel, "tv", 1e-3))


@pytest.mark.parametrize("n", [1, 7, 100, 257])
@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (50, 50), (30, 0), (300, 64)])
def test_the_fades_add_up_to_one(n: int, tile: int, overlap: int, alignment: int) -> None:
    total = np.zeros(n)
    cuts = [*_cuts(n, tile)]
    ramp = _ramp(cuts, overlap)
    for cut in cuts:
        assert cut.stop - cut.start <= tile
        grown = _grown(cut, overlap, n, alignment)
        fade = _fade(cut, grown, ramp, n)
        total[grown] += fade
        if ramp > 1 and grown.start > 0:
            assert fade[: overlap - ramp].max(initial=0) == 0
    assert_close(total, np.ones(n), rtol=1e-12)


def test_a_stack_in_tiles_is_a_loop(xp: Any) -> None:
    stack = np.stack([blurred_picture(), blurred_picture(0.03)])[:, :90, :120]
    together = to_host(tiled(xp.asarray(stack), xp.asarray(KERNEL), tile=64, iterations=5))
    for i in range(2):
        alone = to_host(tiled(xp.asarray(stack[i]), xp.asarray(KERNEL), tile=64, iterations=5))
        assert_close(together[i], alone, atol=1e-6 if xp is np else 1e-3)


def test_progress_of_tiles_rises_to_one() -> None:
    calls: list[float] = []
    tiled(blurred_picture(), KERNEL, tile=100, iterations=2, callback=calls.append)
    assert calls == pytest.approx(np.arange(1, 13) / 12)


def test_the_tile_shrinks_with_the_memory() -> None:
    """The largest whose padded grid fits; an error where not even an overlap does."""
    u, live_arrays = np.zeros((400, 500), np.float32), METHOD_SPECS["tv"].live_arrays
    assert live_arrays is not None
    sides = [_tile_that_fits(u, (9, 9), 64, "tv", np, memory << 20) for memory in (1000, 10, 5)]
    assert sides[0] == 500
    assert sides[0] > sides[1] > sides[2] >= 64
    for side, memory in zip(sides, (1000, 10, 5), strict=True):
        grid = [fast_size(min(n, side + 128) + 8) for n in u.shape]
        assert live_arrays["numpy"] * 4 * grid[0] * grid[1] <= memory << 20
    message = "tile='auto' needs 3 MiB for a tile of 64 pixels and an overlap of 64, got 1 MiB; tile=64 tries it nevert"
    with pytest.raises(ValueError, match=message):
        _tile_that_fits(u, (9, 9), 64, "tv", np, 1 << 20)


def test_a_tile_smaller_than_the_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="tile must be at least 64, the overlap of the tiles, got 10; use a larger"):
        tiled(blurred_picture(), KERNEL, tile=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", sorted(name for name, spec in METHOD_SPECS.items() if spec.live_arrays and not spec.network)
)
def test_live_arrays_are_measured(method: str) -> None:
    u, kernel = np.random.default_rng(0).random((300, 320), dtype=np.float32), np.full((15, 15), 1 / 225, np.float32)
    grid = fast_size(314) * fast_size(334)
    peak = peak_on_numpy(lambda: untiled(u, kernel, method, 1e-3)) / u.itemsize / grid
    live_arrays = METHOD_SPECS[method].live_arrays
    assert live_arrays is not None
    assert live_arrays["numpy"] == pytest.approx(peak, rel=0.15)


# ---- automatic weights


@pytest.mark.parametrize("method", sorted(RULES))
def test_the_weight_follows_the_noise(xp: Any, method: str) -> None:
    """By its rule above the floor, and no further down."""
    rule, kernel = RULES[method], xp.asarray(KERNEL)
    weights = {s: float(estimate_weight(xp.asarray(blurred_picture(s)), kernel, rule)) for s in (0.0, 1e-3, 0.02, 0.05)}
    assert weights[0.0] == weights[1e-3] == pytest.approx(rule.factor * FLOOR**rule.power)
    for sigma in (0.02, 0.05):
        assert weights[sigma] == pytest.approx(rule.factor * sigma**rule.power, rel=0.2)


def test_equivalent_weights_are_for_the_same_noise() -> None:
    epll, tv = RULES["epll"], RULES["tv"]
    for sigma in (0.01, np.array([0.01, 0.05])):
        weight = equivalent_weight(epll.weight(sigma), epll, tv)
        assert_close(np.asarray(weight), np.asarray(tv.weight(sigma)), rtol=1e-12)
    assert equivalent_weight(1e-9, epll, epll) == pytest.approx(1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tv", "hyper-laplacian", "sparse"])
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_the_automatic_weight_is_near_the_best(xp: Any, method: str, noise: float) -> None:
    blurred, true = blurred_picture(noise), SCENE[4:-4, 4:-4]
    given, kernel = xp.asarray(blurred), xp.asarray(KERNEL)
    weight = float(estimate_weight(given, kernel, RULES[method]))
    quality = [psnr(to_host(untiled(given, kernel, method, weight * f)), true) for f in (1, 0.25, 0.5, 2, 4)]
    assert quality[0] > max(quality) - 0.4
    assert quality[0] > psnr(blurred, true) + 1.5
