"""Several processes, as a user starts them on one machine: curves, losses, resumes.

Two processes of two CPU devices each, over loopback.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxbn.training import ConfigError
from jaxbn.training._checkpoint import stored_steps
from jaxbn.training._processes import Processes, check_same
from tests.pictures import write_tfds

ROOT = Path(__file__).parents[1]
FLAGS = ("--workdir=w", "--norm=batch", "--train_limit=320", "--test_limit=100")
SECONDS_TO_NOTICE = 20
"""Two minutes are allowed; a loss shows in well under a second."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(flags, folder, environment=None):
    command = [sys.executable, str(ROOT / "train.py"), *FLAGS, *flags]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(flags, folder):
    where = (f"--coordinator_address=127.0.0.1:{free_port()}", "--num_processes=2")
    flags = (*flags, *where, "--num_devices=4")
    return [start((*flags, f"--process_id={i}"), folder) for i in (0, 1)]


def finish(processes, timeout=180):
    """Returns (code, out, err) of each; none outlives the test."""
    try:
        found = []
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            found.append((process.returncode, out, err))
        return found
    finally:
        for process in processes:
            process.kill()


def rows_of(folder):
    text = (folder / "w" / "metrics.jsonl").read_text()
    return list(map(json.loads, text.splitlines()))


def numbers(rows):
    return np.array([[v for k, v in row.items() if k != "norm"] for row in rows])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, one device, three epochs."""
    folder = tmp_path_factory.mktemp("alone")
    ((code, _, err),) = finish([start(("--num_epochs=3", "--num_devices=1"), folder)])
    assert code == 0, err
    return rows_of(folder)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Two processes, two devices each, three epochs."""
    folder = tmp_path_factory.mktemp("together")
    first, second = finish(start_two(("--num_epochs=3",), folder))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    return rows_of(folder), first[1], second[1]


def test_two_processes_have_the_curve_of_one(alone, together):
    rows, out, quiet = together
    assert "4 x cpu (cpu) of 2 processes, pmap; batch 32 global, 8 local" in out
    assert "epoch" not in quiet
    np.testing.assert_allclose(numbers(rows), numbers(alone), rtol=3e-4, atol=3e-5)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_is_named_and_the_run_goes_on(lost, together, tmp_path):
    flags = ("--num_epochs=3",)
    processes = start_two(flags, tmp_path)
    folder = tmp_path / "w" / "checkpoints"
    deadline = time.monotonic() + 120
    while not stored_steps(folder) and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[lost].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    survivor = processes[1 - lost]
    try:
        _, err = survivor.communicate(timeout=SECONDS_TO_NOTICE)
    finally:
        finish(processes)
    assert time.monotonic() - killed < SECONDS_TO_NOTICE
    words = f"process {lost} of 2 was lost; process {1 - lost} ends too"
    assert words in err, err
    assert survivor.returncode == 1
    if lost:  # Whichever it was, what is left is what a checkpoint holds.
        return
    ends = finish(start_two((*flags, "--resume"), tmp_path))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "resuming after step" in ends[0][1]
    assert rows_of(tmp_path) == together[0]


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """Two begin with ghost batches in each device; asked to stop; one goes on."""
    flags = ("--num_epochs=24", "--normalization_batch_size=4", "--eval_every=24")
    processes = start_two(flags, tmp_path)
    timing = tmp_path / "w" / "timing.jsonl"
    deadline = time.monotonic() + 120
    while not timing.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)  # One is asked, both stop.
    ends = finish(processes)
    assert [code for code, _, _ in ends] == [130, 130], ends
    assert "saved; go on with --resume --workdir=w" in ends[0][2]
    last = start((*flags, "--resume", "--num_devices=2"), tmp_path)
    ((code, out, err),) = finish([last])
    assert code == 0, err
    assert "resuming after step" in out
    assert rows_of(tmp_path)[-1]["epoch"] == 24


