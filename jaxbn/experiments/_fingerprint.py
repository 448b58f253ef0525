"""Fingerprints: which code made a result, as hashes, and with which versions.

What measures is `measure` of an experiment and whatever it reaches in this package;
what judges, tabulates and draws is `show`, which can be called again on the numbers.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import io
import platform
import tokenize
from importlib import metadata

from jaxbn.experiments._registry import EXPERIMENTS, module_of

PACKAGE = "jaxbn.experiments"
ASIDE = f"{PACKAGE}._harness"
"""Depends on nothing that is made: settings are recorded beside the hashes."""
VERSIONS = ("jaxbn", "jax", "jaxlib", "flax", "optax", "numpy")


def fingerprint(name: str, function: str) -> str:
    """Returns the hash of a function of an experiment, and of what it reaches.

    Docstrings, comments and white space do not count, nor does the version of Python.

    Args:
        name: of the experiment.
        function: of its module, 'measure' or 'show'.

    Raises:
        ValueError: if there is no such experiment.
    """
    module_of(name)
    found: dict[tuple[str, str], str] = {}
    waiting = [(EXPERIMENTS[name], function)]
    while waiting:
        module, symbol = place = waiting.pop()
        if place in found or module == ASIDE:
            continue
        defined, imported = _symbols(module)
        if symbol in imported:
            waiting.append(imported[symbol])
        elif symbol in defined:
            node, text = defined[symbol]
            found[place] = text
            names = (n.id for n in ast.walk(node) if isinstance(n, ast.Name))
            waiting += [(module, each) for each in names]
    text = "\n".join(f"{key} {found[key]}" for key in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Returns the versions that numbers may depend on, by package."""
    found = {package: metadata.version(package) for package in VERSIONS}
    return {"python": platform.python_version(), **found}


Defined = dict[str, tuple[ast.AST, str]]
Imported = dict[str, tuple[str, str]]


@functools.cache
def _symbols(module: str) -> tuple[Defined, Imported]:
    """Returns what a module defines, and what it imports from this package."""
    source = inspect.getsource(importlib.import_module(module))
    defined: Defined = {}
    imported: Imported = {}
    for node in ast.parse(source).body:
        text = _bare(ast.get_source_segment(source, node) or "")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                key = alias.asname or alias.name
                imported[key] = (node.module or "", alias.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            decorators = [
                ast.get_source_segment(source, d) for d in node.decorator_list
            ]
            defined[node.name] = (node, "".join([*map(str, decorators), text]))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for each in ast.walk(target):
                    if isinstance(each, ast.Name):
                        defined[each.id] = (node, text)
    return defined, imported


def _bare(text: str) -> str:
    """Returns code without docstrings, comments and white space."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = [""] * (last - node.lineno + 1)
    kept = lines.copy()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT and lines[row - 1]:
            kept[row - 1] = lines[row - 1][:column]
    return "".join("".join(kept).split())
