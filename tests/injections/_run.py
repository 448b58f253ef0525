"""One injection from beginning to end, whatever happens in it."""

import shutil
import socket
import time
from pathlib import Path
from typing import Any

from tests.injections._damage import run_damage
from tests.injections._judge import Lost
from tests.injections._others import run_second, run_two
from tests.injections._plan import Injection
from tests.injections._process import Hangs
from tests.injections._signals import run_signal
from tests.injections._space import Cannot, run_forbidden, run_full, run_limit
from tests.injections._stage import Stage, Undisturbed

RUNS = {
    "checkpoint damaged": run_damage,
    "other file damaged": run_damage,
    "SIGKILL": run_signal,
    "SIGTERM": run_signal,
    "SIGINT": run_signal,
    "SIGHUP": run_signal,
    "SIGQUIT": run_signal,
    "limit on file sizes": run_limit,
    "disk full": run_full,
    "no permission to write": run_forbidden,
    "second run": run_second,
    "two processes": run_two,
}


def run_one(
    stage: Stage, injection: Injection, no_mounts: str, keep: bool
) -> dict[str, Any]:
    """Returns the entry of an injection in the record."""
    folder = stage.folder / f"{injection.index:04d}"
    folder.mkdir()
    began = time.monotonic()
    try:
        if injection.kind == "disk full" and no_mounts:
            raise Cannot(no_mounts)
        outcome, said = RUNS[injection.kind](stage, injection, folder)
    except Cannot as reason:
        outcome, said = "skipped", str(reason)
    except (Lost, Hangs) as reason:
        outcome, said = "lost", str(reason) or type(reason).__name__
    except Undisturbed:
        raise
    except Exception as error:  # A fault of these files: it is not to pass for one.
        outcome, said = "lost", f"the injection failed: {type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began, 1)
    if outcome != "lost" or not keep:
        shutil.rmtree(folder, ignore_errors=True)
    entry = {"index": injection.index, "kind": injection.kind, **injection.how}
    said = _without_places(said, stage.folder)
    return {**entry, "outcome": outcome, "said": said, "seconds": seconds}


def _without_places(said: str, folder: Path) -> str:
    """Returns what was said without paths and names of this machine."""
    said = said.replace(f"{folder}/", "").replace(socket.gethostname(), "HOST")
    return said[:400]
