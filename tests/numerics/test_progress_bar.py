"""`progress_bar`: one line that grows, for single runs and for batches."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import gpudeblur as gd
from gpudeblur.numerics import progress

IMAGE = np.random.default_rng(0).random((24, 28))
FAST = gd.TwoStepOptions(starts=("wide",))
CALLS: dict[str, Any] = {
    "deblur": lambda bar: gd.deblur(IMAGE, 5, options=FAST, callback=bar),
    "deconvolve": lambda bar: gd.deconvolve(IMAGE, np.ones((3, 3)), callback=bar),
    "deblur_batch": lambda bar: list(gd.deblur_batch([IMAGE] * 3, 5, options=FAST, callback=bar)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_run_ends_its_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    stream = io.StringIO()
    bar = gd.progress_bar(stream)
    for _ in range(2):
        CALLS[name](bar)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[2] == ""
    for line in lines[:2]:
        last = line.split("\r")[-1]
        assert last.rstrip().endswith("3 of 3" if name == "deblur_batch" else "100 %")
        assert f"[{'#' * progress.WIDTH}]" in last


def test_a_generator_has_no_end_to_draw() -> None:
    stream = io.StringIO()
    gd.progress_bar(stream)(gd.Progress(4, 0, None, 2.0, 2.0, None))
    assert stream.getvalue() == f"pictures [{'.' * progress.WIDTH}] 4 done, 2 a second"


def test_drawing_costs_little() -> None:
    """Reports that follow each other within a tenth of a second draw once."""
    stream = io.StringIO()
    bar = gd.progress_bar(stream)
    for step in range(1000):
        bar("kernel", step / 2000)
    assert stream.getvalue().count("\r") < 100
