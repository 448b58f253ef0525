#!/usr/bin/env python3
"""Trains a network with batch norm next to its twin without; see --help."""

import sys

import tyro

from jaxbn.training import TrainConfig, run


def main() -> int:
    """Flags to configuration to exit code."""
    return run(tyro.cli(TrainConfig, prog="train.py"))


if __name__ == "__main__":
    sys.exit(main())
