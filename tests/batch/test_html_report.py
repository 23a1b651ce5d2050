"""The page of a report: what it says of files of every kind, its size, and the commands that make it."""

import base64
import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_cli import COLOR, fails, run, table, wide
from test_folders import calls, photos

from gpudeblur.batch import html_report
from gpudeblur.batch.folders import Outcome
from gpudeblur.batch.html_report import detail_of_blocks, journal_page, most_detailed, results_page, write_page
from gpudeblur.batch.journal import JOURNAL_NAME
from gpudeblur.images.files import write_image, write_kernel

pytest.importorskip("jinja2")
__all__ = ["calls", "photos", "wide"]  # fixtures
VOID = ("meta", "img", "input", "br")


class Cards(HTMLParser):
    """The cards of a page: attributes, text, and the tags in them with their attributes; all tags are closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text("utf-8")
        self.cards: list[dict[str, Any]] = []
        self.open: list[str] = []
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "article":
            self.cards.append({**dict(attributes), "text": "", "tags": []})
        elif "article" in self.open:
            self.cards[-1]["tags"].append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "article" in self.open:
            self.cards[-1]["text"] += data

    def card(self, name: str) -> dict[str, Any]:
        (card,) = (card for card in self.cards if card["data-name"] == name)
        return card

    def pictures(self, name: str) -> dict[str, np.ndarray]:
        """The pixels of a card's pictures, by the text instead of them without the name."""
        images = (attributes for tag, attributes in self.card(name)["tags"] if tag == "img")
        return {image["alt"].replace(name, "").strip(", "): pixels(image["src"]) for image in images}


def pixels(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def written(folder: Path, name: str, before: np.ndarray | bytes | None, after: np.ndarray | None, **values: Any) -> Any:
    """An outcome whose files have these pixels, or bytes; None: there is no file."""
    (folder / "sharp").mkdir(exist_ok=True)
    source, output = folder / name, folder / "sharp" / name
    for path, contents in ((source, before), (output, after)):
        if isinstance(contents, bytes):
            path.write_bytes(contents)
        elif contents is not None and path.suffix == ".tif":
            tifffile.imwrite(path, contents)
        elif contents is not None:
            write_image(path, contents)
    return Outcome(str(source), str(output), None, values.pop("status", "written"), **values)


def test_files_of_every_kind(tmp_path: Path) -> None:
    """Markup and other bytes in names, 16 bits, floats with NaN, CMYK, files that vanished, or are of other sizes."""
    deep = COLOR.astype(np.uint16) * 257
    floats = np.where(np.arange(50) == 3, np.nan, COLOR[..., 0] / 255).astype(np.float32)
    cmyk = io.BytesIO()
    Image.new("CMYK", (50, 40), (0, 255, 255, 0)).save(cmyk, "JPEG")
    odd = os.fsdecode(b"caf\xe9.png")
    outcomes = [
        written(tmp_path, "<b>&'\"x.png", COLOR, 255 - COLOR, confidence=0.75),
        written(tmp_path, "deep.tif", deep, 65535 - deep, confidence=0.25),
        written(tmp_path, "floats.tif", floats, 1 - floats),
        written(tmp_path, "cmyk.jpg", cmyk.getvalue(), COLOR),
        written(tmp_path, "gone.png", None, COLOR),
        written(tmp_path, "both gone.png", None, None),
        written(tmp_path, "damaged.png", b"hello", COLOR),
        written(tmp_path, "cut.png", COLOR, COLOR[:20]),
        written(tmp_path, "failed.png", COLOR, None, status="failed", error="<script>alert(1)</script>"),
    ]
    try:
        outcomes.append(written(tmp_path, odd, COLOR, COLOR))
    except OSError:  # a disk that takes UTF-8 alone
        odd = ""
    write_kernel(tmp_path / "k.npy", np.eye(5) / 5)
    (tmp_path / "no.npy").write_bytes(b"hello")
    outcomes[1] = Outcome(**{**vars(outcomes[1]), "kernel": str(tmp_path / "k.npy")})
    outcomes[3] = Outcome(**{**vars(outcomes[3]), "kernel": str(tmp_path / "no.npy")})
    outcomes.append(Outcome(str(tmp_path / "notes.txt"), "", None, "left out", reason=".txt"))
    write_page(tmp_path / "report.html", results_page(outcomes, {"command": "gpudeblur batch <i>"}))
    page = Cards(tmp_path / "report.html")
    assert [card["data-name"] for card in page.cards][:3] == ["failed.png", "deep.tif", "<b>&'\"x.png"]
    assert len(page.cards) == 9 + bool(odd)
    markup = page.text[: page.text.index("<script>\nconst")]
    assert "<script>" not in markup
    assert "<b>" not in markup
    assert "<i>" not in markup
    assert not re.search(r"(https?:|//[a-z]|@import|url\()", re.sub(r'"data:[^"]*"', "", page.text))
    for name in ("<b>&'\"x.png", "deep.tif"):
        shown = page.pictures(name)
        assert shown["before"].shape == (40, 50, 3)
        np.testing.assert_allclose(shown["before"].mean() + shown["after"].mean(), 255, atol=3)
    assert page.pictures("deep.tif")["the kernel of"].shape == (5, 5)
    assert abs(page.pictures("floats.tif")["before"][:, 10:].mean() - COLOR[:, 10:, 0].mean()) < 4
    assert page.pictures("cmyk.jpg").keys() <= {"before", "after"}
    assert "The kernel cannot be shown" in page.card("cmyk.jpg")["text"]
    for name in ("gone.png", "damaged.png"):
        assert page.pictures(name).keys() == {"after"}
        assert "The picture cannot be shown: " in page.card(name)["text"]
    assert page.pictures("both gone.png") == {}
    assert "The result cannot be shown" in page.card("both gone.png")["text"]
    assert page.pictures("cut.png").keys() == {"after"}
    assert "50 x 40 and 50 x 20" in page.card("cut.png")["text"]
    assert page.pictures("failed.png").keys() == {"before"}
    assert "Low confidence" in page.card("deep.tif")["text"]
    assert "<script>alert(1)</script>" in page.card("failed.png")["text"]
    if odd:
        links = [attributes["href"] for tag, attributes in page.card("caf\ufffd.png")["tags"] if tag == "a"]
        assert links == ["caf%E9.png", "sharp/caf%E9.png"]
    assert "notes.txt" in page.text
    assert sorted(file.name for file in tmp_path.glob("*.tmp")) == []


def test_each_picture_has_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of any number stay below the size of a page; one of flat sky shows where its detail is, uncut pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (520, 600, 3), dtype=np.uint8)
    sky = np.full((520, 600, 3), 90, np.uint8)
    sky[430:490, 480:580] = noise[:60, :100]
    outcomes = [written(tmp_path, f"{name}.png", picture, picture) for name, picture in (("a", noise), ("b", sky))]
    write_page(tmp_path / "wide.html", results_page(outcomes, {}))
    page = Cards(tmp_path / "wide.html")
    shown = page.pictures("b.png")
    assert shown["before"].shape == shown["after"].shape == (480, 480, 3)
    assert max(shown["the whole picture"].shape) == 128
    assert (abs(shown["before"].mean(axis=2) - 90) > 16).sum() > 0.8 * (abs(sky.mean(axis=2) - 90) > 16).sum()
    monkeypatch.setattr(html_report, "MAX_PAGE", 2 * 24e3)
    write_page(tmp_path / "narrow.html", results_page(outcomes, {}))
    for card in Cards(tmp_path / "narrow.html").cards:
        assert sum(len(attributes["src"]) for tag, attributes in card["tags"] if tag == "img") < 24e3
    assert (tmp_path / "narrow.html").stat().st_size < 2 * 24e3 + 15e3


