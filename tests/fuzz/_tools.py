"""Calls of the tools that run a model: population, surgery, diagnostics, tree."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxbn
from jaxbn import diagnostics, population, surgery, tree

from ._judge import Entry

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)


class Small(nn.Module):
    """A linear layer, a norm, another linear layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(3, name="dense")(x)
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        return nn.Dense(2, name="head")(x)


class SmallNnx(nnx.Module):
    """The same of nnx."""

    def __init__(self):
        self.dense = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        self.bn = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.bn(self.dense(x))


def run_after(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what makes `run` of a model and runs it."""

    def call(model, variables, *args, **options):
        return function(model, **options)(variables, *args)

    return call


def tools(model: Any, variables: Any, kind: str) -> list[Entry]:
    """Returns entries for what takes a model, once linen, once nnx."""
    train = (X, True) if kind == "linen" else (X,)
    given = {"model": model, "variables": variables}
    first = ("model", "variables", "x")
    said = {
        "variables": ("batch_stats", "model", "statistics", "layer", "params"),
        "model": ("variables",),
        "batches": ("x",),
        "layers": ("where",),
    }
    said |= {
        "x": ("x ", "batch", "traced"),
        "precise": ("traced",),
        "mates": ("traced",),
    }
    said["variables"] += ("traced",)
    functions = ("call", "where", "norm")
    own = functools.partial(
        Entry, said=said, functions=functions, whole=("norm",), weight=0.5
    )
    nothing = lambda call: (call.proceed(), {})
    found = [
        own(
            "jaxbn.population.precise_batch_stats",
            population.precise_batch_stats,
            {
                **given,
                "batches": [train, train],
                "call": None,
                "definition": "pooled",
                "sequential": False,
                "share_processes": False,
            },
            ("model", "variables", "batches"),
        ),
        own(
            "jaxbn.population.collect_moments",
            run_after(population.collect_moments),
            {**given, "x": X},
            first,
        ),
        own(
            "jaxbn.surgery.convert",
            surgery.convert,
            {"model": model, "norm": jaxbn.ghost_norm(size=2), "where": "bn"},
        ),
        own(
            "jaxbn.surgery.plan_conversion",
            surgery.plan_conversion,
            {**given, "x": X, "where": "bn"},
            first,
        ),
        own(
            "jaxbn.surgery.fold",
            surgery.fold,
            {**given, "x": X, "tolerance": None, "dry_run": True},
            first,
        ),
        own("jaxbn.surgery.find_pairs", surgery.find_pairs, {**given, "x": X}, first),
        own(
            "jaxbn.surgery.plan_freezing",
            surgery.plan_freezing,
            {**given, "where": "bn"},
        ),
        own(
            "jaxbn.surgery.freeze",
            run_after(surgery.freeze),
            {**given, "x": X, "layers": "bn"},
            first,
            functions=("layers",),
        ),
        own(
            "jaxbn.diagnostics.measure_drift",
            diagnostics.measure_drift,
            {**given, "x": X, "precise": None},
            first,
        ),
        own(
            "jaxbn.diagnostics.probe_leakage",
            diagnostics.probe_leakage,
            {**given, "x": X, "example": 0, "key": jax.random.key(0), "mates": X},
            first,
        ),
        own(
            "jaxbn.tree.watch",
            run_after(tree.watch),
            {
                **given,
                "x": X,
                "handler": nothing,
                "also": (nn.Conv,),
                "updating": False,
            },
            first,
            functions=("handler",),
        ),
    ]
    return found


def entries() -> list[Entry]:
    """Returns the entries of both kinds of models."""
    model = Small()
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), X))
    other = SmallNnx()
    return [
        *tools(model, variables, "linen"),
        *tools(other, nnx.state(other), "nnx"),
    ]
