"""Fixtures for tests that run on NumPy and, where there is a GPU, on CuPy."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from gpudeblur.numerics.arrays import require_cuda

pytest.register_assert_rewrite("laws")

# Examples that are the same in every run, and no deadline: a busy machine is no failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="a test that finds no GPU fails, not skips")


@pytest.fixture
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy on a machine where it can compute; a test that asks for it is to be marked `gpu`."""
    try:
        return require_cuda()
    except RuntimeError as why:
        if request.config.getoption("--require-gpu"):
            pytest.fail(str(why), pytrace=False)
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def cpu_kernel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The CPU build of a CUDA kernel by its name; each is built once, whichever process asks for it."""
    from cuda_on_cpu.build import SANITIZE, build

    from gpudeblur.numerics import cuda

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cuda_on_cpu"
    folder.mkdir(exist_ok=True)
    return functools.cache(lambda name: build(name, cuda.source(name), folder, sanitize=SANITIZE))


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """NumPy, then CuPy: one test body for both."""
    return np if request.param == "numpy" else request.getfixturevalue("cupy")
