"""Subcommands by name: their help, their flags, and how each ends.

Exit codes are those of `train.py`: 0 done, 1 a failure that one line on standard error
explains, 2 arguments that cannot be used.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

DONE, FAILED, BAD_ARGUMENTS = 0, 1, 2
COMMANDS = {
    "inspect": "layers of a run or a file of weights: statistics, dead channels, drift",
    "convert": "weights from PyTorch's names to Flax's, or back",
    "fold": "a trained run with its batch norms folded into the layers before them",
    "export": "a trained run as one StableHLO file that needs no jaxbn to be served",
    "train": "a network with batch norm and its twin without, as train.py",
    "experiments": "claims about batch norm, one command each",
    "doctor": "versions, devices and data sets, and what will not work",
}
EXAMPLES = """\
examples:
  jaxbn train --workdir=runs/digits
  jaxbn inspect runs/digits
  jaxbn export runs/digits digits.stablehlo
  jaxbn convert resnet50.safetensors flax.safetensors --model=resnet50"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the subcommand that is named first; returns the exit code.

    Args:
        arguments: those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else ""
    if name in ("", "-h", "--help"):
        print(usage())
        return DONE if name else BAD_ARGUMENTS
    if name == "--version":
        import jaxbn

        print(f"jaxbn {jaxbn.__version__}")
        return DONE
    if name not in COMMANDS:
        print(
            f"jaxbn: {name!r} is no command, expected one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return BAD_ARGUMENTS
    return run(name, given[1:])


def usage() -> str:
    """Returns what `jaxbn --help` says."""
    lines = [f"  {name:<12} {what}" for name, what in COMMANDS.items()]
    head = "usage: jaxbn COMMAND [ARGUMENTS]; jaxbn COMMAND --help says more\n"
    return "\n".join([head, *lines, "", EXAMPLES])


def run(name: str, arguments: list[str]) -> int:
    """Runs a subcommand; what it raises becomes one line and an exit code."""
    try:
        if name == "experiments":
            experiments = importlib.import_module("jaxbn.experiments.__main__")
            return experiments.main(arguments)
        if name == "doctor" and not importlib.util.find_spec("tyro"):
            return importlib.import_module("jaxbn.cli._doctor").doctor()
        if name == "train":
            training = importlib.import_module("jaxbn.training._run")
            return training.main("jaxbn train", arguments)
        import tyro

        command = getattr(importlib.import_module(f"jaxbn.cli._{name}"), name)
        return tyro.cli(command, prog=f"jaxbn {name}", args=arguments) or DONE
    except (ImportError, OSError, ValueError) as error:
        print(f"jaxbn {name}: {_in_a_line(error)}", file=sys.stderr)
        return FAILED


def _in_a_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        return f"{name} is not installed; pip install 'jaxbn[train]'"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename} cannot be read or written: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
