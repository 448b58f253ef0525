"""What a layer costs beside its peers and bare passes: training, forward, evaluation.

    python -m benchmarks.layer [--repeats N] [--baseline DIR] [--json FILE]

Eight independent layers in one program, each with input, slope and results of its own
in memory that stays allocated between calls (results are donated back): a fresh array
costs a CPU two to four times what normalizing it does, which says nothing of the layer.
For torch, which allocates them, the C library keeps what is freed. No one updates
running statistics. Peers that are not installed are left out; with an earlier build of
jaxbn in a folder, as the package `jaxbn_old`, that is timed in turn too. What a program
of one layer accesses and stores for itself, in arrays of the size of x, XLA says.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _arrays
from benchmarks import _peers as peers
from benchmarks._alone import Figures, keep_freed_memory, markdown, run_alone
from benchmarks._turns import Timing, in_turn

SHAPES = (
    (4096, 256),
    (64, 32, 32, 64),
    (32, 56, 56, 64),
    (32, 28, 28, 128),
    (32, 14, 14, 256),
    (32, 7, 7, 512),
)
LAYERS = 8
WEIGHED = SHAPES[:2]
Run = Callable[[], Any]


def backward(norm: peers.Norm, x: Any, slope: Any, scale: Any, bias: Any) -> Any:
    """Returns y and all gradients of a layer."""
    y, back = jax.vjp(norm, x, scale, bias)
    return y, back(slope)


def forward(norm: peers.Norm, x: Any, slope: Any, scale: Any, bias: Any) -> Any:
    """Returns y of a layer."""
    return norm(x, scale, bias)


def layers(of: Callable[..., Any], norm: peers.Norm, xs: list, slopes: list) -> Run:
    """Returns what runs `of` for each input, with results where the last ones were."""

    @functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
    def run(room, xs, slopes, scales, biases):
        given = zip(xs, slopes, scales, biases, strict=True)
        return [of(norm, *each) for each in given]

    affine = len(xs), xs[0].shape[-1]
    scales, biases = jnp.ones(affine), jnp.zeros(affine)
    of_one = functools.partial(of, norm)
    shapes = jax.eval_shape(of_one, xs[0], slopes[0], scales[0], biases[0])
    room = [jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes) for _ in xs]
    held = [room]

    def again():
        held[0] = run(held[0], xs, slopes, scales, biases)
        return held[0]

    return again


def train(xs: list, slopes: list, baseline: str) -> dict[str, Run]:
    """Returns forward and backward by every library."""
    norms = peers.norms(baseline)
    runs = {k: layers(backward, v, xs, slopes) for k, v in norms.items()}
    if peers.installed("torch"):
        runs["torch"] = peers.of_torch(xs, slopes)
    return runs


def forward_only(xs: list, slopes: list, baseline: str) -> dict[str, Run]:
    """Returns the forward pass in training mode by every library."""
    norms = peers.norms(baseline)
    return {k: layers(forward, v, xs, slopes) for k, v in norms.items()}


def evaluation(xs: list, slopes: list, baseline: str) -> dict[str, Run]:
    """Returns the forward pass with running statistics."""
    from flax import linen as nn

    state = {"mean": jnp.ones(xs[0].shape[-1]), "var": jnp.ones(xs[0].shape[-1])}

    def multiply_add(x, scale, bias):
        return (x * scale + bias).astype(x.dtype)

    def of_build(build, x, scale, bias):
        return build.bn_apply({"scale": scale, "bias": bias}, state, x, False)[0]

    def flax(x, scale, bias):
        params = {"scale": scale, "bias": bias}
        layer = nn.BatchNorm(True, dtype=x.dtype)
        return layer.apply({"params": params, "batch_stats": state}, x)

    builds = peers.builds(baseline).items()
    ours = {name: functools.partial(of_build, build) for name, build in builds}
    norms = {"multiply-add": multiply_add, **ours, "flax": flax}
    return {k: layers(forward, v, xs, slopes) for k, v in norms.items()}


def masked(xs: list, slopes: list, baseline: str) -> dict[str, Run]:
    """Returns training with the last eighth of the examples masked, and without."""
    num = xs[0].shape[0]
    mask = jnp.arange(num) < num - num // 8
    mask = mask.reshape(num, *[1] * (xs[0].ndim - 2))
    ours = {name: peers.of_build(b) for name, b in peers.builds(baseline).items()}
    norms = {
        "jaxbn, no mask": peers.ours,
        **{name: functools.partial(norm, mask=mask) for name, norm in ours.items()},
        "flax": functools.partial(peers.of_flax(fast=True), mask=mask[..., None]),
    }
    return {k: layers(backward, v, xs, slopes) for k, v in norms.items()}


MODES: dict[str, tuple[Callable[..., dict[str, Run]], str]] = {
    "training": (train, "float32"),
    "training, bfloat16": (train, "bfloat16"),
    "forward only": (forward_only, "float32"),
    "evaluation": (evaluation, "float32"),
    "masked": (masked, "float32"),
}


def measure(repeats: int = 5, baseline: str = "") -> Figures:
    """Returns milliseconds a layer by mode, shape and library, and what it weighs."""
    keep_freed_memory()
    found: Figures = {}
    for mode, (make, dtype) in MODES.items():
        found[mode] = {}
        for shape in SHAPES:
            rng = np.random.default_rng(0)
            x, slope = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
            xs, slopes = ([a + 0 for _ in range(LAYERS)] for a in (x, slope))
            times = in_turn(make(xs, slopes, baseline), repeats)
            found[mode][_arrays.as_text(shape)] = {
                name: Timing(t.median / LAYERS, t.least / LAYERS)._asdict()
                for name, t in times.items()
            }
    norms = peers.norms(baseline).items()
    runs = {name: functools.partial(backward, norm) for name, norm in norms}
    return found | {"arrays": _arrays.weights(runs, WEIGHED)}


def arrays(figures: Figures, dtype: str, what: str, name: str = "jaxbn") -> float:
    """Returns how many arrays are accessed or stored, at the worst of the shapes.

    In tenths: what has the size of the channels does not count.
    """
    return round(max(row[name][what] for row in figures["arrays"][dtype].values()), 1)


def ratio(figures: Figures, mode: str, name: str, base: str) -> float:
    """Returns the geometric mean over shapes of the medians' ratios."""
    rows = figures[mode].values()
    return statistics.geometric_mean(
        row[name]["median"] / row[base]["median"] for row in rows
    )


