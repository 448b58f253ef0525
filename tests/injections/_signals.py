"""Signals to one process, at a moment or at any time."""

import signal
from pathlib import Path
from typing import Any

from tests.injections._judge import (
    Lost,
    assert_in_words,
    assert_same,
    resumed_from,
    set_aside,
    stored,
)
from tests.injections._plan import Injection
from tests.injections._process import Running
from tests.injections._stage import Stage

HANDLED = (signal.SIGINT, signal.SIGTERM)


def run_signal(stage: Stage, injection: Injection, folder: Path) -> tuple[str, str]:
    """Sends a signal, perhaps another to the run that resumes; returns the outcome."""
    how, number = injection.how, signal.Signals[injection.kind]
    reference = stage.reference(how["base"])
    said = [harm(stage, how, number, folder)]
    if how["again"]:
        again = {**how, **how["again"], "cold": False, "twice": False}
        said.append(harm(stage, again, number, folder, "--resume"))
    resume(stage, how, folder)
    assert_same(folder / "w", reference, how["pictures"])
    late = all(line.startswith("ended before") for line in said)
    return "unharmed" if late else "recovered", "; ".join(said)


def harm(
    stage: Stage, how: dict[str, Any], number: int, folder: Path, *flags: str
) -> str:
    """Starts a run and sends it the signal; returns what it said in the end."""
    outside = how["moment"] in ("start", "writing")
    hold = None if outside or how["delay"] else (how["moment"], how["count"])
    kinds = {"cold": how["cold"], "announce": not outside, "fine": how["fine"]}
    run = stage.start(how, folder, *flags, hold=hold, **kinds)
    try:
        await_moment(run, how, folder / "w")
        run.send(number)
        if how["twice"]:
            run.pause(0.05)
            run.send(number)
        run.go()
        code = run.wait()
        return judge_end(code, run.err, number)
    finally:
        run.close()


def await_moment(run: Running, how: dict[str, Any], workdir: Path) -> None:
    """Waits for the moment of an injection, or the end."""
    if how["moment"] == "writing":
        seen: set[str] = set()

        def happened() -> bool:
            folder = workdir / "checkpoints"
            seen.update(p.name for p in folder.glob("step_*") if p.suffix)
            return len(seen) >= how["count"]

        run.watch(happened)
    elif how["moment"] != "start":
        run.reach(how["moment"], how["count"])
    run.pause(how["delay"])


def judge_end(code: int, err: str, number: int) -> str:
    """Returns in words how a run ended that got a signal.

    Raises:
        Lost: if the end is not one that is promised.
    """
    if code == 0 and not err.strip():
        return "ended before it"
    if code == -number and not err.strip():
        return f"killed by {signal.Signals(number).name}"
    if number in HANDLED:
        return assert_in_words(code, err, (130,))
    raise Lost(f"ended with {code}: {' | '.join(err.strip().splitlines()[-2:])}")


def resume(stage: Stage, how: dict[str, Any], folder: Path) -> None:
    """Goes on with a run whose checkpoints are whole.

    Raises:
        Lost: if it does not go on from the newest.
    """
    steps = stored(folder / "w")
    run = stage.start(how, folder, "--resume")
    try:
        aside = set_aside(run.wait(), run.err)
        if aside:
            raise Lost(f"whole checkpoints were set aside: {aside}")
        found = resumed_from(run.out)
        if found != (steps[-1] if steps else None):
            raise Lost(f"went on from {found}, {steps} were there")
    finally:
        run.close()
