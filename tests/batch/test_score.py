"""`gpudeblur score` and `batch --only-blurred`: what is classified, at which size, and what is left out."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import gaussian_filter
from test_cli import COLOR, fails, names, run, table, wide
from test_folders import calls

from gpudeblur.batch import score
from gpudeblur.images.files import write_image

pytest.importorskip("torch")
__all__ = ["calls", "wide"]  # fixtures


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that are classified, by a classifier that takes the mean of a picture for its probability."""
    shapes: list[tuple[int, ...]] = []

    def probability(image: np.ndarray) -> np.ndarray:
        shapes.append(image.shape)
        return image.mean() * np.float32(min(1, image.shape[0] / 40))

    monkeypatch.setattr(score, "_classifier", lambda: SimpleNamespace(probability=probability))
    return shapes


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    """A folder of pictures whose mean, the probability here, is in their names; one is damaged, one no picture."""
    folder = tmp_path / "in"
    folder.mkdir()
    for percent in (10, 60, 90):
        write_image(folder / f"{percent}.png", np.full((40, 50), round(2.55 * percent), np.uint8))
    (folder / "broken.png").write_bytes(b"hello")
    (folder / "notes.txt").write_text("hello")
    return folder


def test_a_sharp_picture_and_a_blurred_one(tmp_path: Path) -> None:
    """By the classifier of the package; the blurred one looks sharp when it is reduced."""
    pytest.importorskip("safetensors")
    sharp = skimage.data.camera()[100:300, 100:300]
    for name, sigma in (("sharp", 0), ("blurred", 2)):
        write_image(tmp_path / f"{name}.png", gaussian_filter(sharp, sigma))
    rows = {name: score.score_picture(tmp_path / f"{name}.png", 0.5) for name in ("sharp", "blurred")}
    assert rows["sharp"].blurred is not None
    assert rows["blurred"].blurred is not None
    assert rows["sharp"].blurred < 0.1
    assert rows["sharp"].reduction == 1
    assert rows["blurred"].blurred > 0.9
    assert rows["blurred"].reduction is not None
    assert 1.4 < rows["blurred"].reduction < 9


def test_sizes(shapes: list[tuple[int, ...]]) -> None:
    """Large pictures are reduced to a megapixel; from there on by the square root of 2, down to 16 pixels."""
    sizes = list(score.blur_probabilities(np.full((40, 60, 3), 0.5, np.float32)))
    assert [reduction for reduction, _ in sizes] == pytest.approx([1, 2**0.5, 2])
    assert shapes == [(40, 60), (28, 42), (20, 30)]
    assert next(score.blur_probabilities(np.zeros((1024, 2048), np.uint8)))[0] == pytest.approx(2**0.5)
    assert shapes[-1] == (724, 1448)
    assert list(score.blur_probabilities(np.zeros((5, 6), np.uint16))) == [(1, 0)]
    twelve_bits = np.full((40, 60), 2048, np.uint16)
    assert next(score.blur_probabilities(twelve_bits, white=4095.0))[1] == pytest.approx(0.5, abs=1e-3)
    pixels = np.full((40, 60), 0.25)
    pixels[0, 0] = np.nan
    assert next(score.blur_probabilities(pixels))[1] == pytest.approx(0.25, abs=1e-3)


def test_the_command(shapes: list[tuple[int, ...]], gray: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    report, page = tmp_path / "scores.csv", tmp_path / "scores.html"
    result = run("score", gray, "--report", report, "--html", page)
    assert result.exit_code == 1
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines[:3]] == [["0.10", "1/1.0"], ["0.60", "1/1.4"], ["0.90", "1/2.0"]]
    rows = table(SimpleNamespace(stdout="\n".join(result.stdout.splitlines()[4:])))
    assert rows["blurred"] == "2 of 3, probability of at least 0.5"
    assert rows["left out"] == "1: 1 .txt"
    assert rows["failed"].startswith(f"{gray / 'broken.png'} must be")
    with report.open() as file:
        written = list(csv.DictReader(file))
    assert [(row["status"], row["blurred"] and round(float(row["blurred"]), 2)) for row in written] == [
        ("scored", 0.1), ("scored", 0.6), ("scored", 0.9), ("failed", ""), ("left out", ""),
    ]  # fmt: skip
    text = page.read_text("utf-8")
    assert [name for name in ("broken.png", "90.png", "60.png", "10.png") if f'data-name="{name}"' in text] == [
        "broken.png", "90.png", "60.png", "10.png",
    ]  # fmt: skip
    assert text.index('data-name="90.png"') < text.index('data-name="60.png"') < text.index('data-name="10.png"')
    assert 'alt="90.png, picture"' in text
    assert "before</span>" not in text
    result = run("score", gray / "10.png", gray / "60.png", "--blur-threshold", "0.7", "-q")
    assert (result.exit_code, result.output) == (0, "")
    fails(run("score", gray, "--blur-threshold", "2"), "--blur-threshold must be a number from 0 to 1, got 2")
    fails(run("score", tmp_path / "no.png"), "does not exist")


def test_only_blurred_pictures(shapes: list[tuple[int, ...]], calls: list[Any], gray: Path, tmp_path: Path) -> None:
    """Sharp ones are left out, named and counted; one that cannot be read fails; those that are done are not asked."""
    out, report = tmp_path / "out", tmp_path / "report.json"
    batch = ("batch", gray, "-o", out, "-k", "5", "--only-blurred", "--report", report)
    planned = run(*batch, "--dry-run")
    assert "left out: " in planned.stdout
    assert f"{gray / '10.png'}, sharp (0.10)" in planned.stdout
    result = run(*batch)
    assert result.exit_code == 1
    assert f"{gray / '10.png'} left out, sharp (0.10)" in result.stderr
    assert names(out) == [".gpudeblur.jsonl", "60.png", "90.png"]
    rows = table(result)
    assert rows["written"].startswith("2 of 3")
    assert rows["left out"] == "2: 1 .txt, 1 sharp"
    reasons = {Path(row["source"]).name: row["reason"] for row in json.loads(report.read_text())}
    assert reasons == {"10.png": "sharp (0.10)", "60.png": "", "90.png": "", "broken.png": "", "notes.txt": ".txt"}
    assert json.loads((out / ".gpudeblur.jsonl").read_text().splitlines()[0])["left_out"] == "2: 1 .txt, 1 sharp"
    shapes.clear()
    assert table(run(*batch, "--blur-threshold", "0.05"))["written"].startswith("1 of 4")
    assert len(shapes) == 1  # 10.png; the others are done, or damaged
    write_image(gray / "color.png", COLOR)
    assert run("batch", gray, "-o", out, "-k", "5", "--blur-threshold", "7").exit_code == 2
