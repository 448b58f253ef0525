"""The command line of the experiments."""

import importlib
import sys

import tyro

from jaxbn.experiments import EXPERIMENTS
from jaxbn.experiments._harness import Settings, write_results
from jaxbn.training import ConfigError


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs the one named; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        for name, module in EXPERIMENTS.items():
            first = (importlib.import_module(module).__doc__ or "").splitlines()[0]
            print(f"{name:<20} {first}")
        return 0
    name, *flags = arguments
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        print(f"no experiment is called {name!r}, expected one of {known}")
        return 2
    settings = tyro.cli(Settings, prog=f"jaxbn.experiments {name}", args=flags)
    try:
        result = importlib.import_module(EXPERIMENTS[name]).run(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(write_results(name, settings, result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
