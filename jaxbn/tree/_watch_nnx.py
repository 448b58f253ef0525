"""Watching an nnx model: a copy of it, whose norm layers are told to call back."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbn.base import NOTHING_SHARED, Array
from jaxbn.tree._call import (
    NOTE,
    Call,
    Handler,
    Watcher,
    is_norm,
    lacks_axis,
    library_class,
    own_notes,
)


def run_nnx(
    model: nnx.Module, watcher: Watcher, variables: Any, args: tuple, kwargs: dict
) -> tuple[Any, Any]:
    """Returns the output of the model, and its statistics with the notes."""
    graph, state = nnx.split(model)
    copy = nnx.merge(graph, jax.tree.map(lambda a: a, state))
    if variables is not None:
        nnx.update(copy, variables)
    for path, layer in list(nnx.iter_graph(copy)):
        if watcher.wants(layer, nnx.BatchNorm):
            name = "/".join(map(str, path))
            layer.__class__ = watched(type(layer), name, watcher.handler)
    output = copy(*args, **kwargs)
    return output, nnx.state(copy, nnx.BatchStat)


def watched(kind: type, path: str, handler: Handler) -> type:
    """Returns the class `kind` with calls that go to the handler.

    Those of a subclass of a library's layer, which may do more, go there where they
    call the layer they extend: its class comes behind them in the order of resolution.
    """
    theirs = library_class(kind)

    def __call__(
        self: Any,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        **overrides: Any,
    ) -> Array:
        norm, given = is_norm(self, nnx.BatchNorm), use_running_average
        if norm and given is None:
            given = self.use_running_average
        pair = self.norm_pair if hasattr(type(self), "norm_pair") else None
        held, params = values_of(self, nnx.BatchStat), values_of(self, nnx.Param)
        state = {k: v for k, v in held.items() if not k.startswith(NOTE)}
        again = itertools.count()

        def proceed(use_running_average: bool = bool(given), x: Array = x) -> Array:
            if not norm:
                return theirs.__call__(self, x)
            alone = lacks_axis(self, pair)
            options = {**overrides, **(NOTHING_SHARED if alone and pair else {})}
            options["mask"] = mask
            if next(again) and pair is not None:
                train = not use_running_average
                return pair.apply(params, state, x, train, **options)[0]
            before = getattr(self, "axis_name", None)
            if alone and pair is None:
                self.axis_name = None
            y = theirs.__call__(self, x, use_running_average, **options)
            if alone and pair is None:
                self.axis_name = before
            return y

        last = self.axis if isinstance(self, nnx.BatchNorm) else -1
        call = Call(
            path,
            self,
            pair,
            pair.axis if pair else last,
            x,
            mask,
            bool(given),
            overrides,
            params,
            state,
            own_notes(held),
            proceed,
        )
        y, notes = handler(call)
        for name, value in notes.items():
            setattr(self, NOTE + name, nnx.BatchStat(jnp.asarray(value)))
        return y

    body = {"__call__": __call__, "__module__": theirs.__module__}
    hook = type(theirs.__name__, (theirs,), body)
    return hook if kind is theirs else type(kind.__name__, (kind, hook), {})


def values_of(layer: Any, kind: type) -> dict[str, Array]:
    """Returns the arrays that a layer holds as variables of a kind, by name."""
    return {k: v[...] for k, v in vars(layer).items() if isinstance(v, kind)}
