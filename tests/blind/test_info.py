"""The keys of `info`: those that results carry are those that `Info` declares and explains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import gpudeblur as gd

IMAGE = np.random.default_rng(0).random((40, 44), dtype=np.float32)
QUICK = gd.TwoStepOptions(starts=("wide",), iterations=1, finest_iterations=1, kernel_iterations=2, refine=False)
EXPLAINED = re.findall(r"^    (\w+) : (.+)\n        \S", gd.Info.__doc__ or "", re.M)


def test_every_key_is_declared_and_explained() -> None:
    assert [name for name, _ in EXPLAINED] == list(get_type_hints(gd.Info))
    assert all("an image" in kind or kind in ("str", "str or None", "float") or "{" in kind for _, kind in EXPLAINED)


@pytest.mark.filterwarnings("ignore:image has values:UserWarning")
def test_results_carry_the_keys_that_are_declared(shipped: Path) -> None:
    stack = np.stack([IMAGE, IMAGE[::-1]])
    single = gd.deblur(IMAGE, 5, options=QUICK, final="hyper-laplacian").info
    several = gd.deblur(stack, 5, options=QUICK, final="hyper-laplacian").info
    (batch,) = gd.deblur_batch([IMAGE], 5, options=QUICK, final="hyper-laplacian")
    restored = gd.restore(IMAGE, "deepdeblur").info
    assert single.keys() == several.keys() == batch.info.keys()
    rotation = {"advantage", "focal"}  # tests/blind/test_rotation.py
    assert single.keys() | restored.keys() | rotation == set(get_type_hints(gd.Info))
    kinds = dict(EXPLAINED)
    for info, shape in ((single, ()), (batch.info, ()), (restored, ()), (several, (2,))):
        for name, value in info.items():
            expected: Any = str if kinds[name].startswith(("str", "{")) else float
            if "an image" in kinds[name] and name != "kernel_size" and shape:
                assert isinstance(value, np.ndarray), name
                assert value.shape == shape
            elif name != "kernel_size":
                assert type(value) is expected, name
    assert single["kernel_size"] == several["kernel_size"] == (5, 5)
