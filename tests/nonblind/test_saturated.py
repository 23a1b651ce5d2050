"""Saturated pixels: a one-sided misfit, automatic detection, and no effect on images without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur import nonblind
from gpudeblur.blind import parts
from gpudeblur.images.saturation import find_saturated
from gpudeblur.metrics import psnr
from gpudeblur.nonblind import METHODS
from gpudeblur.nonblind.final import residual_mse, restore
from gpudeblur.nonblind.saturation import fill_unobserved, project_on_data, saturated_start
from gpudeblur.nonblind.specs import METHOD_SPECS
from gpudeblur.nonblind.splitting import Augmented, shrink_isotropic, solve
from gpudeblur.nonblind.tiles import tiled
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.boundary import crop, pad
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3)
SCENE = 0.5 * data.camera()[100:180, 190:286] / 255
DIM = blur(SCENE, KERNEL, noise_sigma=5e-3, rng=0)
SUPPORTING = sorted(name for name, spec in METHOD_SPECS.items() if spec.saturated)
in_every_method = pytest.mark.parametrize("method", SUPPORTING)


def night(noise: float = 5e-3) -> tuple[np.ndarray, np.ndarray]:
    """(blurred, sharp): lamps of 20 times full scale in a dim scene, one on the border; what is over 1 is cut off."""
    scene = SCENE.copy()
    for y, x in ((20, 30), (50, 70), (60, 20), (30, 90)):
        scene[y : y + 2, x : x + 2] = 20
    return np.minimum(blur(scene, KERNEL, noise_sigma=noise, rng=0), 1), np.minimum(scene[4:-4, 4:-4], 1)


def quality(result: Any) -> float:
    return psnr(np.clip(to_host(result), 0, 1), night()[1])


# ---- the one-sided misfit


def test_project_on_data_accepts_larger_values_where_saturated(xp: Any) -> None:
    blurred, light, mask = np.array([1.0, 1.0, 0.4]), np.array([0.7, 3.0, 3.0]), np.array([True, True, False])
    assert_same(project_on_data(xp.asarray(blurred), xp.asarray(light), xp.asarray(mask)), np.array([1.0, 3.0, 0.4]))
    assert_same(project_on_data(xp.asarray(blurred), xp.asarray(light), None), blurred)


@pytest.mark.slow
def test_the_solution_is_a_minimum_of_the_one_sided_misfit(xp: Any) -> None:
    """No step lowers it after many passes."""
    blurred = night()[0][:32, :40].copy()
    mask, weight = blurred >= 0.99, 1e-3
    assert mask.any()
    arrays = xp.asarray(blurred), xp.asarray(KERNEL)
    x = to_host(
        solve(
            *arrays, Augmented(shrink_isotropic), weight=weight, betas=[5.0] * 3000, saturated=xp.asarray(mask),
            return_padded=True,
        )
    )  # fmt: skip

    def objective(u: np.ndarray) -> float:
        reblurred = to_host(fill_unobserved(xp.asarray(np.zeros((0, 0))), xp.asarray(KERNEL), xp.asarray(u)))
        misfit = crop(reblurred, blurred.shape) - blurred
        misfit[mask] = np.minimum(misfit[mask], 0)
        gradient = np.hypot(np.roll(u, -1, 1) - u, np.roll(u, -1, 0) - u)
        return float((misfit**2).sum() / 2 + weight * gradient.sum())

    minimum, random = objective(x), np.random.default_rng(0)
    steps = [random.normal(size=x.shape), np.ones(x.shape), -x, np.maximum(x - 1, 0), to_host(pad(*arrays)) - x]
    for step in steps:
        for size in (1e-2, -1e-2):
            assert objective(x + size * step) > minimum - 1e-4


def test_saturated_start_explains_the_data(xp: Any) -> None:
    blurred, _ = night()
    mask = xp.asarray(blurred >= 0.99)
    arrays = xp.asarray(blurred), xp.asarray(KERNEL)
    latent, reblurred = (to_host(a) for a in saturated_start(*arrays, mask, pad(*arrays, "unknown")))
    seen = crop(reblurred, blurred.shape)
    assert latent.max() > 5
    assert seen.max() > 1.5
    assert_same(seen[~to_host(mask)], blurred[~to_host(mask)])
    assert (seen >= blurred).all()


# ---- every method


@in_every_method
def test_lamps_ring_less(xp: Any, method: str) -> None:
    """For Richardson-Lucy at a given noise: as it finds it, lamps count as noise, at which it stops."""
    given, kernel = xp.asarray(night()[0]), xp.asarray(KERNEL)
    same: dict[str, Any] = {"method": method} | ({"noise_sigma": 5e-3} if method == "richardson-lucy" else {})
    least = quality(gd.deconvolve(given, kernel, saturation=None, **same))
    least += 1 if method == "richardson-lucy" else 2
    assert quality(gd.deconvolve(given, kernel, **same)) > least
    assert quality(gd.deconvolve(given, kernel, saturation=0.98, **same)) > least


@in_every_method
@pytest.mark.parametrize("boundary", ["unknown", "edge"])
def test_a_picture_without_clipping_is_as_before(xp: Any, method: str, boundary: str) -> None:
    if boundary not in METHOD_SPECS[method].boundaries:
        pytest.skip("it does not know this boundary")
    given, kernel = xp.asarray(DIM), xp.asarray(KERNEL)
    options: dict[str, Any] = {"method": method, "boundary": boundary}
    assert_same(gd.deconvolve(given, kernel, **options), gd.deconvolve(given, kernel, saturation=None, **options))


@in_every_method
def test_a_stack_with_one_clipped_picture_is_a_loop(xp: Any, method: str) -> None:
    stack, kernel, options = np.stack([night()[0], DIM]), xp.asarray(KERNEL), {"weight": 1e-3}
    if method == "richardson-lucy":
        options = {"noise_sigma": 5e-3}
    mask = find_saturated(xp.asarray(stack))
    together = to_host(METHODS[method](xp.asarray(stack), kernel, saturated=mask, **options))
    alone = METHODS[method](xp.asarray(stack[0]), kernel, saturated=mask[0], **options)
    assert_close(together[0], alone, atol=1e-6 if xp is np else 2e-2)
    # Where nothing is clipped, the mask does nothing.
    assert_close(together[1], METHODS[method](xp.asarray(stack[1]), kernel, **options), atol=1e-9 if xp is np else 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tv", "sparse"])
def test_tiles_take_their_part_of_the_mask(xp: Any, method: str) -> None:
    given, kernel = xp.asarray(night()[0]), xp.asarray(KERNEL)
    mask = find_saturated(given)
    result = [quality(tiled(given, kernel, method=method, saturated=m, tile=64, weight=1e-3)) for m in (None, mask)]
    assert result[1] > result[0] + 2


def test_each_channel_has_its_own(xp: Any) -> None:
    lit, kernel = night()[0], xp.asarray(KERNEL)
    out = to_host(gd.deconvolve(xp.asarray(np.stack([lit, DIM, DIM], axis=-1)), kernel, channel_axis=-1))
    for channel, plane in ((0, lit), (1, DIM)):
        assert_close(out[..., channel], gd.deconvolve(xp.asarray(plane), kernel), atol=1e-3)


def test_integers_are_clipped_at_their_top(xp: Any) -> None:
    eight = np.round(night()[0] * 255).astype("uint8")
    given, kernel = xp.asarray(eight), xp.asarray(KERNEL)
    plain = quality(to_host(gd.deconvolve(given, kernel, saturation=None)) / 255)
    assert quality(to_host(gd.deconvolve(given, kernel)) / 255) > plain + 2


def test_saturation_level_below_the_top(xp: Any) -> None:
    """A sensor whose top is at 0.6 of the range: nobody can know."""
    given, kernel = xp.asarray(0.6 * night()[0]), xp.asarray(KERNEL)
    assert_same(gd.deconvolve(given, kernel), gd.deconvolve(given, kernel, saturation=None))
    informed = quality(gd.deconvolve(given, kernel, saturation=0.599) / 0.6)
    assert informed > quality(gd.deconvolve(given, kernel) / 0.6) + 2


# ---- at the end of a blind deblurring


@pytest.mark.parametrize("final", ["sparse", "tv"])
def test_an_estimated_kernel_meets_lamps_too(xp: Any, final: str) -> None:
    given, kernel = xp.asarray(night()[0]), xp.asarray(KERNEL)
    mask = find_saturated(given)
    without, result = restore(given, kernel, final), restore(given, kernel, final, saturated=mask)
    assert quality(result) > quality(without) + 2
    assert float(residual_mse(given, result, kernel, mask)) < float(residual_mse(given, without, kernel)) / 4


@pytest.mark.slow
def test_deblur_hands_the_mask_to_its_restoration(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Any] = []

    def spy(planes: Any, kernel: Any, final: str, report: Any, saturated: Any, *others: Any) -> Any:
        masks.append(saturated)
        return restore(planes, kernel, final, report, saturated, *others)

    monkeypatch.setattr(parts, "restore", spy)
    options = gd.TwoStepOptions(starts=("wide",), iterations=1, finest_iterations=1)
    picture = np.stack([night()[0], DIM, DIM], axis=-1)
    gd.deblur(xp.asarray(picture), 9, channel_axis=-1, options=options)
    gd.deblur(xp.asarray(DIM), 9, options=options)
    assert_same(masks[0][0], find_saturated(np.moveaxis(picture, -1, 0)))
    assert masks[1] is None


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"saturation": "often"}, "saturation must be a positive level, 'auto' or None, got 'often'; full scale is 1"),
        ({"saturation": 0}, "saturation must be a positive level, 'auto' or None, got 0"),
        ({"saturation": float("nan")}, "saturation must be a positive level, 'auto' or None, got nan"),
        ({"saturation": True}, "saturation must be a positive level, 'auto' or None, got True"),
        ({"saturation": 1.0, "method": "wiener"}, "saturation is not known to method 'wiener', got 1.0; leave it out"),
        ({"saturation": 1.0, "boundary": "edge"}, "boundary must be 'unknown' with saturation, got 'edge'"),
    ],
)
def test_bad_options_are_refused(xp: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gd.deconvolve(xp.asarray(DIM), xp.asarray(KERNEL), **options)


@pytest.mark.parametrize("method", sorted({*SUPPORTING} - {"sparse", "pnp"}))
def test_a_mask_needs_the_unknown_boundary(xp: Any, method: str) -> None:
    arrays, mask = (xp.asarray(DIM), xp.asarray(KERNEL)), xp.asarray(DIM > 0.9)
    with pytest.raises(
        ValueError, match="boundary must be 'unknown' with saturated, got 'edge'; leave out one of them"
    ):
        getattr(nonblind, method.replace("-", "_"))(*arrays, boundary="edge", saturated=mask)
