"""Fingerprints: which code made a result, as hashes, and with which versions.

What measures is `measure` of an experiment and whatever it reaches in this package;
what judges, tabulates and draws is `show`, which can be called again on the numbers.
The rest of jaxbn is one hash among the versions.
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
from pathlib import Path

import jaxbn
from jaxbn.experiments._registry import EXPERIMENTS, module_of

PACKAGE = "jaxbn.experiments"
ASIDE = {f"{PACKAGE}.{name}" for name in ("_fingerprint", "_harness", "_registry")}
"""Decide no number: settings and seeds are recorded beside the hashes."""
LIBRARY = "jaxbn code"
"""Where the hash of the library stands among the versions."""
VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy")


def fingerprint(name: str, function: str) -> str:
    """Returns the hash of a function of an experiment, and of what it reaches.

    Docstrings, comments and empty lines do not count, nor does the version of Python.

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
        if place in found or module in ASIDE:
            continue
        defined, imported = _symbols(module)
        if symbol in imported:
            waiting.append(imported[symbol])
        for node, text in defined.get(symbol, []):
            found[place] = found.get(place, "") + text
            names = (n.id for n in ast.walk(node) if isinstance(n, ast.Name))
            waiting += [(module, each) for each in names]
    return _hash([f"{key} {found[key]}" for key in sorted(found)])


def versions() -> dict[str, str]:
    """Returns what else numbers may depend on: Python, packages, the code of jaxbn."""
    found = {"python": platform.python_version(), "jaxbn": metadata.version("jaxbn")}
    found |= {package: metadata.version(package) for package in VERSIONS}
    return {**found, LIBRARY: library()}


@functools.cache
def library() -> str:
    """Returns the hash of all code of jaxbn but that of experiments."""
    root = Path(jaxbn.__file__).parent
    here = root.joinpath("experiments")
    files = [path for path in root.rglob("*.py") if here not in path.parents]
    each = {
        path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files
    }
    return _hash([f"{name} {_bare(each[name])}" for name in sorted(each)])


Defined = dict[str, list[tuple[ast.AST, str]]]
Imported = dict[str, tuple[str, str]]


@functools.cache
def _symbols(module: str) -> tuple[Defined, Imported]:
    """Returns what a module defines, and what it imports from this package."""
    source = inspect.getsource(importlib.import_module(module))
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    defined: Defined = {}
    imported: Imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                key = alias.asname or alias.name
                imported[key] = (node.module or "", alias.name)
    for node in tree.body:
        decorators = getattr(node, "decorator_list", [])
        first = min(each.lineno for each in (node, *decorators))
        text = _bare("".join(lines[first - 1 : node.end_lineno]))
        for name in _names(node):
            defined.setdefault(name, []).append((node, text))
    return defined, imported


def _names(node: ast.stmt) -> list[str]:
    """Returns what a statement of a module defines or changes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        every = (each for target in targets for each in ast.walk(target))
        return [each.id for each in every if isinstance(each, ast.Name)]
    words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if words or isinstance(node, ast.ImportFrom | ast.Import):
        return []
    raise ValueError(
        f"line {node.lineno} of a module of experiments is {type(node).__name__}, "
        "expected imports, functions, classes and assignments, which are followed"
    )


def _bare(text: str) -> str:
    """Returns code without docstrings, comments, and lines that are empty then."""
    said = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    gone = [  # Where docstrings and comments begin and end, in bytes.
        (n.lineno, n.col_offset, n.end_lineno or 0, n.end_col_offset or 0) for n in said
    ]
    known = text.splitlines()
    lines = [line.encode() for line in known]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            start = len(known[row - 1][:column].encode())
            gone.append((row, start, row, len(lines[row - 1])))
    for row, start, last, end in sorted(gone, reverse=True):
        lines[row - 1] = lines[row - 1][:start] + lines[last - 1][end:]
        lines[row:last] = [b""] * (last - row)
    return b"\n".join(line.rstrip() for line in lines if line.strip()).decode()


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
