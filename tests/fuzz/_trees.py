"""Calls of what takes variables, numbers or records: population, surgery, tree."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn import diagnostics, population, tree

from ._arithmetic import moments
from ._judge import Entry
from ._tools import Small, X

STATS = {
    "bn": {"mean": np.zeros((2, 3), np.float32), "var": np.ones((2, 3), np.float32)}
}
ONE = {"bn": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}}


@functools.cache
def drifts() -> tuple:
    model = Small()
    variables = model.init(jax.random.key(0), X)
    return diagnostics.measure_drift(model, variables, X)


def loss(w: Any) -> Any:
    return jnp.sum(w["w"] ** 2)


def pooled(**given: Any) -> Any:
    """Pools over an axis of vmap."""
    axis_name = given.pop("axis_name")
    run = lambda _: population.pool_collected(**given, axis_name=axis_name)
    return jax.vmap(run, axis_name="devices")(jnp.zeros(2))


def entries() -> list[Entry]:
    """Returns entries for what takes no model."""
    collected = {"bn": moments()}
    plain = functools.partial(Entry, whole=("drifts", "leakage", "landscapes"))
    momentum = {"momentum": 0.9}
    leakage = diagnostics.Leakage({"bn": 0.5}, {"bn": 0.5}, 0.2, 0.1)
    return [
        plain(
            "jaxbn.population.commit_moments",
            population.commit_moments,
            {
                "batch_stats": ONE,
                "moments": collected,
                **momentum,
                "unbiased": False,
                "debias": False,
                "skip_nonfinite": True,
            },
            said={
                "batch_stats": ("state",),
                "debias": ("count",),
                **{"momentum": ("count",)},
            },
        ),
        plain(
            "jaxbn.population.merge_collected",
            population.merge_collected,
            {"a": collected, "b": collected},
            said={"a": ("moments",), "b": ("moments",)},
        ),
        plain(
            "jaxbn.population.pool_collected",
            pooled,
            {"moments": collected, "axis_name": "devices"},
        ),
        plain(
            "jaxbn.population.merge_batch_stats",
            population.merge_batch_stats,
            {"batch_stats": STATS, "counts": [1, 2], "axis_name": None},
            said={"batch_stats": ("counts",), "axis_name": ("counts",)},
        ),
        plain(
            "jaxbn.population.assert_replicas_agree",
            population.assert_replicas_agree,
            {"tree": STATS, "stacked": True},
            may=(AssertionError,),
            said={"tree": ("bn/", "is a scalar")},
        ),
        plain(
            "jaxbn.population.effective_window", population.effective_window, momentum
        ),
        plain(
            "jaxbn.population.momentum_for_window",
            population.momentum_for_window,
            {"window": 19.0},
        ),
        plain(
            "jaxbn.population.momentum_for_batch_size",
            population.momentum_for_batch_size,
            {**momentum, "old": 8, "new": 16},
            said={"old": ("sizes",), "new": ("sizes",)},
        ),
        plain(
            "jaxbn.diagnostics.Diagnose",
            lambda **given: diagnostics.Diagnose(Small(), **given),
            {"every": 3, "say": None},
        ),
        plain(
            "jaxbn.diagnostics.find_collectives",
            diagnostics.find_collectives,
            {"program": "x = f32[8] all-reduce(y)"},
        ),
        plain(
            "jaxbn.diagnostics.drift_table",
            diagnostics.drift_table,
            {"drifts": drifts(), "momentum": 0.9},
        ),
        plain(
            "jaxbn.diagnostics.find_stale",
            diagnostics.find_stale,
            {"drifts": drifts(), "shift": 0.5, "log_ratio": 0.7, "momentum": 0.9},
        ),
        plain(
            "jaxbn.diagnostics.find_dead",
            diagnostics.find_dead,
            {"drifts": drifts(), "relative": 1e-6},
        ),
        plain(
            "jaxbn.diagnostics.plot_drift", diagnostics.plot_drift, {"drifts": drifts()}
        ),
        plain(
            "jaxbn.diagnostics.leakage_table",
            diagnostics.leakage_table,
            {"leakage": leakage},
        ),
        plain(
            "jaxbn.diagnostics.plot_leakage",
            diagnostics.plot_leakage,
            {"leakage": leakage},
        ),
        plain(
            "jaxbn.diagnostics.plot_landscape",
            diagnostics.plot_landscape,
            {"landscapes": {}},
        ),
        plain(
            "jaxbn.diagnostics.sampling_shift",
            diagnostics.sampling_shift,
            {"num_elements": 8, "momentum": 0.9},
        ),
        plain(
            "jaxbn.diagnostics.probe_landscape",
            lambda **given: diagnostics.probe_landscape(loss, **given),
            {"params": {"w": np.ones(2, np.float32)}, "steps": [0.1, 0.5]},
        ),
        plain("jaxbn.tree.find_layers", tree.find_layers, {"tree": ONE}),
        plain(
            "jaxbn.tree.replace_layers",
            tree.replace_layers,
            {"tree": ONE, "layers": tree.find_layers(ONE)},
        ),
        plain("jaxbn.tree.has_statistics", tree.has_statistics, {"layer": ONE["bn"]}),
    ]
