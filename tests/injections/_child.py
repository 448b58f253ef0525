"""Inside the process: limits are set, moments announced, then `train.py` runs.

The script and the package are as they are; functions that mark a moment are wrapped so
that they write its name to a pipe first. A process told to hold at a moment waits there
for a byte.
"""

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Runs the script in a process of its own, as the environment says."""
    run(json.loads(os.environ.pop("JAXBN_INJECTION")))


def run(order: dict[str, Any]) -> None:
    """Runs `train.py`.

    Args:
        order: 'flags', 'moments' (a pipe), 'go' (another), 'hold' (name and
            count, or None), 'fine' (one step at a time), 'pictures' (whether they are
            drawn), 'bytes' (limit on the size of files, or None) and 'powerless' (root
            is to need permissions).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # As for one started at a terminal: nohup and shells have some signals ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    if order["powerless"]:
        give_up_capabilities()
    _announce_all(order)
    if order["bytes"] is not None:
        sys.dont_write_bytecode = True  # Other processes are not to read half of it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes"], order["bytes"]))
    sys.argv = ["train.py", *order["flags"]]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def give_up_capabilities() -> None:
    """Makes permissions hold for root too, in this thread and those it starts."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(version_3, none):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def _announce_all(order: dict[str, Any]) -> None:
    from jaxbn.training import _checkpoint, _files, _loop, _report

    counts: dict[str, int] = {}

    def tell(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1
        os.write(order["moments"], f"{name}\n".encode())
        if order["hold"] == [name, counts[name]]:
            os.read(order["go"], 1)

    def wrap(owner: Any, attribute: str, before: str = "", after: str = "") -> None:
        inner = getattr(owner, attribute)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                tell(before)
            result = inner(*args, **kwargs)
            if after:
                tell(after)
            return result

        setattr(owner, attribute, wrapped)

    if not order["pictures"]:
        _report.plot_curves = _report.plot_activations = lambda *what: None
    if order["fine"]:
        _loop.CHUNK_SECONDS = 0.0
    wrap(_loop.Run, "restore", "restore")
    wrap(_loop.Run, "compile", "compile")
    wrap(_loop.Run, "train_chunk", "chunk")
    wrap(_loop.Run, "evaluate", "evaluate")
    wrap(_loop.Run, "save", "save", "saved")
    wrap(_report.Report, "write", "rows")
    wrap(_report, "plot_curves", "curves")
    wrap(_report, "write_json", "summary")
    wrap(_report.Report, "conclude", "", "end")
    for module, name, moment in (
        (_checkpoint, "shutil", "prune"),
        (_files, "os", "replace"),
    ):
        # A stand-in for the module there, so that nobody else's calls are told.
        stand_in = _StandIn(getattr(module, name))
        setattr(module, name, stand_in)
        wrap(stand_in, {"prune": "rmtree", "replace": "replace"}[moment], moment)


class _StandIn:
    def __init__(self, module: Any):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
