"""Pairs: which norm follows which layer directly, read off the computation.

No names are guessed. The model is traced once; a norm is a layer's if what it is given
is what the layer returned, and nobody else uses that.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from jaxbn.base import Array, DType
from jaxbn.surgery._reaching import reaching
from jaxbn.tree import (
    Call,
    as_model,
    as_static,
    find_layers,
    has_statistics,
    params_of,
    stats_of,
    variables_of,
    watch,
)

LAYERS = (nn.Dense, nn.Conv, nn.ConvTranspose, nnx.Linear, nnx.Conv, nnx.ConvTranspose)
"""Linear maps whose outputs are features along the last axis."""


class Pair(NamedTuple):
    """A norm that can be folded into the layer before it.

    Attributes:
        layer: path of the layer.
        norm: path of the norm.
        epsilon: of the norm.
        outputs: the axis of the kernel that holds the layer's outputs.
        with_bias: whether the layer has a bias.
        dtype: of the norm's output where that is not its input's, as Flax's norms
            promote; else None.
    """

    layer: str
    norm: str
    epsilon: float
    outputs: int
    with_bias: bool
    dtype: DType | None


class Pairs(NamedTuple):
    """What tracing found.

    Attributes:
        found: what can be folded.
        refused: other norms with statistics, and why, by path.
    """

    found: tuple[Pair, ...]
    refused: dict[str, str]


def find_pairs(model: Any, variables: Any, *args: Any, **kwargs: Any) -> Pairs:
    """Returns the norms that directly follow a layer, and why the others do not.

    Args:
        model: a linen or nnx module.
        variables: of it; None for what an nnx model holds.
        *args: of a call in evaluation.
        **kwargs: of that call.
    """
    variables = variables_of(model, variables)
    static, seen = as_static(model), Seen({}, {}, [], [])

    def traced(probes: dict[str, Array]) -> Any:
        handler = seen.handler(probes)
        run = watch(as_model(static, variables), handler, also=LAYERS)
        return run(variables, *args, **kwargs)[0]

    jax.eval_shape(lambda: traced({}))  # Which layers are there?
    names = sorted(seen.outputs)
    again = Seen({}, {}, [], [])
    seen = again
    probes = {name: jnp.zeros(()) for name in names}
    program = jax.make_jaxpr(traced)(probes).jaxpr
    used = reaching(program, [True] * len(program.outvars))
    elsewhere = dict(zip(names, used, strict=True))
    layers = find_layers(params_of(variables)), find_layers(stats_of(variables))
    return _judge(seen, elsewhere, *layers)


class Seen(NamedTuple):
    """What was noticed while tracing.

    Attributes:
        outputs: of layers by path: what they returned, that with a probe added, and
            the call.
        norms: of norms with statistics by path: the call, whose output they took, and
            the dtype of what they returned.
        layers: paths in the order of calls, repeated where a layer is used twice.
        calls: of norms, likewise.
    """

    outputs: dict[str, tuple[Array, Array, Call]]
    norms: dict[str, tuple[Call, str | None, DType]]
    layers: list[str]
    calls: list[str]

    def handler(self, probes: dict[str, Array]) -> Any:
        """Returns what notices.

        A layer's output gets its probe added; a norm that takes it is given what it was
        without. What then still depends on the probe uses the output elsewhere.
        """

        def handle(call: Call) -> tuple[Array, dict]:
            if type(call.layer).__name__ in {kind.__name__ for kind in LAYERS}:
                y = call.proceed()
                probed = y + probes.get(call.path, jnp.zeros(())).astype(y.dtype)
                self.layers.append(call.path)
                self.outputs[call.path] = y, probed, call
                return probed, {}
            self.calls.append(call.path)
            taken = (p for p, seen in self.outputs.items() if call.x is seen[1])
            layer = next(taken, None)
            x = call.x if layer is None else self.outputs[layer][0]
            y = call.proceed(x=x)
            self.norms[call.path] = call, layer, y.dtype
            return y, {}

        return handle


def _judge(
    seen: Seen, elsewhere: dict[str, bool], params: dict[str, Any], stats: dict
) -> Pairs:
    found, refused = [], {}
    for path, (call, layer, dtype) in seen.norms.items():
        if not has_statistics(call.state):
            continue
        before = seen.outputs[layer][2] if layer else None
        why = _misheld(before, call, params, stats)
        why = why or _misplaced(call, layer, seen, elsewhere)
        if why is not None or before is None:
            refused[path] = why or ""
            continue
        module = before.layer
        outputs = -2 if getattr(module, "transpose_kernel", False) else -1
        epsilon = call.epsilon or 0.0
        promoted = None if dtype == call.x.dtype else dtype
        pair = Pair(before.path, path, epsilon, outputs, module.use_bias, promoted)
        found.append(pair)
    return Pairs(tuple(found), refused)


def _misplaced(
    call: Call, layer: str | None, seen: Seen, elsewhere: dict[str, bool]
) -> str | None:
    """Returns why a norm cannot be folded where it stands, None if it can."""
    axis = call.axis if isinstance(call.axis, int) else tuple(call.axis)
    last = axis in (-1, call.x.ndim - 1, (-1,), (call.x.ndim - 1,))
    reasons = (
        (seen.calls.count(call.path) > 1, "it is used more than once"),
        (layer is None, "its input is not the output of a Dense or Conv layer"),
        (not call.use_running_average, "it is called in training mode"),
        (call.mask is not None, "it is called with a mask"),
        (not last, f"its features lie along axis {call.axis}, not the last"),
        (call.epsilon is None, "it is no batch norm in evaluation"),
        (
            np.shape(call.state["mean"]) != call.x.shape[-1:],
            f"its statistics have shape {np.shape(call.state['mean'])}, a row for each "
            "domain",
        ),
        (
            sum(layer == other for _, other, _ in seen.norms.values()) > 1,
            f"several norms take the output of {layer}",
        ),
        (seen.layers.count(str(layer)) > 1, f"{layer} is used more than once"),
        (elsewhere.get(str(layer), False), f"the output of {layer} is used elsewhere"),
    )
    return next((why for is_so, why in reasons if is_so), None)


def _misheld(
    layer: Call | None, norm: Call, params: dict[str, Any], stats: dict[str, Any]
) -> str | None:
    """Returns why variables cannot be folded as they are stored, None if they can."""
    stacked = np.shape(stats[norm.path]["mean"]) != norm.state["mean"].shape
    if layer is not None:
        kernel = params.get(layer.path, {}).get("kernel")
        if kernel is None:
            return f"the kernel of {layer.path} is held by another layer"
        stacked |= np.shape(kernel) != layer.params["kernel"].shape
    return "it is stacked with others, as by nn.scan" if stacked else None
