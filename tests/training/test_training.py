"""The parts of the training: numbers, not only that they run."""

import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn.data import eval_indices, load
from jaxbn.training import Interrupted, TrainConfig, _loop, fit
from jaxbn.training._arms import create_arm
from jaxbn.training._config import differences
from jaxbn.training._feed import place
from jaxbn.training._histograms import histogram
from jaxbn.training._loop import Run
from jaxbn.training._metrics import Metrics, averages, measure
from jaxbn.training._optim import create_optimizer, create_schedule, is_weight
from jaxbn.training._parallel import fetch, put, start_parallel
from jaxbn.training._processes import Processes
from jaxbn.training._records import Records
from jaxbn.training._report import Report, thinned
from jaxbn.training._score import population_of, score_test
from jaxbn.training._workdir import open_workdir

# orbax leaves event loops and coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore")
TINY = TrainConfig(num_epochs=2, train_limit=128, test_limit=50, num_devices=1)


def rows_of(workdir):
    return list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))


def curve(tmp_path, **options):
    """Returns the numbers of each epoch, and the names of their columns."""
    config = dataclasses.replace(TINY, workdir=str(tmp_path), norm="batch", **options)
    fit(config)
    rows = rows_of(tmp_path)
    keys = [k for k in rows[0] if k.startswith(("train_", "test_"))]
    return np.array([[row[key] for key in keys] for row in rows]), keys


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize(
    ("size", "together"),
    [
        (None, "32 normalized together (all 4 devices)"),
        (16, "16 normalized together (groups of 2 devices)"),
        (8, "8 normalized together (each device)"),
        (4, "4 normalized together (2 ghost batches in each device)"),
    ],
)
def test_all_ways_to_share_a_batch_give_the_same_curve(
    size, together, tmp_path, capsys
):
    options = {"normalization_batch_size": size}
    alone, keys = curve(tmp_path / "alone", **options)
    # Devices apart average their own statistics, which are pooled when they are used.
    apart = size is not None
    same = [i for i, k in enumerate(keys) if not apart or not k.startswith("test_")]
    same += [i for i, k in enumerate(keys) if k.endswith(("_precise", "_batch"))]
    first = None
    for mode in ("jit", "shard_map", "pmap") if size in (None, 8) else ("jit", "pmap"):
        many, _ = curve(tmp_path / mode, num_devices=4, parallel=mode, **options)
        assert together in capsys.readouterr().out
        tolerances = {"rtol": 3e-4, "atol": 3e-5, "err_msg": mode}
        np.testing.assert_allclose(many[:, same], alone[:, same], **tolerances)
        first = many if first is None else first
        np.testing.assert_allclose(many, first, **tolerances)


@pytest.mark.usefixtures("eight_devices")
def test_augmentation_does_not_depend_on_the_devices(tmp_path):
    options = {"augment": True, "num_epochs": 1}
    alone, _ = curve(tmp_path / "alone", **options)
    many, _ = curve(tmp_path / "many", num_devices=4, parallel="pmap", **options)
    np.testing.assert_allclose(many, alone, rtol=3e-4, atol=3e-5)


def arrays_of(run):
    """Returns what is trained and the pooled statistics of a restored run."""
    state = run.states["batch"]
    stats = population_of(run.arms["batch"], run.parallel, state)
    parts = {"params": state.params, "opt": state.opt_state, "stats": stats}
    return fetch(run.parallel, parts)


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize("size", [None, 4])
def test_a_checkpoint_goes_to_any_number_of_devices_bit_for_bit(size, tmp_path):
    config = dataclasses.replace(
        TINY,
        workdir=str(tmp_path),
        norm="batch",
        num_epochs=1,
        num_devices=4,
        normalization_batch_size=size,
    )
    fit(config)
    found = []
    for devices, mode in ((4, "pmap"), (2, "shard_map"), (8, "jit"), (1, "jit")):
        config = dataclasses.replace(
            config, num_devices=devices, parallel=mode, resume=True
        )
        parallel, dataset = start_parallel(config), load("digits", train_limit=128)
        run = Run(config, Processes(), parallel, dataset, tmp_path)
        run.restore()
        run.report.close()
        assert run.epoch == 1
        found.append(arrays_of(run))
    for others in found[1:]:
        for ours, theirs in zip(*map(jax.tree.leaves, (found[0], others)), strict=True):
            if size is None or ours.shape != theirs.shape:
                np.testing.assert_array_equal(theirs, ours)
            else:  # A pool of equal statistics is rounded once more.
                np.testing.assert_allclose(theirs, ours, rtol=3e-7, atol=1e-7)


