"""
The site of these pages: ``sphinx-build -n -W docs build/site``, with the extra ``docs``. It needs no network.

Pages are Markdown that reads as well on GitHub, so what only a site needs is made here: the order of a section's pages
is that of the links in its ``index.md``, and a page that is not linked there comes after them.
"""

from __future__ import annotations

import builtins
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.nodes import find_pending_xref_condition

import memphis_sync
import memphis_sync.http
import memphis_sync.memory

DOCS = Path(__file__).parent
SECTIONS = ("tutorial", "how-to", "reference", "explanation")

project = "memphis_sync"
author = "the authors of memphis_sync"
version = release = memphis_sync.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples/*", "reference/examples/*"]
html_theme = "furo"
html_title = f"memphis_sync {release}"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"

myst_heading_anchors = 4  # links to headings are GitHub's
nitpicky = True
# No lexer knows a table of statuses with "..." in it, and colours are not worth a warning.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": False, "undoc-members": False}
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a dataclass lists its fields; they are its members as well
napoleon_custom_sections = [("Source", "notes")]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Where a name is documented, by the ways in which signatures and docstrings write it.
PUBLIC: dict[str, str] = {
    written: f"{module.__name__}.{name}"
    for module in (memphis_sync.http, memphis_sync.memory, memphis_sync)
    for name in module.__all__
    for written in (name, f"{getattr(getattr(module, name), '__module__', '')}.{name}")
}
# Where something is that is documented elsewhere; what is no class of anybody's is in ALIASES.
PUBLIC["PubAcks"] = "memphis_sync.types.PubAcks"
# The standard library: known, and not linked, since that would need its inventory from the network.
FOREIGN = {*getattr(sys, "stdlib_module_names", ("typing", "collections", "os", "ssl", "logging")), "pytest", "_pytest"}
FOREIGN |= {"celery", "click", "django", "flask", "opentelemetry", "prometheus_client"}
# Types that a signature is written with and nobody passes around, by their last name or in full.
ALIASES = {
    "AnyDelivery",
    "AckKind",
    "Acked_co",
    "Around",
    "Blocking",
    "Context",
    "DoneAndNotDone",
    "Marking",
    "Outcome",
    "Pending_co",
    "ProduceOptions",
}
ALIASES |= {
    "Caller",
    "Around",
    "JsonDefault",
    "Marking",
    "Source",
    "ToOneStation",
    "ToStations",
    "memphis_sync.http.client.message.Delivery",
}
CONSTRUCTED = {memphis_sync.RetryPolicy, memphis_sync.LogHandler, memphis_sync.Item}


def complete_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Appends the tree of a section to its page, and makes a download of each file outside of these folders."""
    folder = (DOCS / docname).parent
    if docname == "index":
        entries = [f"{section}/index" for section in SECTIONS]
    else:
        linked = re.findall(r"\]\((\w[\w/-]*)\.(?:md|rst)\)", source[0])
        files = sorted(
            path.stem for path in folder.iterdir() if path.suffix in {".md", ".rst"} and path.stem != "index"
        )
        entries = list(dict.fromkeys([*linked, *files]))
    if docname == "index" or docname in {f"{section}/index" for section in SECTIONS}:
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *entries, "```", ""])

    def as_download(link: re.Match[str]) -> str:
        is_outside = DOCS not in (folder / link["path"]).resolve().parents
        return f"{{download}}`{link['text'].strip('`')} <{link['path']}>`" if is_outside else link[0]

    source[0] = re.sub(r"(?<!!)\[(?P<text>[^\]\n]*)\]\((?P<path>\.\./[^)#]*)\)", as_download, source[0])


def name_types(app: Sphinx, doctree: nodes.document) -> None:
    """
    Points each type in a signature at where it is documented. A builtin is left as text before Sphinx looks for it, and
    would find ``DeadLetters.list``.
    """
    for node in list(doctree.findall(pending_xref)):
        target = str(node.get("reftarget"))
        if node.get("refdomain") != "py":
            continue
        if target in PUBLIC:
            node["reftarget"] = PUBLIC[target]
        elif (
            hasattr(builtins, target)
            or target.partition(".")[0] in FOREIGN
            or ALIASES & {target, target.rpartition(".")[2]}
        ):
            shown = find_pending_xref_condition(node, "resolved") or node
            node.replace_self(shown.children)


# Examples by the name of what they show: an indented paragraph of a docstring would make long modules longer.
EXAMPLES = {
    name: code.rstrip().splitlines()
    for file in (DOCS / "reference" / "examples").glob("*.py")
    for name, code in re.findall(r"^# %% (\S+)\n((?:(?!# %% ).*\n?)*)", file.read_text(), re.MULTILINE)
}


def shorten_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Most classes are made by the client: what their constructor takes is nobody's business."""
    return ("", None) if what == "class" and signature and obj not in CONSTRUCTED else None


def mark_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon reads it: examples are code, and "How often: from 1" of a property is no type and its text."""
    if what == "property":
        lines.insert(0, "\\ ")
    marked: list[str] = []
    for at, line in enumerate(lines):
        if re.fullmatch(r"Examples?::?", line):
            marked += ["", ".. rubric:: Example", "", ".. code-block:: python", ""]
            continue
        begins = line.startswith("    ") and not lines[at - 1] and not in_section(lines[:at])
        marked += [".. code-block:: python", "", line] if begins else [line]
    example = EXAMPLES.get(name)
    if example and ".. rubric:: Example" not in marked:
        marked += [
            "",
            ".. rubric:: Example",
            "",
            ".. code-block:: python",
            "",
            *(f"    {line}" for line in example),
            "",
        ]
    lines[:] = marked


def in_section(before: list[str]) -> bool:
    """Whether an indented line belongs to what began before: Args and its like, or an example."""
    heads = [line for line in before if line and not line.startswith(" ")]
    return bool(heads) and (heads[-1].endswith(":") and heads[-1] == heads[-1].strip() and " " not in heads[-1])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete_page)
    app.connect("doctree-read", name_types)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-process-docstring", mark_docstring, priority=1)
