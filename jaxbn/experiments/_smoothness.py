"""Loss and gradient along the gradient step, with batch norm, without, with noise.

Networks of 6 hidden layers of 64 are trained by plain SGD at one rate, from the same
weights and on the same batches: with batch norm, without, and with batch norm whose
outputs are shifted and scaled again: noise with a random mean (up to 0.5) and spread
(up to 0.5) for each channel, redrawn at every step. Every fifth step the loss and
gradient of the batch are found at 1/4 to 4 times the step about to be taken, the noise
held fixed; and how far the step moves the mean of each relu's input on fixed images.

Claims (Santurkar et al. 2018; a lecturer's note in seed 4). Medians over the training:
1. The loss varies less along the step with batch norm: its range is a fifth or less.
2. The gradient changes less: a quarter or less.
3. The effective beta-smoothness, the change over the distance, is smaller.
4. Not because the distributions are stable: with noise the moments jump more in a step
   than without batch norm,
5. and yet the final training loss is below that without batch norm.
6. Internal covariate shift is not reduced: the cosine between a layer's gradients
   before and after the layers below have moved (their definition 2.1) is smaller.

    python -m jaxbn.experiments smoothness --workdir=W --data_dir=DIR
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

import jaxbn.linen
from jaxbn import batch_norm
from jaxbn.base import Array
from jaxbn.data import Split, gather
from jaxbn.diagnostics._landscape import _along
from jaxbn.experiments._draw import band, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._runs import Loss, Runs, classification, fit, sgd, start
from jaxbn.experiments._samplers import Sampler, at_random
from jaxbn.experiments._verdicts import Verdict, always, less
from jaxbn.models import create_model

SOURCE = "Santurkar et al. 2018; seed 4"
RATE = 0.1
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the probed steps, in units of the one about to be taken."""
EVERY = 5
BATCH = 128
REFERENCE = 500
"""Images on which the moments are measured."""
NOISE = 0.5
NORM, PLAIN, NOISY = "batch norm", "none", "batch norm and noise"


class Size(NamedTuple):
    """How much is run; `hidden` are the widths."""

    train: int | None
    epochs: int
    hidden: tuple[int, ...]


SIZES = {
    "smoke": Size(1_280, 2, (32,) * 2),
    "small": Size(10_000, 3, (64,) * 6),
    "full": Size(None, 5, (512,) * 10),
}


def run(settings: Settings) -> Result:
    """Runs the experiment; see the top of the file."""
    size = SIZES[settings.size]
    images = load_images(settings, "fashion_mnist", train=size.train, test=500, pool=2)
    seeds = np.arange(settings.seeds)
    arms = {(NORM, NOISY): batch_norm(momentum=0.9), (PLAIN,): None}
    found = {}
    for names, norm in arms.items():
        model = create_model("mlp", images.num_classes, norm, hidden=size.hidden)
        noise = [NOISE * (name == NOISY) for name in names for _ in seeds]
        lanes = np.tile(seeds, len(names))
        measured = train(model, images.train, lanes, noise, size.epochs)
        for i, name in enumerate(names):
            here = slice(i * len(seeds), (i + 1) * len(seeds))
            found[name] = {key: value[here] for key, value in measured.items()}
    medians = {name: summary(numbers) for name, numbers in found.items()}
    columns = ("medians over training", *next(iter(medians.values())))
    table = [(name, *numbers.values()) for name, numbers in medians.items()]
    picture = functools.partial(draw, found)
    return Result(columns, table, verdicts(found), picture, found, (10, 7.5))


def train(
    model: Any, data: Split, lanes: np.ndarray, noise: list[float], epochs: int
) -> dict[str, np.ndarray]:
    """Returns what `make_look` gives of each run [R] at each probe, [R, probes]."""
    pieces = len(data.labels) // BATCH // EVERY
    rows = in_pieces(at_random(lanes, len(data.labels), BATCH), pieces)
    loss, step = disturbed(model), sgd(RATE, momentum=0.0)
    runs = start(model, data.inputs[:2], lanes, step)
    stats = {**runs.batch_stats, "noise": jnp.asarray(noise, jnp.float32)}
    look, seen = make_look(model, loss, data), []

    def observe(i: int, runs: Runs) -> None:
        seen.append(jax.device_get(look(runs, rows(i + 1)[:, 0])))

    fit(
        loss,
        runs._replace(batch_stats=stats),
        data,
        rows,
        range(epochs * pieces),
        optimizer=step,
        observe=observe,
    )
    return {key: np.stack([one[key] for one in seen], 1) for key in seen[0]}


