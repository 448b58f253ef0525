"""Diagnostics: looking at what a model, or its compiled program, does."""

from jaxbn.diagnostics._collectives import Collective as Collective
from jaxbn.diagnostics._collectives import find_collectives as find_collectives
