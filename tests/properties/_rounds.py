"""Rounds: a pool of programs, every property run on it, and what that came to.

A round is the same for the same seed: `hypothesis` is seeded too. Without the variable
`JAXBN_PROPERTIES` there is one, of 2,000 examples and always the same; with it, so many
examples in rounds of their own programs, of a seed `JAXBN_PROPERTIES_SEED`.
"""

import functools
import os
from random import Random

import hypothesis
import jax

from tests.properties import (
    _devices,  # noqa: F401
    _gradients,
    _laws,
    _laws_of_batches,  # noqa: F401
    _laws_of_little,  # noqa: F401
    _modules,
    _on_devices,
)
from tests.properties._cases import Case, initial
from tests.properties._programs import Program, compiled, draw_pool, gradients
from tests.properties._property import PROPERTIES, Property

EXAMPLES = int(os.environ.get("JAXBN_PROPERTIES", 2000))
SEED = int(os.environ.get("JAXBN_PROPERTIES_SEED", 0))
LONG = EXAMPLES > 2000
OF_A_ROUND = 10_000 if LONG else 2000
OF_EACH_KIND = 4 if LONG else 3
ON_DEVICES = 14 if LONG else 10
ROUNDS = max(round(EXAMPLES / OF_A_ROUND), 1)
CACHES = (
    compiled,
    gradients,
    _gradients.in_float64,
    initial,
    _on_devices.mapped,
    _on_devices.pulled,
    _laws.scanned,
    _modules.as_linen,
    _modules.as_nnx,
)


@functools.lru_cache(maxsize=1)
def pool_of(round_: int) -> list[Program]:
    """Returns the programs of a round."""
    seed = f"{SEED} {round_}"
    alone = draw_pool(seed, OF_EACH_KIND)
    return alone + _on_devices.draw_pool(seed, ON_DEVICES)


def programs_for(prop: Property, round_: int) -> list[Program]:
    """Returns those that a property runs, the simplest first."""
    able = [p for p in pool_of(round_) if prop.claimed(p)]
    chosen = Random(f"{SEED} {round_} {prop.law}").sample(
        range(len(able)), min(prop.programs, len(able))
    )
    return [able[k] for k in sorted(chosen)]


def examples_for(prop: Property) -> int:
    """Returns how many examples of a round are those of a property."""
    examples = min(EXAMPLES, OF_A_ROUND)
    return max(round(examples * prop.share / sum(p.share for p in PROPERTIES)), 1)


def run(prop: Property, round_: int, ran: list[Program]) -> None:
    """Runs a property, and adds to `ran` the program of each example that held."""
    programs = programs_for(prop, round_)

    @hypothesis.seed(f"{SEED} {round_} {prop.law}")
    @hypothesis.settings(
        max_examples=examples_for(prop),
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
    )
    @hypothesis.given(case=prop.strategy(programs))
    def holds(case: Case) -> None:
        prop.holds(case)
        ran.append(case.program)

    holds()


def forget() -> None:
    """Drops what was compiled for a round."""
    for cached in CACHES:
        cached.cache_clear()
    jax.clear_caches()
