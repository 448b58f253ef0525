"""Flags: fields of the configuration, from Python and from the command line."""

import contextlib
import dataclasses
import io
import random
from collections.abc import Iterator
from typing import Any

import tyro

from jaxbn.training import TrainConfig
from jaxbn.training._check_config import check_config
from jaxbn.training._norms import norm_names

from ._judge import Entry

BASE = TrainConfig(num_epochs=1, num_devices=1)
TEXTS = (
    *("", " ", "x", "-1", "0", "1", "3", "1.5", "-0.0", "1e400", "nan", "inf", "-inf"),
    *("None", "True", "no", "99999999999999999999", "0x10", "1_000", "٣", "a,b", "a+b"),
    *("+", ",", "/", "..", "a/b:1", "~", "\x00", "é", "x" * 300, "--seed", "=", "[]"),
    *("localhost:1", "host:0", "batch,batch", "digits+digits", "mnist+", "none,"),
)
VALUES = (
    *("0", "-1", "1", "2", "7", "1.5", "1e400", "None", "True", "'x'", "''", "[]"),
    *("[0, 1]", "()", "(0, 1)", "{}", "{'a': 1}", "b'x'", "1j", "10**9", "x", "..."),
    *(
        "10000000000000000000000",
        "'float32'",
        "'nosuch'",
        "'per_channel'",
        "...",
        "\x00",
    ),
    "(" * 300,
)
OPTIONS = (
    *("axis", "dtype", "param_dtype", "use_scale", "use_bias", "scale_init"),
    *("bias_init", "unbiased", "debias", "skip_nonfinite", "custom_derivative"),
    *("axis_index_groups", "size", "num_groups", "r_max", "d_max", "warmup_steps"),
    *("r_steps", "d_steps", "prior_count", "adapt_mean", "stream_momentum", "seed"),
    *("constant_affine", "fold", "over_positions", "affine", "num_splits", "nosuch"),
    *("momentum", "epsilon", "mask", "norm", "", "a.b", "name"),
)


def judged(**fields: Any) -> None:
    """Judges a configuration; one that cannot be made is refused by Python."""
    check_config(dataclasses.replace(BASE, **fields))


def fields() -> Entry:
    """Returns the entry of all fields, by what Python passes."""
    given = {
        field.name: getattr(BASE, field.name) for field in dataclasses.fields(BASE)
    }
    together = ("coordinator_address", "num_processes", "process_id")
    said: dict[str, tuple[str, ...]] = dict.fromkeys(together, together)
    said |= {
        "num_devices": ("batch_size",),
        "batch_size": ("normalization_batch_size",),
    }
    said |= {"bn_momentum": ("momentum",), "bn_epsilon": ("epsilon",)}
    return Entry("jaxbn.training.TrainConfig", judged, given, said=said, weight=6)


def command_lines(seed: int, count: int) -> Iterator[tuple[str, list[str]]]:
    """Yields so many command lines, each with the flag that its message has to name."""
    rng = random.Random(seed)
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for _ in range(count):
        if rng.random() < 0.5:
            name = rng.choice(names)
            yield name, [f"--{name}={rng.choice(TEXTS)}"]
            continue
        norm = rng.choice([name for name in norm_names() if name != "none"])
        text = f"{norm}.{rng.choice(OPTIONS)}={rng.choice(VALUES)}"
        line = [f"--norm={norm}", "--norm_options", text]
        line += ["ghost.size=4"] * (norm == "ghost" and "size" not in text)
        yield "norm", line


def run_line(line: list[str]) -> str | None:
    """Returns what is wrong with how a command line was refused, None if nothing is."""
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
            config = tyro.cli(TrainConfig, args=line)
    except SystemExit as end:  # Tyro says what it cannot parse, and which flag.
        return None if end.code == 2 else f"tyro ended with {end.code}"
    check_config(config)
    return None
