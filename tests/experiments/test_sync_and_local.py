"""sync_and_local at smoke size; the list of experiments, and refusals."""

import json

import jax
import numpy as np
import pytest
from committed import compare

from jaxbn.experiments import EXPERIMENTS
from jaxbn.experiments.__main__ import main
from jaxbn.experiments._results import cell
from jaxbn.experiments._verdicts import Verdict, greater, paired
from jaxbn.experiments.claims._sync_and_local import arms_of, unequal_shares, verdicts
from jaxbn.experiments.claims._sync_training import deal

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
    assert len(found["verdicts"]) == 4
    assert found["verdicts"][0]["held"], found["verdicts"][0]
    arms = found["numbers"]
    assert set(arms) == {arm.name for arm in arms_of(4)}
    assert all(len(arm["pooled"]) == 2 for arm in arms.values())
    lines = (smoke / "table.md").read_text().splitlines()
    assert lines[2].startswith("| each device | 4 |")
    assert (smoke / "figure.png").read_bytes().startswith(b"\x89PNG")
    claims = [verdict["claim"] for verdict in found["verdicts"]]
    compare("sync_and_local", (smoke / "table.md").read_text(), claims, arms)


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


def test_verdicts_follow_their_criteria():
    assert paired([3.0, 5.0], [1.0, 3.0]) == (2.0, 0.0)
    mean, half = paired([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    np.testing.assert_allclose((mean, half), (2.0, 4.302653 / np.sqrt(3)), rtol=1e-6)
    assert not greater("", [1.0, 2.0, 3.0], [0.0] * 3).held
    assert greater("", [1.9, 2.0, 2.1], [0.0] * 3).held
    assert not greater("", [9.0], [0.0]).held  # One seed proves nothing.
    arm = {"losses": np.zeros((2, 30)), "pooled": [1.0, 1.1], "first": [3.0, 3.2]}
    found = dict.fromkeys(("each device", "all", "each device, by class"), arm)
    moved = {**arm, "losses": np.full((2, 30), 0.1)}
    held = [v.held for v in verdicts({**found, "all, unequal shares": moved})]
    assert held == [False, False, True, True]
    assert isinstance(greater("", [1.0], [0.0]), Verdict)
    assert cell([1.0, 3.0]) == "2.00 +- 1.41"


@pytest.mark.usefixtures("eight_devices")
def test_listing_and_refusals(capsys, tmp_path):
    assert main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [*EXPERIMENTS, "all", "report"]
    assert main(["nothing"]) == 2
    assert "expected one of mnist_convergence" in capsys.readouterr().out
    assert main(["sync_and_local", f"--workdir={tmp_path}", "--num_devices=3"]) == 2
    assert "expected an even number from 4 on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert jax.device_count() == 8
