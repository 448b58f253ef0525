"""A shuffled norm: statistics of examples that did not come together.

y = unshuffle(norm(shuffle(x)))
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxbn._values import as_array, check_flags, shown
from jaxbn.base import Array, AxisName, Norm, Params, State
from jaxbn.core import feature_axes
from jaxbn.core._checks import check_norm, check_switch, check_tree
from jaxbn.core._devices import axis_names
from jaxbn.variants._shuffle import shuffle, unshuffle


def shuffled(norm: Norm, *, axis_name: AxisName | None = None, seed: int = 0) -> Norm:
    """Returns `norm` of shuffled examples, each result back where its example was.

        y = unshuffle(norm(shuffle(x)))        key = fold_in(key(seed), shuffles)

    `shuffled(batch_norm(), axis_name='devices')` is shuffling BN: statistics of one
    device, over examples of all. Examples lie along axis 0. In evaluation nothing
    moves, and the state returned is the state given.

    Args:
        norm: what to apply; its own `axis_name` and groups are those it was made with.
        axis_name: the axis (or several) to trade along, as in `shuffle`. The override
            of that name in a call takes its place, and goes to `norm` as well.
        seed: of the permutations. Layers of one seed and count permute alike.

    Returns:
        A `Norm`. Its state has one more entry: 'shuffles' [] int32, the steps taken; it
        must be the same on all devices. A mask and the `domain` of a `domain_norm`
        travel with their examples; a mask that has no axis of examples, such as [C],
        has to be the same on all devices.

    Raises:
        ValueError: in `init`, if `norm` is shuffled already; in `apply`, if it has its
            features along axis 0, and as `shuffle`.

    Example:
        >>> from jaxbn.core import batch_norm
        >>> norm = shuffled(batch_norm(normalization_batch_size=2))
        >>> params, state = norm.init(1)
        >>> x = jnp.array([[0.0], [0.0], [8.0], [8.0]])
        >>> y, state = norm.apply(params, state, x, True)
        >>> y.round(3).ravel()  # without shuffling all would be 0
        Array([-1., -1.,  1.,  1.], dtype=float32)
        >>> state['shuffles']
        Array(1, dtype=int32)
    """

    check_norm(norm)
    axis_names(axis_name)
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"seed is {shown(seed)}, expected an int of at most 64 bits; layers of one "
            "seed permute alike"
        )

    def init(
        num_features: int | Sequence[int], *, key: Array | None = None
    ) -> tuple[Params, State]:
        params, state = norm.init(num_features, key=key)
        if "shuffles" in state:
            raise ValueError(
                "norm has 'shuffles' in its state, expected one that is not shuffled; "
                "shuffle once, with the axis_name of all axes"
            )
        return params, {**state, "shuffles": jnp.zeros((), jnp.int32)}

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        train, x = check_switch("train", train), as_array("x", x)
        check_tree("state", state)
        switches = ("update_stats", "use_running_average")
        check_flags(**{name: overrides.get(name) for name in switches})
        if "shuffles" not in state:
            raise ValueError(
                f"state has keys {sorted(state)}, expected 'shuffles' among them; "
                "start it by the init of this norm"
            )
        features = _features(norm, x.ndim)
        inner = {name: value for name, value in state.items() if name != "shuffles"}
        updates = _either(overrides.get("update_stats"), train)
        if not updates and _either(overrides.get("use_running_average"), not train):
            y, _ = norm.apply(params, inner, x, train, mask=mask, **overrides)
            return y, state
        how = {
            "key": jax.random.fold_in(jax.random.key(seed), state["shuffles"]),
            "axis_name": overrides.get("axis_name", axis_name),
        }
        mask, moves = _by_example(mask, x, features)
        domain = _domains(norm, x, train, overrides)
        x, moved, domain = shuffle((x, mask if moves else None, domain), **how)
        mask = moved if moves else mask
        overrides |= {} if domain is None else {"domain": domain}
        y, new = norm.apply(params, inner, x, train, mask=mask, **overrides)
        y = unshuffle(y, **how)
        return y, {**new, "shuffles": state["shuffles"] + 1} if updates else state

    return norm._replace(init=init, apply=apply)


def _domains(
    norm: Norm, x: Array, train: bool, overrides: dict[str, Any]
) -> Array | None:
    """Returns the domain of each example, [N], which goes with it; None if all share.

    Where the norm has parts but is told of none, it goes by places; those of before.
    """
    given = overrides.get("domain")
    if given is None and norm.parts is not None and train:
        parts = norm.parts(x, train, **overrides)
        given = jnp.argmax(parts.astype(jnp.float32), 0).ravel()
    return None if given is None or jnp.ndim(given) == 0 else jnp.asarray(given)


def _either(given: Any, default: bool) -> bool:
    return default if given is None else given


def _features(norm: Norm, ndim: int) -> tuple[int, ...]:
    """Returns the feature axes from 0, which has to be that of the examples."""
    axes = feature_axes(norm.axis, ndim)
    if 0 in axes:
        raise ValueError(
            f"norm has features along axis {norm.axis} of x with {ndim} axes, expected "
            "examples along axis 0; move the features, or pass a norm of another axis"
        )
    return axes


def _by_example(
    mask: ArrayLike | None, x: Array, features: tuple[int, ...]
) -> tuple[Array | None, bool]:
    """Returns `mask`, one entry an example of `x` where it has their axis, and whether.

    One of length 1 there is spread over the examples: another device may have another.
    """
    if mask is None:
        return None, False
    mask = as_array("mask", mask)
    if mask.ndim == 0:
        mask = mask.reshape((1,) * x.ndim)
    rest = tuple(n for a, n in enumerate(x.shape) if a not in features)
    if not any(_fits(mask.shape, shape) for shape in (x.shape, rest)):
        return mask, False
    return jnp.broadcast_to(mask, (x.shape[0], *mask.shape[1:])), True


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) == len(target) and all(
        m in (1, n) for m, n in zip(shape, target, strict=True)
    )