def table(figures: Figures) -> str:
    """Returns a table for each mode, as ratios to its first column, and of arrays."""
    parts = []
    for mode, rows in ((mode, figures[mode]) for mode in MODES):
        base, *names = next(iter(rows.values()))
        lines = []
        for shape, row in rows.items():
            least = row[base]["median"]
            ratios = [f"{row[name]['median'] / least:.2f}" for name in names]
            lines.append([shape, f"{least:.2f} ms", *ratios])
        means = [f"{ratio(figures, mode, name, base):.2f}" for name in names]
        lines.append(["geometric mean", "1", *means])
        parts.append(markdown([mode, base, *names], lines))
    parts.append(_arrays.table(figures["arrays"]))
    left_out = [f"{name} is not installed, and left out" for name in peers.missing()]
    return "\n\n".join([*parts, *left_out])


def draw(figures: Figures, axes: Any) -> None:
    """Draws the ratios to the bare passes in training, a group of bars a shape."""
    rows = figures["training"]
    base, *names = next(iter(rows.values()))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        heights = [row[name]["median"] / row[base]["median"] for row in rows.values()]
        places = np.arange(len(rows)) + (i - (len(names) - 1) / 2) * width
        axes.bar(places, heights, width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylabel("time / time of the bare passes")
    axes.set_title("A layer forward and backward, float32")
    axes.legend(ncols=2)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
