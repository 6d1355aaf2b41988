"""Adds to the site what it needs to be read offline, found and shared.

- MathJax is copied from the package sphinx-mathjax-offline, so that formulas need no network.
- Long cells of tables are marked, so that they stay wide where the page is narrow.
- Pages get a description, which search engines and messengers show.
- `llms.txt` lists all pages in plain text, with their descriptions.
"""

import html
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_content
from sphinx.application import Sphinx
from sphinx.config import Config

FORMULAS = "tex-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"
LENGTH = 200  # characters of a description, beyond which it is cut
LONG = 30  # characters of a cell from which on it is long


def use_own_mathjax(app: Sphinx, config: Config) -> None:
    """Loads MathJax from the site."""
    config.mathjax_path = f"mathjax/{FORMULAS}"


def copy_mathjax(app: Sphinx) -> None:
    """Copies MathJax and its fonts."""
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(package / FORMULAS, target)
    shutil.copytree(package / FONTS, target / FONTS, dirs_exist_ok=True)


def describe(doctree: nodes.document) -> str:
    """Returns the first paragraph of a page as plain text."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        is_text = isinstance(paragraph.parent, nodes.section | desc_content)
        if is_text and text and not text.startswith("Bases: "):
            return text if len(text) <= LENGTH else text[:LENGTH].rsplit(" ", 1)[0] + " …"
    return ""


def mark_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Marks long cells of tables by a class of CSS."""
    for entry in doctree.findall(nodes.entry):
        if len(entry.astext()) >= LONG:
            entry["classes"].append("long")


def store_description(app: Sphinx, doctree: nodes.document) -> None:
    """Keeps the description of a page until it is written."""
    app.env.metadata[app.env.docname]["summary"] = describe(doctree)


def add_metadata(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Adds the description to the head of a page."""
    if doctree is None:
        return
    summary = app.env.metadata[name].get("summary") or app.config.project
    tags = {
        "og:title": app.env.titles[name].astext(),
        "og:description": summary,
        "og:type": "website" if name == app.config.root_doc else "article",
        "og:site_name": app.config.project,
    }
    lines = [f'<meta name="description" content="{html.escape(summary)}">']
    lines += [f'<meta property="{key}" content="{html.escape(tags[key])}">' for key in tags]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def collapse_navigation(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Leaves pages of other sections out of the sidebar, to write pages in half of the time."""
    toctree = context["toctree"]
    context["toctree"] = lambda **options: toctree(**{**options, "collapse": True})


def write_index(app: Sphinx) -> None:
    """Writes `llms.txt`, in the order of the table of contents."""
    env = app.env
    root = app.config.root_doc
    pages, waiting = [], [root]
    while waiting:
        name = waiting.pop(0)
        if name not in pages:
            pages.append(name)
            waiting = [*env.toctree_includes.get(name, []), *waiting]
    lines = [f"# {app.config.project}", "", f"> {env.metadata[root]['summary']}", ""]
    for name in pages[1:]:
        title, summary = env.titles[name].astext(), env.metadata[name].get("summary", "")
        lines.append(f"- [{title}]({app.builder.get_target_uri(name)}): {summary}")
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Adds the files to a site that was built."""
    if exception is None and app.builder.format == "html":
        copy_mathjax(app)
        write_index(app)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_own_mathjax)
    app.connect("doctree-read", store_description)
    app.connect("doctree-read", mark_cells)
    app.connect("html-page-context", add_metadata)
    app.connect("html-page-context", collapse_navigation, priority=100)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
