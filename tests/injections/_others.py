"""Other processes: a second run in the same folder, and two that train together."""

import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.injections._judge import (
    Lost,
    assert_in_words,
    assert_same,
    contents,
    set_aside,
)
from tests.injections._plan import Injection
from tests.injections._process import Running
from tests.injections._signals import await_moment

if TYPE_CHECKING:
    from tests.injections._stage import Stage


def run_second(stage: "Stage", injection: Injection, folder: Path) -> tuple[str, str]:
    """Starts a run in the folder of one that is at work; returns the outcome."""
    how, workdir = injection.how, folder / "w"
    reference = stage.reference(how["base"])
    flags = []
    if how["after"] == "kill":
        stage.prepared(how["base"], "killed", folder)
        flags = ["--resume"]
    # The first one waits meanwhile, or is at work, as drawn.
    hold = None if how["delay"] else (how["moment"], how["count"])
    first = stage.start(how, folder, *flags, hold=hold)
    second = None
    try:
        if not first.reach(how["moment"], how["count"]):
            raise Lost(f"ended with {first.code} before anything was done: {first.err}")
        first.pause(how["delay"])
        before = contents(workdir) if hold else {}
        second = stage.start(how, folder, *how["flags"])
        code = second.wait()
        late = first.ended()
        if not late:
            line = assert_in_words(code, second.err, (2,))
            if f"process {first.pid} on {socket.gethostname()} is at work" not in line:
                raise Lost(f"does not name the other: {line}")
        if hold and contents(workdir) != before:
            raise Lost("the second run changed files of the first")
        first.go()
        set_aside(first.wait(), first.err)
    finally:
        first.close()
        if second is not None:
            second.close()
    assert_same(workdir, reference, how["pictures"])
    return ("unharmed", "ended before") if late else ("refused", "named the first")


def start_two(
    stage: "Stage", how: dict[str, Any], folder: Path, *more: str
) -> list[Running]:
    """Starts two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = [f"--coordinator_address=127.0.0.1:{port}", *more]
    return [stage.start(how, folder, *where, f"--process_id={i}") for i in (0, 1)]


def run_two(stage: "Stage", injection: Injection, folder: Path) -> tuple[str, str]:
    """Stops one of two processes for a while, or kills it; returns the outcome."""
    how, workdir = injection.how, folder / "w"
    reference = stage.reference("two")
    runs = start_two(stage, how, folder)
    chosen, other = runs[how["process"]], runs[1 - how["process"]]
    try:
        await_moment(chosen, how, workdir)
        if how["what"] == "stop":
            chosen.send(signal.SIGSTOP)
            time.sleep(how["seconds"])
            chosen.send(signal.SIGCONT)
            for run in runs:
                set_aside(run.wait(), run.err)
            assert_same(workdir, reference, how["pictures"])
            return "unharmed", "stopped and continued"
        killed = chosen.send(signal.SIGKILL)
        code = other.wait(120)
        if killed and code:
            line = assert_in_words(code, other.err)
            if f"process {how['process']} of 2 was lost" not in line:
                raise Lost(f"does not name the one that was killed: {line}")
        chosen.wait()
    finally:
        for run in runs:
            run.close()
    runs = start_two(stage, how, folder, "--resume")
    try:
        for run in runs:
            if aside := set_aside(run.wait(), run.err):
                raise Lost(f"whole checkpoints were set aside: {aside}")
    finally:
        for run in runs:
            run.close()
    assert_same(workdir, reference, how["pictures"])
    return "recovered", "named the one that was killed" if code else "ended before"
