"""Which experiments there are, by name, and how one is run."""

import importlib
from types import ModuleType
from typing import Any

from jaxbn.experiments._harness import Result, Settings

EXPERIMENTS = {
    "learning_rate": "jaxbn.experiments._learning_rate",
    "sync_and_local": "jaxbn.experiments._sync_and_local",
}
"""Each experiment by name, and the module that has its `SOURCE` and `run`."""


def module_of(name: str) -> ModuleType:
    """Returns the module of the experiment called `name`.

    Raises:
        ValueError: if none is.
    """
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise ValueError(f"no experiment is called {name!r}, expected one of {known}")
    return importlib.import_module(EXPERIMENTS[name])


def run_experiment(name: str, **settings: Any) -> Result:
    """Returns what the experiment called `name` found; nothing is written.

    Args:
        name: one of `EXPERIMENTS`.
        **settings: fields of `Settings`, such as `size='smoke'` or `seeds=2`.

    Raises:
        ValueError: if there is no such experiment, or it cannot be run so.
    """
    settings.setdefault("workdir", "")
    return module_of(name).run(Settings(**settings))
