"""Domain norm: statistics of each domain, chosen by an index, over any norm.

A batch norm of mixed domains normalizes none of them (Wu and Johnson 2021, section 5).
Here a norm's state, and if wanted its parameters, are kept once a domain, stacked.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import as_array, is_count, shown
from jaxbn.base import Array, Norm, Params, PartsFn, State
from jaxbn.core import Moments, feature_axes, merge_moments
from jaxbn.core._arrays import as_inexact
from jaxbn.core._checks import check_norm, check_switch, check_tree
from jaxbn.core._mask import as_weights
from jaxbn.core._pair import takes_group_index


def domain_norm(
    num_domains: int,
    norm: Norm,
    *,
    affine: Literal["shared", "per_domain"] = "shared",
) -> Norm:
    """Returns `norm` with a state of its own for each domain.

    `apply` takes one keyword more, `domain`: an index [] of all examples, or [N] one an
    example; it may be traced. Examples of different domains are not normalized
    together, in training nor in evaluation, and each domain's state moves by its own
    examples only, exactly as if there were so many norms.

    On several devices, with an `axis_name`, one index of all examples has to be the
    same on all of them: pass [N] where each device has a domain of its own.

    Args:
        num_domains: D.
        norm: any `Norm` that masks exactly. With [N] indices `batch_norm` and
            `batch_renorm` run once, whatever D is. Others, and any under jit over a
            mesh whose axis is named, run D + 1 times, once a domain and once for the
            unseen, on the whole array and with their collectives each time.
        affine: whether all domains share scale and bias (the paper's tables find little
            difference) or have their own.

    Returns:
        A `Norm`; its state is that of `norm` with an axis [D, ...] in front, and so are
        its parameters with `affine='per_domain'`.

        An index outside [0, D), or none at all in evaluation, is an *unseen* domain: it
        is normalized with the statistics of all domains, pooled by total variance with
        equal weight, and the mean of their parameters. Domains that have absorbed
        nothing are left out where the state says which, by the 'count' of `debias` or
        momentum=None; without it they count as they started. In training an unseen
        domain is normalized by itself and nobody absorbs it.

    Raises:
        ValueError: on fewer than one domain, another word for `affine`; in `apply` if
            there is no domain in training, or one that is neither [] nor [N] integers.

    Example:
        >>> from jaxbn.core import batch_norm
        >>> norm = domain_norm(2, batch_norm(momentum=0.0))
        >>> params, state = norm.init(1)
        >>> x = jnp.array([[0.0], [2.0], [10.0], [14.0]])
        >>> domain = jnp.array([0, 0, 1, 1])
        >>> y, state = norm.apply(params, state, x, True, domain=domain)
        >>> y.round(2).ravel(), state['mean'].ravel()
        (Array([-1.,  1., -1.,  1.], dtype=float32), Array([ 1., 12.], dtype=float32))

    References:
        Chang et al., Domain-specific batch normalization, 2019. Their code takes the
        domain of a batch's first example for all, and all parameters per domain.
        https://arxiv.org/abs/1906.03950
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 5.
    """
    check_norm(norm)
    if not is_count(num_domains):
        raise ValueError(
            f"num_domains is {shown(num_domains)}, expected an int from 1 on; it is "
            "how many states there are"
        )
    if not isinstance(affine, str) or affine not in ("shared", "per_domain"):
        raise ValueError(
            f"affine is {shown(affine)}, expected 'shared' or 'per_domain'; it says "
            "whose scale and bias are"
        )
    own = affine == "per_domain"

    def init(
        num_features: int | Sequence[int], *, key: Array | None = None
    ) -> tuple[Params, State]:
        params, state = norm.init(num_features, key=key)

        def repeat(tree: dict[str, Array]) -> dict[str, Array]:
            boxed = sorted(k for k, v in tree.items() if not hasattr(v, "shape"))
            if boxed:
                raise ValueError(
                    f"the initializers of {boxed} return boxes, such as those of "
                    "with_partitioning, expected arrays, which are stacked over "
                    "domains; say affine='shared', or lay them out afterwards"
                )
            return {
                k: jnp.broadcast_to(value, (num_domains, *value.shape))
                for k, value in tree.items()
            }

        return repeat(params) if own else params, repeat(state)

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        domain: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        train, x = check_switch("train", train), as_inexact(x)
        check_tree("params", params)
        _check_rows(state, num_domains)
        domain = _checked(domain, train, x, norm)
        domain = jnp.where((domain < 0) | (domain >= num_domains), num_domains, domain)
        states = _with(state, pool_domains(state))
        affines = _with(params, _mean(params)) if own else params

        def run(d: Array | int, mask: ArrayLike | None) -> tuple[Array, State]:
            here = {k: v[d] for k, v in affines.items()} if own else affines
            there = {k: v[d] for k, v in states.items()}
            return norm.apply(here, there, x, train, mask=mask, **overrides)

        if domain.ndim == 0:
            y, new = run(domain, mask)
            moved = {
                k: jnp.asarray(v).at[domain].set(new[k], mode="drop")
                for k, v in state.items()
            }
        elif takes_group_index(norm, **overrides):
            given = {"mask": mask, "group_index": domain, **overrides}
            y, new = norm.apply(affines, states, x, train, **given)
            moved = {k: new[k][:-1] for k in state}
        else:
            inside = _masks(domain, num_domains + 1, mask, x, norm)
            # One after the other: on a CPU a vmap takes five times as long.
            each = [run(d, inside[d]) for d in range(num_domains + 1)]
            y = functools.reduce(jnp.add, [part for part, _ in each])  # 0 when masked
            moved = {k: jnp.stack([new[k] for _, new in each[:-1]]) for k in state}
        update = overrides.get("update_stats")
        return y, moved if (train if update is None else update) else state

    parts = parts_by_domain(norm, num_domains)
    return norm._replace(init=init, apply=apply, parts=parts)


def parts_by_domain(norm: Norm, num_domains: int) -> PartsFn:
    """Returns what says which examples each domain's statistics are of."""

    def parts(
        x: Array,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        domain: ArrayLike | None = None,
        **_: Any,
    ) -> Array:
        return _masks(_checked(domain, train, x, norm), num_domains, mask, x, norm)

    return parts