@pytest.mark.usefixtures("eight_devices")
def test_devices_apart_go_on_with_their_own_statistics(tmp_path):
    """Resumed in the middle, bit for bit, though a checkpoint holds pooled ones."""
    options = {"num_devices": 4, "normalization_batch_size": 8}
    curve(tmp_path / "whole", **options)
    config = dataclasses.replace(
        TINY, workdir=str(tmp_path / "w"), norm="batch", **options
    )
    with pytest.raises(Interrupted):
        stop_after_one_epoch(config)
    fit(dataclasses.replace(config, resume=True))
    rows, expected = rows_of(tmp_path / "w"), rows_of(tmp_path / "whole")
    assert rows == expected


def stop_after_one_epoch(config):
    """Ends a run as a signal in its second epoch would."""
    parallel = start_parallel(config)
    dataset = load("digits", train_limit=128, test_limit=50)
    run = Run(config, Processes(), parallel, dataset, open_workdir(config))
    run.restore()

    class Later:
        def __bool__(self):
            return run.epoch == 1

    try:
        with mock.patch.object(_loop, "CHUNK_SECONDS", 0.0):  # One step at a time.
            run.train(Later())
    finally:
        run.report.close()


def test_a_first_run_compiles_few_programs(tmp_path, caplog):
    """What is done eagerly is a program for each operation and shape."""
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        curve(tmp_path)
    lines = [r.getMessage() for r in caplog.records]
    programs = [line for line in lines if line.startswith("Finished XLA compilation")]
    assert 6 <= len(programs) <= 24, programs


def test_chunks_do_not_change_a_bit(tmp_path, monkeypatch):
    whole, _ = curve(tmp_path / "whole")
    monkeypatch.setattr("jaxbn.training._loop.CHUNK_SECONDS", 0.0)  # one step each
    np.testing.assert_array_equal(curve(tmp_path / "steps")[0], whole)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_streaming_from_disk_equals_memory(mode, tmp_path, monkeypatch, request):
    if mode != "jit":
        request.getfixturevalue("eight_devices")
    whole, _ = curve(tmp_path / "memory")
    monkeypatch.setattr("jaxbn.training._feed.Column", np.ndarray)  # all of it lazy
    devices = 1 if mode == "jit" else 2
    stream, _ = curve(tmp_path / "stream", num_devices=devices, parallel=mode)
    np.testing.assert_allclose(stream, whole, rtol=3e-5, atol=1e-6)


def test_default_job_reaches_97_percent_with_batch_norm(tmp_path, capsys):
    config = TrainConfig(workdir=str(tmp_path), num_devices=1, eval_every=20)
    summary = fit(dataclasses.replace(config, checkpoint_every=20))
    assert summary["final"]["batch"]["test_accuracy"] >= 0.97
    assert (
        summary["final"]["batch"]["test_loss"] < summary["final"]["none"]["test_loss"]
    )
    assert "pictures:" in capsys.readouterr().out


def test_regression_reports_losses(tmp_path):
    config = dataclasses.replace(
        TINY, dataset="regression", model="narrow", workdir=str(tmp_path), num_epochs=1
    )
    config = dataclasses.replace(config, norm="batch", learning_rate=1e-3)
    final = fit(config)["final"]["batch"]
    assert "test_accuracy" not in final
    assert final["test_loss_precise"] > 0


