"""Checkpoints: what a killed run goes on from, bit for bit.

A checkpoint is a folder `checkpoints/step_00000123` written by orbax under another
name and renamed when complete. It holds the states of all arms, the sums of the epoch
so far and a record of what has been reported, so that a resumed run also writes the
files an uninterrupted one would have; and a digest of every array, without which
nothing is gone on from. Arrays are stored without any trace of how many devices had
them; where devices keep statistics of their own, the states hold the pooled ones, and
those of each device lie beside them for a run that goes on with as many.

Several processes call the functions here together, on a folder that all of them see;
what is stored is that of the leading one.
"""

import contextlib
import gc
import itertools
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxbn._values import shown
from jaxbn.training._digest import Damaged, digests_of, seal, unseal, verify
from jaxbn.training._processes import Processes, share

PREFIX, DIGESTS = "step_", "digests"


class Checkpoint(NamedTuple):
    """What is stored.

    Attributes:
        states: a `TrainState` of NumPy arrays for each arm.
        metrics: the training sums of the epoch so far for each arm.
        record: JSON: 'epoch' and 'position' of the next step, 'rows' and 'histograms'
            reported so far (compressed, and as text), 'best' (step and score).
        replicas: 'batch_stats' of each device, [D, ...], for each arm; {} where all
            share theirs.
    """

    states: dict[str, Any]
    metrics: dict[str, Any]
    record: dict[str, Any]
    replicas: dict[str, Any]


class CheckpointError(OSError):
    """A checkpoint that could not be written."""


def save_checkpoint(
    folder: Path, step: int, checkpoint: Checkpoint, keep: int, processes: Processes
) -> None:
    """Writes `checkpoint` as that of `step`, and removes what is no longer needed.

    Args:
        folder: of all checkpoints of the run.
        step: how many steps were taken.
        checkpoint: what to store.
        keep: how many of the newest stay; the best, named in the record, does too.
        processes: that call this.

    Raises:
        CheckpointError: if it cannot be written; the older ones stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{step:08d}"
    if share(processes, np.array(path.exists())):
        return  # The same step of the same run: there is nothing new in it.
    arrays = {"states": checkpoint.states, "metrics": checkpoint.metrics}
    items: dict[str, Any] = {"arrays": arrays}
    if checkpoint.replicas:
        items["replicas"] = checkpoint.replicas
    record = {**checkpoint.record, DIGESTS: digests_of(items)}
    items["record"] = {"json": seal(record)}
    try:
        if processes.leads:
            try_to_write(folder)
        with _silence():
            ocp.save_checkpointables(str(path.absolute()), items)
    except Exception as error:  # orbax has no common class for a failed write.
        if processes.leads:
            for part in folder.glob(f"{path.name}.*"):
                shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {folder} "
            f"({reason_of(error)}); {newest_whole(folder)}"
        ) from error
    if not processes.leads:
        return
    best = checkpoint.record.get("best", {}).get("step")
    for old in stored_steps(folder)[:-keep]:
        if old != best:
            shutil.rmtree(folder / f"{PREFIX}{old:08d}", ignore_errors=True)


def try_to_write(folder: Path) -> None:
    """Makes and removes a folder in `folder`.

    What orbax cannot begin leaves threads that wait for ever, and keep the process.

    Raises:
        OSError: if that is not possible.
    """
    probe = folder / f".{os.getpid()}"
    probe.mkdir(exist_ok=True)
    probe.rmdir()


def reason_of(error: Exception) -> str:
    """Returns why a write failed, in the words of the system where it is named."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(found.group(1)))
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def newest_whole(folder: Path) -> str:
    """Returns what there is to go on from, in words."""
    steps = stored_steps(folder)
    if not steps:
        return "there is none before it"
    return f"that of step {steps[-1]} is whole, go on from it with --resume"


