"""Diagnostics: looking at what a model, or its compiled program, does."""

from jaxbn.diagnostics._collectives import Collective as Collective
from jaxbn.diagnostics._collectives import find_collectives as find_collectives
from jaxbn.diagnostics._drift import Distance as Distance
from jaxbn.diagnostics._drift import Drift as Drift
from jaxbn.diagnostics._landscape import Landscape as Landscape
from jaxbn.diagnostics._landscape import probe_landscape as probe_landscape
from jaxbn.diagnostics._leakage import Leakage as Leakage
from jaxbn.diagnostics._leakage import probe_leakage as probe_leakage
from jaxbn.diagnostics._measure_drift import measure_drift as measure_drift
from jaxbn.diagnostics._observer import Diagnose as Diagnose
from jaxbn.diagnostics._plots import plot_drift as plot_drift
from jaxbn.diagnostics._plots import plot_landscape as plot_landscape
from jaxbn.diagnostics._plots import plot_leakage as plot_leakage
from jaxbn.diagnostics._report import drift_table as drift_table
from jaxbn.diagnostics._report import leakage_table as leakage_table
from jaxbn.diagnostics._verdicts import find_dead as find_dead
from jaxbn.diagnostics._verdicts import find_stale as find_stale
from jaxbn.diagnostics._verdicts import sampling_shift as sampling_shift
