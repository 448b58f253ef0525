"""Precise statistics: those of a fixed model over as much data as one likes.

A running average mixes statistics of models that no longer exist. Here a model stands
still, every norm layer's input is measured batch by batch, and what was measured is
merged, so that the result is that of one large batch however it was cut.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxbn._values import check_flags, check_function, shown
from jaxbn.population._collect import DEFINITIONS, share
from jaxbn.population._install import install
from jaxbn.population._passes import CallOf, Job, as_call, measure, one_by_one
from jaxbn.tree import as_static, layers_with_statistics, stats_of, variables_of

Definition = Literal["pooled", "averaged"]


class PreciseReport(NamedTuple):
    """What was measured.

    Attributes:
        num_batches: how many batches there were.
        counted: how many elements a channel of each layer has counted, by path; the
            largest over its channels.
        not_reached: paths of layers that nothing was measured of: no batch came
            through, or they are frozen; their statistics are those they had.
    """

    num_batches: int
    counted: dict[str, float]
    not_reached: tuple[str, ...]


def precise_batch_stats(
    model: Any,
    variables: Any,
    batches: Iterable[Any],
    *,
    call: CallOf | None = None,
    definition: Definition = "pooled",
    sequential: bool = False,
    share_processes: bool = False,
) -> tuple[Any, PreciseReport]:
    """Returns the statistics of a fixed model over `batches`, and what was measured.

        mean = sum(n_k mean_k) / n
        var = sum(n_k (var_k + |mean_k - mean|^2)) / n        (pooled)
        mean = average of mean_k, var = average of n_k / (n_k - 1) var_k    (averaged)

    In each forward pass layers normalize by the batch, as in training, so that deeper
    ones see what they saw there; with small batches that noise adds up with depth, and
    batches larger than the normalization batch of training are better (Wu and Johnson
    2021, table 2). `sequential` removes it. 10^3 to 10^4 examples suffice (table 1).

    Layers that the call has in evaluation while others train are frozen, and left
    alone, as fvcore does; so is a `frozen_norm`. If all are in evaluation, all are
    measured. Layers of an axis of devices that is not there take the batch at hand.

    Works for any linen or nnx model with norms of Flax or of jaxbn, used once, twice or
    stacked by `nn.scan`. Nothing of the model is changed, whatever happens; one jitted
    forward a batch, compiled again for a batch of another shape.

    Args:
        model: a linen or nnx module.
        variables: linen's `{'params': ..., 'batch_stats': ...}`; an `nnx.State`, or
            None for what the nnx model holds.
        batches: of any sizes; arrays, or tuples of the model's positional arguments,
            such as `(x, True)`. Arrays may lie over a mesh. Masks that the model passes
            to its layers count.
        call: `call(batch) -> (args, kwargs)` for any other signature: `train=True`, a
            mask, `rngs`. Jitted with the forward pass; programs are kept for the same
            model and the same function, so define it once. Random keys that an nnx
            model holds are folded with the number of the batch.
        definition: 'pooled', the total variance over all elements, or 'averaged', the
            mean of the unbiased variances of the batches, each weighing the same: Ioffe
            and Szegedy's algorithm 2, pycls and fvcore's former default. fvcore's
            present one is pooled from mean squares, which cancel.
        sequential: each layer is measured with all before it already normalizing by
            their precise statistics, so that nothing depends on how the data is cut
            (but for layers that are one in `batch_stats`: used twice, or stacked by a
            scan). Costs a pass over `batches` and a program for each layer; they have
            to be re-iterable.
        share_processes: every process has batches of its own, merged at the end.

    Returns:
        `batch_stats` as the model has them, an `nnx.State` for nnx (`nnx.update` takes
        it), with 'mean' and 'var' replaced in what was reached; var is biased where it
        is pooled. Other entries, layers that were not reached, and channels that
        counted nothing keep what they had.

    Raises:
        ValueError: if there are no batches, the model has no layer with statistics,
            or `sequential` gets an iterator.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=False)
        >>> x = jnp.array([[0.0], [2.0], [7.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> stats, report = precise_batch_stats(model, variables, [x[:2], x[2:]])
        >>> stats['mean'], stats['var'], report.num_batches
        (Array([3.], dtype=float32), Array([8.666667], dtype=float32), 2)

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
        https://arxiv.org/abs/2105.07576
    """
    if not isinstance(definition, str) or definition not in DEFINITIONS:
        raise ValueError(
            f"definition is {shown(definition)}, expected 'pooled' or 'averaged'; "
            "pooled is the variance of everything"
        )
    check_flags(sequential=sequential, share_processes=share_processes)
    if call is not None:
        check_function("call", call, "of a batch, to the arguments of the model")
    if isinstance(batches, str | Mapping) or not isinstance(batches, Iterable):
        raise ValueError(
            f"batches is {shown(batches)}, expected batches to go through; pass a list"
        )
    if sequential and isinstance(batches, Iterator):
        raise ValueError(
            f"batches is a {type(batches).__name__} and sequential is True, expected "
            "what can be gone through once a layer; pass a list, or an object whose "
            "__iter__ starts anew"
        )
    variables = variables_of(model, variables)
    stats = stats_of(variables)
    layers = layers_with_statistics(variables)
    sample, merge = DEFINITIONS[definition]
    job = Job(as_static(model), call or as_call, sample, merge)
    if sequential:
        found, num = one_by_one(job, variables, stats, batches)
    else:
        found, num = measure(job, variables, batches)
    if share_processes and jax.process_count() > 1:
        found = share(found, merge)
    new_stats = install(stats, found)
    totals = jax.device_get({path: new.total for path, new in found.items()})
    counted = {path: float(np.max(n, initial=0)) for path, n in totals.items()}
    missing = [path for path in layers if not counted.get(path)]
    return new_stats, PreciseReport(num, counted, tuple(missing))
