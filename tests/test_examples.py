"""The scripts of the gallery run, and what the pages show as code does too."""

import ast
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import distributed
import matplotlib.pyplot as plt
import numpy as np
import pytest
import typer.main
import xarray
from skimage import data

import gpudeblur as gd
from gpudeblur import cli, synthesis

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SCRIPTS = sorted((DOCS / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", DOCS / "index.md", DOCS / "coming_from.md", *sorted((DOCS / "guide").glob("*.md"))]
SMALL = 5  # pixels, instead of the kernel sizes of the pages


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


@pytest.fixture
def without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs_and_draws(script: Path, without_windows: None) -> None:
    if script.stem == "13_face":
        pytest.importorskip("torch")
    runpy.run_path(str(script))
    assert plt.get_fignums()
    plt.close("all")


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with two initializations and one iteration a scale, if it is blind."""
    options = gd.TwoStepOptions(starts=("wide", "sparse"), iterations=1)

    def call(*args: Any, **arguments: Any) -> Any:
        return function(*args, **arguments if "method" in arguments else {"options": options} | arguments)

    return call


@pytest.fixture
def client() -> Iterator[distributed.Client]:
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        yield client


@pytest.fixture
def names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network_weights: Path, client: distributed.Client
) -> dict[str, Any]:
    """What the snippets of the pages take for granted: small arrays, files, a function."""
    kernel = synthesis.trajectory_kernel(SMALL, rng=1)
    camera, portrait = data.camera() / 255, data.astronaut() / 255
    blurred = synthesis.blur(camera[50:90, 190:230], kernel, noise_sigma=0.005, rng=0).astype(np.float32)
    scene = 0.1 * camera[:120, :120]
    scene[20::30, 20::35] = 20
    night = synthesis.blur(scene, synthesis.trajectory_kernel(15, rng=1), noise_sigma=0.002, rng=0).clip(0, 1)
    for name in ("deblur", "estimate_kernel", "deblur_batch"):
        monkeypatch.setattr(gd, name, fast(getattr(gd, name)))
    monkeypatch.chdir(tmp_path)
    gd.write_image("photo.jpg", (portrait[20:74, 150:204] * 255).astype(np.uint8))
    Path("photos").mkdir()
    gd.write_image("photos/small.png", (blurred[:24, :24].clip(0, 1) * 255).astype(np.uint8))
    shutil.copy(network_weights, "mine.safetensors")
    stack = dask.array.from_array(np.stack([blurred, blurred.T]), chunks=(1, -1, -1))
    return {
        "gd": gd,
        "blurred": blurred,
        "photo": blurred,
        "images": np.stack([blurred, blurred.T]),
        "burst": np.stack([blurred, blurred[::-1]]),
        "night": night.astype(np.float32),
        "stars": blurred - 0.1,
        "face": portrait[20:90, 150:220],
        "faces": portrait[np.newaxis, 20:90, 150:220],
        "kernel": kernel,
        "kernels": np.broadcast_to(kernel, (2, 2, SMALL, SMALL)),
        "measured": kernel + 0.001,
        "valid": np.ones(blurred.shape, bool),
        "image": blurred.clip(0, 1),
        "psf": kernel,
        "network": lambda images, sigma=None: images.sum((1, 2, 3)) if sigma is None else images,
        "use": lambda *_: None,
        "client": client,
        "stack": stack,
        "slide": stack[0],
        "array": xarray.DataArray(stack.rechunk(-1), dims=("band", "y", "x")),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # such small arrays are warned of
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda path: path.stem)
def test_snippets_run(page: Path, names: dict[str, Any]) -> None:
    """In the order of the page and one namespace; with small kernels, few iterations, and on any device."""
    for block in blocks(page, "python"):
        code = re.sub(r"(?<=, )(25|31|41)\b", str(SMALL), block).replace('device="cuda"', 'device="auto"')
        if "cupy" in code:
            code = code.replace("cupy.asarray", "").replace("import cupy\n", "")
        exec(compile(code, str(page), "exec"), names)


def test_shell_snippets_parse() -> None:
    """Every command of the pages is one of the program, with its options."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for page in PAGES:
        for line in "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "gpudeblur" in words:
                command, *words = words[words.index("gpudeblur") + 1 :]
                options = {option for parameter in commands[command].params for option in parameter.opts}
                assert {word for word in words if re.match("--?[a-z]", word)} <= options, line


def test_scripts_are_pages() -> None:
    """Each has a title, prose and a link to the API; the pages name scripts that are there."""
    for script in SCRIPTS:
        text = ast.get_docstring(ast.parse(script.read_text()))
        assert re.match(r"[^\n]+\n=+\n\n", text or ""), script
    for page in PAGES:
        for name in re.findall(r"gallery/(\d\d_\w+)", page.read_text()):
            assert DOCS / "examples" / f"{name}.py" in SCRIPTS, name


@pytest.mark.slow
def test_pages_build(tmp_path: Path) -> None:
    """Without a warning: no link, name or docstring is broken. `make docs` runs the scripts too."""
    pytest.importorskip("sphinx_gallery", reason="needs the extra docs")
    generated = shutil.ignore_patterns("_build", "api", "gallery")
    shutil.copytree(DOCS, tmp_path / "docs", ignore=generated)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    options = ["-W", "--keep-going", "-q", "-D", "plot_gallery=0"]
    command = [sys.executable, "-m", "sphinx", *options, str(tmp_path / "docs"), str(tmp_path / "html")]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    assert len([*(tmp_path / "html" / "gallery").glob("*_*.html")]) >= len(SCRIPTS)
