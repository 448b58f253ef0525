"""Which experiments there are, by name, and how one is run."""

import importlib
from types import ModuleType
from typing import Any

from jaxbn.experiments._harness import Result, Settings, check_settings
from jaxbn.experiments._numbers import as_plain, restored

EXPERIMENTS = {
    "mnist_convergence": "jaxbn.experiments.claims._mnist_convergence",
    "regression_layers": "jaxbn.experiments.claims._regression_layers",
    "learning_rate": "jaxbn.experiments.claims._learning_rate",
    "initialization": "jaxbn.experiments.claims._initialization",
    "saturation": "jaxbn.experiments.claims._saturation",
    "dropout_order": "jaxbn.experiments.claims._dropout_order",
    "regularization": "jaxbn.experiments.claims._regularization",
    "smoothness": "jaxbn.experiments.claims._smoothness",
    "precise_statistics": "jaxbn.experiments.claims._precise_statistics",
    "normalization_batch_size": "jaxbn.experiments.claims._normalization_batch_size",
    "frozen_finetune": "jaxbn.experiments.claims._frozen_finetune",
    "domain_shift": "jaxbn.experiments.claims._domain_shift",
    "multi_domain": "jaxbn.experiments.claims._multi_domain",
    "pattern_leakage": "jaxbn.experiments.claims._pattern_leakage",
    "contrastive_leakage": "jaxbn.experiments.claims._contrastive_leakage",
    "sync_and_local": "jaxbn.experiments.claims._sync_and_local",
    "renorm_small_batch": "jaxbn.experiments.claims._renorm_small_batch",
    "ghost_batches": "jaxbn.experiments.claims._ghost_batches",
    "adaptive_inference": "jaxbn.experiments.claims._adaptive_inference",
    "group_norm_control": "jaxbn.experiments.claims._group_norm_control",
    "few_examples": "jaxbn.experiments.claims._few_examples",
    "shared_style": "jaxbn.experiments.claims._shared_style",
    "domain_batches": "jaxbn.experiments.claims._domain_batches",
    "dropout_strength": "jaxbn.experiments.claims._dropout_strength",
    "residual_net": "jaxbn.experiments.claims._residual_net",
}
"""Each by name, and the module that has its `SOURCE`, `measure` and `show`."""


SHARING = {
    "normalization_batch_size",
    "pattern_leakage",
    "contrastive_leakage",
    "sync_and_local",
}
"""Those in which several devices can share a batch; others run on one."""


LONG = ("residual_net", "sync_and_local")
"""Those that take longest, which begin first where many are run."""


def module_of(name: str) -> ModuleType:
    """Returns the module of the experiment called `name`.

    Raises:
        ValueError: if none is.
    """
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise ValueError(f"no experiment is called {name!r}, expected one of {known}")
    return importlib.import_module(EXPERIMENTS[name])


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Returns the numbers of the experiment called `name`, as they are written."""
    return as_plain(module_of(name).measure(check_settings(settings)))


def show(name: str, numbers: dict[str, Any]) -> Result:
    """Returns what the experiment called `name` makes of numbers that were written."""
    return module_of(name).show(restored(numbers))


def run_experiment(name: str, **settings: Any) -> Result:
    """Returns what the experiment called `name` found; nothing is written.

    Args:
        name: one of `EXPERIMENTS`.
        **settings: fields of `Settings`, such as `size='smoke'` or `seeds=2`.

    Raises:
        ValueError: if there is no such experiment, or it cannot be run so.
    """
    settings.setdefault("workdir", "")
    return show(name, measure(name, Settings(**settings)))
