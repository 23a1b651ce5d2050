"""Fixtures for tests that run on NumPy and, where there is a GPU, on CuPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
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
def build_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where CPU builds of CUDA kernels stay from run to run."""
    cache = getattr(request.config, "cache", None)  # not there under `-p no:cacheprovider`
    return cache.mkdir("cuda_on_cpu") if cache else tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture(scope="session")
def cpu_kernel(build_folder: Path) -> Callable[[str], Any]:
    """The CPU build of a CUDA kernel by its name."""
    from cuda_on_cpu.build import SANITIZE, build_all

    from gpudeblur.numerics import cuda

    sources = {path.stem: cuda.source(path.stem) for path in sorted(cuda.SOURCES.glob("*.cu"))}
    return build_all(sources, build_folder, sanitize=SANITIZE).__getitem__


@pytest.fixture(scope="session")
def network_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small "deepdeblur" whose weights are random: it changes every picture."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from gpudeblur.networks.blocks import initialized
    from gpudeblur.networks.catalog import write_network
    from gpudeblur.networks.deepdeblur.network import DeepDeblur

    def make() -> Any:
        network = DeepDeblur("unet", (8, 12, 16), (1, 1, 1, 1, 1))
        for name, parameter in network.named_parameters():
            if not parameter.any() and name.endswith("weight"):  # the last layer of each branch
                torch.nn.init.normal_(parameter, std=0.02)
        return network

    network, path = initialized(make, 0), tmp_path_factory.mktemp("weights") / "random.safetensors"
    write_network(path, network, network.state_dict())
    return path


@pytest.fixture
def shipped(network_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`network_weights` in place of those that ship."""
    from gpudeblur.networks import catalog, restore

    entry = dataclasses.replace(catalog.NETWORKS["deepdeblur"], checksum=None)
    monkeypatch.setitem(catalog.NETWORKS, "deepdeblur", entry)
    monkeypatch.setattr(catalog, "shipped_weights", lambda name: network_weights)
    restore._load.cache_clear()
    yield network_weights
    restore._load.cache_clear()


@pytest.fixture(scope="session")
def face_networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """{name: (file, its checksum)} of random networks for "face": a "deepdeblur", and a small "sketch" with its trunk.

    Kernels have 11 pixels a side.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from gpudeblur.networks import catalog
    from gpudeblur.networks.blocks import initialized
    from gpudeblur.networks.deepdeblur.network import DeepDeblur
    from gpudeblur.networks.sketch.network import Sketch

    def random(network: Any) -> Any:
        for name, parameter in network.named_parameters():
            if not parameter.any() and name.endswith("weight"):  # the last layer of each branch
                torch.nn.init.normal_(parameter, std=0.01)
        return network

    def make_sketch() -> Any:
        network = random(Sketch("default", (8, 8, 8), (1,) * 5, (8, 8, 8), (1,) * 5, 11))
        torch.nn.init.constant_(network.log_beta, 0)  # equations of a random sketch amplify rounding otherwise
        return network

    folder, result = tmp_path_factory.mktemp("weights"), dict[str, tuple[Path, str]]()
    with pytest.MonkeyPatch.context() as patch:
        for name, make in (("deepdeblur", lambda: random(DeepDeblur())), ("sketch", make_sketch)):
            network, path = initialized(make, 0), folder / f"{name}.safetensors"
            checksum = catalog.write_network(path, network, network.state_dict())
            result[name] = path, checksum
            patch.setitem(catalog.NETWORKS, name, dataclasses.replace(catalog.NETWORKS[name], checksum=checksum))
    return result


@pytest.fixture
def shipped_networks(
    face_networks: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Path]]:
    """{name: file} of `face_networks`, in place of those that ship."""
    from gpudeblur.networks import catalog, restore

    for name, (_, checksum) in face_networks.items():
        entry = dataclasses.replace(catalog.NETWORKS[name], checksum=checksum)
        monkeypatch.setitem(catalog.NETWORKS, name, entry)
    files = {name: path for name, (path, _) in face_networks.items()}
    monkeypatch.setattr(catalog, "shipped_weights", files.__getitem__)
    restore._load.cache_clear()
    yield files
    restore._load.cache_clear()


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """NumPy, then CuPy: one test body for both."""
    return np if request.param == "numpy" else request.getfixturevalue("cupy")
