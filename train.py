#!/usr/bin/env python3
"""Trains a network with batch norm next to its twin without; see --help."""

import sys

from jaxbn.training._run import main

if __name__ == "__main__":
    sys.exit(main("train.py"))
