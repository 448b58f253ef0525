"""What every experiment takes and gives: `measure(settings)`, and `show(found)`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from jaxbn.experiments._verdicts import LEAST_SEEDS, LEVEL, LEVEL_OF_TWO, Verdict
from jaxbn.training import ConfigError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Runs an experiment and writes its table, figure and numbers."""

    workdir: str
    """Where results.json, table.md and figure.png are written."""
    seeds: int = 5
    """How many times everything is run, with other weights and batches."""
    most_seeds: int = 10
    """Seeds used instead where a claim is undecided with `seeds`; not at size smoke."""
    first_seed: int = 100
    """The smallest seed. Designs and bounds were chosen on the seeds 0 to 4."""
    size: Literal["smoke", "small", "full"] = "small"
    """smoke: seconds. small: minutes on two cores, an hour for residual_net.
    full: needs an accelerator."""
    dataset: str | None = None
    """A data set by name; the experiment's own by default, digits at smoke."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie."""
    num_devices: int | None = None
    """How many devices share a batch, where that is asked; one by default."""
    parallel: Literal["jit", "shard_map", "pmap"] = "pmap"
    """How they share it."""
    jobs: int = 1
    """How many experiments `all` and `verify` run at a time.
    On Linux each has its share of the cores."""

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds: as many as there are, from the first one on."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def looks_twice(self) -> bool:
        """Whether claims that are undecided get more seeds."""
        enough = LEAST_SEEDS <= self.seeds < self.most_seeds
        return self.size != "smoke" and enough

    @property
    def level(self) -> float:
        """The level of verdicts, of each look where there may be two."""
        if not self.looks_twice:
            return LEVEL
        twice = self.most_seeds == 2 * self.seeds
        return LEVEL_OF_TWO if twice else LEVEL / 2  # Half is enough for any two.


def check_settings(settings: Settings) -> Settings:
    """Returns the settings.

    Raises:
        ConfigError: (a ValueError) if nothing can be run with them.
    """
    if settings.seeds < 1:
        raise ConfigError(
            f"seeds is {settings.seeds}, expected 1 or more; a verdict takes 5"
        )
    if settings.first_seed < 0:
        raise ConfigError(f"first_seed is {settings.first_seed}, expected 0 or more")
    if settings.jobs < 1:
        raise ConfigError(f"jobs is {settings.jobs}, expected 1 or more")
    return settings


class Result(NamedTuple):
    """What an experiment found, as `show` makes it of the numbers.

    Attributes:
        columns: names of the columns of the table.
        rows: of the table; a number of each seed is a list, shown as mean and spread.
        verdicts: on its claims.
        draw: `draw(figure)` fills a matplotlib figure.
        numbers: everything measured, by name: arrays, the seeds first.
        figsize: of the figure, in inches.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    verdicts: Sequence[Verdict]
    draw: Callable[[Any], None]
    numbers: dict[str, Any]
    figsize: tuple[float, float] = (10, 4)
