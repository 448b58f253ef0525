"""Experiments: a claim each, as one command that prints a table and draws a figure.

    python -m jaxbn.experiments                                   lists them
    python -m jaxbn.experiments sync_and_local --workdir=runs/sync

A file here states its claim, how to run it and what was measured; `_harness` says what
all of them share. A verdict is a criterion over seeds fixed before the run, and may be
'not reproduced'.
"""

EXPERIMENTS = {
    "sync_and_local": "jaxbn.experiments._sync_and_local",
}
"""Each experiment by name, and the module that has its `run`."""
