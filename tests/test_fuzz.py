"""Bad input is refused in jaxbn's words, whatever it is and wherever it is passed.

What is tried is drawn with a fixed seed: some of the wrong values of each argument of
each public name, and some pairs of them. `JAXBN_FUZZ=all` tries every wrong value and
many pairs, which takes an hour on one core; `JAXBN_FUZZ_SEED=N` draws others. How many
calls there were is printed (`-s`) and recorded as the property `calls`.
"""

import functools
import importlib
import inspect
import os
import random

import jax
import pytest

from tests import fuzz

ALL = os.environ.get("JAXBN_FUZZ") == "all"
SEED = int(os.environ.get("JAXBN_FUZZ_SEED", "0"))
EACH, PAIRS, LINES = (10**9, 300, 3000) if ALL else (30, 4, 80)
"""Wrong values and pairs of them that are tried of each entry, and command lines."""

ROOMS = ("core", "linen", "nnx", "population", "surgery", "diagnostics", "models")
ROOMS += ("tree", "data", "training", "variants")
OF_TOOLS = (
    *("as_model", "as_static", "at_batch", "check_known", "each_part"),
    *("is_measured", "is_norm"),
    *("join_arrays", "layers_with_statistics", "library_class", "merge_two"),
    *("moments_of", "params_of", "path_name", "replacing", "run_jitted"),
    *("split_arrays", "stats_of", "variables_of", "with_stats"),
)
LEFT_OUT = {
    "jaxbn.keep_norm_inputs": "called by jax.checkpoint, with what it has",
    "jaxbn.core.feature_shape": "given arrays and axes that feature_axes has judged",
    "jaxbn.core.stacks_along": "asks whether an axis is there, in any words",
    "jaxbn.linen.Layer": "for subclasses; Norm and BatchNorm are its calls",
    "jaxbn.linen.call_norm": "likewise, within a compact method",
    "jaxbn.training.fit": "the fields of its configuration are fuzzed as flags",
    "jaxbn.training.run": "likewise",
    "jaxbn.training.load_trained": "needs a run: tests/training/test_trained.py",
    "jaxbn.training.fold_trained": "takes what that returned: tests/cli",
    "jaxbn.training.export_trained": "likewise",
    **{f"jaxbn.tree.{name}": "given what the tools have judged" for name in OF_TOOLS},
}
"""Public names without an entry, and why."""


@pytest.fixture(scope="module", autouse=True)
def whole_tracebacks():
    """Shows where an error was raised: JAX leaves its own frames out otherwise."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


@functools.cache
def entries(kind):
    return fuzz.KINDS[kind]()


def public_names():
    """Yields the public names that can be called, and what they are."""
    for room in ("jaxbn", *(f"jaxbn.{name}" for name in ROOMS)):
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            own = getattr(value, "__module__", "").startswith("jaxbn")
            if not name.startswith("_") and own and callable(value):
                yield f"{room}.{name}", value


def is_record(value):
    """Whether something judges nothing: a named tuple, an error, a type."""
    kinds = (tuple, BaseException)
    return not callable(value) or (inspect.isclass(value) and issubclass(value, kinds))


def resolved(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute, None)


def test_every_public_name_has_an_entry_or_a_reason():
    names = {entry.name for kind in fuzz.KINDS for entry in entries(kind)}
    plain = {name for name in names if not name.endswith((".init", ".apply"))}
    covered = [resolved(name) for name in (*plain, *LEFT_OUT)]
    lacking = [
        name
        for name, value in public_names()
        if not is_record(value) and not any(value is known for known in covered)
    ]
    assert not lacking, f"write an entry in tests/fuzz for {lacking}"
    assert None not in covered


def drawn(entry):
    """Returns what is tried of an entry: wrong values of each argument, and pairs."""
    rng = random.Random(f"{SEED} {entry.name}")
    by_argument = {}
    for changed in entry.single():
        by_argument.setdefault(*changed, []).append(changed)
    if not by_argument:
        return []
    each = max(round(EACH * entry.weight / len(by_argument)), 1)
    single = [
        one
        for values in by_argument.values()
        for one in (values if ALL else rng.sample(values, min(each, len(values))))
    ]
    pairs = []
    if len(by_argument) > 1:
        for _ in range(max(round(PAIRS * entry.weight), 1)):
            first, second = rng.sample(list(by_argument), 2)
            pair = (rng.choice(by_argument[name]) for name in (first, second))
            pairs.append({k: v for one in pair for k, v in one.items()})
    return single + pairs


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_wrong_arguments_are_refused_in_our_words(kind, record_property):
    complaints, calls = [], 0
    for entry in entries(kind):
        entry.run()  # What is right is taken.
        for changed in drawn(entry):
            calls += 1
            complaint = fuzz.judge(entry, changed)
            complaints += [] if complaint is None else [str(complaint)]
    record_property("calls", calls)
    print(f"{calls} calls of {kind}")
    assert calls > 0
    assert not complaints, "\n".join(complaints)


def test_wrong_command_lines_are_refused_in_our_words(record_property):
    complaints = []
    for flag, line in fuzz.command_lines(SEED, LINES):
        said = {"line": (f"--{flag}", "--batch_size")}  # Which devices have to share.
        entry = fuzz.Entry("train.py", fuzz.run_line, {"line": line}, said=said)
        complaint = fuzz.judge(entry, {"line": fuzz.Wrong(repr(line), line)})
        complaints += [] if complaint is None else [str(complaint)]
    record_property("calls", LINES)
    print(f"{LINES} command lines")
    assert not complaints, "\n".join(complaints)
