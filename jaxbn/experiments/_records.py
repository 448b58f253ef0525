"""Records: what is kept of a run in results.json, and what lay there before it."""

import dataclasses
import datetime
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxbn.experiments._fingerprint import fingerprint, versions
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._results import NUMBERS
from jaxbn.training._files import write_json, write_whole

OLD = "results.old.json"
"""What lay in a folder before other numbers took its place; one generation."""
DECIDING = ("seeds", "most_seeds", "first_seed")
DECIDING += ("size", "dataset", "num_devices", "parallel")
"""The settings that decide the numbers; paths are not recorded."""
NEEDED: dict[str, Any] = {"experiment": str, "settings": dict, "numbers": dict}
NEEDED |= {"seeds": list, "seconds": int | float}
"""What a record of any version has, and of which type."""


def as_record(
    name: str,
    source: str,
    settings: Settings,
    seeds: Sequence[int],
    seconds: float,
    numbers: Any,
) -> dict[str, Any]:
    """Returns what is kept of a run.

    Args:
        name: of the experiment.
        source: of its claims.
        settings: it was asked for with; paths are not recorded.
        seeds: that were run in the end.
        seconds: it took.
        numbers: that it measured, as JSON can hold them.
    """
    return {
        "experiment": name,
        "source": source,
        "settings": recorded(settings),
        "seeds": list(seeds),
        "measured_by": fingerprint(name, "measure"),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "numbers": numbers,
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes what is kept of a run."""
    write_json(folder / NUMBERS, record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns what is kept of the run in a folder; None if there is none.

    Raises:
        ValueError: that names the file, if no run of any version wrote it.
    """
    path = folder / NUMBERS
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}), expected what a run writes; "
            "run the experiment again"
        ) from error
    has = record if isinstance(record, dict) else {}
    lost = [key for key, kind in NEEDED.items() if not isinstance(has.get(key), kind)]
    if lost:
        raise ValueError(
            f"{path} has no {', '.join(lost)}, expected what a run writes; "
            "run the experiment again"
        )
    return has


def keep_old(folder: Path) -> None:
    """Copies the numbers of a folder, if there are any, before others are written."""
    path = folder / NUMBERS
    if path.exists():
        there = path.read_bytes()
        write_whole(folder / OLD, lambda temporary: temporary.write_bytes(there))


def recorded(settings: Settings) -> dict[str, Any]:
    """Returns the settings that decide the numbers, without paths."""
    return {key: getattr(settings, key) for key in DECIDING}


def settings_of(record: dict[str, Any] | None, workdir: str = "") -> Settings:
    """Returns the settings of a result; today's default where it records none."""
    kept: dict[str, Any] = {} if record is None else record["settings"]
    same = {key: kept[key] for key in DECIDING if key in kept}
    return dataclasses.replace(Settings(workdir), **same)


def machine() -> str:
    """Returns what ran it, in words."""
    kind = jax.devices()[0].device_kind
    return f"{platform.machine()}, {jax.device_count()} x {kind}, jax {jax.__version__}"
