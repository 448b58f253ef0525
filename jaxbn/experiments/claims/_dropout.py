"""Dropout and L2 of a strength that each run of one program has for itself.

    runs = with_strengths(start(model, example, lanes, optimizer), dropout, l2)
    fit(regularized(model), runs, ...)

The strengths travel with the running statistics, which a loss is given and passes on.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.typing import ArrayLike

from jaxbn.base import Array, Norm
from jaxbn.data import Split
from jaxbn.experiments._runs import Loss, Runs
from jaxbn.models._layers import normalize, relu


class DropoutMLP(nn.Module):
    """Linear, norm, relu, dropout for each hidden layer; a linear layer on top.

    Layers have the names and the first weights of `jaxbn.models.MLP`.

    Attributes:
        num_outputs: classes.
        norm: between each hidden linear layer and its relu; None for none.
        hidden: the width of each of the L hidden layers.
    """

    num_outputs: int
    norm: Norm | None
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool, dropout: Array | None = None) -> Array:
        """Returns [N, num_outputs] of `x` [N, ...].

        `dropout` [L] is the share that is set to 0 after each relu, and the rest
        scaled up; None for no dropout, which needs no random numbers.
        """
        x = x.reshape(x.shape[0], -1)
        start = nn.initializers.he_normal()
        for i, width in enumerate(self.hidden):
            dense = nn.Dense(
                width, self.norm is None, kernel_init=start, name=f"dense{i + 1}"
            )
            x = normalize(self.norm, f"bn{i + 1}", dense(x), train, None)
            x = relu(self, f"layer{i + 1}", x)
            if dropout is not None:
                keep = 1 - dropout[i]
                kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
                x = jnp.where(kept, x / keep, 0)
        return nn.Dense(self.num_outputs, name="head")(x)


def with_strengths(runs: Runs, dropout: ArrayLike, l2: ArrayLike) -> Runs:
    """Returns runs that carry the strengths which `regularized` reads.

    Args:
        runs: R of a `DropoutMLP`.
        dropout: [R, L] after each relu.
        l2: [R] the factor of half the squared weights.
    """
    strengths = {"dropout": np.asarray(dropout, np.float32)}
    strengths["l2"] = np.asarray(l2, np.float32)
    stats = {**runs.batch_stats, **jax.tree.map(jnp.asarray, strengths)}
    return runs._replace(batch_stats=stats)


def without_strengths(runs: Runs) -> Any:
    """Returns the running statistics alone."""
    own = ("dropout", "l2")
    return {key: value for key, value in runs.batch_stats.items() if key not in own}


def regularized(model: Any) -> Loss:
    """Returns the mean cross entropy with dropout, and L2 of all matrices added."""

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(
            variables,
            batch.inputs,
            True,
            stats["dropout"],
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        labels = jnp.asarray(batch.labels)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        weights = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
        penalty = 0.5 * stats["l2"] * sum(jnp.sum(jnp.square(w)) for w in weights)
        return each.mean() + penalty, new["batch_stats"]

    return loss
