"""Deep nets: their initial weights scaled, their saturated units looked at.

See `_initialization` and `_saturation`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxbn.linen
from jaxbn.base import Array, Norm
from jaxbn.data import Split
from jaxbn.experiments._samplers import Sampler

PERCENTILES = np.array((15.0, 50.0, 85.0))


class DeepNet(nn.Module):
    """Linear, norm, activation for each hidden layer, whose inputs are sown."""

    num_outputs: int
    norm: Norm | None
    activation: Callable[[Array], Array]
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns outputs [N, num_outputs] of `x` [N, ...]."""
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden, 1):
            x = nn.Dense(width, use_bias=self.norm is None, name=f"dense{i}")(x)
            if self.norm is not None:
                how = {"use_running_average": not train, "name": f"bn{i}"}
                x = jaxbn.linen.Norm(self.norm, **how)(x)
            self.sow("intermediates", f"layer{i}", x)
            x = self.activation(x)
        return nn.Dense(self.num_outputs, name="head")(x)


def scaled(params: Any, factors: np.ndarray) -> Any:
    """Returns parameters of R runs, each run's hidden kernels times its factor."""

    def times(kernel: Any) -> Any:
        return kernel * factors.astype(kernel.dtype).reshape(-1, 1, 1)

    return {
        layer: {**own, "kernel": times(own["kernel"])}
        if layer.startswith("dense")
        else own
        for layer, own in params.items()
    }


class Seen(NamedTuple):
    """What R runs showed.

    Attributes:
        saturated: [R, L] share of each layer's units times images.
        gradient: [R, L] norm of the gradient of each hidden layer's weights.
        percentiles: [R, 3, C] of the inputs of the last hidden layer's units.
    """

    saturated: Array
    gradient: Array
    percentiles: Array


def in_parts(rows: Sampler, parts: int) -> Sampler:
    """Returns a sampler that gives an epoch in so many parts of as many steps."""

    def part(i: int) -> np.ndarray:
        whole = rows(i // parts)
        steps = whole.shape[1] // parts
        return whole[:, i % parts * steps :][:, :steps]

    return part


@functools.partial(jax.jit, static_argnames="model")
def look(model: Any, params: Any, batch_stats: Any, probe: Split) -> Seen:
    """Returns what R runs show on the images of `probe`."""
    layers = range(1, len(model.hidden) + 1)

    def one(params: Any, stats: Any) -> Seen:
        def loss(params: Any) -> tuple[Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            kept = ["batch_stats", "intermediates"]
            logits, new = model.apply(variables, probe.inputs, True, mutable=kept)
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.asarray(probe.labels)
            )
            return each.mean(), new["intermediates"]

        grads, sown = jax.grad(loss, has_aux=True)(params)
        inputs = [sown[f"layer{i}"][0] for i in layers]
        flat = [is_saturated(model.activation, x).mean() for x in inputs]
        norms = [jnp.linalg.norm(grads[f"dense{i}"]["kernel"]) for i in layers]
        spread = jnp.percentile(inputs[-1], jnp.asarray(PERCENTILES), axis=0)
        return Seen(jnp.stack(flat), jnp.stack(norms), spread)

    return jax.vmap(one)(params, batch_stats)


def is_saturated(activation: Callable[[Array], Array], x: Array) -> Array:
    """Returns where the slope is below a tenth of that at 0, its largest.

    Example:
        >>> is_saturated(jnp.tanh, jnp.array([0.0, 1.8, 1.9, -5.0])).tolist()
        [False, False, True, True]
    """
    slope = jax.jvp(activation, (x,), (jnp.ones_like(x),))[1]
    return slope < 0.1 * jax.grad(activation)(0.0)


def path(percentiles: np.ndarray) -> np.ndarray:
    """Returns how far medians travel, over the mean 15-85 spread; of [R, T, 3, C], [R].

    A mean over units.
    """
    low, median, high = np.moveaxis(np.asarray(percentiles, float), 2, 0)
    travelled = np.abs(np.diff(median, axis=1)).sum(1)
    return (travelled / (high - low).mean(1)).mean(-1)
