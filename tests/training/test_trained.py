"""What a run left, loaded again: arms, steps, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from jaxbn.data import load
from jaxbn.population import precise_batch_stats
from jaxbn.training import TrainConfig, fit, load_trained

pytestmark = pytest.mark.filterwarnings("ignore")  # orbax leaves event loops behind.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "w"
    config = TrainConfig(
        workdir=str(folder), num_epochs=3, train_limit=320, test_limit=100, keep=9
    )
    return folder, fit(config)


def test_the_best_step_has_the_accuracy_that_was_reported(run):
    folder, summary = run
    trained = load_trained(folder)
    assert trained.step == summary["best"]["step"]
    test = load("digits", test_limit=100).test
    logits = trained.predict(trained.variables, test.inputs)
    found = np.mean(np.argmax(logits, -1) == test.labels)
    assert found == pytest.approx(summary["best"]["score"])


def test_any_arm_and_step_can_be_had(run):
    folder, _ = run
    first, last = (load_trained(folder, norm="none", step=s) for s in (10, 30))
    assert (first.step, last.step) == (10, 30)
    assert "batch_stats" not in last.variables
    kernels = (t.variables["params"]["dense1"]["kernel"] for t in (first, last))
    assert not np.array_equal(*kernels)


def test_averaged_weights_have_the_accuracy_that_was_reported(run, tmp_path):
    config = TrainConfig(
        workdir=str(tmp_path),
        norm="batch",
        num_epochs=2,
        train_limit=320,
        test_limit=100,
        average_decay=0.9,
    )
    final = fit(config)["final"]["batch"]
    trained = load_trained(tmp_path, step=20, averaged=True)
    digits = load("digits", train_limit=320, test_limit=100)

    def accuracy(variables):
        logits = trained.predict(variables, digits.test.inputs)
        return np.mean(np.argmax(logits, -1) == digits.test.labels)

    assert accuracy(trained.variables) == pytest.approx(final["test_accuracy_averaged"])
    (x, _), _ = trained.arguments(digits.train.inputs)
    stats, _ = precise_batch_stats(trained.model, trained.variables, [(x, True)])
    precise = {**trained.variables, "batch_stats": stats}
    expected = final["test_accuracy_averaged_precise"]
    assert accuracy(precise) == pytest.approx(expected, abs=0.02)
    with pytest.raises(ValueError, match=r"kept no averaged weights; train with --av"):
        load_trained(run[0], averaged=True)


def test_what_is_not_there_or_damaged_is_named(run, tmp_path):
    folder, _ = run
    with pytest.raises(ValueError, match=r"step is 11, .* are those of steps \[10, 20"):
        load_trained(folder, step=11)
    with pytest.raises(ValueError, match="norm is 'group', expected one of batch"):
        load_trained(folder, norm="group")
    with pytest.raises(ValueError, match="workdir is 3, expected the path of a folder"):
        load_trained(3)
    copy = tmp_path / "w"
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints" / "step_00000010").rglob("*"):
        if path.is_file():
            path.write_bytes(b"not what it was")
    with pytest.raises(ValueError, match=r"step 10 in .* is damaged"):
        load_trained(copy, step=10)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "colour": "red"}))
    with pytest.raises(ValueError, match=r"is not of this version of jaxbn .*'colour'"):
        load_trained(copy)
    (copy / "data.json").unlink()
    with pytest.raises(ValueError, match=r"has no config.json and data.json"):
        load_trained(copy)
