"""The rooms of docs/architecture.md: who may import whom, what loads lazily, where the CUDA sources lie."""

import ast
import fnmatch
import functools
import graphlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from test_packaging import needs_setuptools

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpudeblur"

# Lowest first: a module imports its own room and those below it.
ROOMS = ["numerics", "images", "networks", "priors", "nonblind", "blind", "batch"]
# The room with which each door stands; the package itself and the command line stand above all rooms.
DOORS = {
    "metrics": "images", "synthesis": "images", "restoration": "nonblind", "dask": "batch", "distributed": "batch"
}  # fmt: skip
HEAVY = {"torch", "cupy", "cupyx"}
ON_CUPY = tuple(f"numerics.{name}" for name in ("constants", "cuda", "cuda_graphs", "device"))

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted, without the package: "" for gpudeblur/__init__.py, "nonblind.sparse"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def names() -> frozenset[str]:
    return frozenset(map(name_of, MODULES))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return [*ast.walk(ast.parse(path.read_text()))]


@functools.cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Every absolute dotted name that a file imports anywhere in it, with its line."""
    package, found = ["gpudeblur", *path.relative_to(PACKAGE).parts[:-1]], []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


def own_module(name: str) -> str | None:
    """The module of this package that an imported name is, or is in."""
    if name != "gpudeblur" and not name.startswith("gpudeblur."):
        return None
    name = name.removeprefix("gpudeblur").removeprefix(".")
    while name not in names():
        name = name.rpartition(".")[0]
    return name


@functools.cache
def own_imports(path: Path) -> set[str]:
    return {module for _, name in imports(path) if (module := own_module(name)) is not None}


def level(module: str) -> int:
    head = module.partition(".")[0]
    room = DOORS.get(head, head)
    is_command = room in ("cli", "__main__")
    assert room in (*ROOMS, "") or is_command, f"gpudeblur/{head} is no room and no door: who may import it?"
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    here = name_of(path)
    for module in own_imports(path):
        assert level(module) <= level(here), f"{here or '__init__'} imports {module or '__init__'}"
        assert not (here.startswith("nonblind.") and module.startswith("priors")), "neither needs the other"


def test_no_imports_in_a_circle() -> None:
    graph = {name_of(path): own_imports(path) - {name_of(path)} for path in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def at_top(path: Path) -> set[str]:
    """What the import of a file imports; bodies of functions and of `if TYPE_CHECKING` wait."""
    later: set[int] = set()
    for node in nodes(path):
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if lazy or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            later |= {inner.lineno for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)}
    return {name.partition(".")[0] for line, name in imports(path) if line not in later}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_where_they_belong(path: Path) -> None:
    here = name_of(path)
    allowed = {"torch"} if here.startswith("networks") else {"cupy", "cupyx"} if here in ON_CUPY else set()
    assert at_top(path) & HEAVY <= allowed


def run(code: str, folder: Path, *, options: tuple[str, ...] = ()) -> str:
    command = [sys.executable, "-W", "error", *options, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_gpudeblur_loads_no_heavy_library() -> None:
    """Neither those of networks and GPUs, nor those of files, plots and the command line."""
    heavy = HEAVY | {"PIL", "tifffile", "skimage", "matplotlib", "typer", "dask", "distributed", "xarray"}
    assert run(f"import sys, gpudeblur; print({heavy} & {{*sys.modules}})", ROOT) == "set()"


@pytest.mark.slow
def test_every_numpy_module_works_without_cupy() -> None:
    """Every module but the CUDA launches (and the networks) imports where CuPy and torch do not exist."""
    modules = [
        f"gpudeblur.{m}".rstrip(".") for m in sorted(names()) if m not in ON_CUPY and not m.startswith("networks")
    ]
    code = f"""
import importlib, sys
for name in {sorted(HEAVY)}: sys.modules[name] = None
for name in {modules}:
    if not name.endswith("__main__"): importlib.import_module(name)
import numpy as np
from gpudeblur.numerics import filters
assert not filters.dt_l0(np.ones((3, 4)), 0.1).any()
"""
    run(code, ROOT)


def test_the_configuration_ships_every_package_and_every_source() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in MODULES}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"gpudeblur.kernels_cuda"}
    assert set(configuration["packages"]) == packages
    assert configuration["package-dir"] == {"gpudeblur.kernels_cuda": "kernels_cuda"}
    patterns = configuration["package-data"]["gpudeblur.kernels_cuda"]
    for source in (ROOT / "kernels_cuda").iterdir():
        assert any(fnmatch.fnmatch(source.name, pattern) for pattern in patterns), source.name
    data = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    for path in data:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert path.name in configuration["package-data"].get(package, []), path


PRINT_SOURCES = """
import pathlib, gpudeblur.numerics.cuda as c
assert c.source("dt_l0").count("#line 1") == 2
print(pathlib.Path(c.__file__).resolve().parents[1], c.SOURCES.resolve(), len([*c.SOURCES.glob("*.cu")]))
"""


def check_sources(folder: Path, package: Path, sources: Path, finder: str = "", options: tuple[str, ...] = ()) -> None:
    pytest.importorskip("cupy")
    count = len([*(ROOT / "kernels_cuda").glob("*.cu")])
    printed = run(finder + PRINT_SOURCES, folder, options=options)
    assert printed == f"{package.resolve()} {sources.resolve()} {count}"


@pytest.mark.slow
def test_the_cuda_sources_are_found_from_the_checkout() -> None:
    check_sources(ROOT, PACKAGE, ROOT / "kernels_cuda")


@pytest.mark.slow
def test_the_cuda_sources_are_found_from_an_editable_install(tmp_path: Path) -> None:
    """An editable install maps names to the checkout and puts no folder on the path (setuptools' finder does so)."""
    finder = f"""
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "gpudeblur":
            return importlib.util.spec_from_file_location(name, {str(PACKAGE / "__init__.py")!r})
sys.meta_path.insert(0, Finder)
"""
    check_sources(tmp_path, PACKAGE, ROOT / "kernels_cuda", finder, ("-P",))


@pytest.mark.slow
def test_the_cuda_sources_are_found_from_a_wheel(tmp_path: Path) -> None:
    """A wheel built of this tree, unpacked elsewhere; a stray folder beside the package is not taken."""
    needs_setuptools()
    tree, site = tmp_path / "tree", tmp_path / "site"
    for name in ("gpudeblur", "kernels_cuda"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    out = run(f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))", tree)
    with zipfile.ZipFile(tmp_path / out.split()[-1]) as archive:
        archive.extractall(site)
    (site / "kernels_cuda").mkdir()
    check_sources(site, site / "gpudeblur", site / "gpudeblur" / "kernels_cuda")


def test_every_public_name_is_an_attribute() -> None:
    import gpudeblur

    assert {*gpudeblur.__all__} <= {*dir(gpudeblur)}
    assert all(getattr(gpudeblur, name) is not None for name in gpudeblur.__all__)
    with pytest.raises(AttributeError, match="module 'gpudeblur' has no attribute 'magic'"):
        _ = gpudeblur.magic
