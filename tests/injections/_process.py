"""A run of `train.py` from outside: its moments, its signals, its end."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds after which a run that neither ends nor gets to a moment hangs."""
COLD = "from tests.injections._child import main; main()"


class Hangs(Exception):
    """A process did not end in time."""


class Running:
    """A process, with what it says collected.

    Args:
        pipes: the reading ends for exit code (or None), output, errors and moments.
        go: the writing end that lets a held process go on.
        popen: the process, where it is a child of this one.
    """

    def __init__(
        self,
        pipes: tuple[int | None, int, int, int],
        go: int,
        popen: subprocess.Popen[bytes] | None = None,
    ):
        self._pipes = [pipe for pipe in pipes if pipe is not None]
        self._told, self._out, self._err, self._moments = pipes
        self._said = {pipe: b"" for pipe in self._pipes}
        self._go, self._popen = go, popen
        self._open = set(self._pipes)
        self.code: int | None = None
        if popen is not None:
            self.pid = popen.pid
            return
        self._until(lambda: b"\n" in self._said[pipes[0]], PATIENCE)
        self.pid = int(self._said[pipes[0]].split(b"\n")[0])

    @property
    def out(self) -> str:
        return self._said[self._out].decode()

    @property
    def err(self) -> str:
        return self._said[self._err].decode()

    def count(self, moment: str) -> int:
        """Returns how often a moment has come."""
        return self._said[self._moments].decode().split("\n").count(moment)

    def ended(self) -> bool:
        """Returns whether the process has ended; takes in what it said."""
        self._drain(0.0)
        return self.code is not None

    def reach(self, moment: str, count: int) -> bool:
        """Waits for a moment; returns whether it came before the end."""
        return self._until(lambda: self.count(moment) >= count, PATIENCE)

    def watch(self, happened: Callable[[], bool]) -> bool:
        """Waits until something has happened; returns whether before the end."""
        return self._until(happened, PATIENCE, pause=0.001)

    def pause(self, seconds: float) -> None:
        """Waits, or until the end."""
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            self._drain(max(min(0.02, deadline - time.monotonic()), 0))

    def send(self, number: int) -> bool:
        """Sends a signal; returns whether the process was still there."""
        if self.ended():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def go(self) -> None:
        """Lets a process go on that holds."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"g")

    def wait(self, seconds: float = PATIENCE) -> int:
        """Returns the exit code, negative for a signal.

        Raises:
            Hangs: if the process has not ended in time; it is killed then.
        """
        if self._until(lambda: False, seconds) or self.code is None:
            self.close()
            raise Hangs(f"has not ended in {seconds:.0f} s")
        self._drain(0.0)
        return self.code

    def close(self) -> None:
        """Ends the process and lets go of its pipes."""
        if self.code is None and self.send(signal.SIGKILL):
            self._until(lambda: False, 30)
        for pipe in (*self._pipes, self._go):
            with contextlib.suppress(OSError):
                os.close(pipe)
        self._open.clear()

    def _until(
        self, happened: Callable[[], bool], seconds: float, pause: float = 0.05
    ) -> bool:
        deadline = time.monotonic() + seconds
        while not happened():
            if self.code is not None or time.monotonic() > deadline:
                return False
            self._drain(pause)
        return True

    def _drain(self, seconds: float) -> None:
        """Takes in what was said, and then looks whether the process has ended."""
        while ready := select.select(list(self._open), [], [], seconds)[0]:
            for pipe in ready:
                data = os.read(pipe, 1 << 16)
                self._said[pipe] += data
                if not data:
                    self._open.discard(pipe)
            seconds = 0.0
        if self._popen is not None:
            self.code = self._popen.poll()
        elif self._told is not None:
            lines = self._said[self._told].decode().split("\n")
            if len(lines) > 2:
                self.code = int(lines[1])


class Starter:
    """Starts runs: as copies of a process that has imported everything, or anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.injections._warm", str(theirs.fileno())]
        self._warm = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        self._line.settimeout(PATIENCE)
        if self._line.recv(16) != b"ready":
            raise RuntimeError("the imports of train.py failed; see above")

    def start(
        self,
        flags: list[str],
        folder: Path,
        *,
        cold: bool = False,
        announce: bool = True,
        hold: tuple[str, int] | None = None,
        fine: bool = False,
        pictures: bool = True,
        limit: int | None = None,
        powerless: bool = False,
    ) -> Running:
        """Starts `train.py` with `flags` in `folder`; see `_child.run` for the rest."""
        order: dict[str, Any] = {"flags": flags, "folder": str(folder), "fine": fine}
        order |= {"hold": hold, "bytes": limit, "powerless": powerless}
        order |= {"pictures": pictures}
        # Other threads start processes too, which must not inherit these.
        with self._lock:
            ends = [os.pipe() for _ in range(5)]
            told, out, err, moments, go = ends
            theirs = [told[1], out[1], err[1], moments[1], go[0]]
            popen = None
            if cold:
                popen = _start_cold(order, theirs[1:], announce)
            else:
                message = json.dumps(order).encode()
                socket.send_fds(self._line, [message], theirs)
            for number in theirs:
                os.close(number)
            if cold:
                os.close(told[0])
        first = None if cold else told[0]
        return Running((first, out[0], err[0], moments[0]), go[1], popen)

    def close(self) -> None:
        """Ends the process that copies are made of."""
        self._line.close()
        self._warm.wait()


def _start_cold(
    order: dict[str, Any], pipes: list[int], announce: bool
) -> subprocess.Popen[bytes]:
    """Starts an interpreter; a bare `python train.py` where nothing is announced."""
    out, err, moments, go = pipes
    command = [sys.executable, str(ROOT / "train.py"), *order["flags"]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if announce:
        command[1:] = ["-c", COLD]
        order = {**order, "moments": moments, "go": go}
        environment["JAXBN_INJECTION"] = json.dumps(order)
    return subprocess.Popen(
        command,
        cwd=order["folder"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        pass_fds=(moments, go),
        start_new_session=True,
    )
