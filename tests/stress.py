"""Numbers under stress: what is promised of extreme inputs, and how far it is kept.

    python -m tests.stress --write     measures all and writes docs/numbers.md

Each case compares jaxbn with the float64 reference (`oracle.py`) and gives one error;
`test_stress.py` holds it below its bound. Errors of outputs are absolute, where outputs
have mean 0 and deviation 1; of statistics relative, the mean's to the deviation or the
mean, whichever is larger.
"""

import argparse
import datetime
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxbn
from jaxbn.core import Moments, update_running
from tests import oracle

PAGE = Path(__file__).parents[1] / "docs" / "numbers.md"
HALF, BRAIN, SINGLE = 2.0**-10, 2.0**-7, 2e-5
"""Of outputs up to 4: half a step of float16, of bfloat16; float32 as in the laws."""


class Case(NamedTuple):
    """One kind of extreme input.

    Attributes:
        name: what it is.
        promise: in words.
        bound: of the error.
        error: measures it.
    """

    name: str
    promise: str
    bound: float
    error: Callable[[], float]

    @property
    def shown_bound(self):
        """The bound as the page has it."""
        return f"{self.bound:.0e}" if self.bound else "exact"


def draw(shape, location, spread, dtype, seed=0):
    """Returns normal data, rounded to its dtype."""
    x = location + spread * np.random.default_rng(seed).normal(size=shape)
    return np.asarray(jnp.asarray(x, dtype))


def train_once(x, mask=None, **options):
    """Returns outputs and state of jaxbn and of the reference after one step."""
    axis = options.get("axis", -1)
    params, state = jaxbn.bn_init(x.shape[axis])
    ours = jaxbn.bn_apply(params, state, x, True, mask=mask, momentum=0.0, **options)
    theirs = oracle.bn_apply(
        *jax.tree.map(oracle.wide, (params, state)),
        oracle.wide(x),
        True,
        mask=mask,
        momentum=0.0,
        **options,
    )
    return ours, theirs


def output_error(x, **options):
    """Returns the largest error of an output, in training."""
    (y, _), (expected, _) = train_once(x, **options)
    return float(np.max(np.abs(oracle.wide(y) - expected), initial=0))


def statistics_error(x, **options):
    """Returns the largest relative error of a running statistic."""
    (_, state), (_, expected) = train_once(x, **options)
    scale = np.maximum(np.abs(expected["mean"]), np.sqrt(expected["var"]))
    mean = np.abs(oracle.wide(state["mean"]) - expected["mean"]) / scale
    var = np.abs(oracle.wide(state["var"]) / expected["var"] - 1)
    return float(max(mean.max(), var.max()))


def average_error(momentum, updates, debias=False):
    """Returns the relative error of a running mean after many batches."""
    values = np.float32(3 + np.cos(np.arange(updates)))
    _, state = jaxbn.bn_init(1, momentum=momentum, debias=debias)

    @jax.jit
    def run(state):
        def step(state, value):
            batch = moments_of(value)
            options = {"momentum": momentum, "debias": debias}
            return update_running(state, batch, **options), None

        return jax.lax.scan(step, state, values)[0]

    if momentum is None:
        weights = np.full(updates, 1 / updates)
    else:
        weights = (1 - momentum) * np.float64(momentum) ** np.arange(updates)[::-1]
        weights /= weights.sum() if debias else 1
    return abs(float(run(state)["mean"][0]) / np.dot(weights, values) - 1)


def moments_of(value):
    """Returns moments with this mean and variance 1."""
    ones = jnp.ones(1)
    return Moments(ones, value * ones, 0 * ones, ones)


def late_error():
    """Returns the relative error of the weights of batches around the 2^24th."""
    _, state = jaxbn.bn_init(1, momentum=None)
    state["count"] = state["count"] + (2.0**24 - 2)
    worst = 0.0
    for _ in range(8):
        new = update_running(state, moments_of(1.0), momentum=None)
        worst = max(worst, abs(float(new["mean"][0]) * 2.0**24 - 1))
        state = {**new, "mean": jnp.zeros(1)}
    assert state["count"][0] == 2**24
    return worst


def constants():
    """Returns the largest distance of an output from the bias, of constant channels."""
    values = np.array([0, 1e-3, 1 / 3, 1234.567, -1e10, 3e38], np.float32)
    x = np.tile(values, (999, 1))
    params, state = jaxbn.bn_init(len(values))
    params["bias"] = jnp.arange(6.0)
    y, new = jaxbn.bn_apply(params, state, x, True, momentum=0.0)
    assert np.array_equal(new["mean"], values), new
    distance = np.abs(np.asarray(y) - np.asarray(params["bias"]))
    return float(max(distance.max(), np.abs(new["var"]).max()))


def one_element():
    """Returns the distance of the output of one element from the bias."""
    params, state = jaxbn.bn_init(4)
    params["bias"] = jnp.arange(4.0)
    x = np.array([[1e30, -3.0, 1e-30, 65504.0]], np.float32)
    y, new = jaxbn.bn_apply(params, state, x, True, momentum=0.0, unbiased=True)
    assert np.array_equal(new["mean"], x[0]), new
    return float(max(np.abs(y[0] - params["bias"]).max(), np.abs(new["var"]).max()))


