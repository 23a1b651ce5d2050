"""What the library says, heard at the command line: options and files, nothing that can only be done in Python."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer.main

import gpudeblur
from gpudeblur.batch.messages import OPTIONS, in_options
from gpudeblur.cli import app

PACKAGE = Path(gpudeblur.__file__).parent
# Modules whose messages can reach the shell.
MODULES = sorted(
    path
    for pattern in ("images/*.py", "nonblind/*.py", "blind/*.py", "batch/*.py", "numerics/arrays.py")
    for path in PACKAGE.glob(pattern)
    if not re.search("scikit_image|rotation_blur|checked|scikit", path.name)
)
# Arguments that no command passes, or that it makes itself from what it has checked: the message cannot arise.
OF_PYTHON = re.compile(
    r"(channel_axis|callback|dtype|initial|shared_kernel|options|pictures|pixels|alpha|points|window|nodes|shape|size|"
    r"kernels|saturated|saturation|offset|arrays|sharp|rng|margin|path|weights must be None|mask must be (left out|one|"
    r"True)|masks of a stack|mask must have dtype|stopped by|there is no image to save|"
    r"image must be a gpudeblur|region must (be two|have integers)|"
    r"focal must be (a number|one number|left)|kernel must (be one|be \(kh)|"
    r"image must be a (single|NumPy)|image must have (3 or 4 axes|the sum 1)|"
    r"prior must be given once|defects must be one)\b"
)
PYTHON = re.compile(
    r"\b(numpy|cupy|gpudeblur|np|PIL)\.\w|channel_axis|\b\w+=|\bNone\b|\w\(\.\.\.|kernel\[|\.sum\(|~mask|isfinite|KernelField"
)


def text_of(node: ast.expr) -> str:
    """A literal or f-string; what is computed reads X."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else inner(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "X"


def inner(part: ast.expr) -> str:
    assert isinstance(part, ast.FormattedValue)
    return "image" if isinstance(part.value, ast.Name) and part.value.id == "name" else "X"


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Those of `raise Error(...)` and `warn(...)`, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call) or not call.args:
            continue
        if isinstance(node, ast.Raise) or ast.unparse(call.func) == "warn":
            text = text_of(call.args[0])
            if len(call.args) == 1 and text.strip("X"):
                yield call.lineno, text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_message_advises_what_only_python_can_do(path: Path) -> None:
    for line, text in messages(path):
        if not OF_PYTHON.match(text):
            heard = in_options(ValueError(text))
            assert not PYTHON.search(heard), f"{path.name}:{line}: {heard}"


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_name_of_the_translation_is_an_option() -> None:
    options = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    assert {*OPTIONS.values()} <= options


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ("kernel_size must be odd, got 24; use 23 or 25", "--kernel-size must be odd, got 24; use 23 or 25"),
        (
            f"region must lie inside the image, 40 x 50, got {np.s_[2:90, 3:13]}",
            "--region must lie inside the image, 40 x 50, got 3,2,10,88",
        ),
        (
            "final must be 'sparse' or 'pnp' or None for blur='rotation', got 'tv'",
            "--final must be 'sparse' or 'pnp' for --blur rotation",
        ),
        (
            "device='cuda' needs CuPy; use device=\"cpu\", or install",
            "--device cuda needs CuPy; use --device cpu, or ins",
        ),
        ("image has 4 channels; pass the first three alone", "image has 4 channels; remove it"),
        ("output file x.png must end in .png, method.txt is none", "output file x.png must end in .png, method.txt is"),
        ("boundary must be 'unknown' with tile, got 'wrap'", "--boundary must be 'unknown' with --tile, got 'wrap'"),
    ],
)
def test_arguments_become_options(message: str, heard: str) -> None:
    assert in_options(ValueError(message)).startswith(heard)
