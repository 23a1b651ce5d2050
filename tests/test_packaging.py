"""What is shipped, and what is said about it: the source distribution, the version, the lowest dependencies, README."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from test_docs import blocks

import gpudeblur

ROOT = Path(__file__).parent.parent


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def repository_files() -> list[str]:
    """What git tracks, and what is new and not ignored; paths relative to the root."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in set(names) if (ROOT / name).is_file())


def needs_setuptools() -> None:
    version = pytest.importorskip("setuptools", reason="building takes setuptools").__version__
    if Version(version) < Version("77"):
        pytest.skip(f"pyproject.toml asks for setuptools >= 77, this is {version}")


@pytest.mark.slow
def test_sdist_holds_the_repository(tmp_path: Path) -> None:
    names = repository_files()
    needs_setuptools()
    for name in names:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "tree", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    archive = f"gpudeblur-{gpudeblur.__version__}"
    with tarfile.open(tmp_path / f"{archive}.tar.gz") as tar:
        shipped = {member.name.removeprefix(f"{archive}/") for member in tar if member.isfile()}
    metadata = {name for name in shipped if name in ("PKG-INFO", "setup.cfg") or "egg-info/" in name}
    assert sorted(shipped - metadata) == names


def test_one_version() -> None:
    assert project()["dynamic"] == ["version"]
    assert "version" not in project()
    assert Version(gpudeblur.__version__) >= Version("0.1.0")
    assert re.search(rf"^version: {re.escape(gpudeblur.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert f"\n## {gpudeblur.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_lowest_versions_are_those_of_pyproject() -> None:
    """Every dependency is pinned to its lower bound; so are the test tools that `make test-floors` installs."""
    lines = (ROOT / "tests" / "lowest-versions.txt").read_text().splitlines()
    undeclared = next(i for i, line in enumerate(lines) if line.startswith("# Not declared"))
    pins = dict(line.split("==") for line in lines[:undeclared] if not line.startswith("#"))
    declared = {}
    for text in (*project()["dependencies"], *project()["optional-dependencies"]["test"]):
        requirement = Requirement(text)
        lower_bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        assert len(lower_bounds) == 1, text
        declared[requirement.name] = Version(lower_bounds[0])
    assert {name: Version(pin) for name, pin in pins.items()} == {name: declared[name] for name in pins}
    assert {Requirement(text).name for text in project()["dependencies"]} <= pins.keys()


def test_readme_commands_are_one_line_each() -> None:
    """The first installs and shows, the last runs every check, the same as .ci/run."""
    first, *_, last = blocks("sh")
    assert first.count("\n") == last.count("\n") == 1
    assert first.rstrip().endswith("gpudeblur demo")
    assert last == "make test-all\n"
    assert "make test-all " in (ROOT / ".ci" / "run").read_text()


def test_makefile_has_the_targets_that_are_named() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {name for path in documents for name in re.findall(r"(?m)(?:^|`)make ([a-z-]+)(?:$|`)", path.read_text())}
    tests = {"test", "test-all", "test-training", "test-gpu", "test-floors", "test-napari"}
    assert named == tests | {"lint", "docs", "doctest", "bench"}
    assert named <= rules