def test_a_cluster_that_jax_knows_needs_no_flags(tmp_path):
    """As Slurm starts two tasks on this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    flags = ("--num_epochs=1", "--num_devices=2", "--parallel=jit")
    processes = [
        start(flags, tmp_path, {**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)})
        for i in (0, 1)
    ]
    ends = finish(processes)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "2 x cpu (cpu) of 2 processes, jit" in ends[0][1]


def recipe():
    """The flags of the guide for ImageNet."""
    guide = (ROOT / "docs" / "guides" / "large_sets.md").read_text()
    command = guide.split("python train.py --dataset=imagenet2012")[1].split("```")[0]
    flags = command.replace("\\\n", " ").split()
    return dict(flag.partition("=")[::2] for flag in flags)


def test_the_recipe_for_imagenet_on_a_small_set(tmp_path):
    """On two processes as on one, each reading the pictures of its own devices."""
    write_tfds(tmp_path, "pictures")
    small = {
        "--dataset": "pictures",
        "--data_dir": str(tmp_path),
        "--image_size": "16",
        "--model": "convnet",
        "--batch_size": "32",
        "--normalization_batch_size": "16",
        "--num_epochs": "6",
        "--warmup_epochs": "1",
        "--learning_rate": "0.02",
        "--workdir": "w",
    }
    flags = [f"{k}={v}" if v else k for k, v in (recipe() | small).items()]
    flags += ["--dtype=float32"]  # Rounding would hide what differs.
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    ((code, _, err),) = finish([start((*flags, "--num_devices=1"), one)])
    assert code == 0, err
    ends = finish(start_two(flags, two))
    assert [code for code, _, _ in ends] == [0, 0], ends
    rows, expected = rows_of(two), rows_of(one)
    assert [row["epoch"] for row in rows] == [5, 6]
    assert {"test_top5", "test_top5_averaged_precise"} <= rows[-1].keys()
    # Groups of devices average their own statistics, which are pooled when used.
    names = ("train_loss", "test_loss_precise", "test_loss_averaged_precise")
    found, wanted = ([[row[n] for n in names] for row in r] for r in (rows, expected))
    np.testing.assert_allclose(found, wanted, rtol=3e-4)


def test_bad_flags_end_all_processes(tmp_path):
    ends = finish(start_two(("--num_epochs=1", "--batch_size=30"), tmp_path), 60)
    assert ends[0][0] == 2 or ends[1][0] == 2, ends
    assert "expected a multiple of the 4 devices" in ends[0][2] + ends[1][2]


def test_processes_with_other_flags_do_not_wait_for_each_other(tmp_path):
    where = (f"--coordinator_address=127.0.0.1:{free_port()}", "--num_processes=2")
    processes = [
        start((*where, "--num_devices=2", f"--process_id={i}", f"--seed={i}"), tmp_path)
        for i in (0, 1)
    ]
    ends = finish(processes, 60)
    assert [code for code, _, _ in ends] == [1, 2], ends
    assert "--seed is 1 in process 1 and 0 in process 0; start all with" in ends[1][2]
    assert "process 1 of 2 was lost" in ends[0][2]


@pytest.mark.parametrize("name", ["the number of test examples", "the mean"])
def test_processes_with_other_data_are_refused(name, monkeypatch):
    first = {"--seed": 0, "the number of test examples": 3, "the mean": ["0.1"]}
    other = {**first, name: 4}
    text = json.dumps(first)
    monkeypatch.setattr("jaxbn.training._processes.share_text", lambda *_: text)
    check_same(Processes(index=1), first)
    with pytest.raises(ConfigError, match=rf"{name} is 4 in process 1 and .* in proc"):
        check_same(Processes(index=1), other)


def test_processes_that_diverge_end_alike(tmp_path):
    flags = "--num_epochs=2", "--norm=none,batch", "--model=narrow"
    ends = finish(start_two((*flags, "--learning_rate=3"), tmp_path))
    assert [code for code, _, _ in ends] == [3, 3], ends
    words = "train.py: none diverged in step"
    (first,) = {
        line for _, _, err in ends for line in err.splitlines() if words in line
    }
    assert first.endswith(" is not finite")
    rows = [row for row in rows_of(tmp_path) if row["norm"] == "batch"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["test_loss"]) for row in rows)


TOGETHER = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxbn.population import assert_replicas_agree

me, address = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, num_processes=2, process_id=me)
sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P())


def claimed(*values):
    copies = [
        jax.device_put(np.float32(value), device)
        for value, device in zip(values, jax.local_devices())
    ]
    return jax.make_array_from_single_device_arrays((), sharding, copies)


assert_replicas_agree({"a": claimed(1, 1), "key": jax.random.key(0)})
for mine in ((me, me), (1, 1 + (me == 0))):
    try:
        assert_replicas_agree({"a": claimed(1, 1), "b": {"mean": claimed(*mine)}})
    except AssertionError as error:
        print(error)

from flax import nnx
from jaxbn.population import precise_batch_stats

rows = np.arange(10, dtype=np.float32)[:, None]
mine = [rows[:2], rows[2:3]] if me else [rows[3:]]
model = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
stats, report = precise_batch_stats(model, None, mine, share_processes=True)
print("pooled", float(stats["mean"][...][0]), round(float(stats["var"][...][0]), 4))
print("counted", report.counted)
"""


def test_processes_agree_on_replicas_and_on_precise_statistics(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(i), address],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    (code, first, err), (other, second, more) = finish(processes, 90)
    assert (code, other) == (0, 0), err + more
    for out in (first, second):
        assert "b/mean differs between processes" in out
        assert "pooled 4.5 8.25" in out and "counted {'': 10.0}" in out
    assert "b/mean differs between replicas 0 and 1, by up to 1" in first
    assert "b/mean differs between replicas of process 0" in second
