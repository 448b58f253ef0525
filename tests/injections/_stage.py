"""What injections share: the reference runs, and copies of runs that were ended."""

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from tests.injections._judge import Ending, ending_of
from tests.injections._process import Running, Starter

FLAGS = [
    *("--workdir=w", "--model=mlp", "--norm=batch", "--num_epochs=6"),
    *("--train_limit=320", "--test_limit=100", "--seed=3"),
]
BASES = {
    "one": ["--num_devices=1"],
    # Statistics of each device's own lie in the checkpoint beside the pooled ones.
    "apart": ["--num_devices=2", "--normalization_batch_size=16"],
    "two": ["--num_devices=2", "--num_processes=2"],
}
STATES = {
    "killed": (("save", 5), signal.SIGKILL),
    "asked": (("chunk", 33), signal.SIGTERM),
}
"""Where runs that are damaged later were ended, and how. The chunks are of one step."""


class Undisturbed(Exception):
    """A run failed before anything happened to it: nothing can be compared."""


class Stage:
    """The folder of all injections.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.starter = Starter()
        self._lock = threading.Lock()
        self._references: dict[str, Ending] = {}

    def start(
        self, how: dict[str, Any], folder: Path, *more: str, **limits: Any
    ) -> Running:
        """Starts a run in `folder` as an injection says; see `Starter.start`."""
        flags = [*FLAGS, *BASES[how["base"]], *more]
        return self.starter.start(flags, folder, pictures=how["pictures"], **limits)

    def reference(self, base: str) -> Ending:
        """Returns how a run ends that nothing happens to."""
        with self._lock:
            if base not in self._references:
                folder = self.folder / f"reference-{base}"
                folder.mkdir()
                self._run(base, folder)
                self._references[base] = ending_of(folder / "w")
            return self._references[base]

    def prepared(self, base: str, state: str, folder: Path) -> None:
        """Copies a run that was ended in a certain way to `folder`."""
        self.reference(base)
        if state == "finished":
            state = "reference"
        with self._lock:
            source = self.folder / f"{state}-{base}"
            if not source.exists():
                source.mkdir()
                self._run(base, source, *STATES[state])
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)

    def _run(
        self,
        base: str,
        folder: Path,
        hold: tuple[str, int] | None = None,
        number: int | None = None,
    ) -> None:
        how = {"base": base, "pictures": True}
        if base == "two":
            from tests.injections._others import start_two

            runs = start_two(self, how, folder)
        else:
            runs = [self.start(how, folder, hold=hold, fine=bool(hold))]
        if hold and number:
            assert runs[0].reach(*hold), runs[0].err
            runs[0].send(number)
            runs[0].go()
        codes = [run.wait() for run in runs]
        expected = {None: 0, signal.SIGTERM: 130, signal.SIGKILL: -9}[number]
        said = "".join(run.err for run in runs)
        for run in runs:
            run.close()
        if any(code != expected for code in codes):
            raise Undisturbed(
                f"a run that nothing happened to ended so: {codes}, {said}"
            )

    def close(self) -> None:
        """Ends what is running."""
        self.starter.close()