def in_pieces(rows: Sampler, pieces: int) -> Sampler:
    """Returns a sampler whose epochs are the first so many `EVERY` steps of others."""

    def piece(i: int) -> np.ndarray:
        epoch, part = divmod(i, pieces)
        return rows(epoch)[:, part * EVERY : (part + 1) * EVERY]

    return piece


def disturbed(model: Any) -> Loss:
    """Returns the loss with noise, of the strength that `stats` say, behind the norms.

    Each channel's noise has a mean and a spread of its own, and the same `key` gives
    the same noise.
    """
    plain = classification(model)

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        with nn.intercept_methods(noise_behind(stats["noise"], key)):
            return plain(params, stats, batch, key)

    return loss


def noise_behind(strength: Array, key: Array) -> Callable[..., Any]:
    """Returns what adds noise to the outputs of norm layers; see `disturbed`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        module = context.module
        of_norm = isinstance(module, jaxbn.linen.Norm)
        if not of_norm or context.method_name != "__call__":
            return y
        place = jax.random.fold_in(key, int(str(module.name).removeprefix("bn")))
        keys = jax.random.split(place, 3)
        channels = (1,) * (y.ndim - 1) + y.shape[-1:]
        mean = jax.random.uniform(keys[0], channels, minval=-1, maxval=1)
        spread = jax.random.uniform(keys[1], channels)
        return y + strength * (mean + spread * jax.random.normal(keys[2], y.shape))

    return intercept


def make_look(model: Any, loss: Loss, data: Any) -> Callable[..., Any]:
    """Returns `look(runs, rows [R, B])`, what lies ahead of each run, each [R].

    `low` and `high` of the loss along the step, `change` of the gradient and `beta`,
    both the largest, `loss`, `jump` of the moments and `cosine` of the gradients.
    """
    lengths = RATE * jnp.asarray(LENGTHS)
    reference = Split(data.inputs[:REFERENCE], data.labels[:REFERENCE])

    def one(runs: Runs, rows: Array, data: Any, reference: Any) -> dict[str, Array]:
        params, stats = runs.params, runs.batch_stats
        keys = [
            jax.random.fold_in(jax.random.key(runs.seed), runs.step + i) for i in (0, 1)
        ]
        batch = gather(data, rows)

        def value(params: Any) -> Array:
            return loss(params, stats, batch, keys[0])[0]

        losses, changes, here, size = _along(value, params, lengths)
        slope = jax.grad(value)(params)
        after = jax.tree.map(lambda p, g: p - RATE * g, params, slope)
        moments = [
            relu_moments(model, p, stats, reference.inputs, key)
            for p, key in zip((params, after), keys, strict=True)
        ]
        jumps = [
            jnp.abs(new[0] - old[0]) / jnp.maximum(old[1], 1e-3)
            for old, new in zip(*moments, strict=True)
        ]
        return {
            "low": losses.min(),
            "high": losses.max(),
            "change": changes.max(),
            "beta": (changes / (lengths * size)).max(),
            "loss": here,
            "jump": jnp.stack([jump.mean() for jump in jumps]).mean(),
            "cosine": mean_cosine(value, params, slope),
        }

    looking = jax.jit(jax.vmap(one, (0, 0, None, None)))
    return lambda runs, rows: looking(runs, jnp.asarray(rows), data, reference)


def relu_moments(
    model: Any, params: Any, stats: Any, inputs: Array, key: Array
) -> list[tuple[Array, Array]]:
    """Returns the mean and the deviation of each relu's input in training, [C]."""
    variables = {"params": params, "batch_stats": stats}
    collections = ["batch_stats", "intermediates"]
    with nn.intercept_methods(noise_behind(stats["noise"], key)):
        _, seen = model.apply(variables, inputs, True, mutable=collections)
    inputs_of = [value[0] for value in seen["intermediates"].values()]
    return [(x.mean(0), x.std(0)) for x in inputs_of]