def test_evaluation_counts_every_example_once_whatever_the_batch():
    scores = []
    for batch_size in (32, 50, 7):
        config = dataclasses.replace(TINY, batch_size=batch_size)
        parallel = start_parallel(config)
        dataset = load("digits", train_limit=128, test_limit=50)
        arm, state = create_arm(config, parallel, dataset, "batch", 2)
        rows = np.arange(batch_size)[None]
        train = place(parallel, dataset.train)
        test = place(parallel, dataset.test)
        state = put(parallel, state)
        scores.append(score_test(arm, parallel, state, train, rows, test))
    for found in scores[1:]:
        assert found["test_accuracy"] == scores[0]["test_accuracy"]
        np.testing.assert_allclose(
            found["test_loss"], scores[0]["test_loss"], rtol=1e-5
        )
    model = arm.job.model
    x = (dataset.test.inputs / 255 - dataset.mean) / dataset.std
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = np.asarray(model.apply(variables, jnp.asarray(x, jnp.float32), False))
    right = (logits.argmax(1) == dataset.test.labels).mean()
    np.testing.assert_allclose(scores[0]["test_accuracy"], right)


def test_precise_statistics_are_those_of_all_training_examples(tmp_path):
    config = dataclasses.replace(TINY, workdir=str(tmp_path), norm="batch")
    parallel, dataset = start_parallel(config), load("digits", train_limit=128)
    arm, state = create_arm(config, parallel, dataset, "batch", 4)
    rows = np.arange(128).reshape(4, 32)
    data = place(parallel, dataset.train).placed
    moments = arm.measure(state.params, state.batch_stats, data, rows)
    x = (dataset.train.inputs / 255.0 - dataset.mean) / dataset.std
    hidden = x.reshape(128, -1) @ np.float64(state.params["dense1"]["kernel"])
    np.testing.assert_allclose(moments["bn1"].mean, hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(moments["bn1"].var, hidden.var(0), rtol=1e-4)


def test_loss_is_the_mean_cross_entropy_of_what_counts():
    logits = jnp.array([[2.0, 0.0], [0.0, 0.0], [9.0, 0.0]])
    mask = jnp.array([True, True, False])
    sums = measure(logits, jnp.array([0, 1, 1]), mask, "classification")
    expected = np.log(1 + np.exp(-2.0)) + np.log(2.0)
    np.testing.assert_allclose(sums.loss, expected, rtol=1e-6)
    assert averages(sums, "classification")["accuracy"] == 0.5
    assert averages(Metrics(np.nan, 0, 2, 0), "classification")["loss"] is None


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw", "lamb"])
def test_decay_leaves_scale_and_bias_alone(optimizer):
    config = dataclasses.replace(
        TINY, optimizer=optimizer, weight_decay=0.1, warmup_epochs=0.0
    )
    params = {"bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
    params["dense"] = {"kernel": jnp.ones((2, 2))}
    assert is_weight(params)["bn"] == {"scale": False, "bias": False}
    chain = create_optimizer(config, 4)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = chain.update(still, chain.init(params), params)
    assert np.abs(updates["dense"]["kernel"]).min() > 0
    np.testing.assert_array_equal(updates["bn"]["scale"], 0)
    np.testing.assert_array_equal(updates["bn"]["bias"], 0)


def test_schedules():
    config = dataclasses.replace(TINY, num_epochs=9, learning_rate=1.0)
    cosine = create_schedule(config, 10)
    np.testing.assert_allclose(cosine(10), 1.0)
    np.testing.assert_allclose(cosine(50), 0.5, atol=1e-6)
    assert 0 < cosine(0) < cosine(5) < 1
    steps = create_schedule(dataclasses.replace(config, schedule="step"), 10)
    found = [float(steps(step)) for step in (20, 31, 61)]
    np.testing.assert_allclose(found, [1.0, 0.1, 0.01], rtol=1e-5)
    constant = dataclasses.replace(config, schedule="constant", warmup_epochs=0.0)
    assert create_schedule(constant, 10)(89) == 1.0


def test_differences_name_only_what_decides_the_numbers():
    old = dataclasses.asdict(TINY)
    new = {**old, "seed": 1, "keep": 9, "parallel": "pmap"}
    assert differences(old, new) == ["seed was 0, is 1"]


def test_a_run_from_before_there_was_a_flag_is_gone_on_with():
    new = dataclasses.asdict(TINY)
    old = {name: value for name, value in new.items() if name != "freeze"}
    assert differences(old, new) == []
    frozen = {**new, "freeze": "statistics"}
    assert differences(old, frozen) == ["freeze was 'nothing', is 'statistics'"]


def test_records_are_the_same_in_parts_and_have_a_column_for_every_name(tmp_path):
    rows = [{"step": 1, "norm": "a", "b": 2.5}, {"step": 3, "norm": "a", "c": None}]
    rows += [{"step": 5, "norm": "a", "b": 0.5}]
    whole = Records(TINY, tmp_path / "whole", "")
    for row in rows:
        whole.add(row)
        before = whole.text if row is rows[1] else ""
    whole.write()
    past = "".join(f"{json.dumps(r)}\n" for r in rows[:2])
    parts = Records(TINY, tmp_path / "parts", past)
    parts.add(rows[2])
    parts.write()
    for records in (whole, parts):
        records.close()
    table = "step,norm,b,c\n1,a,2.5,\n3,a,,\n5,a,0.5,\n"
    for folder in ("whole", "parts"):
        assert rows_of(tmp_path / folder) == rows
        assert (tmp_path / folder / "metrics.csv").read_text() == table
    assert whole.text.startswith(before)


@pytest.mark.parametrize("count", [0, 63, 64, 150])
def test_rows_are_packed_and_come_back(tmp_path, count):
    rows = [{"step": k, "norm": "batch", "loss": 1 / (k + 1)} for k in range(count)]
    first = Records(TINY, tmp_path / "first", "")
    for row in rows:
        first.add(row)
    again = Records(TINY, tmp_path / "again", json.loads(json.dumps(first.packed)))
    assert again.rows == rows and again.text == first.text
    assert again.packed == first.packed
    for records in (first, again):
        records.close()


@pytest.mark.parametrize("form", [list, lambda rows: f"{json.dumps(rows[0])}\n"])
def test_rows_of_older_checkpoints_are_gone_on_with(tmp_path, form):
    report = Report(TINY, tmp_path)
    report.open({"rows": form([{"step": 1, "norm": "batch", "loss": 0.5}])}, ())
    report.write()
    report.close()
    assert rows_of(tmp_path) == [{"step": 1, "norm": "batch", "loss": 0.5}]


@pytest.mark.parametrize("every", [1, 3])
def test_histograms_of_a_long_run_stay_few_and_evenly_spaced(every):
    kept, looked = [], []
    for epoch in range(every, 1000 * every + 1, every):
        entries = [{"epoch": epoch, "norm": norm} for norm in ("batch", "none")]
        for entry in entries:
            kept = thinned([*kept, entry], every)
        epochs = [entry["epoch"] for entry in kept][::2]
        assert [entry["epoch"] for entry in kept] == np.repeat(epochs, 2).tolist()
        assert epochs[0] == every and epochs[-1] == epoch and len(epochs) <= 66
        assert len(np.unique(np.diff(epochs[:-1]))) <= 1
        looked.append(len(epochs))
    assert looked[:64] == list(range(1, 65)) and min(looked[64:]) > 32


def test_histogram_survives_what_is_not_finite():
    entry = histogram(np.array([0.0, 1.0, np.inf, np.nan]))
    assert sum(entry["counts"]) == 2
    assert entry["outside"] == 0.5
    assert histogram(np.full(3, np.nan))["mean"] is None
    json.dumps(entry, allow_nan=False)


def test_padding_is_masked_in_the_last_batch_only():
    rows, mask = eval_indices(50, 32)
    assert mask.sum() == 50
    assert rows.shape == (2, 32)
