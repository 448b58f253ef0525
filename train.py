#!/usr/bin/env python3
"""Trains a network with batch norm next to its twin without; see --help."""

import signal
import sys

try:
    import tyro

    from jaxbn.training import TrainConfig, run
    from jaxbn.training._lifeline import leave
except ModuleNotFoundError as error:
    missing = str(error.name).partition(".")[0]
    sys.exit(f"train.py: {missing} is not installed; pip install 'jaxbn[train]'")


def main() -> int:
    """Flags to configuration to exit code."""
    code = run(tyro.cli(TrainConfig, prog="train.py"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Nothing is left to interrupt.
    if code:
        leave(code)  # Threads of a save that failed may wait for what never comes.
    return code


if __name__ == "__main__":
    sys.exit(main())
