"""The loop that TV, L0 and the hyper-Laplacian share: its closed forms, its masked data term, and TV itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods.hyper_laplacian import hyper_laplacian
from gpudeblur.nonblind.methods.tv import shrink_anisotropic, tv
from gpudeblur.nonblind.splitting import Augmented, continuation, shrink_isotropic, solve
from gpudeblur.nonblind.unknown_boundary import periodic_extension
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.boundary import MODES, crop, pad
from gpudeblur.numerics.filters import gradient, gradient_adjoint
from gpudeblur.numerics.fourier import irfft2, psf_to_otf, rfft2
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3)
SCENE = data.camera()[100:172, 200:290] / 255
TRUE = SCENE[4:-4, 4:-4]
SHRINKS: dict[bool, Any] = {True: shrink_isotropic, False: shrink_anisotropic}


def blurred_picture(noise: float = 5e-3) -> np.ndarray:
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=0)


def convolved(x: Any, kernel: Any) -> Any:
    """Periodic."""
    return irfft2(psf_to_otf(kernel, x.shape[-2:]) * rfft2(x), x.shape[-2:]) / (x.shape[-2] * x.shape[-1])


def length(gx: np.ndarray, gy: np.ndarray, isotropic: bool) -> np.ndarray:
    return np.hypot(gx, gy) if isotropic else abs(gx) + abs(gy)


def objective(x: np.ndarray, blurred: np.ndarray, weight: float, isotropic: bool) -> float:
    """Of `tv`, x on the whole grid; only the picture's pixels count in the data term."""
    misfit = crop(convolved(x, KERNEL), blurred.shape) - blurred
    return float((misfit**2).sum() / 2 + weight * length(*gradient(x), isotropic).sum())


# ---- shrinkage


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("beta", [0.7, 30.0])
def test_shrinking_is_the_best_of_all_vectors(xp: Any, isotropic: bool, beta: float) -> None:
    """Against brute force on a grid of vectors."""
    random = np.random.default_rng(0)
    v = random.normal(size=(2, 40)) * 2 / beta
    v[:, 0] = 0
    w = np.stack([to_host(s) for s in SHRINKS[isotropic](*xp.asarray(v), beta)])

    def cost(g: np.ndarray) -> np.ndarray:
        return length(g[0], g[1], isotropic) + beta / 2 * ((g - v.reshape(2, 40, *[1] * (g.ndim - 2))) ** 2).sum(0)

    side = np.linspace(-6 / beta, 6 / beta, 101)
    grid = np.stack(np.meshgrid(side, side)).reshape(2, 1, -1)
    assert (cost(w) <= cost(np.broadcast_to(grid, (2, 40, grid.shape[-1]))).min(axis=1) + 1e-12).all()


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shrinking_by_one_beta_a_picture(xp: Any, isotropic: bool, dtype: str) -> None:
    random = np.random.default_rng(0)
    gx, gy = (xp.asarray(random.normal(size=(3, 5, 4)).astype(dtype)) for _ in range(2))
    betas = (0.5, 2.0, 8.0)
    together = SHRINKS[isotropic](gx, gy, xp.asarray(betas, dtype=dtype)[:, None, None])
    for i, beta in enumerate(betas):
        for whole, alone in zip(together, SHRINKS[isotropic](gx[i], gy[i], beta), strict=True):
            assert whole.dtype == dtype
            assert_close(whole[i], alone, rtol=1e-5, atol=1e-7)


# ---- the loop


