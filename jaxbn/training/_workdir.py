"""The workdir: a fresh one, or one whose run is gone on with."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

from jaxbn.training._config import ConfigError, TrainConfig, differences
from jaxbn.training._files import write_json
from jaxbn.training._lock import check_lock


def open_workdir(config: TrainConfig) -> Path:
    """Returns the folder of the run, with its config.json written.

    Raises:
        ConfigError: as `check_workdir`.
    """
    workdir = check_workdir(config)
    write_json(workdir / "config.json", _as_read(config))
    return workdir


def check_workdir(config: TrainConfig) -> Path:
    """Returns the folder of the run; touches nothing.

    Raises:
        ConfigError: if it holds a run that is going on, one that this would overwrite,
            or one of another configuration.
    """
    workdir = Path(config.workdir) if config.workdir else _fresh(config)
    check_lock(workdir)
    path = workdir / "config.json"
    wanted = _as_read(config)
    if path.exists():
        try:
            different = differences(json.loads(path.read_text()), wanted)
        except ValueError:
            raise ConfigError(
                f"{path} is not JSON; remove it or choose another --workdir"
            ) from None
        if different:
            raise ConfigError(
                f"{workdir} holds a run of another configuration "
                f"({'; '.join(different)}); choose another --workdir"
            )
        if not config.resume:
            raise ConfigError(
                f"{workdir} already holds this run; pass --resume to go on with it, or "
                "choose another --workdir"
            )
    elif config.resume and not config.workdir:
        raise ConfigError(
            "--resume needs --workdir, the folder of the run to go on with"
        )
    return workdir


def _as_read(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as it is read back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _fresh(config: TrainConfig) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = config.dataset.replace("/", "-").replace(":", "-")
    folder = Path("runs") / f"{name}-{config.model}-{now}"
    alternatives = (folder.with_name(f"{folder.name}-{i}") for i in range(2, 100))
    return next((f for f in (folder, *alternatives) if not f.exists()), folder)
