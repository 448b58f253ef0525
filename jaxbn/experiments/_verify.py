"""Verification: whether written results are today's, and what becomes of old ones."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxbn.experiments._fingerprint import fingerprint
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._registry import EXPERIMENTS, show
from jaxbn.experiments._results import (
    TABLE,
    as_table,
    read_record,
    stale,
    write_results,
)
from jaxbn.experiments._running import run_these


@dataclasses.dataclass(frozen=True)
class Verification:
    """Says which results are what a run would give today, and makes the others anew."""

    workdir: str
    """With a folder for each experiment that was run."""
    dry_run: bool = False
    """Only say it; the exit code is 1 if a result is not today's."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie."""
    jobs: int = 1
    """How many experiments to run at a time, on a CPU."""


def verify(asked: Verification) -> int:
    """Says of each result whether it is today's; returns the exit code.

    A result whose numbers were measured by other code, or that is missing, is run again
    with the settings it had. Where only claims, table or figure are made in another way
    now, they are made of the numbers that are there.
    """
    workdir = Path(asked.workdir)
    again: dict[str, Settings] = {}
    shown = 0
    for name in EXPERIMENTS:
        record = read_record(workdir / name)
        why = reason(name, record)
        if why:
            again[name] = settings_of(record, workdir / name, asked)
        elif record and not is_shown(name, workdir / name, record):
            why = "its claims, table or figure are made in another way"
            shown += 1
            if not asked.dry_run:
                write_results(workdir / name, record, show(name, record["numbers"]))
        print(f"{name:<26} {why or 'is up to date'}", flush=True)
    if asked.dry_run:
        return int(bool(again or shown))
    return run_these(again, asked.jobs) if again else 0


def reason(name: str, record: dict[str, Any] | None) -> str:
    """Returns why a result has to be measured again, in words; '' if it has not."""
    if record is None:
        return "has no results"
    return stale(name, record, record["settings"])


def is_shown(name: str, folder: Path, record: dict[str, Any]) -> bool:
    """Returns whether table, claims and figure in a folder are made as today."""
    if record.get("shown_by") != fingerprint(name, "show"):
        return False
    return as_table(show(name, record["numbers"])) == (folder / TABLE).read_text()


def settings_of(
    record: dict[str, Any] | None, folder: Path, asked: Verification
) -> Settings:
    """Returns the settings of a result, or the default ones; paths are today's."""
    known = {field.name for field in dataclasses.fields(Settings)}
    kept: dict[str, Any] = {} if record is None else record["settings"]
    same = {key: value for key, value in kept.items() if key in known}
    return Settings(str(folder), data_dir=asked.data_dir, **same)
