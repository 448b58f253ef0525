"""Processes are pooled where that is asked for, and nowhere else."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxbn.population import precise_batch_stats

X = jnp.asarray(np.random.default_rng(0).normal(3, 2, (6, 4)), jnp.float32)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("asked", [False, True])
def test_what_others_measured_is_waited_for_only_if_asked(
    processes, asked, monkeypatch
):
    module, calls = sys.modules["jaxbn.population._precise"], []

    def share(found, merge):
        calls.append(sorted(found))
        return found

    monkeypatch.setattr(module, "share", share)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    model = nn.BatchNorm(use_running_average=False)
    variables = model.init(jax.random.key(0), X)
    stats, _ = precise_batch_stats(model, variables, [X], share_processes=asked)
    np.testing.assert_allclose(stats["mean"], X.mean(0), rtol=1e-6)
    assert len(calls) == (asked and processes > 1)
