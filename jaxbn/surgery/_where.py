"""Where: layers chosen by path, and refused where the choice names none."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence, Set
from typing import TypeAlias

from jaxbn._values import shown

Where: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None
"""Layers by path: a pattern such as 'block1/*', or the start of a path such as
'block1', or several of either, or a predicate; None for all."""


def choose(paths: Iterable[str], where: Where) -> tuple[str, ...]:
    """Returns the paths that `where` means, in their order.

    Args:
        paths: of the layers there are.
        where: which of them.

    Returns:
        Those chosen.

    Raises:
        ValueError: if a pattern, or the predicate, chooses none.

    Example:
        >>> choose(['a/bn1', 'a/bn2', 'b/bn1'], ['a/*2', 'b'])
        ('a/bn2', 'b/bn1')
    """
    listed = isinstance(paths, Iterable) and getattr(paths, "ndim", 1) > 0
    names = tuple(paths) if listed and not isinstance(paths, str) else (None,)
    if not all(isinstance(path, str) for path in names):
        raise ValueError(
            f"paths is {shown(paths)}, expected those of layers; pass a list of strings"
        )
    return _choose(names, where)  # pyrefly: ignore[bad-argument-type]


def _choose(paths: tuple[str, ...], where: Where) -> tuple[str, ...]:
    check_where(where)
    if where is None:
        return paths
    if callable(where):
        chosen = tuple(path for path in paths if where(path))
        if not chosen:
            raise _nothing(where, paths)
        return chosen
    found: set[str] = set()
    for pattern in (where,) if isinstance(where, str) else where:
        new = {path for path in paths if _matches(path, pattern)}
        if not new:
            raise _nothing(pattern, paths)
        found |= new
    return tuple(path for path in paths if path in found)


def check_where(where: object) -> None:
    """Refuses what chooses no layers.

    Raises:
        ValueError: unless it is as `Where` says.
    """
    if where is None or isinstance(where, str) or callable(where):
        return
    listed = isinstance(where, Sequence | Set)
    if not listed or not all(isinstance(pattern, str) for pattern in where):
        raise ValueError(
            f"where is {shown(where)}, expected the path of a layer, a pattern such as "
            "'block1/*', several of them, or a function of a path"
        )


def is_chosen(path: str, where: Where) -> bool:
    """Returns whether one path is among those that `where` means."""
    if where is None or callable(where):
        return where is None or bool(where(path))
    patterns = (where,) if isinstance(where, str) else where
    return any(_matches(path, pattern) for pattern in patterns)


def _matches(path: str, pattern: str) -> bool:
    within = path.startswith(pattern.rstrip("/") + "/")
    return path == pattern or within or fnmatch.fnmatchcase(path, pattern)


def _nothing(where: object, paths: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"where is {where!r}, which chooses none of the layers {list(paths)}; expected "
        "the path of one, the start of some, or a pattern such as 'block1/*'"
    )
