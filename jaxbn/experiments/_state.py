"""The state of a result: whether it is what a run would give today, and if not, why."""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxbn.experiments._fingerprint import LIBRARY, fingerprint, library
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._numbers import as_plain
from jaxbn.experiments._records import read_record, recorded, settings_of
from jaxbn.experiments._registry import module_of, show
from jaxbn.experiments._results import FIGURE, TABLE, as_table, verdicts_of
from jaxbn.experiments._verdicts import UNDECIDED, judge

Kind = Literal[
    "missing", "unreadable", "foreign", "stale", "broken", "unfinished", "unshown"
]
TO_MEASURE = ("missing", "unreadable", "stale", "unfinished")
"""The kinds that are run again."""


class State(NamedTuple):
    """What a folder holds of an experiment.

    Attributes:
        kind: 'current' if it is today's. Else there is no file, one that cannot be
            read, one of another experiment, numbers that other code or settings made,
            or that cannot be judged, or of fewer seeds than they need, or a table,
            figure or claims that are not made as today.
        why: in words.
        record: of the result, where one can be read.
    """

    kind: Kind | Literal["current"]
    why: str
    record: dict[str, Any] | None = None


def state_of(name: str, folder: Path, settings: Settings | None = None) -> State:
    """Returns the state of a result.

    Args:
        name: of the experiment.
        folder: of the result.
        settings: to run with today; the result's own by default.
    """
    try:
        record = read_record(folder)
    except ValueError as error:
        return State("unreadable", str(error))
    if record is None:
        return State("missing", "has no results")
    if record["experiment"] != name:
        why = f"{folder} holds results of {record['experiment']}, expected {name}'s"
        return State("foreign", f"{why}; name another workdir", record)
    if why := unrecorded(record, settings) or stale(name, record, settings):
        return State("stale", why, record)
    try:
        result = show(name, record["numbers"])
        if why := unfinished(record, result):
            return State("unfinished", why, record)
        shown = is_shown(name, folder, record, result)
    except Exception as error:  # Of any kind: numbers and claims do not fit.
        said = " ".join(f"{type(error).__name__}: {error}".split())
        why = f"its numbers cannot be judged ({said}); run {name} again by itself"
        return State("broken", why, record)
    if not shown:
        return State(
            "unshown", "its claims, table or figure are made in another way", record
        )
    said = filter(None, ("is up to date", since(record)))
    return State("current", "; ".join(said), record)


def since(record: dict[str, Any]) -> str:
    """Returns what is said of a result that other code of the library gave.

    It is no reason to run it again, unless it is asked for: few changes of the library
    reach an experiment.
    """
    versions = record.get("versions")
    kept = versions.get(LIBRARY) if isinstance(versions, dict) else None
    if kept is None:
        return "which code of the library measured it is not recorded"
    return "" if kept == library() else "the library has changed since"


def unrecorded(record: dict[str, Any], settings: Settings | None) -> str:
    """Returns which settings a result of an earlier version lacks; '' for none."""
    today = recorded(settings or settings_of(record))
    lost = {key: today[key] for key in today if key not in record["settings"]}
    if not lost:
        return ""
    whose = "" if settings else "today's default of "
    values = ", ".join(str(value) for value in lost.values())
    return f"does not record {', '.join(lost)}; will be run with {whose}{values}"


def stale(name: str, record: dict[str, Any], settings: Settings | None) -> str:
    """Returns why numbers are not what a run would give today; '' if they are.

    Other versions of packages are no reason: they are named beside the result.

    Args:
        name: of the experiment.
        record: of the result.
        settings: to run with today; the result's own by default.
    """
    kept = record["settings"]
    for key, value in recorded(settings or settings_of(record)).items():
        if kept[key] != value:
            return f"{key} was {kept[key]!r} and is {value!r}"
    if record.get("measured_by") != fingerprint(name, "measure"):
        return "the code that measures has changed"
    return ""


def unfinished(record: dict[str, Any], result: Result) -> str:
    """Returns why a result needs more seeds, in words; '' if it does not.

    It is so where a run was interrupted in its second look, and where other claims are
    made of the same numbers now.
    """
    settings = settings_of(record)
    fewer = len(record["seeds"]) < settings.most_seeds
    if fewer and settings.looks_twice and undecided(result, settings.level):
        return f"claims are undecided and {settings.most_seeds} seeds were asked for"
    return ""


def undecided(result: Result, level: float) -> int:
    """Returns how many claims are undecided at a level."""
    return [o.outcome for o in judge(result.verdicts, level)].count(UNDECIDED)


def is_shown(name: str, folder: Path, record: dict[str, Any], result: Result) -> bool:
    """Returns whether claims, table and figure in a folder are made as today."""
    made = {"shown_by": fingerprint(name, "show"), "source": module_of(name).SOURCE}
    if any(record.get(key) != value for key, value in made.items()):
        return False
    if not ((folder / FIGURE).is_file() and (folder / TABLE).is_file()):
        return False
    level = settings_of(record).level
    if as_table(result, level) != (folder / TABLE).read_text(errors="replace"):
        return False
    return alike(as_plain(verdicts_of(result, level)), record.get("verdicts"))


def alike(a: Any, b: Any) -> bool:
    """Returns whether two values from JSON are the same, numbers but for rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9)
    return a == b
