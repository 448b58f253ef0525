"""Checkpoints by themselves: which stay, which are read, what happens on failure."""

import errno
import gc
import logging
import os
import shutil
import sys
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxbn.training import _checkpoint as module
from jaxbn.training import check_checkpoints
from jaxbn.training._checkpoint import (
    Checkpoint,
    CheckpointError,
    load_newest,
    read_checkpoint,
    save_checkpoint,
    stored_steps,
)
from jaxbn.training._processes import Processes

# orbax leaves event loops and coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore")
ALONE, FOLLOWING = Processes(), Processes(index=1)


def checkpoint_of(step, best=None, replicas=None):
    record = {"epoch": 1, "position": step, "rows": []}
    if best is not None:
        record["best"] = {"step": best, "score": 0.5}
    states = {"batch": {"w": np.arange(4.0) + step, "step": np.array(step, np.int32)}}
    metrics = {"batch": {"loss": np.array(step, np.float32)}}
    return Checkpoint(states, metrics, record, replicas or {})


LIKE = checkpoint_of(0)


def save(folder, step, keep=2, processes=ALONE, **options):
    save_checkpoint(folder, step, checkpoint_of(step, **options), keep, processes)


def load(folder, processes=ALONE):
    said = []
    return load_newest(folder, LIKE, said.append, processes), said


def place(folder, step):
    return folder / f"step_{step:08d}"


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def spoil(folder, step):
    """Changes the record of a checkpoint, which all of it depends on."""
    for path in place(folder, step).rglob("*"):
        if path.is_file() and "record" in path.parts:
            path.write_bytes(b"\0" * 7)


@pytest.mark.parametrize("replicas", [{}, {"batch": {"mean": np.eye(3, 2)}}])
def test_what_is_stored_comes_back(tmp_path, replicas):
    folder = tmp_path / "deep" / "checkpoints"
    save(folder, 3, best=3, replicas=replicas)
    found, said = load(folder)
    expected = checkpoint_of(3, best=3, replicas=replicas)
    assert said == []
    assert found.record == expected.record
    for field in ("states", "metrics", "replicas"):
        assert_equal(getattr(found, field), getattr(expected, field))
    assert isinstance(found.states["batch"]["w"], np.ndarray)


def test_the_newest_stay_and_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, best=2)
    assert stored_steps(tmp_path) == [2, 3, 4]
    save(tmp_path, 5, best=5)
    assert stored_steps(tmp_path) == [4, 5]
    save(tmp_path, 6, keep=1)
    assert stored_steps(tmp_path) == [6]


def test_one_that_cannot_be_removed_does_not_end_the_run(tmp_path):
    """As one that was moved to another disk, with a link in its place."""
    save(tmp_path / "run", 1)
    place(tmp_path / "run", 1).rename(tmp_path / "elsewhere")
    place(tmp_path / "run", 1).symlink_to(tmp_path / "elsewhere")
    save(tmp_path / "run", 2, keep=1)
    assert load(tmp_path / "run")[0].record["position"] == 2
    assert (tmp_path / "elsewhere").is_dir()


