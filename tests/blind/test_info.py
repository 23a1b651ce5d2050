"""The keys of `info`: those that results carry are those that `Info` declares and explains."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import numpy as np

import gpudeblur as gd

IMAGE = np.random.default_rng(0).random((40, 44), dtype=np.float32)
QUICK = gd.TwoStepOptions(starts=("wide",), iterations=1, finest_iterations=1, kernel_iterations=2, refine=False)
EXPLAINED = re.findall(r"^    (\w+) : (.+)\n        \S", gd.Info.__doc__ or "", re.M)
OF_RESTORE = {"reblur", "gradient_energy", "face", "precision"}  # and others that `deblur` has too: test_restore.py


def test_every_key_is_declared_and_explained() -> None:
    assert [name for name, _ in EXPLAINED] == list(get_type_hints(gd.Info))
    assert all("an image" in kind or kind in ("str", "str or None", "float") or "{" in kind for _, kind in EXPLAINED)


def test_results_carry_the_keys_that_are_declared() -> None:
    stack = np.stack([IMAGE, IMAGE[::-1]])
    single = gd.deblur(IMAGE, 5, options=QUICK, final="hyper-laplacian").info
    several = gd.deblur(stack, 5, options=QUICK, final="hyper-laplacian").info
    (batch,) = gd.deblur_batch([IMAGE], 5, options=QUICK, final="hyper-laplacian")
    assert single.keys() == several.keys() == batch.info.keys()
    assert single.keys() | OF_RESTORE | {"advantage", "focal"} == set(get_type_hints(gd.Info))  # test_rotation.py
    kinds = dict(EXPLAINED)
    for info, shape in ((single, ()), (batch.info, ()), (several, (2,))):
        for name, value in info.items():
            expected: Any = str if kinds[name].startswith(("str", "{")) else float
            if "an image" in kinds[name] and name != "kernel_size" and shape:
                assert isinstance(value, np.ndarray), name
                assert value.shape == shape
            elif name != "kernel_size":
                assert type(value) is expected, name
    assert single["kernel_size"] == several["kernel_size"] == (5, 5)
