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
def full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions on a GPU without TF32, whose 10 bits torch takes for float32 by default."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


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


@pytest.fixture(scope="session")
def gates(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Weights of a gate that takes everything for a face, and of one that takes nothing for one."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from gpudeblur.networks.catalog import write_network
    from gpudeblur.networks.face_gate.network import FaceGate

    network, folder = FaceGate((1, 1, 1, 1, 1)), tmp_path_factory.mktemp("gates")
    files = {face: folder / f"{face}.safetensors" for face in (True, False)}
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for face, path in files.items():
        torch.nn.init.constant_(network.layers[-1].bias, 4 if face else -4)
        write_network(path, network, network.state_dict())
    return files


@pytest.fixture
def shipped_files(
    network_weights: Path, gates: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Path]]:
    """The files in place of the weights that ship, for a test to change: `network_weights`, and all are faces."""
    from gpudeblur.networks import catalog, restore

    for entries in (catalog.NETWORKS, catalog.JUDGES):
        for name in entries.keys() - {"judge"}:
            monkeypatch.setitem(entries, name, dataclasses.replace(entries[name], checksum=None))
    files = {"deepdeblur": network_weights, "face-gate": gates[True], "judge": catalog.shipped_weights("judge")}
    monkeypatch.setattr(catalog, "shipped_weights", files.__getitem__)
    restore._load.cache_clear()
    yield files
    restore._load.cache_clear()


@pytest.fixture
def shipped(shipped_files: dict[str, Path]) -> Path:
    """`network_weights` in place of those that ship; every picture counts as a face."""
    return shipped_files["deepdeblur"]


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
    face_networks: dict[str, tuple[Path, str]], gates: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Path]]:
    """{name: file} of `face_networks`, in place of those that ship; every picture counts as a face."""
    from gpudeblur.networks import catalog, restore

    gate = dataclasses.replace(catalog.JUDGES["face-gate"], checksum=None)
    monkeypatch.setitem(catalog.JUDGES, "face-gate", gate)
    for name, (_, checksum) in face_networks.items():
        entry = dataclasses.replace(catalog.NETWORKS[name], checksum=checksum)
        monkeypatch.setitem(catalog.NETWORKS, name, entry)
    files = {name: path for name, (path, _) in face_networks.items()} | {"face-gate": gates[True]}
    files["judge"] = catalog.shipped_weights("judge")
    monkeypatch.setattr(catalog, "shipped_weights", files.__getitem__)
    restore._load.cache_clear()
    yield files
    restore._load.cache_clear()


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """NumPy, then CuPy: one test body for both."""
    return np if request.param == "numpy" else request.getfixturevalue("cupy")
