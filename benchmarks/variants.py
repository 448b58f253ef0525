"""What the variants cost beside plain batch norm: a layer forward and backward.

    python -m benchmarks.variants [--repeats N] [--json FILE]

As in `benchmarks.layer`: eight layers in one program, results where the last ones were.
Flax's group norm stands beside ours.
"""

import functools
import statistics
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._turns import in_turn
from benchmarks.layer import LAYERS, backward, layers
from jaxbn import (
    Norm,
    adaptive_norm,
    batch_norm,
    batch_renorm,
    domain_norm,
    frozen_norm,
    ghost_norm,
    group_norm,
    split_norm,
)

SHAPES = ((64, 32, 32, 64), (32, 14, 14, 256), (4096, 256))
GHOSTS = (32, 16, 8)
DOMAINS = (2, 8, 32)
EACH, GROUPS = "domains of each example, {}", 32


def variants(num: int) -> dict[str, tuple[Norm, dict[str, Any]]]:
    """Returns norms and what they are told in a call, for `num` examples."""
    some = {"mask": jnp.arange(num) < num - num // 8}
    weights = {"mask": some["mask"].astype(jnp.float32)}
    ghosts = {f"ghost, {g}": (ghost_norm(size=g), {}) for g in GHOSTS if g <= num}
    domains = {
        EACH.format(d): (domain_norm(d, batch_norm()), {"domain": jnp.arange(num) % d})
        for d in DOMAINS
    }
    return {
        "plain": (batch_norm(), {}),
        **ghosts,
        "masked": (batch_norm(), some),
        "weighted": (batch_norm(), weights),
        "renorm": (batch_renorm(), {}),
        "adaptive": (adaptive_norm(prior_count=16), {}),
        "domain, one": (domain_norm(2, batch_norm()), {"domain": 1}),
        **domains,
        "split": (split_norm(batch_norm()), {}),
        "frozen": (frozen_norm(), {}),
        "group, 32": (group_norm(num_groups=GROUPS), {}),
        "group, 32, flax": (flax_group_norm(), {}),
    }


def flax_group_norm() -> Norm:
    """Returns Flax's group norm as a pair."""
    from flax import linen as nn

    def apply(params, state, x, train, **unused):
        layer = nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=x.dtype)
        return layer.apply({"params": params}, x), state

    return group_norm(num_groups=GROUPS)._replace(apply=apply)


def as_function(norm: Norm, told: dict[str, Any], x: Any) -> Any:
    """Returns the norm as `f(x, scale, bias)`."""
    params, state = norm.init(x.shape[-1])
    told = dict(told)
    if "mask" in told:
        told["mask"] = told["mask"].reshape(-1, *[1] * (x.ndim - 2))

    def function(x, scale, bias):
        given = {"scale": scale, "bias": bias}
        given = {k: jnp.broadcast_to(given[k], v.shape) for k, v in params.items()}
        return norm.apply(given, state, x, True, **told)[0]

    return function


def measure(repeats: int = 5) -> Figures:
    """Returns milliseconds a layer by shape and variant."""
    found: Figures = {}
    for shape in SHAPES:
        rng = np.random.default_rng(0)
        x, slope = (jnp.asarray(rng.normal(size=shape), "float32") for _ in range(2))
        xs, slopes = ([a + 0 for _ in range(LAYERS)] for a in (x, slope))
        make = functools.partial(layers, backward)
        runs = {
            name: make(as_function(*variant, x), xs, slopes)
            for name, variant in variants(shape[0]).items()
        }
        times = in_turn(runs, repeats)
        found["x".join(map(str, shape))] = {
            name: timing.median / LAYERS for name, timing in times.items()
        }
    return found


def ratio(
    figures: Figures, name: str, base: str = "plain", axes: int | None = None
) -> float:
    """Returns the mean over shapes of a variant's time in that of another.

    It is the geometric one, of the shapes that have so many `axes` if that is given.
    """
    return statistics.geometric_mean(
        row[name] / row[base]
        for shape, row in figures.items()
        if axes in (None, 1 + shape.count("x"))
    )


def table(figures: Figures) -> str:
    """Returns ratios to plain batch norm, a column a shape."""
    names = list(next(iter(figures.values())))
    lines = []
    for name in names:
        each = [f"{row[name] / row['plain']:.2f}" for row in figures.values()]
        lines.append([name, *each, f"{ratio(figures, name):.2f}"])
    plain = [f"{row['plain']:.2f} ms" for row in figures.values()]
    return markdown(["", *figures, "mean"], [["", *plain, ""], *lines])


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