def overflow():
    """Returns how far a state moves whose batch has a variance beyond float32."""
    x = draw((64, 2), 0.0, 1.0, "float32") * np.float32([1.0, 1e25])
    params, state = jaxbn.bn_init(2)
    y, new = jaxbn.bn_apply(params, state, x, True)
    assert np.isfinite(y[:, 0]).all() and new["mean"][0] != state["mean"][0]
    assert np.isfinite(y).all(), y
    return float(
        abs(new["mean"][1] - state["mean"][1]) + abs(new["var"][1] - state["var"][1])
    )


MANY = 2**25
"""Elements a channel: more than float32 can count one by one."""


def many(mask=None):
    x = draw((MANY, 1), 7.0, 2.0, "float32")
    return statistics_error(x, mask=mask and np.arange(MANY) % 2 == 0)


def outputs(name, promise, bound, shape, location, spread, dtype, **options):
    """Returns a case of outputs of normal data."""
    error = lambda: output_error(draw(shape, location, spread, dtype), **options)
    return Case(name, promise, bound, error)


def average(name, momentum, **options):
    """Returns a case of a million updates of an exponential average."""
    promise = "the average to 2^-24 / (1 - momentum): a rounding an update"
    error = lambda: average_error(momentum, 10**6, **options)
    return Case(name, promise, 2.0**-24 / (1 - momentum), error)


def cases():
    """Returns all cases."""
    wide = "float32 statistics, outputs rounded once to the dtype"
    digits = "outputs to 2e-5, statistics to 1e-5, whatever the offset"
    rows = (256, 4)
    return (
        outputs("float16 near 65,504", wide, HALF, rows, 65000, 150, "float16"),
        Case(
            "float16, all of its range",
            wide,
            HALF,
            lambda: output_error(
                np.linspace(-65504, 65504, 512).astype(np.float16).reshape(-1, 1)
            ),
        ),
        outputs("bfloat16 at offset 10^4", wide, BRAIN, rows, 1e4, 300, "bfloat16"),
        outputs("float32 at offset 10^4", digits, SINGLE, rows, 1e4, 1, "float32"),
        outputs("float32 at offset 10^6", digits, SINGLE, rows, 1e6, 1, "float32"),
        Case(
            "statistics at offset 10^6",
            digits,
            1e-5,
            lambda: statistics_error(draw(rows, 1e6, 1, "float32")),
        ),
        Case("2^25 elements a channel", "statistics to 1e-5", 1e-5, many),
        Case(
            "2^25 elements, half of them masked",
            "statistics to 1e-5",
            1e-5,
            lambda: many(mask=True),
        ),
        Case("one element a channel", "the bias, variance 0", 0.0, one_element),
        Case("constant channels", "the bias, variance 0", 0.0, constants),
        outputs(
            "denormals",
            "outputs to 1e-30: the variance is lost in epsilon",
            1e-30,
            rows,
            0,
            1e-40,
            "float32",
        ),
        Case(
            "a variance that overflows",
            "finite outputs; the state of that channel is kept",
            0.0,
            overflow,
        ),
        average("momentum 0.999, 10^6 updates", 0.999),
        average("momentum 1 - 2^-20, 10^6 updates", 1 - 2.0**-20),
        average("the same, debiased", 1 - 2.0**-20, debias=True),
        Case(
            "cumulative, 10^6 updates",
            "the average to 10^6 2^-24: a rounding an update",
            1e6 * 2.0**-24,
            lambda: average_error(None, 10**6),
        ),
        Case(
            "cumulative, 2^24 batches and more",
            "the count stays at 2^24: each later batch weighs 2^-24, to 1e-6",
            1e-6,
            late_error,
        ),
    )


def table(found):
    """Returns the page's table."""
    lines = ["| input | promised | bound | measured |", "|---|---|---|---|"]
    for case, error in found:
        row = case.name, case.promise, case.shown_bound, f"{error:.1e}"
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def write(path=PAGE):
    """Measures all and writes the page."""
    found = [(case, case.error()) for case in cases()]
    broken = [case.name for case, error in found if not error <= case.bound]
    if broken:
        raise SystemExit(f"beyond their bounds, nothing is written: {broken}")
    where = f"{platform.machine()}, CPU, jax {jax.__version__}"
    head = HEAD.format(date=datetime.date.today(), where=where)
    path.write_text(head + table(found) + "\n")


HEAD = """# Numbers under stress

What is promised of extreme inputs, and what was measured against batch norm in float64
NumPy (`tests/oracle.py`). Statistics are taken in float32 of deviations from an element
of the batch, so that an offset costs no digits; `jaxbn/core/_moments.py` says how.
Errors of outputs are absolute (they have mean 0 and deviation 1), those of statistics
relative. For half precision the bound is one rounding of an output of 4.

Written by `python -m tests.stress --write` on {date} ({where});
`tests/test_stress.py` holds every bound in CI.

"""


def main():
    """Prints the table, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="docs/numbers.md")
    if parser.parse_args().write:
        write()
    else:
        print(table([(case, case.error()) for case in cases()]))


if __name__ == "__main__":
    main()
