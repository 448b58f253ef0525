"""Endurance: runs of `train.py` left alone for hours, and killed over and over.

    python -m tests.endurance digits --out docs/reliability/digits.json
    python -m tests.endurance images --data_dir DIR --minutes 60 --out FILE

`digits` trains for 2,000 epochs twice: once undisturbed, while its memory, files,
threads and CPU time are looked at; once with 20 SIGKILLs at random moments, each
followed by `--resume`, after which arrays, metrics and best score have to be those of
the first. `images` trains a ConvNet on a prepared set, asks it to stop after so many
minutes, and looks at the same. The first tenth of a run is its warm-up.
"""

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import psutil
from orbax.checkpoint import v1 as ocp

from jaxbn.training import check_checkpoints
from jaxbn.training._checkpoint import stored_steps
from jaxbn.training._files import write_json

ROOT = Path(__file__).parents[1]
PAUSE = 0.5
"""Seconds between looks at a process."""
WARM, PARTS = 0.1, 10
"""The share of a run that is its warm-up, and into how many parts the rest is cut."""


def start(folder, *flags):
    """Starts `train.py` in a folder, with its workdir there."""
    command = [sys.executable, str(ROOT / "train.py"), "--workdir=w", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said
        )


def look(process):
    """Returns memory in MB, file handles, threads, CPU seconds; None at its end."""
    try:
        with process.oneshot():
            times = process.cpu_times()
            return {
                "memory": process.memory_info().rss / 1e6,
                "files": process.num_fds(),
                "threads": process.num_threads(),
                "cpu": times.user + times.system,
            }
    except psutil.Error:
        return None


def epochs_of(folder):
    """Returns how many evaluations have been recorded."""
    path = folder / "w" / "timing.jsonl"
    return path.read_text().count("images_per_second") if path.exists() else 0


def watch(child, folder, seconds=None):
    """Returns looks at a process until it ends, or is asked to after `seconds`."""
    process, looks, began = psutil.Process(child.pid), [], time.monotonic()
    while child.poll() is None:
        time.sleep(PAUSE)
        epochs = epochs_of(folder)
        seen = look(process) if epochs else None
        if seen is not None and child.poll() is None:
            looks.append({**seen, "epochs": epochs})
        if seconds and time.monotonic() - began > seconds:
            child.send_signal(signal.SIGTERM)
            seconds = None
    return looks


def judge(looks):
    """Returns what a run gained after its warm-up, and how its speed changed.

    File handles and threads come and go with every checkpoint: the fewest of a part
    of the run are what stays. Speed is epochs a CPU second, which other processes on
    the machine do not slow down as they do the clock. What a process looks like after
    its last evaluation, while it draws and ends, is left out.
    """
    total = looks[-1]["epochs"]
    warm = [seen for seen in looks if WARM * total < seen["epochs"] < total]
    parts = [list(part) for part in np.array_split(np.array(warm, object), PARTS)]
    first, last = parts[0], parts[-1]
    rates = [
        (part[-1]["epochs"] - part[0]["epochs"]) / (part[-1]["cpu"] - part[0]["cpu"])
        for part in parts
    ]
    memory = [
        statistics.median(seen["memory"] for seen in part) for part in (first, last)
    ]
    fewest = {
        key: [min(seen[key] for seen in part) for part in parts]
        for key in ("files", "threads")
    }
    return {
        "epochs": total,
        "memory_mb": [round(value) for value in memory],
        "memory_gained": round(memory[1] / memory[0] - 1, 4),
        "files": fewest["files"],
        "threads": fewest["threads"],
        "epochs_a_cpu_second": [round(rate, 4) for rate in rates],
        "speed_changed": round(rates[-1] / rates[0] - 1, 4),
    }


def kept(found):
    """Returns whether a run gained nothing and lost no speed, by each promise."""
    return {
        "memory within 3 %": found["memory_gained"] <= 0.03,
        "no file handles gained": found["files"][-1] <= found["files"][0],
        "no threads gained": found["threads"][-1] <= found["threads"][0],
        "speed within 10 %": found["speed_changed"] >= -0.10,
    }


def final_arrays(folder):
    """Returns step and arrays of the newest checkpoint."""
    step = stored_steps(folder / "w" / "checkpoints")[-1]
    path = (folder / "w" / "checkpoints" / f"step_{step:08d}").absolute()
    items = ocp.load_checkpointables(path, {"arrays": None})
    return step, [np.asarray(leaf) for leaf in jax.tree.leaves(items["arrays"])]


def same_end(one, other):
    """Returns whether two runs left the same arrays, metrics and best score."""
    (step, ours), (end, theirs) = final_arrays(one), final_arrays(other)
    arrays = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    names = "metrics.jsonl", "metrics.csv"
    files = all(
        (one / "w" / name).read_bytes() == (other / "w" / name).read_bytes()
        for name in names
    )
    best, expected = (
        json.loads((folder / "w" / "summary.json").read_text())["best"]
        for folder in (one, other)
    )
    return step == end and arrays and files and best == expected


def digits(folder, epochs, kills, seed):
    """Returns what the undisturbed run gained, and how often the other went on."""
    flags = f"--num_epochs={epochs}", "--norm=batch", "--keep=2"
    calm, killed = folder / "calm", folder / "killed"
    for place in (calm, killed):
        place.mkdir()
    child = start(calm, *flags)
    looks = watch(child, calm)
    found = {"code": child.returncode, **judge(looks)}
    rng = np.random.default_rng(seed)
    moments = np.sort(rng.choice(np.arange(1, epochs), kills, replace=False))
    resumed, going = 0, start(killed, *flags)
    for moment in moments:
        while going.poll() is None and rows_of(killed) < moment:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        going.kill()
        going.wait()
        resumed += epochs_of(killed) > 0
        going = start(killed, *flags, "--resume")
    code = going.wait()
    found |= {"kills": kills, "resumes": resumed, "code_after_kills": code}
    return found | {"bit_for_bit": code == 0 and same_end(killed, calm)}


def rows_of(folder):
    """Returns how many evaluations metrics.jsonl holds."""
    path = folder / "w" / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def images(folder, data_dir, minutes):
    """Returns what a ConvNet's run gained, and whether it could go on."""
    flags = "--model=convnet", "--dataset=fashion_mnist", f"--data_dir={data_dir}"
    flags += "--train_limit=8192", "--test_limit=1024", "--batch_size=128"
    flags += "--norm=batch", "--num_epochs=100000", "--schedule=constant"
    child = start(folder, *flags)
    looks = watch(child, folder, 60 * minutes)
    whole = check_checkpoints(folder / "w")
    return {
        "code": child.returncode,
        "minutes": minutes,
        **judge(looks),
        "checkpoints_whole": bool(whole) and not any(whole.values()),
    }


def main():
    """Runs one of the two and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("digits", "images"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jaxbn-endurance-") as place:
        folder = Path(place)
        if given.what == "digits":
            found = digits(folder, given.epochs, given.kills, given.seed)
        else:
            found = images(folder, given.data_dir.absolute(), given.minutes)
    found |= {"kept": kept(found), "date": str(datetime.date.today())}
    found["jax"] = jax.__version__
    print(json.dumps(found, indent=2))
    if given.out:
        write_json(given.out, found)


if __name__ == "__main__":
    main()
