"""What the documents name is there: files, functions, links, public names."""

import ast
import re
from pathlib import Path

import pytest

import gpudeblur

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpudeblur"
# Those that are read in the checkout; Sphinx checks the other pages (tests/test_examples.py).
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/method.md")]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
METHOD = (ROOT / "docs" / "method.md").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths(path: Path) -> None:
    """Paths in backticks are from the root; those in capitals are placeholders."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
    for name in re.findall(r"`((?:gpudeblur|kernels_cuda|tests|bench|docs)/[a-z0-9_/.]*)`", path.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z0-9_/]+\.py: \w+)`", METHOD))))
def test_equations_have_their_function(name: str) -> None:
    path, function = name.split(": ")
    tree = ast.parse((PACKAGE / path).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_papers_are_listed() -> None:
    """In docs/method.md, whoever cites them."""
    listed = set(re.findall(r"^\d+\. \[(\w+)\]", METHOD, re.M))
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "kernels_cuda").glob("*.cu"), *DOCUMENTS]
    cited = {key for path in files for key in re.findall(r"\[([A-Z][A-Za-z]*\d{4})\]", path.read_text())}
    assert cited <= listed
    assert listed <= cited


def test_every_module_is_on_the_map() -> None:
    listed = set(re.findall(r"\w+", ARCHITECTURE.split("```")[1]))
    modules = {path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}
    assert modules <= listed


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENTS[0].read_text(), re.S)


def test_readme_uses_public_names() -> None:
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if dotted.startswith("gd."):
                value = gpudeblur
                for name in dotted.split(".")[1:]:
                    value = getattr(value, name)
