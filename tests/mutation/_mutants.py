"""Which mutants there are, and a sample of them."""

import ast
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutation._operators import operators

FILES = [
    *(f"jaxbn/{room}/_*.py" for room in ("core", "variants", "population")),
    *(f"jaxbn/training/_{name}.py" for name in ("step", "state", "checkpoint")),
]
WORDS = ("fstring", "import_from", "import_name", "raise_stmt")


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
        file: relative to the repository.
        line: of the change, from 1.
        operator: by name.
        occurrence: which of the places where the operator applies in the file.
        before: the line as it is.
        after: as it becomes.
    """

    file: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """A name that is stable as long as the file is."""
        return f"{self.file}:{self.line} {self.operator} {self.occurrence}"


def possible_mutants(root: Path) -> dict[str, list[Mutant]]:
    """Returns the mutants of each file of a repository at `root`."""
    found = sorted(path for pattern in FILES for path in root.glob(pattern))
    names = [path.relative_to(root).as_posix() for path in found]
    names = [name for name in names if not name.endswith("__init__.py")]
    return {name: mutants_of(root, name) for name in names}


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """Returns the mutants of a file, those that do not compile among them."""
    from cosmic_ray.ast import ast_nodes, get_ast

    found, seen, known = [], Counter(), operators()
    for node in ast_nodes(get_ast((root / file).read_text())):
        for name, operator in known.items():
            for (line, _), _ in operator.mutation_positions(node):
                if not _says_only(node):
                    found.append(Mutant(file, line, name, seen[name], "", ""))
                seen[name] += 1
    return sorted(found)


def mutate(source: str, mutant: Mutant) -> str | None:
    """Returns the code of a file with one change."""
    from cosmic_ray.mutating import mutate_code

    return mutate_code(source, operators()[mutant.operator], mutant.occurrence)


def sample(
    root: Path, possible: dict[str, list[Mutant]], size: int, seed: int
) -> list[Mutant]:
    """Returns about `size` of them, of every file in proportion and four at least.

    Left out are those that do not compile, and those that are the same program.
    """
    total, chosen = sum(map(len, possible.values())), []
    for file, mutants in sorted(possible.items()):
        source = (root / file).read_text()
        order = random.Random(f"{seed} {file}").sample(mutants, len(mutants))
        real = filter(None, (_with_lines(source, mutant) for mutant in order))
        chosen += itertools.islice(real, max(round(size * len(mutants) / total), 4))
    random.Random(seed).shuffle(chosen)
    return chosen


def statement_lines(source: str, line: int) -> range:
    """Returns the lines of the smallest statement at `line`, without its body."""
    best = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            if line <= max(end, node.lineno):
                best = range(node.lineno, max(end, node.lineno) + 1)
    return best


def _says_only(node: Any) -> bool:
    """Returns whether a node is of an annotation, a message or an import."""
    for inner, outer in _upwards(node):
        place = outer.children.index(inner)
        said = {
            "tfpdef": place == 2,
            "annassign": place == 1,
            "parameters": inner is node,
        }
        if outer.type == "funcdef" and outer.children[place - 1] == "->":
            return True
        if outer.type in WORDS or said.get(outer.type, False):
            return True
    return False


def _upwards(node: Any) -> Iterator[tuple[Any, Any]]:
    while node.parent is not None:
        yield node, node.parent
        node = node.parent


def _with_lines(source: str, mutant: Mutant) -> Mutant | None:
    """Returns a mutant with the line that it changes, or None if it is no program."""
    code = mutate(source, mutant)
    try:
        if code is None or ast.dump(ast.parse(code)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    for before, after in zip(source.splitlines(), code.splitlines(), strict=False):
        if before != after:
            after = " ".join(after.split())
            return mutant._replace(before=before.strip(), after=after)
    return None
