"""Configuration of Sphinx."""

import os
import sys
from pathlib import Path

# Read when Keras and TensorFlow are imported; the kernels that execute pages inherit them.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from gyoza.version import __version__

project = "gyoza"
author = "The gyoza developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "notfound.extension",
    "forked_kernels",
    "public_api",
    "site_files",
]
# Names of these packages become links where the site is hosted: to read their indices takes the
# network. Keras and TensorFlow publish none.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
    }
templates_path = ["_templates"]
# What `make accuracy` and `make bench` write is part of other pages.
exclude_patterns = ["_build", "accuracy", "speed"]
# Docstrings write code in single backticks, as Keras does.
default_role = "code"

html_theme = "furo"
html_title = f"gyoza {release}"
html_copy_source = False
html_theme_options = {"light_css_variables": {"sidebar-item-font-size": "80%"}}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("versions.js", {"defer": "defer"})]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
# The page for addresses that do not exist has links from the root of the site.
notfound_urls_prefix = "/"
viewcode_follow_imported_members = True

# Cross-references must lead somewhere, except into other packages.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!gyoza\.)[a-z]\w*\..*")]

# API reference
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = False
napoleon_custom_sections = ["Input shape", "Output shape"]

# Pages in Markdown, which are executed if their front matter makes them notebooks
myst_enable_extensions = [
    "amsmath",
    "attrs_block",
    "colon_fence",
    "deflist",
    "dollarmath",
]
myst_heading_anchors = 3
nb_execution_mode = "force"
# An error on a page is a warning with its traceback, which `-W` makes fatal. With
# nb_execution_raise_on_error the build would stop without the traceback.
nb_execution_show_tb = True
nb_execution_timeout = 600
nb_merge_streams = True
# TensorFlow and XLA write notices about the machine there.
nb_output_stderr = "remove"


# Executed pages that take longest, in an order by which both processes get as much to do.
LONGEST = [
    "seeing_inside",
    "continuous_flows",
    "tables",
    "attributes",
    "first_density",
    "recipes",
]


def divide_pages(app, env, docnames):
    """Puts executed pages to both ends of what is read, so that two processes share them.

    The longest page is among the first. The process that reads the last ones reads the API
    reference before.
    """
    sources = {name: Path(env.doc2path(name)).read_text("utf-8") for name in docnames}
    executed = [name for name in docnames if "file_format: mystnb" in sources[name]]
    others = [name for name in docnames if name not in executed]
    executed.sort(key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    docnames[:] = executed[::2] + others + executed[1::2]


def add_tables_of_device(app, docname, source):
    """Adds what `benchmarks/on_device.sh` measured to the page on GPUs, where it has been run."""
    if docname == "gpu" and Path(app.srcdir, "speed/device/tables.md").exists():
        source[0] = source[0].replace("tested or measured on a GPU yet", "tested on a GPU yet")
        source[0] += "\n## Measured\n\n```{include} speed/device/tables.md\n```\n"


def setup(app):
    app.connect("env-before-read-docs", divide_pages)
    app.connect("source-read", add_tables_of_device)