def mean_cosine(value: Callable[[Any], Array], params: Any, slope: Any) -> Array:
    """Returns how alike a layer's gradients are once the layers below have moved.

    The mean cosine over all layers but the first, of the gradient with all layers where
    they are and with those below it a step of `RATE` further.
    """
    top = 1 + max(int(name[5:]) for name in params if name.startswith("dense"))
    depth = {name: top if name == "head" else int(name[-1]) for name in params}

    def cosine(layer: Array) -> Array:
        moved = {
            name: jax.tree.map(
                lambda p, g, below=depth[name] < layer: p - RATE * below * g,
                params[name],
                slope[name],
            )
            for name in params
        }
        there = jax.grad(value)(moved)

        def inner(a: Any, b: Any) -> Array:
            each = {
                name: sum(jnp.vdot(a[name][k], b[name][k]) for k in a[name])
                for name in a
            }
            chosen = [(depth[name] == layer) * each[name] for name in each]
            return jnp.stack(chosen).sum()

        lengths = inner(slope, slope) * inner(there, there)
        return inner(slope, there) / jnp.sqrt(jnp.maximum(lengths, 1e-30))

    return lax.map(cosine, jnp.arange(2, top + 1)).mean()


def summary(numbers: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns each run in a few numbers [S]: medians, and the loss at the end."""
    numbers = {key: np.asarray(value) for key, value in numbers.items()}
    last = max(numbers["loss"].shape[1] // 10, 1)
    return {
        "range of the loss": np.median(numbers["high"] - numbers["low"], 1),
        "change of the gradient": np.median(numbers["change"], 1),
        "beta": np.median(numbers["beta"], 1),
        "jump of the means": np.median(numbers["jump"], 1),
        "cosine": np.median(numbers["cosine"], 1),
        "final training loss": numbers["loss"][:, -last:].mean(1),
    }


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    norm, plain, noisy = (summary(found[name]) for name in (NORM, PLAIN, NOISY))

    def times(key: str, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> Any:
        ratio = a[key] / b[key]
        return ratio, f"{ratio.min():.1f} to {ratio.max():.1f} times"

    ranges, said_range = times("range of the loss", plain, norm)
    changes, said_change = times("change of the gradient", plain, norm)
    betas, said_beta = times("beta", plain, norm)
    jumps, said_jump = times("jump of the means", noisy, plain)
    losses = [a["final training loss"] for a in (noisy, plain)]
    return [
        always(
            "the range of the loss along a step is 5 times larger without batch norm",
            ranges >= 5,
            said_range,
            source="10 times or more in a pilot",
        ),
        always(
            "the change of the gradient is 4 times larger without",
            changes >= 4,
            said_change,
            source="6 to 9 times in a pilot",
        ),
        always("beta is larger without", betas > 1, said_beta),
        always(
            "with noise the means jump more in a step than without batch norm",
            jumps > 1,
            said_jump,
        ),
        always(
            "with noise the final training loss is below that without batch norm",
            losses[0] < losses[1],
            f"{losses[0].mean():.2f} and {losses[1].mean():.2f} nats",
        ),
        less(
            "batch norm does not make a layer's gradient more alike before and after "
            "the layers below have moved",
            norm["cosine"],
            plain["cosine"],
        ),
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the losses along each step, and changes, betas and jumps over training."""
    axes = figure.subplots(2, 2, sharex=True)
    for name in (NORM, NOISY, PLAIN):
        numbers = {key: np.asarray(value) for key, value in found[name].items()}
        steps = EVERY * np.arange(1, numbers["loss"].shape[1] + 1)
        low, high = numbers["low"].mean(0), numbers["high"].mean(0)
        filled = axes[0, 0].fill_between(steps, low, high, alpha=0.5, label=name)
        color = filled.get_facecolor()[0][:3]
        for at, key in (((0, 1), "change"), ((1, 0), "beta"), ((1, 1), "jump")):
            axes[at].set_yscale("log")
            band(axes[at], steps, numbers[key], name, color=color)
    axes[0, 0].set(yscale="log", ylabel="losses along the step, nats")
    axes[0, 1].set(ylabel="change of the gradient")
    axes[1, 0].set(ylabel="effective beta-smoothness", xlabel="step")
    axes[1, 1].set(ylabel="jump of the means, deviations", xlabel="step")
    legend_below(figure, axes[0, 1])
