"""Converting: every batch norm of a model becomes another norm, its code untouched.

Linen models are run with the calls of their norms intercepted; nnx models are copied,
and in the copy their norms become others. Variables lie where they lay, so that those
of the one go into the other (`carry_over`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
from flax import linen as nn
from flax import nnx

from jaxbn._values import check_function
from jaxbn.base import Array, Norm
from jaxbn.surgery._convert_linen import Converted
from jaxbn.surgery._convert_nnx import convert_nnx
from jaxbn.surgery._options import refuse_subclass
from jaxbn.surgery._where import Where, check_where, choose
from jaxbn.tree import Call, as_model, as_static, variables_of, watch
from jaxbn.tree._watch import check_kind

Choice: TypeAlias = Norm | Callable[[Any], Norm]
"""A norm, or `(layer) -> norm` that may read what the old layer was made with."""

NOT_OF_BATCHES = tuple(
    getattr(module, name)
    for module in (nn, nnx)
    for name in ("GroupNorm", "LayerNorm", "InstanceNorm", "RMSNorm")
    if hasattr(module, name)  # nnx has no InstanceNorm before flax 0.12
)
"""Norms that are left alone, and named."""


def convert(model: Any, norm: Choice, *, where: Where = None) -> Any:
    """Returns a model in which batch norms are `norm` instead.

    Layers of `flax.linen.BatchNorm`, `flax.nnx.BatchNorm`, `jaxbn.linen` and
    `jaxbn.nnx` are converted, others left alone; see `plan_conversion`. The model that
    came is not changed. PyTorch's `SyncBatchNorm.convert_sync_batchnorm` and timm's
    `convert_splitbn_model` swap modules in place.

    Args:
        model: a linen or nnx module.
        norm: the pair to use, with options of its own, or a function of the old layer
            that returns it, such as `like(ghost_norm, size=32)`, which takes those of
            the layer. (Of a linen layer converted before, the function gets the pair.)
            Statistics of other shapes, as of `domain_norm`, start anew.
        where: which layers by path: the start of one, a pattern, several, or a
            predicate; None for all. In linen a choice of none shows when it is called.

    Returns:
        For linen a module to `init` and `apply` like the old one (its call, not other
        methods), with variables at the same paths. For nnx a copy whose layers hold
        what the old ones did, as far as the new norm has entries of that name and
        shape.

    Raises:
        ValueError: naming the layer, on a subclass of a BatchNorm with a call of its
            own, which `where` has to leave out; on a norm with its features along other
            axes; on layers of nnx that are stacked, as by `nnx.vmap`; on variables that
            are not there (see `carry_over`); or if a `where` chooses none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxbn import ghost_norm
        >>> model = nn.Sequential([nn.Dense(2), nn.BatchNorm(False)])
        >>> x = jnp.ones((8, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> ghosts = convert(model, ghost_norm(size=4, momentum=0.9))
        >>> y, updates = ghosts.apply(variables, x, mutable=['batch_stats'])
        >>> jax.tree.map(jnp.shape, updates['batch_stats'])
        {'layers_1': {'mean': (2,), 'var': (2,)}}
    """
    check_kind(model)
    check_where(where)
    if not isinstance(norm, Norm):
        check_function("norm", norm, "of the old layer, or a jaxbn.Norm")
    if isinstance(model, nn.Module):
        where = tuple(where) if isinstance(where, list) else where
        if isinstance(model, Converted):
            return Converted(model.inner, (*model.steps, (norm, where)))
        return Converted(model, ((norm, where),))
    return convert_nnx(model, norm, where)


class ConversionPlan(NamedTuple):
    """What `convert` would do.

    Attributes:
        converted: paths of the layers, with the names of their classes.
        left: other norms, likewise: chosen by nobody, or of no batch.
    """

    converted: dict[str, str]
    left: dict[str, str]


def plan_conversion(
    model: Any, variables: Any, *args: Any, where: Where = None, **kwargs: Any
) -> ConversionPlan:
    """Returns which layers `convert` would convert, and which norms it would leave.

    Args:
        model: a linen or nnx module.
        variables: of it; None for what an nnx model holds.
        *args: of a call; it is traced, not run.
        where: as in `convert`.
        **kwargs: of the call.

    Returns:
        A `ConversionPlan`, in the order of the calls.

    Raises:
        ValueError: if `where` chooses none, or a subclass with a call of its own.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = nn.Sequential([nn.LayerNorm(), nn.BatchNorm(True)])
        >>> x = jnp.ones((2, 3))
        >>> plan = plan_conversion(model, model.init(jax.random.key(0), x), x)
        >>> plan.converted, plan.left
        ({'layers_1': 'BatchNorm'}, {'layers_0': 'LayerNorm'})
    """
    seen: dict[str, Any] = {}

    def note(call: Call) -> tuple[Array, dict]:
        seen.setdefault(call.path, call.layer)
        return call.proceed(), {}

    variables, static = variables_of(model, variables), as_static(model)

    def run(variables: Any) -> Any:
        watched = watch(as_model(static, variables), note, also=NOT_OF_BATCHES)
        return watched(variables, *args, **kwargs)[0]

    jax.eval_shape(run, variables)
    others = {kind.__name__ for kind in NOT_OF_BATCHES}
    kinds = {path: type(layer).__name__ for path, layer in seen.items()}
    chosen = choose([p for p, kind in kinds.items() if kind not in others], where)
    for path in chosen:
        refuse_subclass(seen[path], path)
    return ConversionPlan(
        {path: kinds[path] for path in chosen},
        {path: kind for path, kind in kinds.items() if path not in chosen},
    )
