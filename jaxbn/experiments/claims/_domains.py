"""Domains: one net that sees each image in every domain, and what normalizes there.

A domain is a scale and a shift of standardized images. Runs are `train`ed on all
domains; `of_population` turns their statistics of each domain, [S, D, C], into what is
shared, and `error_of` is the mean over domains.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxbn.base import Array, Norm, Params, State
from jaxbn.data import Split
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import logits
from jaxbn.experiments._runs import Loss, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.models import create_model
from jaxbn.population import merge_batch_stats
from jaxbn.tree import find_layers, replace_layers


class Size(NamedTuple):
    """How much is run.

    A batch is of `batch` images in each domain. Unless `everything` is, neither a
    specific affine nor part (b) nor the net without a norm.
    """

    train: int | None
    test: int | None
    epochs: int
    model: str = "mlp"
    options: tuple[tuple[str, Any], ...] = (("hidden", (128,) * 3),)
    pool: int = 2
    batch: int = 128
    levels: int = 5
    everything: bool = True


class InDomains(nn.Module):
    """A net that sees each image in every domain: outputs [N, D * K].

    Attributes:
        net: makes the network, called as `net(x, train, mask, domain)`.
        scales: of each domain.
        shifts: of each domain, added after.
        told: whether the norm is told the domain of each example.
    """

    net: Any
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    told: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns outputs of `x` [N, H, W, C] in all domains."""
        shape = (1, len(self.scales), *(1,) * (x.ndim - 1))
        scales, shifts = (
            jnp.asarray(a).reshape(shape) for a in (self.scales, self.shifts)
        )
        each = (x[:, None] * scales + shifts).reshape(-1, *x.shape[1:])
        domain = jnp.tile(jnp.arange(len(self.scales)), len(x))
        out = self.net(each, train, None, domain if self.told else None)
        return out.reshape(len(x), -1)


class Task(NamedTuple):
    """What is trained: images in domains, each a scale and a shift."""

    size: Size
    images: Images
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    seeds: np.ndarray

    def model(self, norm: Norm | None, told: bool) -> InDomains:
        """Returns the net with `norm` in its layers."""
        kind, options = self.size.model, dict(self.size.options)
        net = create_model(kind, self.images.num_classes, norm, **options)
        return InDomains(net, self.scales, self.shifts, told)


def together(norm: Norm, apart: Norm) -> Norm:
    """Returns `norm`, which tells no domains apart, with the state of `apart`.

    So that the statistics of each domain can be measured while all are normalized
    together.
    """

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        domain: ArrayLike | None = None,
        **options: Any,
    ) -> tuple[Array, State]:
        del domain
        options["mask"] = mask
        y, _ = norm.apply(params, norm.init(jnp.shape(x)[-1])[1], x, train, **options)
        return y, state

    return apart._replace(apply=apply)


def train(task: Task, model: Any, rate: float = 1.0) -> tuple[Any, Any]:
    """Returns the parameters and statistics after training."""
    size, (inputs, labels) = task.size, task.images.train
    steps = size.epochs * (len(labels) // size.batch)
    optimizer = sgd(0.1 * rate, steps, weight_decay=5e-4)
    runs, _ = fit(
        in_all(model, len(task.scales)),
        start(model, inputs[:2], task.seeds, optimizer),
        task.images.train,
        at_random(task.seeds, len(labels), size.batch),
        range(size.epochs),
        optimizer=optimizer,
    )
    return runs.params, runs.batch_stats


def in_all(model: Any, domains: int) -> Loss:
    """Returns the mean cross entropy over examples and domains."""

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        del key
        variables = {"params": params, "batch_stats": stats}
        out, new = model.apply(variables, batch.inputs, True, mutable=["batch_stats"])
        said = jax.nn.log_softmax(out.reshape(len(out), domains, -1))
        labels = jnp.asarray(batch.labels)[:, None, None]
        each = jnp.take_along_axis(said, labels, -1)
        return -each.mean(), new.get("batch_stats", stats)

    return loss


def of_population(stats: Any, population: str) -> Any:
    """Returns what every domain is normalized with; statistics are [S, D, C]."""
    if population == "specific":
        return stats
    pooled = jax.vmap(merge_batch_stats)(stats)

    def everywhere(total: Array, each: Array) -> Array:
        return jnp.broadcast_to(total[:, None], each.shape)

    used = find_layers(jax.tree.map(everywhere, pooled, stats))
    if population == "mean variance":
        for path, layer in find_layers(stats).items():
            used[path]["var"] = everywhere(layer["var"].mean(1), layer["var"])
    return replace_layers(stats, used)


def error_of(model: Any, params: Any, stats: Any, task: Task) -> np.ndarray:
    """Returns the mean error over domains in percent, [S]."""
    inputs, labels = task.images.test
    out = np.asarray(logits(model, params, stats, inputs))
    said = out.reshape(*out.shape[:2], len(task.scales), -1).argmax(-1)
    return 100 * (said != labels[:, None]).mean((1, 2))
