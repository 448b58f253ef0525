"""Experiments: a claim each, as one command that prints a table and draws a figure.

    python -m jaxbn.experiments                                   lists them
    python -m jaxbn.experiments learning_rate --workdir=runs/lr   runs one
    python -m jaxbn.experiments all --workdir=runs/all            runs all of them
    python -m jaxbn.experiments report --workdir=runs/all         a page of what was run
    python -m jaxbn.experiments verify --workdir=runs/all         runs old ones again

NAME --help shows an experiment's flags.

A file in `claims` states its claims and their source and how to run it: `measure`
returns numbers, `show` makes a table, verdicts and a figure of them. A claim is held,
refuted or undecided, by an interval over seeds; what was changed after a first run is
said with it.
What they share, in the order of use: `_harness` (settings, results), `_images`,
`_samplers` (which rows make a batch), `_runs` (training, all seeds in one program),
`_measure` (population statistics, errors), `_verdicts`, `_draw`, `_results` (table and
figure), `_fingerprint` (which code made them), `_records` (numbers on disk), `_state`
(whether they are today's), `_running` (one), `_side_by_side`, `_verify` (many),
`_sentences`, `_page`, `_report`.
A new one is a file in `claims` and a line in `_registry`.
"""

from jaxbn.experiments._harness import Result as Result
from jaxbn.experiments._harness import Settings as Settings
from jaxbn.experiments._registry import EXPERIMENTS as EXPERIMENTS
from jaxbn.experiments._registry import run_experiment as run_experiment
from jaxbn.experiments._results import as_table as as_table
from jaxbn.experiments._results import figure_png as figure_png
