"""What came out: a run that was resumed next to one that nothing happened to."""

import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

SET_ASIDE = re.compile(r"^checkpoint \S*?step_(\d+) is damaged \(.*\) and set aside$")
_LOCK = threading.Lock()


class Lost(Exception):
    """What was promised was not kept; says what."""


class Ending(NamedTuple):
    """How a run ended.

    Attributes:
        step: of the last checkpoint.
        arrays: the digest of every array of it, by path.
        rows: the bytes of `metrics.jsonl`.
        csv: the bytes of `metrics.csv`.
        summary: 'step', 'best' and 'final' of the summary.
    """

    step: int
    arrays: dict[str, str]
    rows: bytes
    csv: bytes
    summary: dict[str, Any]


def ending_of(workdir: Path, pictures: bool = True) -> Ending:
    """Returns how a run ended, its pictures looked at or not.

    Raises:
        Lost: if a part of it is missing or cannot be read.
    """
    steps = stored(workdir)
    if not steps:
        raise Lost("there is no checkpoint at the end")
    arrays = arrays_of(workdir / "checkpoints" / f"step_{steps[-1]:08d}")
    try:
        rows = (workdir / "metrics.jsonl").read_bytes()
        csv = (workdir / "metrics.csv").read_bytes()
        summary = json.loads((workdir / "summary.json").read_text())
        del summary["seconds"]
        for name in ("curves.png", "activations.png") if pictures else ():
            picture = (workdir / name).read_bytes()
            if not (picture[:4] == b"\x89PNG" and b"IEND" in picture[-12:]):
                raise Lost(f"{name} is not whole")
    except (OSError, ValueError, KeyError) as error:
        raise Lost(f"a file of the end is not whole: {error}") from None
    return Ending(steps[-1], arrays, rows, csv, summary)


def arrays_of(path: Path) -> dict[str, str]:
    """Returns the digest of every array of a checkpoint."""
    from orbax.checkpoint import v1 as ocp

    try:
        with _LOCK:
            items = ocp.load_checkpointables(str(path), {"arrays": None})
    except Exception as error:  # Whatever orbax raises.
        raise Lost(f"{path.name} cannot be read: {type(error).__name__}") from None
    leaves = jax.tree_util.tree_leaves_with_path(items["arrays"])
    found = {}
    for where, leaf in leaves:
        array = np.asarray(leaf)
        data = f"{array.dtype} {array.shape}".encode() + array.tobytes()
        found[jax.tree_util.keystr(where)] = hashlib.sha256(data).hexdigest()
    return found


def assert_same(workdir: Path, reference: Ending, pictures: bool) -> None:
    """Compares what a run left, bit for bit.

    Raises:
        Lost: naming what differs.
    """
    found = ending_of(workdir, pictures)
    for name in ("step", "rows", "csv", "summary"):
        if getattr(found, name) != getattr(reference, name):
            raise Lost(f"{name} differs from the run that nothing happened to")
    both = found.arrays.keys() | reference.arrays.keys()
    other = [p for p in both if found.arrays.get(p) != reference.arrays.get(p)]
    if other:
        raise Lost(f"{len(other)} of {len(both)} arrays differ, {min(other)} is one")


def assert_in_words(code: int, err: str, codes: tuple[int, ...] = (1,)) -> str:
    """Returns the one line in which a run said why it ended.

    Raises:
        Lost: if it was more or less than a line, or another code.
    """
    lines = err.strip().splitlines()
    if code not in codes:
        raise Lost(f"ended with {code}: {' | '.join(lines[-2:])}")
    lines = [line for line in lines if not SET_ASIDE.match(line)]
    if len(lines) != 1 or not lines[0].startswith("train.py: "):
        raise Lost(f"said {len(lines)} lines: {' | '.join(lines[:1] + lines[-2:])}")
    return lines[0]


def set_aside(code: int, err: str) -> list[int]:
    """Returns the steps of the checkpoints that a resumed run set aside.

    Raises:
        Lost: if it did not end well, or said something else.
    """
    lines = err.strip().splitlines()
    if code:
        raise Lost(f"--resume ended with {code}: {' | '.join(lines[-2:])}")
    found = [SET_ASIDE.match(line) for line in lines]
    if not all(found):
        raise Lost(f"--resume said {' | '.join(lines[:3])}")
    return [int(match.group(1)) for match in found if match]


def resumed_from(out: str) -> int | None:
    """Returns the step that a run said it goes on from."""
    match = re.search(r"^resuming after step (\d+) in ", out, re.MULTILINE)
    return int(match.group(1)) if match else None


def stored(workdir: Path) -> list[int]:
    """Returns the steps whose checkpoints are there, ascending."""
    names = [path.name for path in (workdir / "checkpoints").glob("step_*")]
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def contents(folder: Path) -> dict[str, str]:
    """Returns the digest of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
