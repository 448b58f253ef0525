"""Running one experiment, here, and writing its files."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from jaxbn.experiments._harness import Settings, check_settings
from jaxbn.experiments._records import as_record, keep_old, write_record
from jaxbn.experiments._registry import SHARING, measure, module_of, show
from jaxbn.experiments._results import FIGURE, write_results
from jaxbn.experiments._state import state_of, undecided
from jaxbn.experiments._verdicts import LEAST_SEEDS
from jaxbn.training import ConfigError


def run(name: str, settings: Settings) -> int:
    """Runs an experiment and writes its files; returns the exit code.

    Where a claim is undecided after `seeds` seeds, all is run with `most_seeds`, once.
    A run that was interrupted there goes on there. What lay in the folder is kept as
    results.old.json, unless another experiment made it, which is refused.
    """
    used = as_used(name, settings)
    if used != settings:
        print(f"{name} runs on one device: num_devices is not used")
    folder = Path(settings.workdir)
    try:
        check_settings(used)
        if used.seeds < LEAST_SEEDS:
            print(f"{name}: verdicts need at least {LEAST_SEEDS} seeds")
        record = first_look(name, used)
        result = show(name, record["numbers"])
        many = undecided(result, used.level)
        if many and used.looks_twice:
            print(
                f"{name}: {many} of {len(result.verdicts)} claims are "
                f"undecided with {used.seeds} seeds; goes on with {used.most_seeds}",
                flush=True,
            )
            more = dataclasses.replace(used, seeds=used.most_seeds)
            published = "shown_by" in record
            record = look(name, used, more, record["seconds"])
            if published:
                keep_old(folder)
            write_record(folder, record)
            result = show(name, record["numbers"])
        table = write_results(folder, record, result, used.level)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(f"{table}\n{record['seconds']:.0f} s; {folder / FIGURE}", flush=True)
    return 0


def first_look(name: str, settings: Settings) -> dict[str, Any]:
    """Returns the record of a run with `seeds` seeds, and writes it.

    Where a run was interrupted after it, it is taken from the folder.

    Raises:
        ConfigError: if the folder holds results of another experiment.
    """
    folder = Path(settings.workdir)
    state = state_of(name, folder, settings)
    if state.kind == "foreign":
        raise ConfigError(state.why)
    if state.record and state.kind == "unfinished":
        return state.record
    record = look(name, settings, settings)
    keep_old(folder)
    write_record(folder, record)  # Should judging or drawing fail, it is there.
    return record


def look(
    name: str, asked: Settings, taken: Settings, before: float = 0.0
) -> dict[str, Any]:
    """Returns the record of a run.

    Args:
        name: of the experiment.
        asked: the settings that are recorded.
        taken: those it is run with.
        before: the seconds of a run that led to it.
    """
    began = time.perf_counter()
    numbers = measure(name, taken)
    seconds = before + time.perf_counter() - began
    source, seeds = module_of(name).SOURCE, taken.seed_numbers
    return as_record(name, source, asked, seeds, seconds, numbers)


def as_used(name: str, settings: Settings) -> Settings:
    """Returns the settings without devices where an experiment has no use for them."""
    if name in SHARING:
        return settings
    return dataclasses.replace(settings, num_devices=None)
