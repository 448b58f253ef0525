"""The documentation: `sphinx-build -W -b html docs build/docs`, without a network."""

import re
import shutil
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import jaxbn  # noqa: E402

project = "jaxbn"
author = "The jaxbn authors"
copyright = "2026, The jaxbn authors"
version = release = jaxbn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["experiments/*/table.md"]  # What results.md is made of.
default_role = "code"

html_theme = "sphinx_book_theme"
html_title = "jaxbn"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # The sidebar has a search already.
}
html_static_path = ["static"]
html_css_files = ["jaxbn.css"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Run in CI at smoke size (tests/test_notebooks.py); `-D nb_execution_mode=auto` runs
# them here, at their own.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Array": "jax.Array"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# The names that pages and signatures link to, written here: a build needs no network.
LINKED = {
    "jax": (
        "https://docs.jax.dev/en/latest/",
        {
            name: (
                "class" if name == "jax.Array" else "function",
                f"_autosummary/{name}",
            )
            for name in (
                "jax.Array",
                "jax.checkpoint",
                "jax.jit",
                "jax.pmap",
                "jax.shard_map",
                "jax.vmap",
            )
        },
    ),
    "linen": (
        "https://flax-linen.readthedocs.io/en/latest/",
        {"flax.linen.BatchNorm": ("class", "api_reference/flax.linen/layers")},
    ),
    "nnx": (
        "https://flax.readthedocs.io/en/latest/",
        {"flax.nnx.BatchNorm": ("class", "api_reference/flax.nnx/nn/normalization")},
    ),
}


def inventories(folder):
    """Returns the mapping of intersphinx, with an inventory file for each project."""
    folder.mkdir(exist_ok=True)
    mapping = {}
    for project, (address, names) in LINKED.items():
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: 0\n"
        head += "# The remainder of this file is compressed using zlib.\n"
        lines = [
            f"{name} py:{kind} 1 {page}.html#$ -\n"
            for name, (kind, page) in names.items()
        ]
        path = folder / f"{project}.inv"
        path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
        mapping[project] = (address, str(path))
    return mapping


def copy_notebooks():
    """Copies the notebooks of colab/ to where Sphinx finds them; git ignores those."""
    folder = HERE / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in sorted((HERE.parent / "colab").glob("*.ipynb")):
        shutil.copy(notebook, folder)


def mark_code(app, what, name, obj, options, lines):
    """Makes indented blocks of a docstring's first part literal, as they are meant."""
    marked, code = [], False
    for i, line in enumerate(lines):
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Example|Yields):", line):
            marked += lines[i:]
            break
        indented = line.startswith("    ")
        if indented and not code and i and not lines[i - 1].strip():
            marked += ["::", ""]
        code = indented or (code and not line.strip())
        if not code:  # Bars of a norm are no substitutions.
            parts = line.split("`")
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            line = "`".join(parts)
        marked.append(line)
    lines[:] = marked


intersphinx_mapping = inventories(HERE / "_inventories")
copy_notebooks()


def skip_fields(app, what, name, obj, skip, options):
    """Leaves out the fields of named tuples, which their class has described."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Registers the hooks above; the first before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", mark_code, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
