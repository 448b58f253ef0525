"""Loggers: other places where metrics go, each a class with three methods.

What a run cannot do without, metrics.jsonl and metrics.csv, is written by `_records`;
what is here is for the viewers that people have.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

from jaxbn.data._column import first_line
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._files import write_json

Row = dict[str, Any]


class Logger(Protocol):
    """Where metrics go."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Takes what was measured after a step, by name, such as 'test_loss/batch'."""

    def flush(self) -> None:
        """Makes what was added visible."""

    def close(self, failed: bool) -> None:
        """Ends it, saying whether the run failed or was stopped."""


class TensorBoard:
    """Event files in workdir/events, by tensorboardX.

    Args:
        config: of the run.
        workdir: of the run.
        resumed_from: the last step that is kept; later ones of an earlier process are
            purged. None for a fresh run.
    """

    package = "tensorboardX"

    def __init__(self, config: TrainConfig, workdir: Path, resumed_from: int | None):
        from tensorboardX import SummaryWriter

        purge = None if resumed_from is None else resumed_from + 1
        folder = str(workdir / "events")
        self.writer = SummaryWriter(folder, purge_step=purge, write_to_disk=True)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes the file."""
        self.writer.flush()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, by wandb; a resumed run goes on in the same one.

    Its project is 'jaxbn', its name the folder's, its configuration the flags. Where
    and whether it is uploaded is for wandb's own settings (WANDB_MODE=offline, ...).

    Args:
        config: of the run.
        workdir: of the run; wandb.json in it holds the identity.
        resumed_from: not needed.
    """

    package = "wandb"

    def __init__(self, config: TrainConfig, workdir: Path, resumed_from: int | None):
        import wandb  # pyrefly: ignore[missing-import]

        known = workdir / "wandb.json"
        past = json.loads(known.read_text()) if known.exists() else {}
        self.run = wandb.init(
            project="jaxbn",
            name=workdir.name,
            dir=str(workdir),
            id=past.get("id"),
            resume="allow",
            config=dataclasses.asdict(config),
        )
        write_json(known, {"id": self.run.id})
        # Arms log the same step one after another, and a resumed run some steps again.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def add(self, step: int, values: dict[str, float]) -> None:
        """Logs them with their step, which is the horizontal axis."""
        self.run.log({**values, "step": step})

    def flush(self) -> None:
        """Does nothing: wandb sends what it has by itself."""

    def close(self, failed: bool) -> None:
        """Says how the run has ended."""
        self.run.finish(exit_code=int(failed))


LOGGERS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def logger_names(config: TrainConfig) -> list[str]:
    """Returns the names in `--log_to`; none for 'none'.

    Raises:
        ConfigError: if one is unknown.
    """
    names = [name.strip() for name in config.log_to.split(",")]
    if names == ["none"]:
        return []
    if unknown := [name for name in names if name not in LOGGERS]:
        raise ConfigError(
            f"--log_to is {config.log_to!r}, expected none, or some of "
            f"{', '.join(LOGGERS)} with commas; {unknown[0]!r} is not known"
        )
    return list(dict.fromkeys(names))


def open_loggers(
    config: TrainConfig, workdir: Path, resumed_from: int | None
) -> list[Logger]:
    """Returns the loggers of a run.

    Args:
        config: of the run.
        workdir: of the run.
        resumed_from: the last step that an earlier part of the run has logged.

    Raises:
        ConfigError: if one does not start.
    """
    found: list[Logger] = []
    for name in logger_names(config):
        try:
            found.append(LOGGERS[name](config, workdir, resumed_from))
        except Exception as error:  # Whatever the library of a logger raises.
            for logger in found:
                logger.close(True)
            raise ConfigError(
                f"--log_to has {name}, which does not start ({first_line(error)}); "
                "leave it out, or mend that"
            ) from error
    return found
