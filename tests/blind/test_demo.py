"""The demo, on crops of its pictures: what it reports is what it wrote; a comparison is there whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data

import gpudeblur
from gpudeblur.blind import demo
from gpudeblur.images.files import read_image

NAMES = ["astronaut.png", "clock.png", "astronaut_deblurred.png", "clock_deblurred.png"]


@pytest.mark.slow
def test_the_report_is_about_the_pictures_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than the blurred picture; the demo's own figures, on the whole picture, are checked by the bench."""
    astronaut, clock = skimage.data.astronaut()[:220, 100:320], skimage.data.clock()[90:180, 110:210]
    monkeypatch.setattr(skimage.data, "astronaut", lambda: astronaut)
    monkeypatch.setattr(skimage.data, "clock", lambda: clock)
    folder, calls = tmp_path / "a" / "new folder", list[tuple[str, float]]()
    report = demo.run_demo(folder, device="cpu", progress=lambda stage, part: calls.append((stage, part)))
    assert [file.name for file in report.files] == NAMES
    assert sorted(folder.iterdir()) == sorted(report.files)
    first, second, sharp_astronaut, sharp_clock = (np.asarray(read_image(file).pixels) for file in report.files)
    margin = demo.KERNEL_SIZE - 4 - 1
    assert sharp_astronaut.shape == (220 - margin, 220 - margin, 3)
    assert sharp_clock.shape[:2] == (90, 100)
    for comparison, least in ((first, 3), (second, 2)):
        height, width = comparison.shape[:2]
        assert width > least * 0.7 * height
        assert comparison.std() > 0

    assert 15 < report.blurred_psnr < report.psnr < 60
    assert 0 < report.blurred_ssim < report.ssim <= 1
    assert min(report.seconds, report.clock_seconds) > 0
    assert report.backend == "numpy"

    stages, fractions = zip(*calls, strict=True)
    expected = [f"{name}: {stage}" for name in ("astronaut", "clock") for stage in ("kernel", "restoration")]
    assert list(dict.fromkeys(stages)) == expected
    assert list(fractions) == sorted(fractions)
    assert fractions[-1] == 1
    assert max(part for stage, part in calls if stage.startswith("astronaut")) == 0.5


PANELS: tuple[Any, Any] = ([("left", np.eye(8)), ("right", np.zeros((8, 8, 3)))], [("kernel", np.eye(3))])


@pytest.mark.slow
def test_a_comparison_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder refuses the new name. After that, one replaces it."""
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def refuse(self: Any, target: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="no space left"):
            demo._comparison(path, *PANELS)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    demo._comparison(path, *PANELS)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_stopping_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = skimage.data.astronaut()[:120, 100:220]
    monkeypatch.setattr(skimage.data, "astronaut", lambda: picture)
    with pytest.raises(gpudeblur.Stopped):
        demo.run_demo(tmp_path, progress=lambda stage, part: True)
    assert list(tmp_path.iterdir()) == []
