"""Many results at once: which are what a run would give today, and the others anew."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

from jaxbn.experiments._harness import Settings, check_settings
from jaxbn.experiments._records import settings_of
from jaxbn.experiments._registry import EXPERIMENTS, LONG, show
from jaxbn.experiments._results import NUMBERS, write_results
from jaxbn.experiments._running import as_used
from jaxbn.experiments._side_by_side import run_these
from jaxbn.experiments._state import TO_MEASURE, State, since, state_of
from jaxbn.training import ConfigError


@dataclasses.dataclass(frozen=True)
class Verification:
    """Says which results are what a run would give today, and makes the others anew.

    What other code measured, or another version, is run again with the settings it had;
    where only claims, table or figure are made in another way now, they are made of the
    numbers that are there. Writes report.html and results.md.
    """

    workdir: str
    """With a folder for each experiment that was run."""
    dry_run: bool = False
    """Only report; exit code 1 if a result is not up to date."""
    missing: bool = False
    """Also run the experiments that have no results there."""
    library: bool = False
    """Also run again what was measured with other code of the library."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie."""
    jobs: int = 1
    """How many experiments to run at a time.
    On Linux each has its share of the cores."""


def verify(asked: Verification) -> int:
    """Says of each result whether it is today's; returns the exit code.

    Raises:
        ConfigError: if nothing can be verified so.
    """
    workdir = Path(asked.workdir)
    check_settings(Settings(asked.workdir, jobs=asked.jobs))
    check_workdir(workdir)
    states: dict[str, State] = {}
    settings: dict[str, Settings] = {}
    for name in EXPERIMENTS:
        folder = workdir / name
        if not (asked.missing or folder.is_dir()):
            continue
        state = state_of(name, folder)
        if state.kind == "missing" and not asked.missing:
            tell(name, f"{state.why}; --missing runs it")
            continue
        if asked.library:
            state = with_library(state)
        tell(name, state.why)
        states[name] = state
        kept = settings_of(state.record, str(folder))
        settings[name] = dataclasses.replace(kept, data_dir=asked.data_dir)
    if asked.dry_run:
        return int(any(state.kind != "current" for state in states.values()))
    return make_current(states, settings, asked.jobs)


def with_library(state: State) -> State:
    """Returns a state in which other code of the library is a reason to run again."""
    why = since(state.record) if state.record and state.kind == "current" else ""
    return State("stale", why, state.record) if why else state


def check_workdir(workdir: Path) -> None:
    """Checks that a folder has results of several experiments.

    Raises:
        ConfigError: if it has those of one, or none.
    """
    expected = f"expected a folder of each, such as {next(iter(EXPERIMENTS))}/{NUMBERS}"
    if (workdir / NUMBERS).exists():
        raise ConfigError(
            f"{workdir} has results of a single experiment, {expected}; name the "
            "folder above, if this one is called as its experiment"
        )
    if not any((workdir / name).is_dir() for name in EXPERIMENTS):
        raise ConfigError(
            f"{workdir} has results of no experiment, {expected}; `all` makes them"
        )


def run_all(settings: Settings) -> int:
    """Runs all experiments that have no results of these settings.

    Returns:
        The exit code.

    Raises:
        ConfigError: if nothing can be run with the settings.
    """
    check_settings(settings)
    workdir = Path(settings.workdir)
    own = {
        name: dataclasses.replace(settings, workdir=str(workdir / name))
        for name in EXPERIMENTS
    }
    states: dict[str, State] = {}
    for name, its in own.items():
        states[name] = state = state_of(name, workdir / name, as_used(name, its))
        if state.record and state.kind == "current":
            date = state.record.get("date", "an unknown day")
            tell(name, f"has results of {date}; remove {its.workdir} to run it again")
        else:
            tell(name, state.why)
    return make_current(states, own, settings.jobs)


def make_current(
    states: Mapping[str, State], settings: Mapping[str, Settings], jobs: int
) -> int:
    """Makes anew what is not today's; returns the exit code.

    A result that can be neither shown nor run again is named and ends no other.

    Args:
        states: of results, by experiment.
        settings: of runs, whose workdirs hold the results.
        jobs: how many run at a time.
    """
    failed = [n for n in states if states[n].kind in ("foreign", "broken")]
    for name, state in states.items():
        if state.kind == "unshown" and state.record:
            try:
                result = show(name, state.record["numbers"])
                folder, level = Path(settings[name].workdir), settings[name].level
                write_results(folder, state.record, result, level)
            except Exception as error:  # As in `state_of`: one figure ends no other.
                tell(name, f"cannot be written: {type(error).__name__}: {error}")
                failed.append(name)
    order = sorted(states, key=lambda name: name not in LONG)
    again = {n: settings[n] for n in order if states[n].kind in TO_MEASURE}
    code = run_these(again, jobs) if again else 0
    if failed:
        print(f"cannot be shown: {', '.join(failed)}", file=sys.stderr)
    return int(bool(code or failed))


def tell(name: str, what: str) -> None:
    """Prints a line about an experiment."""
    print(f"{name:<26} {what}", flush=True)