def test_the_closed_form_zeroes_its_gradient(xp: Any) -> None:
    """One pass with a fixed g: K^T (K x - B) + weight beta D^T (D x - g) = 0."""
    random = np.random.default_rng(0)
    blurred, kernel = xp.asarray(random.random((20, 24))), xp.asarray(KERNEL)
    g = [xp.asarray(random.normal(size=(20, 24))) for _ in range(2)]
    x = solve(blurred, kernel, lambda *_: gradient_adjoint(*g), weight=0.3, betas=[0.5], boundary="wrap")
    again = convolved(convolved(x, kernel) - blurred, xp.asarray(KERNEL[::-1, ::-1].copy()))
    dx, dy = gradient(x)
    assert_close(again + 0.15 * gradient_adjoint(dx - g[0], dy - g[1]), np.zeros((20, 24)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["wrap", "liu-jia", "unknown"])
@pytest.mark.parametrize("isotropic", [True, False])
def test_the_solution_is_a_minimum(xp: Any, boundary: str, isotropic: bool) -> None:
    """After many passes no step in a random direction, or towards another picture, lowers the objective."""
    weight, blurred = 1e-3, blurred_picture()[:32, :40].copy()
    given, kernel = xp.asarray(blurred), xp.asarray(KERNEL)
    full = solve(
        given, kernel, Augmented(SHRINKS[isotropic]), weight=weight, betas=[20.0] * 1500, boundary=boundary,
        return_padded=True,
    )  # fmt: skip
    x = to_host(full)
    seen = blurred if boundary == "unknown" else to_host(pad(given, kernel, boundary))
    minimum, random = objective(x, seen, weight, isotropic), np.random.default_rng(0)
    steps = [random.normal(size=x.shape) for _ in range(3)]
    steps += [to_host(pad(given, kernel, boundary)) - x, -x, np.ones(x.shape)]
    for step in steps:
        for size in (1e-2, -1e-2):
            assert objective(x + size * step, seen, weight, isotropic) > minimum - 1e-7


def test_the_objective_falls_with_the_passes(xp: Any) -> None:
    blurred, values = blurred_picture(), []
    arrays = xp.asarray(blurred), xp.asarray(KERNEL)
    for n in (3, 10, 30, 200):
        betas = [0.7 * 1e-3**-0.5] * n
        x = solve(*arrays, Augmented(shrink_isotropic), weight=1e-3, betas=betas, return_padded=True)
        values.append(objective(to_host(x), blurred, 1e-3, True))
    assert values == sorted(values, reverse=True)
    assert values[2] < 1.02 * values[3]


@pytest.mark.slow
def test_the_first_iterate_does_not_matter(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random values outside the image at the start, the same solution."""
    given, kernel = xp.asarray(blurred_picture()[:32, :40].copy()), xp.asarray(KERNEL)
    reference = to_host(tv(given, kernel, weight=5e-3, iterations=1000))

    def noisy_margin(picture: Any, kernel: Any, mode: str) -> Any:
        padded = xp.asarray(np.random.default_rng(0).random(pad(picture, kernel, mode).shape))
        padded[: picture.shape[0], : picture.shape[1]] = picture
        return padded

    monkeypatch.setattr("gpudeblur.nonblind.splitting.pad", noisy_margin)
    result = to_host(tv(given, kernel, weight=5e-3, iterations=1000))
    assert np.abs(reference - result).max() < 5e-3
    assert np.sqrt(((reference - result) ** 2).mean()) < 3e-4


@pytest.mark.parametrize(
    ("method", "noise", "options", "margin", "others"),
    [(tv, 1e-3, {}, 1, MODES[1:]), (hyper_laplacian, 2e-3, {"weight": 2e-4}, 1.5, ("liu-jia", "taper", "wrap"))],
)
def test_the_unknown_boundary_sees_beyond_the_picture(
    xp: Any, method: Any, noise: float, options: dict[str, Any], margin: float, others: tuple[str, ...]
) -> None:
    """Near the border it restores what no margin that is made up can."""
    given, kernel, border = xp.asarray(blurred_picture(noise)), xp.asarray(KERNEL), np.ones(TRUE.shape, dtype=bool)
    border[8:-8, 8:-8] = False
    out = {mode: to_host(method(given, kernel, boundary=mode, **options)) for mode in MODES}
    quality = {mode: psnr(sharp[border], TRUE[border]) for mode, sharp in out.items()}
    assert quality["unknown"] > max(quality[mode] for mode in others) + margin
    assert min(quality["liu-jia"], quality["reflect"]) > quality["wrap"]


@pytest.mark.slow
def test_multipliers_follow_a_change_of_beta(xp: Any) -> None:
    """beta e is kept: the fixed point is the same whatever beta was on the way."""
    given, kernel = xp.asarray(blurred_picture()[:32, :40].copy()), xp.asarray(KERNEL)
    results = [
        to_host(solve(given, kernel, Augmented(shrink_isotropic), weight=2e-3, betas=betas, boundary="liu-jia"))
        for betas in ([20.0] * 800, [5.0] * 20 + [60.0] * 20 + [20.0] * 800)
    ]
    assert np.abs(results[0] - results[1]).max() < 1e-3


def test_a_transposed_picture_has_a_transposed_result(xp: Any) -> None:
    blurred = blurred_picture()
    for isotropic in (True, False):
        out = tv(xp.asarray(blurred), xp.asarray(KERNEL), isotropic=isotropic, weight=1e-3, boundary="wrap")
        given, kernel = xp.asarray(blurred.T.copy()), xp.asarray(KERNEL.T.copy())
        turned = tv(given, kernel, isotropic=isotropic, weight=1e-3, boundary="wrap")
        assert_close(turned, to_host(out).T, atol=1e-9)


# ---- the periodic extension of an unknown boundary


def test_periodic_extension_keeps_the_image_and_shows_the_blur_beyond(xp: Any) -> None:
    """The margin is x * k: a periodic deconvolution of the extension is better than that of a made-up margin."""
    given, kernel = xp.asarray(blurred_picture(1e-3)), xp.asarray(KERNEL)
    extension, padded = periodic_extension(given, kernel, "unknown"), pad(given, kernel, "liu-jia")
    assert extension.shape == padded.shape
    assert_same(crop(extension, given.shape), given)
    sharp = (crop(tv(periodic, kernel, weight=1e-4, boundary="wrap"), given.shape) for periodic in (extension, padded))
    unknown, liu_jia = (psnr(to_host(x), TRUE) for x in sharp)
    assert unknown > liu_jia + 1


def test_periodic_extension_of_a_known_boundary_pads(xp: Any) -> None:
    given, kernel = xp.asarray(blurred_picture()), xp.asarray(KERNEL)
    for mode in ("liu-jia", "reflect", "edge", "taper", "wrap"):
        assert_same(periodic_extension(given, kernel, mode), pad(given, kernel, mode))


def test_the_continuation_grows_by_its_rate() -> None:
    assert continuation(1.0, 4.0, 64.0) == [1.0, 4.0, 16.0, 64.0]
    assert continuation(4.0, 2.0, 31.0) == [4.0, 8.0, 16.0]
