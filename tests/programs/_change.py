"""Files of a pinned commit, with another layer in them, imported and trained."""

import ast
import contextlib
import importlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

from tests.programs._fit import Curve

# How programs write the layer; the last is a copy of Flax's that a program has itself.
WRITTEN = re.compile(r"\b(nnx?)\.BatchNorm\b|(?<=x = )BatchNorm\b")
IMPORT = "import functools, jaxbn.linen, jaxbn.nnx"
OURS = {"nn": "jaxbn.linen.BatchNorm", "nnx": "jaxbn.nnx.BatchNorm"}
OTHER_FORMULA = {
    name: f"functools.partial({name}.BatchNorm, use_fast_variance=False)"
    for name in OURS
}


class Missing(Exception):
    """A repository or commit that is not at hand."""


class Source(NamedTuple):
    """A repository, owner/name, and the commit that is unpacked."""

    repository: str
    commit: str


class Program(NamedTuple):
    """A program and how it is trained.

    Attributes:
        name: in words.
        source: where it is from.
        root: the folder from which it imports.
        files: what is unpacked, in `root`; the last is imported.
        train: takes that module, returns the curve.
        unused: modules that get a stand-in.
        known: why its curves are known to differ; the page says more.
    """

    name: str
    source: Source
    root: str
    files: tuple[str, ...]
    train: Callable[[ModuleType], "Curve"]
    unused: tuple[str, ...] = ()
    known: str = ""


def unpack(program: Program, sources: Path, folder: Path) -> None:
    """Writes the program's files, as of its commit, into `folder`."""
    repository, commit = program.source
    names = repository.replace("/", "+"), repository.split("/")[1]
    place = next((sources / n for n in names if (sources / n).is_dir()), None)
    if place is None:
        raise Missing(f"no clone of {repository} in the folder of sources")
    git = place / ".git" if (place / ".git").exists() else place
    paths = [str(Path(program.root, name)) for name in program.files]
    command = ["git", f"--git-dir={git}", "archive", commit, "--", *paths]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        said = done.stderr.decode().strip().splitlines() or ["git says nothing"]
        raise Missing(f"{repository} at {commit[:8]}: {said[-1]}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")


def change_text(text: str, layers: Mapping[str, str]) -> tuple[str, list[int]]:
    """Returns `text` with other layers and their import, and the lines that changed."""
    lines = text.splitlines()
    changed = [i for i, line in enumerate(lines) if WRITTEN.search(line)]
    for i in changed:
        lines[i] = WRITTEN.sub(lambda found: layers[found[1] or "nn"], lines[i])
    if changed:
        imports = (
            node.lineno - 1
            for node in ast.parse(text).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            and getattr(node, "module", None) != "__future__"
        )
        lines.insert(next(imports), IMPORT)
    return "\n".join(lines) + "\n", [i + 1 for i in changed]


def change_files(folder: Path, layers: Mapping[str, str]) -> list[str]:
    """Changes the layer in all files; returns `path:line` of each change."""
    done = []
    for path in sorted(folder.rglob("*.py")):
        text, numbers = change_text(path.read_text(), layers)
        path.write_text(text)
        guide = path.with_suffix(".rst")  # Code of a guide stays on its lines.
        name = (guide if guide.exists() else path).relative_to(folder)
        done += [f"{name}:{number}" for number in numbers]
    if not done:
        raise ValueError("no file names the layer")
    return done


def code_of_guide(text: str) -> str:
    """Returns the code of a guide, each line where it was.

    Of two versions side by side it is the second.
    """
    lines, inside, begin = [], False, 0
    for line in text.splitlines():
        if line and not line.startswith(" "):
            inside = line.startswith((".. testsetup::", ".. codediff::"))
            begin = len(lines)
        elif line == "  ---":
            lines[begin:] = [""] * (len(lines) - begin)
        code = inside and line.startswith("  ") and line != "  ---"
        lines.append(line[2:] if code and not line.startswith("  :") else "")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def imported(program: Program, folder: Path) -> Iterator[ModuleType]:
    """Gives the program's module; in the end forgets all that came from `folder`."""
    # Looks for TensorFlow when it is imported: before that has a stand-in.
    importlib.import_module("flax.training.checkpoints")
    stand_ins = {name: mock.MagicMock(name=name) for name in program.unused}
    name = str(Path(program.files[-1]).with_suffix("")).replace("/", ".")
    with mock.patch("sys.path", [str(folder / program.root), *sys.path]):
        sys.modules.update(stand_ins)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                module = importlib.import_module(name)
            yield module
        finally:
            for name in [*stand_ins, *modules_in(folder)]:
                del sys.modules[name]
            importlib.invalidate_caches()


def modules_in(folder: Path) -> list[str]:
    """Returns the modules and packages that were imported from `folder`."""
    found = []
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType):
            places = [vars(module).get("__file__"), *vars(module).get("__path__", ())]
            if any(str(place).startswith(str(folder)) for place in places):
                found.append(name)
    return found


def train_with(
    program: Program, sources: Path, layers: Mapping[str, str] | None
) -> tuple[Curve, list[str]]:
    """Trains with other layers, or as published; returns what was changed, too."""
    with tempfile.TemporaryDirectory(prefix="jaxbn-") as name:
        folder = Path(name)
        unpack(program, sources, folder)
        for guide in folder.rglob("*.rst"):
            guide.with_suffix(".py").write_text(code_of_guide(guide.read_text()))
        changed = change_files(folder, layers) if layers else []
        with imported(program, folder) as module:
            return program.train(module), changed
