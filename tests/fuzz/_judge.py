"""The judgement: what came of a call with a wrong value, and whose words said so."""

import ast
import dataclasses
import functools
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxbn

from ._wrong import Wrong, anything, like

HOUSE = str(Path(jaxbn.__file__).parent)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public name, and a call of it that is right.

    Attributes:
        name: as `jaxbn.population.precise_batch_stats`.
        call: what is called; usually the name itself, or what also uses its result.
        given: its arguments by name, all of them valid.
        positional: which of these are passed by position, in order.
        traced: whether it is traced instead of run, where nothing has to be computed.
        said: other words by which a message may name an argument.
        may: errors that are documented besides ValueError and TypeError.
        fixed: arguments that are not made wrong.
        functions: arguments that are functions: what one of another signature does is
            its own, so that no others are tried.
        whole: arguments that are records of jaxbn, whose fields are not made wrong.
        weight: how many of its wrong values a short run tries, relative to others.
    """

    name: str
    call: Callable[..., Any]
    given: Mapping[str, Any]
    positional: tuple[str, ...] = ()
    traced: bool = False
    said: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    may: tuple[type[Exception], ...] = ()
    fixed: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    weight: float = 1.0

    def run(self, **changed: Wrong) -> Any:
        """Returns what the call gives with some arguments changed."""
        traced = {k: w.value for k, w in changed.items() if w.traced}
        plain = {k: w.value for k, w in changed.items() if not w.traced}

        def inner(traced: dict[str, Any]) -> Any:
            given = {**self.given, **plain, **traced}
            args = [given.pop(name) for name in self.positional]
            return self.call(*args, **given)

        if self.traced or traced:
            found: list[Any] = []
            jax.eval_shape(lambda t: found.append(inner(t)), traced)
            return None
        return inner(traced)

    def single(self) -> Iterator[dict[str, Wrong]]:
        """Yields each argument made wrong in each way."""
        for name, value in self.given.items():
            if name in self.fixed:
                continue
            near = () if name in self.whole else like(value)
            for wrong in (*anything(), *near):
                if not (name in self.functions and callable(wrong.value)):
                    yield {name: wrong}


@dataclasses.dataclass(frozen=True)
class Complaint:
    """A call whose end was not in our words."""

    entry: str
    changed: str
    what: str

    def __str__(self) -> str:
        return f"{self.entry}({self.changed}): {self.what}"


def judge(entry: Entry, changed: dict[str, Wrong]) -> Complaint | None:
    """Returns what is wrong with how a call ended, None if nothing is."""
    text = ", ".join(f"{k}={w.label}" for k, w in changed.items())
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            entry.run(**changed)
    except Exception as error:
        what = _fault_of(entry, error, tuple(changed))
        return None if what is None else Complaint(entry.name, text, what)
    return None


OF_OTHERS = {
    'Parameter "use_running_average" must be passed': "as of Flax's own layer",
    "Comparator raised exception while sorting pytree": "JAX sorts the keys of a dict",
}
"""Words of others that are let through, and what they judge before jaxbn can."""


def _fault_of(entry: Entry, error: Exception, names: tuple[str, ...]) -> str | None:
    if isinstance(error, entry.may) or _is_signature(error):
        return None
    if any(str(error).startswith(words) for words in OF_OTHERS):
        return None
    if any(_is_of_model(f) for f in traceback.extract_tb(error.__traceback__)):
        return None
    first = (str(error).strip().splitlines() or [""])[0][:160]
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = last.filename.rpartition("site-packages/")[2].removeprefix(HOUSE)
    where = f"{place}:{last.lineno}"
    told = f"{type(error).__name__}: {first} ({where}, {_last_of_ours(error)})"
    if not isinstance(error, ValueError | TypeError):
        return told
    if not last.filename.startswith(HOUSE) or not _raises(last.filename, last.lineno):
        return told
    if not any(_names(entry, name, str(error)) for name in names):
        return f"names none of {names}: {told}"
    return None


def _is_of_model(frame: traceback.FrameSummary) -> bool:
    """Returns whether a frame is the call of a model, or the loss, of the tests."""
    model = frame.name == "__call__" and frame.filename.endswith("fuzz/_tools.py")
    return model or (frame.name == "loss" and frame.filename.endswith("_trees.py"))


def _last_of_ours(error: Exception) -> str:
    ours = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename.startswith(HOUSE)
    ]
    if not ours:
        return "-"
    return f"{ours[-1].filename.removeprefix(HOUSE)}:{ours[-1].lineno}"


def _is_signature(error: Exception) -> bool:
    """Returns whether Python itself refused an argument, which its message says."""
    frames = traceback.extract_tb(error.__traceback__)
    in_house = [frame for frame in frames if frame.filename.startswith(HOUSE)]
    words = "got an unexpected keyword argument", "positional argument"
    keyword = any(w in str(error) for w in words)
    return isinstance(error, TypeError) and (
        keyword or (not in_house and "argument" in str(error))
    )


def _names(entry: Entry, name: str, message: str) -> bool:
    return any(word in message for word in (name, *entry.said.get(name, ())))


@functools.cache
def _raise_lines(filename: str) -> frozenset[int]:
    tree = ast.parse(Path(filename).read_text())
    return frozenset(
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


def _raises(filename: str, line: int | None) -> bool:
    return line in _raise_lines(filename)