def test_a_step_that_is_stored_is_not_stored_again(tmp_path):
    save(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    save_checkpoint(tmp_path, 1, checkpoint_of(7), 2, ALONE)
    assert sorted(tmp_path.rglob("*")) == before
    assert load(tmp_path)[0].record["position"] == 1


def test_only_the_leading_process_removes_what_is_no_longer_needed(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, processes=FOLLOWING)
    assert stored_steps(tmp_path) == [1, 2, 3]


def test_only_whole_checkpoints_count_and_by_number(tmp_path):
    for name in ("step_00000010", "step_00000009", "step_11.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged_step_00000012").mkdir()
    (tmp_path / "step_00000013").write_text("a file")
    assert stored_steps(tmp_path) == [9, 10]
    assert stored_steps(tmp_path / "nothing") == []


@pytest.mark.parametrize("processes", [ALONE, FOLLOWING], ids=["leads", "follows"])
def test_a_write_that_fails_leaves_the_older_ones(tmp_path, monkeypatch, processes):
    save(tmp_path, 1)

    def fail(path, items):
        (tmp_path / "step_00000002.orbax-checkpoint-tmp").mkdir()
        raise ValueError("no more [os_error_code='28']\nof it")

    with monkeypatch.context() as patched:
        patched.setattr(module.ocp, "save_checkpointables", fail)
        with pytest.raises(CheckpointError) as caught:
            save(tmp_path, 2, processes=processes)
    assert str(caught.value) == (
        f"the checkpoint of step 2 could not be written to {tmp_path} (No space left "
        "on device); that of step 1 is whole, go on from it with --resume"
    )
    left = processes is FOLLOWING  # The leading process cleans up.
    assert (tmp_path / "step_00000002.orbax-checkpoint-tmp").exists() == left
    assert load(tmp_path)[0].record["position"] == 1


def test_damaged_ones_are_set_aside_and_the_next_older_is_read(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    for step in (2, 3):
        spoil(tmp_path, step)
    assert list(check_checkpoints(tmp_path.parent)) == []
    found, said = load(tmp_path, FOLLOWING)
    assert (found.record["position"], said) == (1, [])
    assert stored_steps(tmp_path) == [1, 2, 3]
    found, said = load(tmp_path)
    assert found.record["position"] == 1
    for step, line in zip((3, 2), said, strict=True):
        assert line.startswith(f"checkpoint {place(tmp_path, step)} is damaged (")
    assert stored_steps(tmp_path) == [1]
    assert (tmp_path / "damaged_step_00000003").is_dir()


def test_where_none_can_be_read_there_is_none(tmp_path):
    assert load(tmp_path) == (None, [])
    save(tmp_path, 1)
    spoil(tmp_path, 1)
    found, said = load(tmp_path)
    assert found is None and len(said) == 1


def test_all_of_a_run_are_checked_and_nothing_is_changed(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        save(folder, step, replicas={"batch": {"mean": np.ones((2, 3))}})
    assert check_checkpoints(tmp_path) == {1: None, 2: None}
    spoil(folder, 1)
    (why,) = {why for why in check_checkpoints(tmp_path).values() if why}
    assert isinstance(why, str) and why
    assert check_checkpoints(str(tmp_path))[2] is None
    assert stored_steps(folder) == [1, 2]


def test_what_orbax_says_of_a_failure_is_kept_to_one_line(tmp_path, caplog):
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    (tmp_path / "step_00000001").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_checkpoint(tmp_path / "step_00000001", LIKE)
        gc.collect()
    assert isinstance(found, str) and "\n" not in found
    assert caplog.records == []
    for name in ("manifest.ocdbt", "arrays/manifest.ocdbt"):
        save(tmp_path, 3)
        (tmp_path / "step_00000003" / name).unlink(missing_ok=True)
        read_checkpoint(tmp_path / "step_00000003", LIKE)
        gc.collect()
        assert [record.name for record in caplog.records] == []
        shutil.rmtree(tmp_path / "step_00000003")
    assert (logger.level, sys.unraisablehook) == (level, hook)
    assert logging.getLogger("asyncio").level == logging.NOTSET
    save(tmp_path, 2)
    assert (logger.level, sys.unraisablehook) == (level, hook)


def test_processes_meet_before_one_of_them_sets_anything_aside(tmp_path):
    save(tmp_path, 1)
    spoil(tmp_path, 1)
    met = []

    def meet(where):
        met.append((where, stored_steps(tmp_path)))

    processes = SimpleNamespace(meet=meet, leads=True, count=1, index=0)
    load_newest(tmp_path, LIKE, lambda line: None, processes)
    assert met[0][1] == [1] and len(met) == 2


def test_a_folder_that_cannot_be_written_is_noticed_before_a_save_begins(
    tmp_path, monkeypatch
):
    def refuse(path, *rest):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(module.ocp, "save_checkpointables", pytest.fail)
    monkeypatch.setattr(os, "mkdir", refuse)
    words = r"of step 3 could not be written to .* \(Permission denied\); there is none"
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(tmp_path, 3, Checkpoint({}, {}, {}, {}), 2, ALONE)
