"""A call of a norm layer: what a handler is given, and what it gives back."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jax.sharding import get_abstract_mesh

from jaxbn.base import Array, Axes, Norm
from jaxbn.core._devices import axis_names, is_bound


class Call(NamedTuple):
    """One call of a norm layer, about to happen.

    Attributes:
        path: of the layer in `batch_stats`, as `find_layers` names it.
        layer: the module: of `flax.linen`, `flax.nnx`, `jaxbn.linen` or `jaxbn.nnx`.
        norm: the pair that is applied; None for Flax's own arithmetic.
        axis: its feature axes.
        x: [..., C] what it is called with.
        mask: the mask it is called with, or None.
        use_running_average: which statistics it would normalize with.
        overrides: what else it is called with, such as `domain`.
        params: its own parameters, such as 'scale' and 'bias'.
        state: its own entries of `batch_stats`, such as 'mean' and 'var'.
        notes: what the handler noted at earlier calls of this layer in this run.
        proceed: `proceed(use_running_average=..., x=...)` calls the layer as it is
            (defaults: as it was called) and returns its output. Where its devices' axis
            is not there, as outside of pmap, it takes the array at hand.
    """

    path: str
    layer: Any
    norm: Norm | None
    axis: Axes
    x: Array
    mask: Array | None
    use_running_average: bool
    overrides: dict[str, Any]
    params: dict[str, Array]
    state: dict[str, Array]
    notes: dict[str, Array]
    proceed: Callable[..., Array]

    @property
    def epsilon(self) -> float | None:
        """Of a layer that evaluates as batch norm does, else None."""
        return self.norm.epsilon if self.norm else getattr(self.layer, "epsilon", None)


Handler: TypeAlias = Callable[[Call], tuple[Array, dict[str, Array]]]
"""`handler(call) -> (y, notes)`: what the layer gives, and what to know of it."""

NOTE = "note: "
"""What names of notes begin with where they lie among the statistics."""


class Watcher(NamedTuple):
    """Who is called, and for which layers.

    Attributes:
        handler: of the calls.
        also: types of modules besides norms.
    """

    handler: Handler
    also: tuple[type, ...]

    def wants(self, layer: Any, flax_layer: type) -> bool:
        """Returns whether a module is handed over: `flax_layer` is Flax's norm."""
        return is_norm(layer, flax_layer) or type(layer) in self.also


def own_notes(layer: dict[str, Any]) -> dict[str, Any]:
    """Returns the notes among the entries of one layer, by their names."""
    return {k.removeprefix(NOTE): v for k, v in layer.items() if k.startswith(NOTE)}


def is_norm(layer: Any, flax_layer: type) -> bool:
    """Returns whether a module is a norm layer: Flax's, or one with a `norm_pair`."""
    return isinstance(layer, flax_layer) or hasattr(type(layer), "norm_pair")


def library_class(kind: type) -> type:
    """Returns the class, of `kind` and those it extends, whose call is a library's."""
    libraries = ("flax", "jaxbn")
    return next(
        (
            base
            for base in kind.__mro__
            if "__call__" in vars(base) and base.__module__.split(".")[0] in libraries
        ),
        kind,
    )


def lacks_axis(layer: Any, norm: Norm | None) -> bool:
    """Returns whether the axis of devices that a layer pools over is not there."""
    keywords = getattr(norm.apply, "keywords", {}) if norm else {}
    names = axis_names(keywords.get("axis_name", getattr(layer, "axis_name", None)))
    there = get_abstract_mesh().axis_names
    return any(not is_bound(name) and name not in there for name in names)
