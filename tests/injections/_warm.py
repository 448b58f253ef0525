"""Processes that start at once: copies of one that has imported everything.

Imports are most of the time that a small run takes. This process makes them, starts no
JAX backend, and forks for every order it gets on a socket. The copy leaves the loop and
runs `train.py` as the main program, with an interpreter's usual end; a process between
waits for it and tells the exit code.
"""

import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from tests.injections import _child


def import_everything() -> None:
    """Imports what a run imports, lazily too."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import PIL.PngImagePlugin
    import sklearn.datasets
    import tensorboardX
    import tyro

    import jaxbn.training

    assert all((matplotlib, PIL, sklearn, tensorboardX, tyro, jaxbn.training))


def serve(line: socket.socket) -> dict[str, Any]:
    """Takes orders until the other end closes; returns, in a copy, the order."""
    line.send(b"ready")
    while True:
        message, given, *_ = socket.recv_fds(line, 1 << 16, 8)
        if not message:
            sys.exit()
        if os.fork() == 0:
            return _between(line, json.loads(message), given)
        for number in given:
            os.close(number)
        _reap()


def _between(
    line: socket.socket, order: dict[str, Any], given: list[int]
) -> dict[str, Any]:
    line.close()
    told, out, err, moments, go = given
    process = os.fork()
    if process:
        os.write(told, f"{process}\n".encode())
        for number in (out, err, moments, go):
            os.close(number)
        _, status = os.waitpid(process, 0)
        os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.setsid()
    os.close(told)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.chdir(order["folder"])
    return {**order, "moments": moments, "go": go}


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_everything()
    gc.freeze()  # What copies share they need not look at.
    _child.run(serve(socket.socket(fileno=int(sys.argv[1]))))
