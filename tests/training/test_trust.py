"""Runs left alone: steps that are not finite, bits that flip, two runs in one place."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from optax import sgd

from jaxbn.data import load
from jaxbn.models import create_model
from jaxbn.training import (
    ConfigError,
    Diverged,
    TrainConfig,
    check_checkpoints,
    fit,
    run,
)
from jaxbn.training._checkpoint import (
    Checkpoint,
    load_newest,
    read_checkpoint,
    stored_steps,
)
from jaxbn.training._digest import Damaged, digests_of, seal, unseal, verify
from jaxbn.training._divergence import find_culprit
from jaxbn.training._lock import check_lock, hold_lock
from jaxbn.training._loop import Run
from jaxbn.training._metrics import no_metrics
from jaxbn.training._norms import create_norm
from jaxbn.training._parallel import start_parallel
from jaxbn.training._processes import Processes
from jaxbn.training._signals import Interrupted, StopRequest
from jaxbn.training._state import create_state
from jaxbn.training._step import Job, train_at

# orbax leaves event loops and coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore")
TINY = TrainConfig(num_epochs=3, train_limit=128, test_limit=50, num_devices=1)
WILD = dataclasses.replace(TINY, learning_rate=1e8, norm="none", warmup_epochs=1.0)


def rows_of(workdir):
    return list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))


def job_and_state(on_nonfinite="warn", norm="batch"):
    shared = {"momentum": 0.9, "epsilon": 1e-5, "axis_name": None}
    pair = create_norm(norm, normalization_batch_size=None, **shared)
    model = create_model("narrow", 10, pair)
    ones = np.ones(1, np.float32)
    job = Job(model, sgd(0.1), "classification", 0 * ones, ones, 0.0, False, None)
    job = job._replace(on_nonfinite=on_nonfinite)
    return job, create_state(model, job.optimizer, np.ones((2, 8, 8, 1)), 0)


def batches(*, bad):
    """Returns three batches, the one at `bad` with an inf in it."""
    rng = np.random.default_rng(0)
    for i in range(3):
        x = rng.normal(size=(8, 8, 8, 1)).astype(np.float32)
        x[3, 2, 1] = np.inf if i == bad else 0
        yield x, np.arange(8, dtype=np.int32)


def after(on_nonfinite, *, bad):
    """Returns the states before and after each of three steps, and the sums."""
    job, state = job_and_state(on_nonfinite)
    step = jax.jit(lambda s, m, batch: train_at(job, s, m, batch, None, 0))
    states, metrics = [state], no_metrics()
    for batch in batches(bad=bad):
        state, metrics = step(state, metrics, batch)
        states.append(state)
    return states, metrics


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("mode", ["stop", "skip", "warn"])
def test_what_a_step_does_that_is_not_finite(mode):
    states, metrics = after(mode, bad=1)
    _, fine, bad, last = states
    calm, _ = after("warn", bad=None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), fine, calm[1])
    if mode == "warn":
        assert metrics.bad == 2
        assert not np.isfinite(jax.tree.leaves(bad.params)[0]).all()
        return
    assert metrics.bad == 1 and np.isfinite(metrics.loss)
    assert_equal(bad._replace(step=0), fine._replace(step=0))
    assert bad.step == (2 if mode == "skip" else 1)
    assert metrics.num == (16 if mode == "skip" else 8)
    if mode == "stop":
        assert_equal(last, bad)
    else:
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), last.params, bad.params)
        assert max(jax.tree.leaves(moved)) > 0


def test_the_culprit_is_the_first_in_the_order_of_the_forward_pass():
    job, state = job_and_state()
    (batch, *_), (_, wrong, _) = batches(bad=None), batches(bad=1)
    assert find_culprit(job, state, wrong) == "the input"
    layers = list(state.params)
    for spoiled, value, said in (
        ("dense1", np.nan, "the input of layer 'bn1'"),
        ("dense2", np.nan, "the input of layer 'bn2'"),
        ("dense2", 1e30, "the batch statistics of layer 'bn2'"),
        ("head", np.nan, "the output of the model"),
    ):
        assert spoiled in layers
        kernel = np.full_like(state.params[spoiled]["kernel"], value)
        kernel[::2] *= -1
        layer = {**state.params[spoiled], "kernel": kernel}
        params = {**state.params, spoiled: layer}
        assert find_culprit(job, state._replace(params=params), batch) == said
    params = {**state.params}
    for name, factor in (("head", 1e36), ("dense2", 1e-4)):
        layer = params[name]
        params[name] = {**layer, "kernel": layer["kernel"] * factor}
    said = find_culprit(job, state._replace(params=params), batch)
    assert said == "the gradient of layer 'dense2'"


def test_an_update_that_overflows_is_not_taken_though_its_gradient_is_finite():
    job, state = job_and_state("stop")
    steep = optax.chain(optax.scale(1e30), optax.scale(1e10))
    job = job._replace(optimizer=steep)
    state = state._replace(opt_state=steep.init(state.params))
    (batch, *_) = batches(bad=None)
    step = jax.jit(lambda s, m, batch: train_at(job, s, m, batch, None, 0))
    after, metrics = step(state, no_metrics(), batch)
    assert_equal(after, state)
    assert metrics.bad == 1
    assert find_culprit(job, state, batch) == "the updated layer 'bn0'"


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_a_run_that_diverges_stops_and_says_where(mode, tmp_path, request, capsys):
    devices = 1
    if mode != "jit":
        request.getfixturevalue("eight_devices")
        devices = 2
    flags = {"workdir": str(tmp_path), "num_devices": devices, "parallel": mode}
    config = dataclasses.replace(WILD, **flags)
    assert run(config) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("train.py: none diverged in step ")
    assert line.endswith(" is not finite")
    assert not (tmp_path / "summary.json").exists()


def test_steps_that_are_left_out_are_counted(tmp_path, capsys):
    config = dataclasses.replace(WILD, workdir=str(tmp_path), on_nonfinite="skip")
    fit(config)
    rows = rows_of(tmp_path)
    assert rows[-1]["train_skipped"] == 4 and rows[-1]["train_loss"] is None
    assert "none: 4 steps of epoch 3 were not finite and left out" in (
        capsys.readouterr().err
    )
    assert all(why is None for why in check_checkpoints(tmp_path).values())


def test_the_other_arm_goes_on_as_if_alone(tmp_path, capsys):
    flags = {"learning_rate": 1e3, "norm": "batch,none", "train_limit": 320}
    together = dataclasses.replace(TINY, workdir=str(tmp_path / "both"), **flags)
    with pytest.raises(Diverged, match=r"^none diverged in step \d+: "):
        fit(together)
    assert "none diverged in step" in capsys.readouterr().err
    alone = dataclasses.replace(together, workdir=str(tmp_path / "one"), norm="batch")
    fit(alone)
    rows = rows_of(tmp_path / "both")
    batch = [row for row in rows if row["norm"] == "batch"]
    assert batch == rows_of(tmp_path / "one")
    ended = [row for row in rows if row["norm"] == "none"]
    assert ended[-1]["train_loss"] is None and ended[-1]["test_accuracy"] is None
    assert (tmp_path / "both" / "summary.json").exists()
    assert all(why is None for why in check_checkpoints(tmp_path / "both").values())


def test_good_checkpoints_stay_and_nothing_else_is_saved(tmp_path):
    calm = dataclasses.replace(TINY, workdir=str(tmp_path), norm="none", num_epochs=1)
    fit(calm)
    (tmp_path / "config.json").unlink()
    wild = dataclasses.replace(WILD, workdir=str(tmp_path), on_nonfinite="warn")
    fit(wild)
    assert stored_steps(tmp_path / "checkpoints") == [4]
    assert check_checkpoints(tmp_path) == {4: None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    fit(dataclasses.replace(TINY, workdir=str(folder), norm="batch", num_epochs=2))
    return folder


def test_a_flipped_bit_is_noticed_or_on_bytes_that_nobody_reads(finished):
    newest = finished / "checkpoints" / "step_00000008"
    files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    rng, noticed = np.random.default_rng(0), 0
    for _ in range(12):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        at, bit = rng.integers(len(whole)), 1 << rng.integers(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ int(bit)]) + whole[at + 1 :])
        noticed += check_checkpoints(finished)[8] is not None
        path.write_bytes(whole)
    assert noticed >= 3
    assert check_checkpoints(finished) == {4: None, 8: None}


def test_a_link_out_of_a_checkpoint_is_not_followed(finished, tmp_path):
    newest = finished / "checkpoints" / "step_00000008"
    record = newest / "record"
    shutil.move(record, tmp_path / "record")
    record.symlink_to(tmp_path / "record")
    said = "its part record leads out of it"
    assert check_checkpoints(finished) == {4: None, 8: said}
    record.unlink()
    shutil.move(tmp_path / "record", record)
    assert check_checkpoints(finished) == {4: None, 8: None}
    # Where the whole folder lies is the user's affair.
    linked = tmp_path / "linked"
    linked.symlink_to(finished, target_is_directory=True)
    assert check_checkpoints(linked) == {4: None, 8: None}


def run_of(workdir, **changes):
    """Returns a run as `fit` makes it, on the workdir of another."""
    config = json.loads((workdir / "config.json").read_text())
    config = TrainConfig(**{**config, "norm_options": (), **changes})
    dataset = load("digits", train_limit=128, test_limit=50)
    parallel = start_parallel(config)
    return Run(config, Processes(), parallel, dataset, workdir)


def test_another_number_is_named_and_set_aside(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "w")
    folder = tmp_path / "w" / "checkpoints"
    (folder / "damaged_step_00000008").mkdir()  # As it was once before.
    module = sys.modules["jaxbn.training._checkpoint"]
    read, said = module.ocp.load_checkpointables, []

    def flip(path, wanted):
        items = read(path, wanted)
        if path.endswith("step_00000008"):
            kernel = items["arrays"]["states"]["batch"].params["head"]["kernel"]
            kernel.view(np.uint8)[0, 0] ^= 1
        return items

    monkeypatch.setattr(module.ocp, "load_checkpointables", flip)
    made = run_of(tmp_path / "w")
    states, metrics = jax.tree.map(np.array, (made.states, made.metrics))
    like = Checkpoint(states, metrics, {}, {})
    found = load_newest(folder, like, said.append, Processes())
    assert found.record["epoch"] == 1
    (line,) = said
    assert "arrays/states/batch/params/head/kernel is not what was written" in line
    names = {path.name for path in folder.iterdir()}
    assert names >= {"step_00000004", "damaged_step_00000008_2"}


class AtTheEndOf:
    """A request to stop that comes with the last step of an epoch."""

    def __init__(self, epoch):
        self.epoch, self.run = epoch, None

    def __bool__(self):
        return (self.run.epoch, self.run.position) == (self.epoch, self.run.steps)


def test_asked_to_stop_at_the_end_of_an_epoch_it_finishes_that_epoch(
    finished, tmp_path
):
    for epoch in (0, 1):
        folder = tmp_path / str(epoch)
        folder.mkdir()
        shutil.copy(finished / "config.json", folder)
        stop = AtTheEndOf(epoch)
        stop.run = run_of(folder)
        stop.run.restore()
        ends = pytest.raises(Interrupted, match="after step 4, saved")
        with ends if epoch == 0 else contextlib.nullcontext():
            stop.run.train(stop)
        stop.run.report.close()
        assert rows_of(folder) == rows_of(finished)[: 1 + epoch]
    config = stop.run.config
    fit(dataclasses.replace(config, workdir=str(tmp_path / "0"), resume=True))
    assert rows_of(tmp_path / "0") == rows_of(finished)
    for folder in (tmp_path / "0", tmp_path / "1"):
        assert check_checkpoints(folder) == {4: None, 8: None}
        newest = folder / "checkpoints" / "step_00000008"
        like = Checkpoint({}, {}, {}, {})
        ours, theirs = (
            read_checkpoint(path, like)
            for path in (newest, finished / "checkpoints" / newest.name)
        )
        assert_equal((ours.states, ours.metrics), (theirs.states, theirs.metrics))
        assert ours.record == theirs.record


def test_what_became_of_the_records_of_a_finished_run_is_mended(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    (tmp_path / "w" / "metrics.jsonl").write_text("not what it was")
    (tmp_path / "w" / "metrics.csv").unlink()
    run_again = run_of(tmp_path / "w", resume=True)
    run_again.restore()
    run_again.train(StopRequest())
    run_again.report.close()
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "w" / name).read_bytes() == (finished / name).read_bytes()


def test_digests_and_sealed_records():
    tree = {"a": np.arange(3.0), "b": [np.float32(1), np.zeros((0, 2), np.int8)]}
    digests = digests_of(tree)
    assert sorted(digests) == ["a", "b/0", "b/1"]
    verify(tree, digests)
    with pytest.raises(Damaged, match=r"^b/0 is not what was written"):
        verify({**tree, "b": [np.float64(1), tree["b"][1]]}, digests)
    with pytest.raises(Damaged, match=r"^a is missing"):
        verify({"b": tree["b"]}, digests)
    sealed = seal({"epoch": 3})
    assert unseal(sealed) == {"epoch": 3}
    assert unseal(np.frombuffer(b'{"epoch": 3}', np.uint8)) == {"epoch": 3}
    spoiled = sealed.copy()
    spoiled[-3] ^= 1
    with pytest.raises(Damaged, match="its record is not what was written"):
        unseal(spoiled)


HOLDER = """
import sys, time
from pathlib import Path
from jaxbn.training._lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_run_a_workdir_and_no_lock_outlives_its_process(tmp_path):
    with hold_lock(tmp_path):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
            check_lock(tmp_path)
        config = dataclasses.replace(TINY, workdir=str(tmp_path))
        with pytest.raises(ConfigError, match="at work; wait for its end, or cho"):
            fit(config)
    check_lock(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {other.pid} on "):
            check_lock(tmp_path)
        other.send_signal(signal.SIGKILL)
    check_lock(tmp_path)
    check_lock(tmp_path / "not there")
