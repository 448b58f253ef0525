"""Calls of the face of jaxbn: functions of arrays, and norms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxbn
from jaxbn import core

from ._judge import Entry

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 2, 3)
PARAMS = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
STATE = {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
MASK = np.ones((4, 2), bool)
ONES, ZEROS = jax.nn.initializers.ones, jax.nn.initializers.zeros
OF_INIT = {
    "use_scale": True,
    "use_bias": True,
    "scale_init": ONES,
    "bias_init": ZEROS,
    "param_dtype": "float32",
}
OF_NORM = {
    "epsilon": 1e-5,
    "axis": -1,
    "axis_name": None,
    "axis_index_groups": None,
    "normalization_batch_size": None,
    "dtype": None,
    "momentum": 0.9,
    "unbiased": False,
    "debias": False,
    "skip_nonfinite": True,
    "custom_derivative": True,
    **OF_INIT,
}


def use(norm: jaxbn.Norm, **told: Any) -> None:
    """Starts a norm, trains a step and evaluates."""
    params, state = norm.init(3)
    _, state = norm.apply(params, state, X, True, mask=MASK, **told)
    norm.apply(params, state, X, False, **told)


def used(factory: Callable[..., jaxbn.Norm], **told: Any) -> Callable[..., None]:
    """Returns the factory with what it makes being used."""
    return lambda *args, **options: use(factory(*args, **options), **told)


def moments() -> jaxbn.Moments:
    return jaxbn.Moments(*(np.ones(3, np.float32) for _ in range(4)))


def stacked() -> jaxbn.Moments:
    return jaxbn.Moments(*(np.ones((2, 3), np.float32) for _ in range(4)))


def entries() -> list[Entry]:
    """Returns an entry for each name of `jaxbn` and `jaxbn.core`."""
    functions = ("scale_init", "bias_init", "adjust", "where")
    said = {
        "axis": ("mask",),
        "norm": ("axis",),
        "num_devices": ("devices",),
        "num_examples": ("a batch of",),
        "kernel": ("x with 0 axes",),
        "xs": ("x ", "arrays"),
        "masks": ("mask",),
    }
    face = functools.partial(Entry, traced=True, functions=functions, said=said)
    apply = {"params": PARAMS, "state": STATE, "x": X, "train": True}
    of_apply = {k: v for k, v in OF_NORM.items() if k not in OF_INIT}
    norm = jaxbn.batch_norm()
    key = jax.random.key(0)
    given = {"key": key, "axis_name": None}
    return [
        face(
            "jaxbn.bn_init",
            jaxbn.bn_init,
            {
                "num_features": 3,
                **OF_INIT,
                "momentum": 0.9,
                "debias": False,
                "dtype": None,
                "key": key,
            },
        ),
        face(
            "jaxbn.bn_apply",
            jaxbn.bn_apply,
            {
                **apply,
                **of_apply,
                "mask": MASK,
                "use_running_average": False,
                "update_stats": True,
                "adjust": None,
                "group_index": None,
            },
        ),
        face("jaxbn.batch_norm", used(jaxbn.batch_norm), OF_NORM),
        face(
            "jaxbn.batch_moments",
            jaxbn.batch_moments,
            {"x": X, "axis": -1, "mask": MASK},
        ),
        face(
            "jaxbn.merge_moments",
            jaxbn.merge_moments,
            {"moments": stacked(), "axis": 0},
        ),
        face(
            "jaxbn.normalize",
            jaxbn.normalize,
            {
                "x": X,
                "mean": STATE["mean"],
                "var": STATE["var"],
                **PARAMS,
                "epsilon": 1e-5,
                "axis": -1,
                "mask": MASK,
                "delta": STATE["mean"],
                "dtype": None,
            },
        ),
        face(
            "jaxbn.reduce_moments",
            jaxbn.reduce_moments,
            {"moments": moments(), "axis_name": None, "axis_index_groups": None},
        ),
        face(
            "jaxbn.resolve_groups",
            jaxbn.resolve_groups,
            {"normalization_batch_size": 16, "num_examples": 64, "num_devices": 8},
        ),
        face(
            "jaxbn.update_running",
            jaxbn.update_running,
            {
                "state": STATE,
                "moments": moments(),
                "momentum": 0.9,
                "debias": False,
                "unbiased": False,
                "skip_nonfinite": True,
            },
        ),
        face(
            "jaxbn.adaptive_norm",
            used(jaxbn.adaptive_norm),
            {
                "prior_count": 16.0,
                "adapt_mean": True,
                "adapt_var": True,
                "stream_momentum": None,
                **OF_NORM,
            },
        ),
        face(
            "jaxbn.apply_jointly",
            jaxbn.apply_jointly,
            {
                "params": PARAMS,
                "state": STATE,
                "xs": [X, X[:, 0]],
                "train": True,
                "masks": [MASK, None],
                "momentum": 0.9,
                "epsilon": 1e-5,
                "axis": -1,
                "axis_name": None,
                "axis_index_groups": None,
                "dtype": None,
                "update_stats": True,
                "unbiased": False,
                "debias": False,
                "skip_nonfinite": True,
            },
        ),
        face(
            "jaxbn.batch_renorm",
            used(jaxbn.batch_renorm),
            {
                "r_max": 3.0,
                "d_max": 5.0,
                "warmup_steps": 1,
                "r_steps": 2,
                "d_steps": 3,
                **OF_NORM,
                "debias": True,
            },
        ),
        face(
            "jaxbn.domain_norm",
            used(jaxbn.domain_norm, domain=np.zeros(4, np.int32)),
            {"num_domains": 2, "norm": norm, "affine": "per_domain"},
        ),
        face(
            "jaxbn.frozen_norm",
            used(jaxbn.frozen_norm),
            {
                "constant_affine": False,
                "fold": True,
                "axis": -1,
                "epsilon": 1e-5,
                "dtype": None,
                **OF_INIT,
            },
        ),
        face(
            "jaxbn.ghost_norm",
            used(jaxbn.ghost_norm),
            {
                "size": 2,
                "num_groups": None,
                **{k: v for k, v in OF_NORM.items() if k[:4] != "norm"},
            },
        ),
        face(
            "jaxbn.group_norm",
            used(jaxbn.group_norm),
            {"num_groups": 3, "axis": -1, "epsilon": 1e-5, "dtype": None, **OF_INIT},
        ),
        face(
            "jaxbn.instance_norm",
            used(jaxbn.instance_norm),
            {"axis": -1, "epsilon": 1e-5, "dtype": None, **OF_INIT},
        ),
        face(
            "jaxbn.layer_norm",
            used(jaxbn.layer_norm),
            {
                "over_positions": False,
                "axis": -1,
                "epsilon": 1e-5,
                "dtype": None,
                **OF_INIT,
            },
        ),
        face(
            "jaxbn.no_norm",
            used(jaxbn.no_norm),
            {**OF_INIT, "axis": -1, "dtype": None},
        ),
        face("jaxbn.shuffle", jaxbn.shuffle, {"x": {"a": X}, **given}),
        face("jaxbn.unshuffle", jaxbn.unshuffle, {"x": {"a": X}, **given}),
        face(
            "jaxbn.shuffled",
            used(jaxbn.shuffled),
            {"norm": norm, "axis_name": None, "seed": 0},
        ),
        face(
            "jaxbn.split_norm",
            used(jaxbn.split_norm),
            {"norm": norm, "num_splits": 2, "affine": "per_domain"},
        ),
        face(
            "jaxbn.standardize_kernel",
            jaxbn.standardize_kernel,
            {"kernel": X, "axis": -1, "epsilon": 1e-5},
        ),
        face(
            "jaxbn.standardize_kernels",
            jaxbn.standardize_kernels,
            {"params": {"conv": {"kernel": X[None]}}, "epsilon": 1e-5, "where": None},
        ),
        face(
            "jaxbn.core.describe_groups",
            core.describe_groups,
            {"normalization_batch_size": 16, "num_examples": 64, "num_devices": 8},
        ),
        face(
            "jaxbn.core.feature_axes",
            core.feature_axes,
            {"axis": -1, "ndim": 3},
            fixed=("ndim",),
        ),
        face(
            "jaxbn.core.merge_replicas",
            core.merge_replicas,
            {"moments": stacked(), "axis_name": None},
        ),
    ]
