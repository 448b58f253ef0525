"""The lock: one run a workdir, for as long as its process lives.

It is the operating system's, on a file that stays: whatever ends the process, SIGKILL
included, releases it, so that there is never a stale one to remove by hand.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxbn.training._config import ConfigError

NAME = "lock"


@contextlib.contextmanager
def hold_lock(workdir: Path) -> Iterator[None]:
    """Holds the lock of a workdir while the context lasts.

    Raises:
        ConfigError: if another run holds it, naming its host and process.
    """
    with (workdir / NAME).open("a+") as file:
        _take(file, workdir, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        file.flush()
        yield


def check_lock(workdir: Path) -> None:
    """Refuses a workdir that another run holds; touches nothing.

    Raises:
        ConfigError: naming its host and process.
    """
    with contextlib.suppress(FileNotFoundError), (workdir / NAME).open() as file:
        _take(file, workdir, fcntl.LOCK_SH)


def _take(file: IO[str], workdir: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = json.loads(file.read() or "{}")
        raise ConfigError(
            f"--workdir is {workdir}, in which process {holder.get('process')} on "
            f"{holder.get('host')} is at work; wait for its end, or choose another"
        ) from None
