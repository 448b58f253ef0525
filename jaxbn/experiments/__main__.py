"""The command line of the experiments; see the top of the package."""

import dataclasses
import sys
import time
from pathlib import Path

import tyro

from jaxbn.experiments._harness import Settings
from jaxbn.experiments._registry import EXPERIMENTS, module_of
from jaxbn.experiments._report import write_report
from jaxbn.experiments._results import finished, write_results
from jaxbn.training import ConfigError


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs what is named; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        for name in EXPERIMENTS:
            print(f"{name:<26} {(module_of(name).__doc__ or '').splitlines()[0]}")
        print(f"{'all':<26} All of them, each in a folder of the workdir.")
        print(f"{'report':<26} A page of all results that lie in the workdir.")
        return 0
    name, *flags = arguments
    if name not in (*EXPERIMENTS, "all", "report"):
        known = ", ".join((*EXPERIMENTS, "all", "report"))
        print(f"no experiment is called {name!r}, expected one of {known}")
        return 2
    settings = tyro.cli(Settings, prog=f"jaxbn.experiments {name}", args=flags)
    if name == "report":
        return report(Path(settings.workdir))
    if name != "all":
        return run(name, settings)
    codes = []
    for each in EXPERIMENTS:
        folder = str(Path(settings.workdir) / each)
        own = dataclasses.replace(settings, workdir=folder)
        if finished(own):
            print(f"# {each}: finished before, with the same settings\n")
            continue
        print(f"# {each}", flush=True)
        codes.append(run(each, own))
    return max([report(Path(settings.workdir)), *codes])


def run(name: str, settings: Settings) -> int:
    """Runs an experiment and writes its files; returns the exit code."""
    module, began = module_of(name), time.perf_counter()
    try:
        result = module.run(settings)
        seconds = time.perf_counter() - began
        said = write_results(name, module.SOURCE, settings, result, seconds)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(said, flush=True)
    return 0


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
