"""Divergence: what to do about a step that is not finite, and where it came from.

A step is judged on the device: its loss, and the parameters, the state of the optimizer
and the running statistics after it. One that is not finite changes nothing, unless the
run only warns: parameters, optimizer and statistics stay as they were. Which layer it
was is found out afterwards, by taking that step once more, eagerly, on the state that
was kept.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxbn.base import Array
from jaxbn.training._step import Job, loss_of, prepare_step, variables_of
from jaxbn.tree import Call, find_layers, has_statistics, watch

LAYERS = (nn.Dense, nn.Conv, nn.ConvTranspose)
"""Whose inputs are looked at besides those of norms."""


class Diverged(Exception):
    """A run whose arms have all met a step that is not finite."""


def find_culprit(job: Job, state: Any, batch: Any) -> str:
    """Returns what was not finite first in a step, in words.

    Layers are gone through in the order of the forward pass: what enters one, and its
    statistics of that; then come the outputs and the loss, and then the gradients of
    layers from the last one back, in the order in which they are computed, and what the
    optimizer makes of them. All examples are on one device here, whatever they were
    before.

    Args:
        job: what is fixed.
        state: before that step, with running statistics as all devices share them.
        batch: inputs and labels of the whole batch.
    """
    job = job._replace(axis_name=None, apart=False)
    x, labels, told = prepare_step(job, state, batch)
    if not all_finite(x):
        return "the input"
    order: list[str] = []
    layers = find_layers(state.batch_stats)
    norms = [path for path, layer in layers.items() if has_statistics(layer)]

    def look(call: Call) -> tuple[Array, dict[str, Array]]:
        if call.path not in order:
            order.append(call.path)
        wide = jnp.asarray(call.x, jnp.float32)
        axes = tuple(range(wide.ndim - 1))
        fine = jnp.isfinite(wide).all(), jnp.isfinite(wide.var(axes)).all()
        notes = dict(zip(("input", "statistics"), fine, strict=True))
        for name, earlier in call.notes.items():
            notes[name] = earlier & notes[name]
        norm = call.path in norms
        held = {"use_running_average": True} if job.frozen and norm else {}
        return call.proceed(**held), notes

    run = watch(job.model, look, also=LAYERS)

    def share(params: Any) -> tuple[Array, Any]:
        variables = variables_of(params, state.batch_stats)
        outputs, notes = run(variables, x, True, **told)
        return loss_of(job, outputs, labels), (outputs, notes)

    derive = jax.value_and_grad(share, has_aux=True)
    (loss, (outputs, notes)), slopes = derive(state.params)
    for path in order:
        if not notes[path]["input"]:
            return f"the input of layer {path!r}"
        of_batch = path in norms and not job.frozen
        if of_batch and not notes[path]["statistics"]:
            return f"the batch statistics of layer {path!r}"
    for name, values in (("the output of the model", outputs), ("the loss", loss)):
        if not all_finite(values):
            return name
    gradients = find_layers(slopes)
    for path in reversed(order):
        if not all_finite(gradients.get(path, {})):
            return f"the gradient of layer {path!r}"
    updates, opt_state = job.optimizer.update(slopes, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    for path, layer in find_layers(params).items():
        if not all_finite(layer):
            return f"the updated layer {path!r}"
    if not all_finite(opt_state):
        return "the state of the optimizer"
    return "the sum over devices"


def all_finite(tree: Any) -> bool:
    """Returns whether all numbers of a tree are finite."""
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))
