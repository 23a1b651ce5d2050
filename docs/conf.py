"""Sphinx's configuration: `make docs` builds docs/_build/html, with warnings as errors.

Generated, and not in git: api/ (autosummary; the command line, from its typer app), gallery/ (sphinx-gallery runs
examples/), _build/.
"""

import re
from pathlib import Path
from typing import Any

import click
import matplotlib
import typer.main
from typer.cli import get_docs_for_click

import gpudeblur
from gpudeblur import cli

DOCS = Path(__file__).parent
PAGES = {
    "architecture.md": "architecture.md",
    "method.md": "method.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
matplotlib.use("Agg")

project = "gpudeblur"
author = copyright = "The gpudeblur developers"
version = release = gpudeblur.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "examples", "sg_execution_times.rst", "gallery/sg_execution_times.rst"]
templates_path = ["_templates"]

# A name in single backticks is a link if it is on a page, else emphasized: docstrings name arguments and inner
# functions too.
default_role = "autolink"
nitpicky = True
smartquotes = False  # "cpu" is code
nitpick_ignore_regex = [("py:obj", ".*")]  # those names; roles such as {py:func} are checked

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say more: shapes, units, meaning of None
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/\d\d_",
    "thumbnail_size": (480, 300),
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "doc_module": ("gpudeblur",),
    "reference_url": {"gpudeblur": None},
    "backreferences_dir": "api/backreferences",
}

html_theme = "pydata_sphinx_theme"
html_title = "gpudeblur"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("method", "architecture", "coming_from", "contributing", "changelog")}
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def write_command_line() -> None:
    """api/command_line.md: every command with its options, as typer writes them in Markdown."""
    command = typer.main.get_command(cli.app)
    text = get_docs_for_click(obj=command, ctx=click.Context(command), name="gpudeblur", title="Command line")
    path = DOCS / "api" / "command_line.md"
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


write_command_line()


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Bars of absolute values, |x|, are substitutions in reStructuredText; not in ``literals`` and examples."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"(``.*?``)|\|", lambda match: match[1] or r"\|", line)


def link_pages(text: str) -> str:
    """Links of files that are read in the checkout too: to the page of the same text if there is one, else words."""

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        page = PAGES.get(Path(target).name)
        return f"[{words}]({page})" if page else words

    return re.sub(r"\[([^\]]+)\]\(([^):#]+)\)", link, text)


def link_pages_of_source(app: Any, docname: str, source: list[str]) -> None:
    if docname in ("architecture", "method"):
        source[0] = link_pages(source[0])


def link_pages_of_included(app: Any, path: Path, docname: str, source: list[str]) -> None:
    source[0] = link_pages(source[0])


def setup(app: Any) -> None:
    app.connect("source-read", link_pages_of_source)
    app.connect("include-read", link_pages_of_included)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)  # after numpydoc