def test_the_window_has_the_most_detail() -> None:
    image = np.zeros((100, 130), np.float32)
    image[66:78, 97:107] = np.indices((12, 10)).sum(axis=0) % 2
    top, left = most_detailed(detail_of_blocks(image), image.shape, (32, 32))
    assert top <= 66
    assert left <= 97
    assert top + 32 >= 78
    assert left + 32 >= 107
    assert most_detailed(detail_of_blocks(image[:20, :20]), (20, 20), (16, 16)) == (0, 0)


def test_the_page_of_a_journal(calls: list[Any], photos: Path, tmp_path: Path) -> None:
    """`gpudeblur report` of what `batch` left, and what `batch --html` writes itself."""
    out, kernels = tmp_path / "out", tmp_path / "kernels"
    (photos / "d.png").write_bytes(b"hello")
    fails(run("report", photos), f"DIR must be the output folder of gpudeblur batch, got {photos} without the file")
    page = tmp_path / "batch.html"
    assert run("batch", photos, "-o", out, "-k", "5", "--kernels-out", kernels, "--html", page).exit_code == 1
    with (out / JOURNAL_NAME).open("a") as journal:
        begun = {"output": "e.png", "status": "writing", "source": str(photos / "e.png"), "version": "0.2.0"}
        journal.write(json.dumps(begun) + "\n")
    (photos / "a.png").unlink()
    report = tmp_path / "report.html"
    result = run("report", out, "-o", report)
    assert result.exit_code == 0, result.output
    rows = table(result)
    assert rows["pictures"] == "3 written, 2 failed"
    assert rows["left out by the last run"].startswith("3: ")
    options = f"--kernel-size 5 --out {out} --kernels-out {kernels} --html {page}"
    assert rows["command"] == f"gpudeblur batch {photos} {options}"
    fails(run("report", out, "-o", report), "--out must be a new file")
    cards = Cards(report)
    assert [card["data-status"] for card in cards.cards] == ["failed"] * 2 + ["written"] * 3
    assert "the run ended while this was written" in cards.card("e.png")["text"]
    assert cards.pictures("a.png").keys() == {"after", "the kernel of"}
    assert cards.pictures("b.tif").keys() == {"before", "after", "the kernel of"}
    assert cards.card("c.png")["data-confidence"] == "0.9"
    by_batch = Cards(page)
    assert len(by_batch.cards) == 4
    assert "3 files were left out" in by_batch.text
    assert journal_page(out).facts["version"] == "0.1.0, 0.2.0"


def test_bad_input(calls: list[Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    fails(run("batch", photos, "-o", out, "--html", tmp_path / "a.pdf"), "output file must end in .html, .htm")
    fails(run("report", tmp_path / "nothing"), "DIR must be the output folder")
    (tmp_path / JOURNAL_NAME).write_text('{"output": "", "status": "run"}\n{"torn')
    fails(run("report", tmp_path, "-o", tmp_path / "a.html"), "a journal without a picture")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    fails(run("batch", photos, "-o", out, "--html", tmp_path / "a.html"), "pip install 'gpudeblur[report]'")
    assert not calls
    assert not out.exists()


def test_a_page_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*_: Any) -> Any:
        raise KeyboardInterrupt

    outcomes = [written(tmp_path, "a.png", COLOR, COLOR)]
    write_page(tmp_path / "report.html", results_page(outcomes, {}))
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(html_report, "_pictures", stops)
    with pytest.raises(KeyboardInterrupt):
        write_page(tmp_path / "report.html", results_page(outcomes, {}))
    assert (tmp_path / "report.html").read_bytes() == before
    assert [file.name for file in tmp_path.glob(".*")] == []
