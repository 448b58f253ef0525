"""Serving: a trained network folded, and exported as one StableHLO program."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxbn._values import shown
from jaxbn.surgery import Folded, fold
from jaxbn.training._trained import Trained

EXAMPLES = 8
"""Made-up inputs on which a folded network is compared with what it was."""


def fold_trained(trained: Trained) -> Folded:
    """Returns a trained network with its norms folded into the layers before them.

    The outputs before and after are compared on random inputs of the data set's kind.

    Args:
        trained: what `load_trained` returned.

    Raises:
        ValueError: as `jaxbn.surgery.fold`, if they differ.
    """
    domain = jnp.zeros((), jnp.int32)
    args, told = trained.arguments(random_inputs(trained), domain)
    return fold(trained.model, trained.variables, *args, **told)


def export_trained(
    trained: Trained,
    *,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    folded: bool = True,
) -> export.Exported:
    """Returns a trained network as a program for batches of any size.

    It takes inputs as the data set has them, [b, ...] uint8 images or float rows, and
    the domain of each, [b] int32, if its norm has domains; it returns float32 outputs
    [b, classes]. Preprocessing, weights and statistics are constants of it.

    Args:
        trained: what `load_trained` returned.
        platforms: for which it is lowered: 'cpu', 'cuda', 'rocm', 'tpu'.
        folded: whether norms are folded into the layers before them first, where that
            is possible.

    Returns:
        What `jax.export.export` does; `serialize()` makes bytes of it, which
        `jax.export.deserialize` reads without jaxbn.

    Raises:
        ValueError: if `platforms` names none that JAX knows.
    """
    known = ("cpu", "cuda", "rocm", "tpu")
    if not platforms or not set(platforms) <= set(known):
        raise ValueError(
            f"platforms is {shown(platforms)}, expected some of {', '.join(known)}"
        )
    apply, variables = trained.model.apply, trained.variables
    if folded:
        without = fold_trained(trained)
        apply, variables = without.apply, without.variables
    data = trained.data

    def serve(inputs: Any, *domain: Any) -> Any:
        args, told = trained.arguments(inputs, *domain)
        return apply(variables, *args, **told)

    (batch,) = export.symbolic_shape("b")
    taken = [jax.ShapeDtypeStruct((batch, *data["shape"]), data["dtype"])]
    if trained.by_domain:
        taken.append(jax.ShapeDtypeStruct((batch,), jnp.int32))
    return export.export(jax.jit(serve), platforms=platforms)(*taken)


def random_inputs(trained: Trained) -> jax.Array:
    """Returns inputs of the shape and dtype that the data set has."""
    key, data = jax.random.key(0), trained.data
    shape = (EXAMPLES, *data["shape"])
    if data["dtype"] == "uint8":
        return jax.random.randint(key, shape, 0, 256).astype(jnp.uint8)
    return jax.random.normal(key, shape, data["dtype"])