def stored_steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in `folder`, ascending."""
    names = [path.name for path in folder.glob(f"{PREFIX}*") if path.is_dir()]
    numbers = [name.removeprefix(PREFIX) for name in names]
    return sorted(int(number) for number in numbers if number.isdigit())


def load_newest(
    folder: Path, like: Checkpoint, warn: Callable[[str], None], processes: Processes
) -> Checkpoint | None:
    """Returns the newest checkpoint that can be read, or None.

    Args:
        folder: of all checkpoints of the run.
        like: gives the structure, shapes and dtypes of the arrays.
        warn: called with one line for each newer one that is damaged.
        processes: that call this.
    """
    steps = stored_steps(folder)
    processes.meet("read")  # Before one of them sets a damaged one aside.
    for step in reversed(steps):
        path = folder / f"{PREFIX}{step:08d}"
        found = read_checkpoint(path, like)
        if isinstance(found, Checkpoint):
            return found
        processes.meet("damaged")
        if processes.leads:
            warn(f"checkpoint {path} is damaged ({found}) and set aside")
            path.rename(unused(path.with_name(f"damaged_{path.name}")))
    return None


def unused(path: Path) -> Path:
    """Returns `path`, or with a number at its end the first that does not exist."""
    numbered = (path.with_name(f"{path.name}_{i}") for i in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def read_checkpoint(path: Path, like: Checkpoint) -> Checkpoint | str:
    """Returns the checkpoint at `path`, or why it cannot be read."""
    arrays = {"states": like.states, "metrics": like.metrics}
    wanted = {"arrays": arrays if like.states else None, "record": None}
    if away := leads_away(path):
        return f"its part {away} leads out of it"
    with _silence():
        try:
            if (path / "replicas").exists():
                wanted["replicas"] = None
            items = ocp.load_checkpointables(str(path.absolute()), wanted)
            record = unseal(items.pop("record")["json"])
            verify(items, record.pop(DIGESTS, {}))
            replicas = jax.tree.map(np.asarray, items.get("replicas", {}))
            return Checkpoint(**items["arrays"], record=record, replicas=replicas)
        except Damaged as damage:
            return str(damage)
        except Exception as error:  # orbax has no common class for a damaged file.
            collect_after(error)
            return type(error).__name__


def leads_away(folder: Path) -> str | None:
    """Returns the first part of a folder that is a link to something outside of it."""
    inside = folder.resolve()
    for part in sorted(folder.rglob("*")):
        if part.is_symlink() and not part.resolve().is_relative_to(inside):
            return str(part.relative_to(folder))
    return None


def check_checkpoints(workdir: str | os.PathLike[str]) -> dict[int, str | None]:
    """Returns for each checkpoint of a run, by step, None if it is whole, else why not.

    Every array is read and compared with the digest that it was written with; nothing
    is changed.

    Args:
        workdir: of the run.

    Raises:
        ValueError: if `workdir` is no path.

    Example:
        >>> check_checkpoints('a/folder/without/checkpoints')
        {}
    """
    if not isinstance(workdir, str | os.PathLike):
        raise ValueError(f"workdir is {shown(workdir)}, expected the path of a folder")
    folder, found = Path(workdir) / "checkpoints", {}
    like = Checkpoint({}, {}, {}, {})  # Of any structure.
    for step in stored_steps(folder):
        read = read_checkpoint(folder / f"{PREFIX}{step:08d}", like)
        found[step] = read if isinstance(read, str) else None
    return found


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps to one line what orbax says in many of what it cannot read or write.

    Tasks of it that nobody waits for any more are told of by asyncio, when collected.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.unraisablehook = lambda complaint: None
        try:
            yield
        except BaseException as error:
            collect_after(error)
            hook = without_closed_loops(hook)  # Threads of it complain later, too.
            raise
        finally:
            sys.unraisablehook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns `hook`, silent about callbacks into event loops that orbax has closed."""

    def quiet(complaint: Any) -> None:
        if "Event loop is closed" not in str(complaint.exc_value):
            hook(complaint)

    return quiet


def collect_after(error: BaseException) -> None:
    """Collects what an error of orbax left behind.

    Coroutines that were never awaited complain when they are collected, and the frames
    of the error keep them until then.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    gc.collect()
