"""Replacing: which norm acts in the place of a layer, known to all who look at it.

A converted model says it while it runs, so that what watches the model sees the norm
that is applied and not the layer that was written.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from jaxbn.base import Norm

Replacing: TypeAlias = Callable[[Any, str], Norm | None]
"""`(layer, path) -> norm`, None where the layer stays."""

_ACTIVE: contextvars.ContextVar[tuple[Replacing, ...]] = contextvars.ContextVar(
    "replacing", default=()
)


@contextlib.contextmanager
def replacing(rule: Replacing) -> Iterator[None]:
    """Lets `rule` say which norms act, while a model runs within."""
    token = _ACTIVE.set((*_ACTIVE.get(), rule))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def replacement_of(layer: Any, path: str) -> Norm | None:
    """Returns the norm that acts in the place of a layer, None if the layer does."""
    found = (rule(layer, path) for rule in reversed(_ACTIVE.get()))
    return next((norm for norm in found if norm is not None), None)
