"""Calls of the surgery on variables: carried over, frozen, of other libraries."""

import numpy as np
from flax import linen as nn

import jaxbn
from jaxbn import surgery

from ._judge import Entry
from ._trees import ONE


def entries() -> list[Entry]:
    """Returns entries for what of `jaxbn.surgery` runs no model."""
    plain = Entry
    return [
        plain(
            "jaxbn.surgery.carry_over",
            surgery.carry_over,
            {"variables": ONE, "template": ONE},
        ),
        plain(
            "jaxbn.surgery.freeze_labels",
            surgery.freeze_labels,
            {"params": {"bn": {"scale": np.ones(3)}}, "layers": ("bn",)},
            said={"params": ("layers",)},
        ),
        plain(
            "jaxbn.surgery.like",
            lambda factory, **options: surgery.like(factory, **options)(nn.BatchNorm()),
            {"factory": jaxbn.batch_norm, "momentum": 0.9, "epsilon": 1e-5},
            functions=("factory",),
        ),
        plain(
            "jaxbn.surgery.batch_norm_like",
            surgery.batch_norm_like,
            {"layer": nn.BatchNorm()},
        ),
        plain(
            "jaxbn.surgery.choose",
            surgery.choose,
            {"paths": ["a", "b"], "where": "a"},
            functions=("where",),
            said={"paths": ("where",)},
        ),
        plain(
            "jaxbn.surgery.from_torch",
            surgery.from_torch,
            {
                "state_dict": {
                    "bn.weight": np.ones(3),
                    "bn.bias": np.ones(3),
                    "bn.running_mean": np.ones(3),
                    "bn.running_var": np.ones(3),
                    "bn.num_batches_tracked": np.int64(3),
                },
                "cumulative": True,
                "num_elements": 8,
                "prefix": "",
            },
            said={"state_dict": ("bn.",), "prefix": ("state_dict",)},
        ),
        plain(
            "jaxbn.surgery.to_torch",
            surgery.to_torch,
            {
                "params": {"bn": {"scale": np.ones(3)}},
                "batch_stats": ONE,
                "num_batches_tracked": 0,
            },
            said={"batch_stats": ("of 'bn'",), "params": ("of 'bn'",)},
        ),
        plain(
            "jaxbn.surgery.momentum_from_torch",
            surgery.momentum_from_torch,
            {"momentum": 0.1},
        ),
        plain(
            "jaxbn.surgery.from_haiku",
            surgery.from_haiku,
            {
                "params": {"bn": {"scale": np.ones((1, 3)), "offset": np.ones((1, 3))}},
                "state": {
                    f"bn/~/{kind}_ema": {
                        "average": np.ones((1, 3)),
                        "hidden": np.ones((1, 3)),
                        "counter": np.int32(3),
                    }
                    for kind in ("mean", "var")
                },
                "name": "bn",
            },
            said={"name": ("batch norm called",)},
        ),
        plain(
            "jaxbn.surgery.from_equinox",
            surgery.from_equinox,
            {
                "mean": np.ones(3),
                "var": np.ones(3),
                "weight": np.ones(3),
                "bias": np.ones(3),
                "count": 3,
                "momentum": 0.9,
                "as_evaluated": False,
            },
        ),
        plain(
            "jaxbn.surgery.from_keras",
            surgery.from_keras,
            {
                "weights": [np.ones(3)] * 4,
                "scale": True,
                "center": True,
                "num_elements": 8,
            },
            said={
                "scale": ("weights",),
                "center": ("weights",),
                "weights": ("moving",),
            },
        ),
    ]
