"""sync_and_local at smoke size; the list of experiments, and refusals."""

import json

import jax
import numpy as np
import pytest
from committed import compare

from jaxbn.data import load
from jaxbn.experiments import EXPERIMENTS
from jaxbn.experiments.__main__ import WHOLE, main
from jaxbn.experiments._numbers import restored
from jaxbn.experiments._results import cell
from jaxbn.experiments._verdicts import greater
from jaxbn.experiments.claims._sync_and_local import arms_of, unequal_shares, verdicts
from jaxbn.experiments.claims._sync_training import Size, Task, deal, run_arms
from jaxbn.training import TrainConfig
from jaxbn.training._parallel import start_parallel

UNEQUAL = "all, unequal shares"

# What orbax left open in other tests may be collected while these run.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, eight_devices):
    folder = tmp_path_factory.mktemp("sync")
    flags = ["--size=smoke", "--seeds=2", "--num_devices=4", "--parallel=shard_map"]
    assert main(["sync_and_local", f"--workdir={folder}", *flags]) == 0
    return folder


def test_sync_and_local_leaves_table_numbers_and_figure(smoke):
    found = json.loads((smoke / "results.json").read_text())
    assert found["settings"]["seeds"] == 2
    assert found["seeds"] == [100, 101]
    assert len(found["verdicts"]) == 5
    arms = restored(found["numbers"])
    assert verdicts(arms)[0].held, found["verdicts"][0]
    assert set(arms) == {arm.name for arm in arms_of(4)}
    for arm in arms.values():
        assert arm["pooled"].shape == arm["own"].shape == (2,)
        assert arm["early"].shape == arm["curve"].shape == (2, 20)  # Of 20 steps.
        np.testing.assert_allclose(arm["curve"].mean(1), arm["loss"], rtol=1e-4)
    lines = (smoke / "table.md").read_text().splitlines()
    assert lines[2].startswith("| each device | 4 |")
    assert (smoke / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_committed_form(smoke):
    found = json.loads((smoke / "results.json").read_text())
    claims = [verdict["claim"] for verdict in found["verdicts"]]
    table = (smoke / "table.md").read_text()
    compare("sync_and_local", table, claims, found["numbers"])


def test_seeds_together_are_seeds_alone_however_devices_share(eight_devices):
    """The arms whose devices normalize apart, and unequally; the epochs are smoke's."""
    dataset = load("digits", train_limit=64, test_limit=50)
    size = Size(64, 50, 1, "mlp", {"hidden": (8,)}, 0.1)
    arms = [arm for arm in arms_of(4) if arm.name in ("each device", UNEQUAL)]

    def found(mode, seeds):
        config = TrainConfig(num_devices=4, batch_size=16, parallel=mode)
        parallel = start_parallel(config)._replace(apart=True)
        return run_arms(Task(size, parallel, dataset, seeds, 16), arms)

    expected = found("pmap", (3, 7))
    others = [found(mode, (3, 7)) for mode in ("shard_map", "jit")]
    for other in (*others, found("pmap", (7,))):
        assert len(other) == len(expected) == 2
        for name, arm in other.items():
            assert expected[name]["early"].shape == (2, 4)
            for key in ("early", "loss"):
                np.testing.assert_allclose(
                    arm[key][-1], expected[name][key][-1], rtol=1e-5
                )
            for key in ("pooled", "first", "own"):  # An example of 50 may tip over.
                np.testing.assert_allclose(
                    arm[key][-1], expected[name][key][-1], atol=2.0
                )


@pytest.mark.parametrize("devices", [4, 6, 8, 16])
def test_shares_and_arms(devices):
    shares = unequal_shares(devices)
    assert sum(shares) == 4 * devices
    assert (min(shares) < 4 < max(shares)) and len(shares) == devices
    sizes = [arm.size for arm in arms_of(devices)]
    assert all(4 * devices % size == 0 for size in sizes)


def test_a_dealt_batch_counts_every_row_once():
    rows = np.arange(20).reshape(2, 10)
    dealt, mask = deal(rows, (1, 4, 2, 3))
    assert dealt.shape == mask.shape == (2, 16)
    for step in range(2):
        np.testing.assert_array_equal(dealt[step][mask[step]], rows[step])


def test_differences_are_judged_by_their_interval():
    mean, low, high = greater("", [1.0, 2.0, 3.0]).criteria[0].interval()
    half = 4.302653 / np.sqrt(3)
    np.testing.assert_allclose(
        (mean, high - mean, mean - low), (2.0, half, half), rtol=1e-6
    )
    assert not greater("", [1.0, 2.0, 3.0], [0.0] * 3).held
    assert greater("", [1.9, 2.0, 2.1], [0.0] * 3).held
    assert not greater("", [9.0], [0.0]).held  # One seed proves nothing.
    assert cell([1.0, 3.0]) == "2.00 +- 1.41"


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.1, 0.1, 5)

    def arm(pooled, first, own, early=0.0):
        errors = {"pooled": pooled, "first": first, "own": own}
        found = {
            name: value + i * spread for i, (name, value) in enumerate(errors.items())
        }
        return {**found, "early": np.full((5, 20), early)}

    def held(local, whole, moved, by_class):
        names = ("each device", "all", "all, unequal shares", "each device, by class")
        arms = (arm(*local), arm(*whole), arm(*moved), arm(*by_class))
        return [v.held for v in verdicts(dict(zip(names, arms, strict=True)))]

    same = (14.7, 14.7, 14.7)
    good = held((18.0, 18.5, 18.4), same, (14.9, 14.9, 14.9, 1e-4), (56.0, 63.0, 61.0))
    assert good == [True] * 5
    far = (14.9, 14.9, 14.9, 1e-2)
    bad = held((14.6, 14.5, 14.5), same, far, (56.0, 55.0, 54.0))
    assert bad == [False] * 5
    for elsewhere in ((16.0, 16.0, 16.0), (13.0, 13.0, 13.0)):  # By test errors alone.
        assert not held(same, same, elsewhere, same)[0]


@pytest.mark.usefixtures("eight_devices")
def test_listing_and_refusals(capsys, tmp_path):
    assert main([]) == 0
    said = capsys.readouterr().out.splitlines()
    listed = [line for line in said if line.startswith("  ")]
    assert [line.split()[0] for line in listed] == [*EXPERIMENTS, *WHOLE]
    assert main(["nothing"]) == 2
    assert "expected one of mnist_convergence" in capsys.readouterr().err
    assert main(["sync_and_local", f"--workdir={tmp_path}", "--num_devices=3"]) == 2
    assert "expected an even number from 4 on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert jax.device_count() == 8
