"""bench/train_gpu.sh on a CPU, from an archive of drawn pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from bench.training import networks_gpu
from gpudeblur.networks.catalog import NETWORKS, load_network
from gpudeblur.networks.denoiser.network import Denoiser
from gpudeblur.networks.weights import unpack

ROOT = Path(__file__).parent.parent


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Of two folders of two pictures, the first of each."""
    for name in ("faces", "natural"):
        (tmp_path / name).mkdir()
        for index in range(2):
            picture = astronaut()[40 * index : 40 * index + 100, 150:250]
            Image.fromarray(picture).save(tmp_path / name / f"{index}.jpg", quality=95)
    out = tmp_path / "pictures.tar"
    folders = [f"--clear={tmp_path / name}" for name in ("faces", "natural")]
    networks_gpu.main(["pack", *folders, "--first", "1", "--pool", "8", "-o", str(out)])
    return out


def test_archive_holds_the_files_as_they_are(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(archive) as packed:
        assert packed.getnames()[:3] == ["0_faces/0.jpg", "1_natural/0.jpg", "kernels.npz"]
        stored = packed.extractfile("0_faces/0.jpg")
        assert stored is not None
        assert stored.read() == (tmp_path / "faces" / "0.jpg").read_bytes()
    monkeypatch.setattr(networks_gpu, "LARGEST_ARCHIVE", 1000)
    with pytest.raises(SystemExit, match="must be at most 60 MiB"):
        networks_gpu.main(["pack", f"--clear={tmp_path / 'faces'}", "--pool", "8", "-o", str(archive)])


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.parametrize("names", [(), ("deepdeblur-wide",)])
def test_script_trains_networks(archive: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, "DEVICE": "cpu", "BATCH": "1"}
    command = ["bash", "bench/train_gpu.sh", str(archive), "0.2", *names]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    lines = {line["network"]: line for line in map(json.loads, (out / "runs.jsonl").read_text().splitlines())}
    assert set(lines) == set(names or NETWORKS)
    for name, line in lines.items():
        assert line["steps"] == line["crops"] >= 1
        assert line["minutes"] >= round(0.2 * (1.0 if names else 0.4 if name == "deepdeblur" else 0.6), 2)
        assert np.isfinite(list(line["figures"].values())).all()
        assert (out / f"{name}.jsonl").exists()
        weights = out / f"{name}.safetensors"
        if "deepdeblur" in name:
            load_network("deepdeblur", weights)
        else:  # of another DeepDeblur than the one that ships
            _, metadata = unpack(weights)
            assert json.loads(metadata["shared"]) == {"deepdeblur": lines["deepdeblur"]["sha256"]}


@pytest.mark.training
@pytest.mark.slow
def test_denoiser_is_trained_and_written_on_the_way(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folders = tmp_path / "out", [f"--clear={tmp_path / name}" for name in ("natural", "faces")]
    networks_gpu.main(["pack", *folders, "--pool", "8", "--no-recognizer", "-o", str(archive)])  # both pictures of each
    with tarfile.open(archive) as packed:
        assert packed.getnames()[3:] == ["1_faces/1.jpg", "kernels.npz"]
    monkeypatch.setattr(networks_gpu, "WRITE_EVERY", 0)
    run = dataclasses.replace(
        networks_gpu.RUNS["denoiser"], network=lambda: Denoiser((8, 8, 8)), crop=(32, 32), ships=False
    )
    monkeypatch.setitem(networks_gpu.RUNS, "denoiser", run)
    stopped: list[int] = []
    monitor = networks_gpu.Monitor.__call__

    def interrupted(self: networks_gpu.Monitor, step: int, *others: Any) -> bool:
        if step == 52:  # after the first checkpoint
            assert load_network("denoiser", out / "denoiser.safetensors")
            stopped.append(step)
            signal.raise_signal(signal.SIGINT)
        return monitor(self, step, *others)

    monkeypatch.setattr(networks_gpu.Monitor, "__call__", interrupted)
    arguments = ["--archive", str(archive), "--out", str(out), "--device", "cpu", "--batch", "2", "--minutes", "2"]
    networks_gpu.main(["train", "denoiser", *arguments])
    assert stopped == [52]
    line = json.loads((out / "runs.jsonl").read_text())
    assert line["steps"] == 52
    assert {"white", "deconvolution", "psnr_color_0.05", "psnr_gray_0.2"} <= set(line["figures"])
    assert "steps_per_second" in capsys.readouterr().out
    load_network("denoiser", out / "denoiser.safetensors")
