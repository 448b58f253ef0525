"""The command line of the experiments; see the top of the package."""

import dataclasses
import sys
from pathlib import Path

import tyro

from jaxbn.experiments._harness import Settings
from jaxbn.experiments._registry import EXPERIMENTS, module_of
from jaxbn.experiments._report import write_report
from jaxbn.experiments._running import checked, run, run_these
from jaxbn.experiments._verify import Verification, verify

WHOLE = {
    "all": "All of them, each in a folder of the workdir.",
    "verify": "Whether the results in a workdir are today's; runs those that are not.",
    "report": "A page of all results that lie in the workdir.",
}
"""What is named instead of an experiment."""


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs what is named; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        for name in EXPERIMENTS:
            print(f"{name:<26} {(module_of(name).__doc__ or '').splitlines()[0]}")
        for name, line in WHOLE.items():
            print(f"{name:<26} {line}")
        return 0
    name, *flags = arguments
    if name not in (*EXPERIMENTS, *WHOLE):
        known = ", ".join((*EXPERIMENTS, *WHOLE))
        print(f"no experiment is called {name!r}, expected one of {known}")
        return 2
    program = f"jaxbn.experiments {name}"
    if name == "verify":
        asked = tyro.cli(Verification, prog=program, args=flags)
        code = verify(asked)
        return code if asked.dry_run else report(Path(asked.workdir)) or code
    settings = tyro.cli(Settings, prog=program, args=flags)
    if name == "report":
        return report(Path(settings.workdir))
    return run_all(settings) if name == "all" else run(name, settings)


def run_all(settings: Settings) -> int:
    """Runs all experiments that have no results of these settings, and the report."""
    if code := checked(settings):
        return code
    workdir = Path(settings.workdir)
    own = {
        name: dataclasses.replace(settings, workdir=str(workdir / name))
        for name in EXPERIMENTS
    }
    code = run_these(own, settings.jobs)
    return report(workdir) or code


def report(workdir: Path) -> int:
    """Writes the page of what lies in the workdir; returns the exit code."""
    try:
        print(write_report(workdir))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
