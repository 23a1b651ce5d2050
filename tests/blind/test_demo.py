"""The demo: what it reports is what it wrote; two pictures come out right, the third wrong, which it says."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import gpudeblur
from gpudeblur.blind import demo
from gpudeblur.images.files import read_image


class Page(HTMLParser):
    """The tags of a page with their attributes; all that are opened are closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [present for name, present in self.tags if name == tag and attributes.items() <= present.items()]


@pytest.mark.slow
def test_the_report_is_about_the_pictures_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The astronaut as a crop; the others as they are: the page reads, and the wall's kernel is not trusted."""
    scenes = (replace(demo.SCENES[0], region=np.s_[:110, 100:210]), *demo.SCENES[1:])
    monkeypatch.setattr(demo, "SCENES", scenes)
    folder, calls = tmp_path / "a" / "new folder", list[tuple[str, float]]()
    report = demo.run_demo(folder, device="cpu", progress=lambda stage, part: calls.append((stage, part)))
    names = [scene.name for scene in scenes]
    pictures = [f"{name}{end}.png" for name in names for end in ("", "_deblurred")]
    assert [file.name for file in report.files] == ["index.html", *pictures]
    assert sorted(folder.iterdir()) == sorted(report.files)
    assert list(report.figures) == names
    for scene in scenes:
        figures, sharp = (
            report.figures[scene.name],
            np.asarray(read_image(folder / f"{scene.name}_deblurred.png").pixels),
        )
        margin = scene.kernel_size // 2
        true = scene.sharp()[margin:-margin, margin:-margin]
        assert sharp.shape == scene.blurred().shape == true.shape
        assert demo._scores(sharp, true) == (figures.psnr, figures.ssim)
        assert demo._scores(scene.blurred(), true) == (figures.blurred_psnr, figures.blurred_ssim)
        assert figures.seconds > 0
    page, wall = report.figures["page"], report.figures["brick"]
    assert page.psnr > page.blurred_psnr + 4
    assert page.similarity > 0.85
    assert page.strength == 1
    assert wall.similarity < 0.5
    assert max(wall.confidence, wall.strength) < 0.5
    assert wall.psnr > wall.blurred_psnr - 0.5
    assert report.backend == "numpy"

    stages, fractions = zip(*calls, strict=True)
    expected = [f"{name}: {stage}" for name in names for stage in ("kernel", "restoration")]
    assert list(dict.fromkeys(stages)) == expected
    assert list(fractions) == sorted(fractions)
    assert fractions[-1] == 1
    assert max(part for stage, part in calls if stage.startswith("astronaut")) == pytest.approx(1 / 3)

    text = (folder / "index.html").read_text("utf-8")
    assert "$" not in text
    assert f"The result is {int(100 * wall.strength)} % of the restoration" in text


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_page_stands_by_itself(strength: float) -> None:
    """No request to anywhere; all pictures have a text; the sliders and choices are native, so keys work."""
    picture, kernel = np.zeros((8, 9, 3), np.uint8), np.eye(3) / 3
    figures = demo.Figures(20.0, 30.0, 0.5, 0.9, 0.3 if strength < 1 else 0.9, 0.4, strength, 1.5)
    views = ["blurred", "result", "true picture", *(["all of the restoration"] if strength < 1 else [])]
    section = demo._section(demo.SCENES[0], figures, dict.fromkeys(views, picture), {"true kernel": kernel})
    page = Page(demo._page([section]))
    assert page.open == []
    assert not re.search(r"(https?:|//[a-z]|@import|url\()", demo._page([]))
    images = page.of("img")
    assert all((image["src"] or "").startswith("data:image/png;base64,") and image["alt"] for image in images)
    shown = [image["data-view"] for image in images if "data-view" in image]
    assert shown == [choice["value"] for choice in page.of("input", type="radio")] == views[1:]
    assert [image["data-view"] for image in images if "data-view" in image and "hidden" not in image] == ["result"]
    assert len(page.of("input", type="range")) == 1
    assert page.of("section") == [{"class": "right" if strength == 1 else "wrong"}]
    assert ("The result is 25 %" in section) == (strength < 1)


def test_stopping_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SCENES", [replace(demo.SCENES[0], region=np.s_[:120, 100:220])])
    with pytest.raises(gpudeblur.Stopped):
        demo.run_demo(tmp_path, progress=lambda stage, part: True)
    assert list(tmp_path.iterdir()) == []