def pool_domains(state: State) -> State:
    """Returns one state for a domain that has none, from those of all, [D, ...].

    Mean and variance are merged by total variance, with equal weight; where there is a
    'count', those that are still 0 have no say. Of scale and bias that are constants,
    the mean; of other entries, the largest.
    """
    pooled = {key: jnp.max(value, 0) for key, value in state.items()}
    pooled |= _mean({key: state[key] for key in ("scale", "bias") if key in state})
    if {"mean", "var"} <= set(state):
        seen = jnp.ones_like(state["var"])
        if "count" in state:
            seen = jnp.where(state["count"].sum(0) > 0, state["count"] > 0, seen)
            seen = seen.astype(state["var"].dtype)
        mean, var = state["mean"], state["var"]
        moments = merge_moments(Moments(seen, mean, jnp.zeros_like(mean), var * seen))
        pooled |= {"mean": moments.mean, "var": moments.var}
    return pooled


def _check_rows(state: State, num_domains: int) -> None:
    """Refuses a state that has not a row for each domain, all of one shape."""
    check_tree("state", state)
    shapes = {key: jnp.shape(value) for key, value in state.items()}
    rows = all(shape[:1] == (num_domains,) for shape in shapes.values())
    if not rows or shapes.get("mean") != shapes.get("var"):
        raise ValueError(
            f"state has arrays of shapes {shapes}, expected a row for each of the "
            f"{num_domains} domains, and 'mean' and 'var' of one shape; start it by "
            "the init of this norm"
        )


def _with(stacked: dict[str, Array], one: dict[str, Array]) -> dict[str, Array]:
    """Returns [D + 1, ...]: one more entry behind those of the domains."""
    return {k: jnp.concatenate([v, one[k][None]]) for k, v in stacked.items()}


def _mean(params: Params) -> Params:
    return {k: jnp.mean(value, 0, dtype=value.dtype) for k, value in params.items()}


def _checked(domain: ArrayLike | None, train: bool, x: Array, norm: Norm) -> Array:
    if domain is None and train:
        raise ValueError(
            "domain is None in training, expected an index, [] or one an example; pass "
            "domain=..., in evaluation None is an unseen domain"
        )
    domain = as_array("domain", -1 if domain is None else domain)
    features = feature_axes(norm.axis, x.ndim)
    examples = tuple(n for a, n in enumerate(x.shape) if a not in features)[:1]
    if domain.shape not in ((), examples) or not jnp.issubdtype(
        domain.dtype, jnp.integer
    ):
        raise ValueError(
            f"domain has shape {domain.shape} and dtype {domain.dtype}, expected "
            f"integers of shape () or {examples}; pass one index an example"
        )
    return domain


def _masks(
    domain: Array, count: int, mask: ArrayLike | None, x: Array, norm: Norm
) -> Array:
    """Returns [count, ...]: what of `x` counts in each domain."""
    features = feature_axes(norm.axis, x.ndim)
    along = next(a for a in range(x.ndim) if a not in features)
    shape = [domain.size if a == along else 1 for a in range(x.ndim)]
    inside = jnp.arange(count).reshape(-1, *[1] * x.ndim) == domain.reshape(1, *shape)
    weights = as_weights(mask, x, features)
    if weights is None:
        return inside
    return jnp.where(inside, weights, jnp.zeros((), weights.dtype))
