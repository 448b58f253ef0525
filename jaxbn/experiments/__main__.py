"""The command line of the experiments; see the top of the package."""

import dataclasses
import sys
from pathlib import Path

import tyro

from jaxbn.experiments._harness import Settings
from jaxbn.experiments._registry import EXPERIMENTS
from jaxbn.experiments._report import write_report
from jaxbn.experiments._running import run
from jaxbn.experiments._sentences import summary
from jaxbn.experiments._verify import Verification, run_all, verify
from jaxbn.training import ConfigError

WHOLE = {
    "all": "All of them, each in a folder of the workdir.",
    "verify": "Whether the results in a workdir are today's; runs those that are not.",
    "report": "A page of all results that lie in the workdir.",
}
"""What is named instead of an experiment."""
ALL = """\
Runs all experiments, each in a folder of the workdir that is called like it, and writes
report.html and results.md. What has results of these settings and of today's code is
not run again, so that a run that was interrupted goes on."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes report.html and results.md, a page of all results in a workdir."""

    workdir: str
    """With a folder for each experiment that was run."""


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs what is named; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *flags = arguments
    if name not in (*EXPERIMENTS, *WHOLE):
        known = ", ".join((*EXPERIMENTS, *WHOLE))
        print(
            f"no experiment is called {name!r}, expected one of {known}",
            file=sys.stderr,
        )
        return 2
    program = f"python -m jaxbn.experiments {name}"
    try:
        if name == "report":
            return report(Path(tyro.cli(Report, prog=program, args=flags).workdir))
        if name == "verify":
            asked = tyro.cli(Verification, prog=program, args=flags)
            code = verify(asked)
            return code if asked.dry_run else report(Path(asked.workdir)) or code
        what = ALL if name == "all" else f"{summary(name)}."
        settings = tyro.cli(Settings, prog=program, description=what, args=flags)
        if name != "all":
            return run(name, settings)
        code = run_all(settings)
        return report(Path(settings.workdir)) or code
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def usage() -> str:
    """Returns what `--help` says."""
    lines = [f"  {name:<26} {summary(name)}." for name in EXPERIMENTS]
    lines += [f"  {name:<26} {what}" for name, what in WHOLE.items()]
    head = "usage: python -m jaxbn.experiments NAME --workdir=DIR [flags]\n"
    example = "Example: python -m jaxbn.experiments learning_rate --workdir=runs/lr\n"
    example += "NAME --help shows an experiment's flags"
    return "\n".join([head, *lines, "", example])


def report(workdir: Path) -> int:
    """Writes the page of what lies in the workdir; returns the exit code."""
    try:
        said, left_out = write_report(workdir)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for line in left_out:
        print(line, file=sys.stderr)
    print(said)
    return int(bool(left_out))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
