"""The fits of "face" and of the networks' strengths: losses, sets, and what a fit recovers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from gpudeblur.metrics import psnr
from gpudeblur.synthesis import blur, trajectory_kernel

pytest.importorskip("pytest_benchmark")
pytest.importorskip("torch")
from bench import fit, fit_faces
from bench.face_cases import blurred_case
from gpudeblur.blind import face
from gpudeblur.networks import confidence


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with what the fits read."""
    import imageio.v3 as iio
    from scipy.io import savemat

    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, stems, shape in (
        ("faces", ("007500", "007501", "007700", "007901"), (109, 89, 3)),
        ("natural/train", ("201", "202"), (150, 170, 3)),
    ):
        (folder / name).mkdir(parents=True)
        for stem in stems:
            smooth = blur(rng.random((3, *shape[:2])), np.full((5, 5), 1 / 25), mode="same")
            iio.imwrite(folder / name / f"{stem}.jpg", np.uint8(255 * np.moveaxis(smooth, 0, -1)))
    (folder / "levin").mkdir()
    for number in range(1, 9):
        f = np.roll(trajectory_kernel(2 * number + 5, rng=number), 1, axis=0)
        savemat(folder / "levin" / f"im01_ker{number:02d}.mat", {"f": f})
    return folder


@pytest.fixture
def pictures() -> tuple[list[np.ndarray], np.ndarray]:
    """Three restorations of one picture, (1, 3, H, W), and the picture."""
    rng = np.random.default_rng(1)
    sharp = rng.random((1, 3, 12, 10))
    return [sharp + 0.1 * scale * rng.normal(size=sharp.shape) for scale in (1, 2, 0.5)], sharp


# ------------------------------------------------------------------ closed forms
def test_products_give_the_error_of_every_mean(pictures: tuple[list[np.ndarray], np.ndarray]) -> None:
    images, sharp = pictures
    products = fit_faces.gram(images, sharp)
    np.testing.assert_allclose(products, products.T)
    np.testing.assert_allclose(np.diag(products), [np.square(image - sharp).mean() for image in images])
    for weights in np.random.default_rng(2).dirichlet(np.ones(3), 5):
        mean = sum(weight * image for weight, image in zip(weights, images, strict=True))
        assert weights @ products @ weights == pytest.approx(np.square(mean - sharp).mean())


def test_gains_are_differences_of_psnr(pictures: tuple[list[np.ndarray], np.ndarray]) -> None:
    images, sharp = (np.asarray(array) for array in pictures)
    blurred = sharp + 0.3
    products = np.stack([fit_faces.gram(list(images), sharp)] * 3)
    gain = fit_faces.gains(products, np.eye(3), np.full(3, 0.09))
    floor = fit_faces.FLOOR
    for value, image in zip(gain, images, strict=True):
        error = np.square(image - sharp).mean()
        assert value == pytest.approx(10 * np.log10((0.09 + floor) / (error + floor)))
        assert value == pytest.approx(psnr(image, sharp) - psnr(blurred, sharp), abs=0.15)


def test_no_picture_gains_or_loses_below_the_floor() -> None:
    """From 42 dB on: a sharp picture without noise has no PSNR to lose from."""
    sharp_in = fit_faces.gains(np.full((1, 1, 1), 1e-7), np.ones((1, 1)), np.zeros(1))
    assert -0.01 < sharp_in[0] < 0
    at_floor = fit_faces.gains(np.full((1, 1, 1), fit_faces.FLOOR), np.ones((1, 1)), np.zeros(1))
    assert at_floor[0] == pytest.approx(-10 * np.log10(2))


def test_a_loss_counts_twice_and_six_times_from_a_third_of_a_dB() -> None:
    gain = np.array([2.0, 0.0, -0.1, -0.3, -1.3])
    np.testing.assert_allclose(fit_faces.worth(gain), [2, 0, -0.2, -0.6, -0.6 - 6])


def test_every_set_counts_the_same() -> None:
    names = ["a"] * 3 + ["b"] + ["c"] * 6
    weights = fit_faces.set_weights(names)
    for name in "abc":
        assert weights[[other == name for other in names]].sum() == pytest.approx(1 / 3)
    assert fit_faces.set_weights(["a"] * 4).tolist() == [0.25] * 4


def test_the_summary_has_mean_and_worst_of_each_set() -> None:
    assert fit_faces.summary(["a", "b", "a"], np.array([1.0, 5, -2])) == {"a": [-0.5, -2.0], "b": [5.0, 5.0]}


@pytest.mark.parametrize("shape", [(20, 26), (20, 26, 3)])
def test_planes_have_the_channels_first(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).random(shape)
    planes = fit_faces.planes(picture)
    assert planes.shape == (1, 1 if len(shape) == 2 else 3, 20, 26)
    assert planes.dtype == np.float32
    np.testing.assert_allclose(planes[0, -1], np.atleast_3d(picture)[..., -1], rtol=1e-6)


