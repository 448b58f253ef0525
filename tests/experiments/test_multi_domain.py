"""Several domains: rows of the table at smoke size, verdicts by their criteria."""

import jax.numpy as jnp
import numpy as np
import pytest
from committed import test_committed_form as test_committed_form

from jaxbn import batch_norm, domain_norm
from jaxbn.experiments import figure_png, run_experiment
from jaxbn.experiments.claims._domains import InDomains, of_population, together
from jaxbn.experiments.claims._multi_domain import PAPER, POPULATIONS, verdicts
from jaxbn.models import create_model
from jaxbn.training import ConfigError


def test_every_population_is_tested(result):
    levels = result.numbers["levels"]
    rows = {f"{a}, {b}, shared" for a in ("shared", "specific") for b in POPULATIONS}
    assert set(levels) == rows | {"group norm"}
    assert all(errors.shape == (2,) for errors in levels.values())
    assert levels["specific, specific, shared"].max() < 60


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_a_data_set_of_ones_own_is_refused_where_there_are_two():
    said = "dataset is 'usps', expected none.* leave it out, or ask for size smoke"
    with pytest.raises(ConfigError, match=said):
        run_experiment("multi_domain", dataset="usps")


def test_populations_are_of_each_or_of_all():
    stats = {"mean": jnp.array([[[0.0], [4.0]]]), "var": jnp.array([[[1.0], [3.0]]])}
    stats = {"net": {"bn1": stats}}
    assert of_population(stats, "specific") is stats
    shared = of_population(stats, "shared")["net"]["bn1"]
    np.testing.assert_allclose(shared["mean"].ravel(), [2, 2])
    np.testing.assert_allclose(shared["var"].ravel(), [6, 6])
    averaged = of_population(stats, "mean variance")["net"]["bn1"]
    np.testing.assert_allclose(averaged["mean"].ravel(), [2, 2])
    np.testing.assert_allclose(averaged["var"].ravel(), [2, 2])


def test_together_normalizes_what_apart_measures():
    plain = batch_norm()
    apart = domain_norm(2, plain)
    norm = together(plain, apart)
    x = jnp.array([[0.0], [2.0], [10.0], [14.0]])
    domain = jnp.array([0, 0, 1, 1])
    params, state = norm.init(1)
    y, after = norm.apply(params, state, x, True, domain=domain)
    expected, _ = plain.apply(*plain.init(1), x, True)
    np.testing.assert_allclose(y, expected)
    assert after is state and state["mean"].shape == (2, 1)
    parts = norm.parts(x, True, domain=domain)
    np.testing.assert_array_equal(parts[:, :, 0], [[1, 1, 0, 0], [0, 0, 1, 1]])


def test_a_net_sees_each_image_in_every_domain():
    net = create_model("mlp", 3, None, hidden=(4,))
    model = InDomains(net, (1.0, -1.0), (0.0, 2.0), told=False)
    x = np.ones((2, 2, 2, 1), np.float32)
    out = model.apply({"params": PARAMS}, x, False).reshape(2, 2, 3)
    np.testing.assert_allclose(out[:, 0], out[:, 1])  # 2 - 1 is 1 again.
    other = model.apply({"params": PARAMS}, 3 * x, False).reshape(2, 2, 3)
    assert np.abs(other[:, 0] - other[:, 1]).max() > 0.1


PARAMS = {
    "net": {
        "dense1": {"kernel": np.full((4, 4), 0.5, np.float32), "bias": np.ones(4)},
        "head": {"kernel": np.eye(4, 3, dtype=np.float32), "bias": np.zeros(3)},
    }
}


def test_verdicts_follow_their_criteria():
    small = np.arange(5) / 100
    good = dict.fromkeys(PAPER, small + 15) | {"group norm": small + 13}
    good["shared, mean variance, shared"] = small + 25
    bad = {"shared, specific, shared": small + 19}
    bad |= {f"specific, shared, {affine}": small + 50 for affine in OWN}
    found = {"levels": good | bad, "negatives": good | bad}
    assert [v.held for v in verdicts(found)] == [True] * 7
    assert len(verdicts({"levels": good | bad})) == 4
    flat = dict.fromkeys(good, small + 15)
    held = [v.held for v in verdicts({"levels": flat, "negatives": flat})]
    assert held == [False, False, False, False, False, True, False]
    own = {**good, **bad, "specific, specific, specific": small + 16.5}
    held = [v.held for v in verdicts({"levels": own, "negatives": own})]
    assert held == [True] * 5 + [False, True]


OWN = ("shared", "specific")
