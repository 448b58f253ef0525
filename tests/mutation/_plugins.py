"""Plugins of pytest: one that stops, one that watches, one that only lists."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CORE = (
    "arrays batch_norm by_index checks devices init layout linear mask moments "
    "normalize pair plan reduce remat running shards shift sizes sums training_pass"
)
LAWS = {
    "plain": [f"core/_{name}" for name in CORE.split()],
    "plain autodiff": ["core/_training_pass", "core/_sums", "core/_moments"],
    "cumulative": ["core/_running", "core/_init"],
    "debiased": ["core/_running", "core/_init"],
    "unbiased": ["core/_running"],
    "no affine": ["core/_normalize", "core/_training_pass", "core/_init"],
    "channels first": ["core/_arrays", "core/_shift", "core/_mask"],
    "two feature axes": ["core/_arrays", "core/_shift", "core/_mask", "core/_sums"],
    "frozen": ["variants/_frozen"],
    "frozen, affine too": ["variants/_frozen"],
    "frozen, not folded": ["variants/_frozen", "core/_normalize"],
    "ghosts of 2": ["variants/_ghost", "core/_plan", "core/_shards"],
    "3 ghosts": ["variants/_ghost", "core/_plan", "core/_shards"],
    "renorm": ["variants/_renorm", "core/_training_pass"],
    "domain": ["variants/_domain"],
    "domain by example": ["variants/_domain", "core/_by_index", "core/_shards"],
    "adaptive": ["variants/_adaptive", "core/_training_pass"],
    "split": ["variants/_split"],
    "group norm": ["variants/_each_example", "variants/_over_positions"],
    "instance norm": ["variants/_each_example", "variants/_over_positions"],
    "layer norm": ["variants/_each_example", "variants/_over_channels"],
}
"""Of which files the laws of a row of the catalog are tests."""

LAW_SECONDS = 0.4


class Stopping:
    """A pytest plugin that ends the process at the first failure, cleaning nothing."""

    def pytest_configure(self) -> None:
        """Only reads bytecode."""
        sys.dont_write_bytecode = True

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Says which test failed."""
        if report.failed:
            print(f"\nFAILED {report.nodeid}", flush=True)
            os._exit(1)


class Watching:
    """A pytest plugin that writes what each test takes and which lines it runs.

    Seconds are those of all cores, since how long a test waits for others says nothing.
    """

    def __init__(self, copy: Path, file: Path) -> None:
        """Sets where jaxbn is and what file is written."""
        import coverage

        self.copy, self.file, self.seconds = copy, file, {}
        self.coverage = coverage.Coverage(
            data_file=None, source=[str(copy / "jaxbn")], config_file=False
        )
        self.coverage.start()

    def pytest_runtest_setup(self, item: Any) -> None:
        """Forgets what jaxbn has traced, so that the test runs the lines it needs.

        Not what JAX has: all else would be compiled again for every test.
        """
        for name in [name for name in sys.modules if name.startswith("jaxbn.")]:
            for value in vars(sys.modules[name]).values():
                if hasattr(value, "clear_cache"):
                    value.clear_cache()
        self.coverage.switch_context(item.nodeid)
        self.start = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Takes the time."""
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = round(time.process_time() - self.start, 3)

    def pytest_sessionfinish(self) -> None:
        """Writes everything."""
        self.coverage.stop()
        data, lines = self.coverage.get_data(), {}
        for path in data.measured_files():
            known = data.contexts_by_lineno(path).items()
            name = Path(path).relative_to(self.copy).as_posix()
            lines[name] = {line: [c for c in some if c] for line, some in known}
        self.file.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))


class Listing:
    """A pytest plugin that writes the names of the laws, of which there are too many.

    A law of a row of the catalog is credited to the file that makes the row, or, if it
    is plain batch norm, to the core.
    """

    def __init__(self, file: Path) -> None:
        """Sets what file is written."""
        self.file = file

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Writes them, and leaves nothing to run."""
        lines: dict[str, dict[int, list[str]]] = {}
        for item in items:
            given = getattr(item, "callspec", None)
            row = given.params.get("row") if given else None
            row = row.name if row else ""
            for name in LAWS.get(row, ()):
                lines.setdefault(f"jaxbn/{name}.py", {}).setdefault(0, [])
                lines[f"jaxbn/{name}.py"][0].append(item.nodeid)
        seconds = {item.nodeid: LAW_SECONDS for item in items}
        self.file.write_text(json.dumps({"seconds": seconds, "lines": lines}))
        items.clear()