# ------------------------------------------------------------------ sets
def test_the_sets_are_for_choosing_alone(data: Path) -> None:
    counts = {"own kernels": 1, "linear": 1, "sharp": 1, "other": 1, "levin": 2}
    sets = fit_faces.sets(data, counts)
    assert sets.keys() == counts.keys()
    assert all(sets.values())
    for name in ("own kernels", "linear", "sharp", "levin"):
        assert {case.picture for case in sets[name]} <= {"007501", "007700"}, name
    assert all(np.prod(case.blurred.shape[:2]) < 40_000 for case in sets["other"])
    everything = [case.name for cases in sets.values() for case in cases]
    assert len(set(everything)) == len(everything)


def test_levin_kernels_are_centered_and_pictures_of_8_bits(data: Path) -> None:
    cases = list(fit_faces.levin_cases(data, 2))
    assert len(cases) == 2 * 8
    for case in cases:
        assert case.kernel.sum() == pytest.approx(1)
        offset = np.subtract(center_of_mass(case.kernel), np.array(case.kernel.shape) // 2)
        assert abs(offset).max() <= 0.5 + 1e-9
        np.testing.assert_allclose(255 * case.blurred, np.round(255 * case.blurred), atol=1e-3)


# ------------------------------------------------------------------ fits
@pytest.fixture
def drawn_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 cases in two sets, without pictures."""
    groups = {name: [f"{name} {i}" for i in range(20)] for name in ("first", "second")}
    monkeypatch.setattr(fit_faces, "sets", lambda data: groups)


def test_the_mixture_finds_the_better_candidate_by_its_features(
    drawn_cases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors are independent and small where the second feature is."""

    def sample(case: str) -> tuple[np.ndarray, np.ndarray, float]:
        rng = np.random.default_rng([ord(letter) for letter in case])
        features = np.concatenate([np.ones((4, 1)), rng.normal(size=(4, 5))], axis=1)
        return features, np.diag(1e-2 * np.exp(features[:, 1])), 1e-2

    monkeypatch.setattr(fit_faces, "mixture_sample", sample)
    line = fit_faces.fit_mixture(Path(), 0)
    scores = np.array(line["scores"])
    assert scores.shape == face.SCORES.shape
    assert (scores[:, 1] < -0.3).all()
    for name in ("first", "second"):
        assert line["mixture"][name][0] > line["mean"][name][0] + 0.5
        assert line["mean"][name][0] > max(line[label][name][0] for label in face.CANDIDATES)


def test_strength_and_confidence_are_found_by_their_features(
    drawn_cases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restorations that harm by their second feature get no strength, the others all."""

    def sample(job: tuple[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([ord(letter) for letter in job[1]])
        features = np.array([1, *rng.normal(size=4)])
        features[1] = features[1] + np.sign(features[1])
        return features, np.diag([1e-2, 1e-1 if features[1] > 0 else 1e-3])

    monkeypatch.setattr(fit_faces, "share_sample", sample)
    monkeypatch.setattr(fit_faces.catalog, "NETWORKS", {})
    line = fit_faces.fit_networks(Path(), 0)["face"]
    for label in ("confidence", "strength"):
        assert len(line[label]) == len(confidence.CONFIDENCE["face"])
        assert line[label][1] < -1, label
    for name in ("first", "second"):
        assert line["full"][name][1] < -9
        assert line["automatic"][name][1] > -0.3
        assert line["automatic"][name][0] > line["full"][name][0]


@pytest.mark.usefixtures("shipped_networks")
def test_samples_have_the_features_of_the_package() -> None:
    smooth = blur(np.random.default_rng(0).random((3, 32, 34)), np.full((5, 5), 1 / 25), mode="same")
    kernel = np.full((5, 5), 1 / 25)
    case = blurred_case("name", np.moveaxis(smooth, 0, -1), kernel, group="g", picture="p", noise=0.01)
    error = pytest.approx(np.square(case.blurred - case.sharp).mean(), rel=1e-4)
    features, products = fit_faces.share_sample(("deepdeblur", case))
    assert features.shape == (5,)
    assert products[0, 0] == error
    features, products, before = fit_faces.mixture_sample(case)
    assert features.shape == face.SCORES.shape
    assert products.shape == (4, 4)
    assert before == error


def test_the_command_reaches_the_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_faces, "fit_mixture", lambda data, jobs: {"data": data, "jobs": jobs})
    assert fit.fit_faces("mixture")(Path("folder"), 3) == {"data": Path("folder"), "jobs": 3}
