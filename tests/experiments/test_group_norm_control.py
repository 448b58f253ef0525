"""Group norm beside batch norm, for fewer and fewer examples a worker."""

import jax
import jax.numpy as jnp
import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._group_norm_control import standardized, verdicts


def test_smoke(result):
    arms = result.numbers["arms"]
    assert len(arms) == 3
    for arm in arms.values():
        assert arm["running"].shape == arm["precise"].shape == (2, 2)
    _, group, standard = (arm["precise"] for arm in arms.values())
    assert (group < 60).all()
    assert (group != standard).any()
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def test_hidden_kernels_are_standardized():
    kernel = jax.random.normal(jax.random.key(0), (6, 4)) + 3.0
    params = {"dense1": {"kernel": kernel}, "head": {"kernel": kernel}}
    found = standardized(params)
    assert found["head"]["kernel"] is kernel
    np.testing.assert_allclose(jnp.mean(found["dense1"]["kernel"], 0), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.std(found["dense1"]["kernel"], 0), 1, rtol=1e-4)


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.1, 0.1, 5)

    def held(*arms):
        errors = [{"precise": np.add.outer(spread, np.asarray(arm))} for arm in arms]
        names = ("batch norm", "group norm", "standardized")
        found = {"sizes": (2, 32), "arms": dict(zip(names, errors, strict=True))}
        return [verdict.held for verdict in verdicts(found)]

    assert held([30.0, 13.0], [14.0, 14.2], [14.0, 14.5]) == [True] * 5
    assert held([16.0, 14.5], [16.0, 14.2], [16.0, 14.0]) == [False] * 5
