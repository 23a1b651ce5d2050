"""Expected patch log likelihood: its patches, its mixture and the file of it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

from gpudeblur.metrics import psnr
from gpudeblur.nonblind.methods import mixture as mixtures
from gpudeblur.nonblind.methods.epll import epll, expected_patches
from gpudeblur.nonblind.methods.mixture import Mixture, load_default, map_estimate, read, with_noise, write
from gpudeblur.nonblind.methods.tv import tv
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(11, rng=3)
SCENE = data.camera()[60:188, 180:320] / 255
TRUE = SCENE[5:-5, 5:-5]
EXACT = 0.0  # nothing of a component is left out


def some_mixture(components: int = 3, seed: int = 0) -> Mixture:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((components, 64, 63))
    vectors -= vectors.mean(axis=1, keepdims=True)
    values = np.sort(rng.gamma(0.3, 0.1, (components, 63)) + 1e-5)[:, ::-1].copy()
    shares = rng.random(components) + 0.1
    return Mixture(shares / shares.sum(), values, np.linalg.qr(vectors).Q.swapaxes(1, 2).copy())


def covariances(mixture: Mixture) -> np.ndarray:
    return (mixture.vectors.swapaxes(1, 2) * mixture.eigenvalues[:, None, :]) @ mixture.vectors


def patches(count: int, seed: int = 1) -> np.ndarray:
    """(64, count) of a photograph, each less its mean."""
    windows = np.lib.stride_tricks.sliding_window_view(SCENE, (8, 8)).reshape(-1, 64)
    y = windows[np.random.default_rng(seed).choice(len(windows), count, replace=False)].T.copy()
    return y - y.mean(axis=0)


def naive(y: np.ndarray, mixture: Mixture, noise: float) -> np.ndarray:
    """The definition for one patch (64,), by covariances in the space of patches without mean."""
    basis = np.linalg.qr(np.eye(64) - 1 / 64).Q[:, :63]
    result = []
    for share, covariance in zip(mixture.mixing_weights, covariances(mixture), strict=True):
        inner = basis.T @ covariance @ basis
        noisy = inner + noise * np.eye(63)
        inside = basis.T @ y
        score = np.log(share) - 0.5 * np.linalg.slogdet(noisy)[1] - 0.5 * inside @ np.linalg.solve(noisy, inside)
        result.append((score, basis @ inner @ np.linalg.solve(noisy, inside)))
    return max(result, key=lambda pair: pair[0])[1]


# ---- patches


@pytest.mark.parametrize("noise", [1e-4, 1e-2])
def test_the_most_probable_patch_is_that_of_the_definition(xp: Any, noise: float) -> None:
    """On NumPy sorted by component, on CuPy all at once; either form is right on either kind of array."""
    mixture, y = some_mixture(), patches(40)
    at = with_noise(mixture, noise, y.dtype, EXACT)
    expected = np.stack([naive(patch, mixture, noise) for patch in y.T], axis=1)
    assert_close(to_host(map_estimate(xp.asarray(y.copy()), at)), expected, atol=1e-9)
    assert_close(mixtures._dense(y.copy(), at), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_forms_agree_on_the_mixture_of_the_package(dtype: str) -> None:
    for noise in (1e-5, 1e-3, 0.1):
        y, at = patches(600).astype(dtype), with_noise(load_default(), noise, np.dtype(dtype))
        host, dense = map_estimate(y.copy(), at), mixtures._dense(y.copy(), at)
        assert host.dtype == dense.dtype == dtype
        same = np.abs(host - dense).max(axis=0) < 1e-4
        assert same.mean() > 0.99  # of two components that are as probable, rounding may choose


def test_of_one_component_it_is_the_wiener_filter(xp: Any) -> None:
    """C (C + s)^-1 y: linear, and the same for each patch."""
    mixture, y, noise = some_mixture(1), patches(200), 3e-3
    covariance = covariances(mixture)[0]
    wiener = covariance @ np.linalg.inv(covariance + noise * np.eye(64))
    out = map_estimate(xp.asarray(y.copy()), with_noise(mixture, noise, y.dtype, EXACT))
    assert_close(to_host(out), wiener @ y, atol=1e-10)


@pytest.mark.slow
def test_a_component_keeps_what_tells_it_from_noise() -> None:
    """Fewer directions under more noise and with more tolerance; the patch is nearly that of all directions."""
    mixture, y = load_default(), patches(400)
    counts = {(s, t): len(with_noise(mixture, s, y.dtype, t).directions) for s in (1e-4, 1e-2) for t in (0.0, 0.1, 1.0)}
    assert counts[1e-4, 0.0] > 60 * len(mixture.mixing_weights)
    for tolerance in (0.1, 1.0):
        assert counts[1e-2, tolerance] < counts[1e-4, tolerance] < counts[1e-4, 0.0]
    for s in (1e-4, 1e-2):
        assert counts[s, 1.0] < counts[s, 0.1]
        exact, near = (map_estimate(y.copy(), with_noise(mixture, s, y.dtype, *t)) for t in ((EXACT,), ()))
        assert ((near - exact) ** 2).mean() < 0.1 * ((exact - y) ** 2).mean()


# ---- pictures


@pytest.mark.parametrize(
    ("shape", "stride", "corner"), [((16, 20), 4, (3, 1)), ((11, 14), 3, (0, 2)), ((5, 9), 1, (0, 0))]
)
def test_a_picture_is_the_mean_of_its_patches(xp: Any, shape: tuple[int, int], stride: int, corner: Any) -> None:
    """Against a loop over patches, on tori whose sides the stride does not divide, and smaller than a patch."""
    mixture, noise, u = some_mixture(), 2e-3, SCENE[: shape[0], : shape[1]].copy()
    total, count = np.zeros(shape), np.zeros(shape)
    at = with_noise(mixture, noise, u.dtype)
    for top in range(corner[0], corner[0] + shape[0], stride):
        for left in range(corner[1], corner[1] + shape[1], stride):
            place = np.ix_((top + np.arange(8)) % shape[0], (left + np.arange(8)) % shape[1])
            y = u[place].reshape(64, 1)
            z = map_estimate(y - y.mean(), at) + y.mean()
            np.add.at(total, place, z.reshape(8, 8))
            np.add.at(count, place, 1)
    assert_close(to_host(expected_patches(xp.asarray(u), noise, mixture, stride, corner)), total / count, atol=1e-12)


def test_strips_change_nothing(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    u = xp.asarray(SCENE)
    whole = to_host(expected_patches(u, 1e-3, load_default(), 4, (1, 2)))
    monkeypatch.setattr(sys.modules["gpudeblur.nonblind.methods.epll"], "STRIP_PATCHES", {"numpy": 1, "cupy": 1})
    assert_close(to_host(expected_patches(u, 1e-3, load_default(), 4, (1, 2))), whole, atol=1e-6)


def test_noise_is_taken_off(xp: Any) -> None:
    """White noise alone, of the variance that is calls: far better than the picture was."""
    noisy = SCENE + 0.05 * np.random.default_rng(0).standard_normal(SCENE.shape)
    out = to_host(expected_patches(xp.asarray(noisy), 0.05**2, load_default(), 2, (0, 0)))
    assert psnr(out, SCENE) > psnr(noisy, SCENE) + 4


def test_each_picture_has_its_noise(xp: Any) -> None:
    stack, noise = xp.asarray(np.stack([SCENE, SCENE])), np.array([1e-4, 1e-2])
    out = expected_patches(stack, noise[:, None, None], load_default(), 4, (0, 0))
    for i in range(2):
        assert_same(out[i], expected_patches(stack[i], float(noise[i]), load_default(), 4, (0, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_it_is_better_than_tv_on_a_photograph_with_noise(xp: Any, noise: float) -> None:
    args = xp.asarray(blur(SCENE, KERNEL, noise_sigma=noise, rng=0)), xp.asarray(KERNEL)
    assert psnr(to_host(epll(*args)), TRUE) > psnr(to_host(tv(*args)), TRUE) + 0.2


# ---- the file


def test_the_mixture_of_the_package() -> None:
    mixture = load_default()
    count = len(mixture.mixing_weights)
    assert mixture.mixing_weights.sum() == pytest.approx(1)
    assert (np.diff(mixture.eigenvalues) <= 0).all()
    assert_close(mixture.vectors @ mixture.vectors.swapaxes(1, 2), np.tile(np.eye(63), (count, 1, 1)), atol=1e-12)
    assert_close(mixture.vectors.sum(axis=-1), np.zeros((count, 63)), atol=1e-10)
    assert mixtures.FILE.stat().st_size < 1 << 20
    assert isinstance(with_noise(mixture, 1e-3, np.dtype("float32")), mixtures.NoisyMixture)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    mixture, path = some_mixture(), tmp_path / "m.npz"
    checksum = write(path, mixture)
    again = read(path, checksum)
    assert_close(covariances(again), covariances(mixture), atol=1e-3)
    assert_close(again.mixing_weights, mixture.mixing_weights, rtol=1e-6)
    assert write(tmp_path / "n.npz", mixture) == checksum


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    checksum = write(path, some_mixture())
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"must have the SHA-256 .*, got .*; install"):
        read(path, checksum)
    whole: dict[str, Any] = dict(zip(("shares", "values", "vectors"), vars(some_mixture()).values(), strict=True))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"values": whole["values"][:2]}, r"must hold K shares, .*, got \(3,\), \(2, 63\), \(3, 63, 64\)"),
        ({"shares": np.array(1.0)}, "must hold K shares"),
    ]
    for name, value in (("vectors", np.nan), ("values", -1.0), ("shares", 0.0)):
        wrong = whole[name].copy()
        wrong.flat[-1] = value
        refused.append(({name: wrong}, "must hold finite numbers, and positive shares and values"))
    files = [(whole | change, message) for change, message in refused]
    files.append(
        ({k: whole[k] for k in ("shares", "values")}, "must hold shares, values and vectors, got shares, values")
    )
    for arrays, message in files:
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            read(path, hashlib.sha256(path.read_bytes()).hexdigest())
