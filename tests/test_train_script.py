"""`train.py` as a user meets it: exit codes, one-line errors, kills and resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import train
from jaxbn.training import _run

ROOT = Path(__file__).parents[1]
SHORT = ("--train_limit=320", "--test_limit=100", "--seed=3")


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(*flags, cwd, before=""):
    before = ["-c", before] if before else []
    command = [sys.executable, *before, str(ROOT / "train.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*flags, cwd, before=""):
    process = start(*flags, cwd=cwd, before=before)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def kill_when(process, happened, number):
    deadline = time.monotonic() + 120
    while not happened() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def final_arrays(workdir):
    newest = sorted((workdir / "checkpoints").glob("step_*"))[-1]
    items = ocp.load_checkpointables(newest.absolute(), {"arrays": None})
    return newest.name, [np.asarray(a) for a in jax.tree.leaves(items["arrays"])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of six epochs."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = run("--workdir=w", "--num_epochs=6", *SHORT, cwd=folder)
    assert code == 0, err
    return folder / "w", out


def test_leaves_everything_a_reader_expects(whole):
    workdir, out = whole
    names = {path.name for path in workdir.iterdir()}
    assert names >= {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "metrics.csv",
        "summary.json",
        "timing.jsonl",
        "curves.png",
        "activations.png",
        "events",
        "checkpoints",
    }
    assert not [name for name in names if name.startswith(".")]
    rows = list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))
    assert [(row["epoch"], row["norm"]) for row in rows] == [
        (epoch, norm) for epoch in range(1, 7) for norm in ("batch", "none")
    ]
    assert {row["step"] for row in rows if row["epoch"] == 6} == {60}
    assert {"test_accuracy_precise", "test_accuracy_batch"} <= set(rows[0])
    assert "test_accuracy_precise" not in rows[1]
    first = out.splitlines()[:4]
    assert "batch 32 global, 32 local, 32 normalized together" in first[1]
    assert "320 training and 100 test examples; 10 steps an epoch" in first[2]
    assert "running" in out
    assert "curves.png" in out
    header = (workdir / "metrics.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,step,norm,learning_rate,train_loss")
    assert len(list((workdir / "events").iterdir())) == 1
    final = json.loads((workdir / "summary.json").read_text())["final"]
    assert final["batch"] == rows[-2]


def test_killed_at_a_random_moment_and_resumed_is_bit_for_bit_the_same(whole, tmp_path):
    workdir = tmp_path / "w"
    flags = ("--workdir=w", "--num_epochs=6", *SHORT)
    process = start(*flags, cwd=tmp_path)
    epochs = int(np.random.default_rng().integers(1, 6))

    def reported():
        path = workdir / "metrics.jsonl"
        return path.exists() and path.read_text().count("\n") >= 2 * epochs

    kill_when(process, reported, signal.SIGKILL)
    code, _, err = run(*flags, "--resume", cwd=tmp_path)
    assert code == 0, err
    name, arrays = final_arrays(workdir)
    expected_name, expected = final_arrays(whole[0])
    assert name == expected_name
    assert len(arrays) == len(expected) > 10
    for ours, theirs in zip(arrays, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (workdir / file).read_bytes() == (whole[0] / file).read_bytes()


def test_asked_to_stop_it_saves_in_the_middle_of_an_epoch_and_goes_on(tmp_path):
    flags = ("--workdir=w", "--num_epochs=12", "--norm=batch", "--train_limit=640")
    flags += ("--batch_size=2", "--test_limit=20", "--eval_every=12")
    flags += ("--checkpoint_every=12", "--dtype=bfloat16")
    process = start(*flags, cwd=tmp_path)
    compiled = tmp_path / "w" / "timing.jsonl"
    code, _, err = kill_when(process, compiled.exists, signal.SIGTERM)
    assert code == 130, err
    (line,) = err.strip().splitlines()
    assert "saved; go on with --resume --workdir=w" in line
    (saved,) = (tmp_path / "w" / "checkpoints").glob("step_*")
    step = int(saved.name.removeprefix("step_"))
    assert 0 < step < 12 * 320
    code, out, err = run(*flags, "--resume", "--profile", cwd=tmp_path)
    assert code == 0, err
    assert f"resuming after step {step}" in out
    assert list((tmp_path / "w" / "profile").rglob("*.xplane.pb"))


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(whole, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(whole[0], workdir)
    newest = sorted((workdir / "checkpoints").glob("step_*"))[-1]
    for path in newest.rglob("*"):
        if path.is_file() and path.name != "commit_success.txt":
            path.write_bytes(b"not what it was")
    code, out, err = run(
        "--workdir=w", "--num_epochs=6", "--resume", *SHORT, cwd=tmp_path
    )
    assert code == 0, err
    (line,) = [ln for ln in err.splitlines() if "damaged" in ln]
    assert newest.name in line
    assert "resuming after step 50" in out
    metrics = (workdir / "metrics.jsonl").read_bytes()
    assert metrics == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_workdir_of_another_run_is_left_alone(whole):
    workdir, _ = whole
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    code, _, err = run(
        "--workdir=w",
        "--num_epochs=7",
        "--learning_rate=0.5",
        "--resume",
        *SHORT,
        cwd=workdir.parent,
    )
    assert code == 2
    (line,) = err.strip().splitlines()
    assert "learning_rate was 0.05, is 0.5; num_epochs was 6, is 7" in line
    code, _, err = run("--workdir=w", "--num_epochs=6", *SHORT, cwd=workdir.parent)
    assert code == 2
    assert "already holds this run; pass --resume" in err
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


BAD = [
    (["--model=resnet21"], 2, "model is 'resnet21', expected one of mlp"),
    (["--learning_rat=1"], 2, "--learning-rate"),
    (["--batch_size=7", "--num_devices=2"], 2, "expected a multiple of the 2"),
    (["--dataset=mnist", "--data_dir=nowhere"], 1, "not prepared in nowhere"),
    (["--norm=batch,ghost"], 2, "add --norm_options ghost.size=8"),
    ([f"--workdir={__file__}"], 2, "test_train_script.py is a file, expected a fo"),
]


def check_words(flags, expected, words, code, out, err, folder):
    assert code == expected
    assert words in err
    assert "Traceback" not in err + out
    if "learning_rat" not in flags[0]:
        assert len(err.strip().splitlines()) == 1
    assert not list(folder.iterdir())


def test_a_bad_flag_ends_the_process_in_words(tmp_path):
    check_words(*BAD[0], *run(*BAD[0][0], cwd=tmp_path), tmp_path)


@pytest.mark.parametrize(("flags", "code", "words"), BAD)
def test_bad_flags_and_missing_data_end_in_words(
    flags, code, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    # What leaves at once with the code, which here would be pytest.
    monkeypatch.setattr(_run, "leave", sys.exit)
    monkeypatch.setattr(_run, "signal", mock.Mock())
    with pytest.raises(SystemExit) as end:
        sys.exit(train.main("train.py"))
    check_words(flags, code, words, end.value.code, *capsys.readouterr(), tmp_path)


def test_a_limit_met_while_saving_ends_in_one_line(tmp_path, monkeypatch):
    """A limit on the size of files, in place of a full disk."""
    # What JAX and Python write for other processes is not to be cut off by it.
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    code, out, err = run("--workdir=w", *SHORT, cwd=tmp_path, before=LIMITED)
    assert code == 1
    (line,) = err.strip().splitlines()
    assert "the checkpoint of step 10 could not be written to w/checkpoints" in line
    assert "(File too large); there is none before it" in line
    assert "Traceback" not in out
    assert not list((tmp_path / "w" / "checkpoints").iterdir())
