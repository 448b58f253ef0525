#!/usr/bin/env python3
"""Trains a network with batch norm next to its twin without; see --help."""

import sys

try:
    import tyro  # noqa: F401  # `main` needs it; here its absence is one line.

    from jaxbn.training._run import main
except ModuleNotFoundError as error:
    missing = str(error.name).partition(".")[0]
    sys.exit(f"train.py: {missing} is not installed; pip install 'jaxbn[train]'")

if __name__ == "__main__":
    sys.exit(main("train.py"))
