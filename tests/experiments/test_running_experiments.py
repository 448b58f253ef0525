"""Running experiments: what is written, what is kept, and many side by side."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from made_up import MadeUp, put_in_place

from jaxbn.experiments import EXPERIMENTS, Settings
from jaxbn.experiments import _registry as registry
from jaxbn.experiments import _side_by_side as side_by_side
from jaxbn.experiments.__main__ import main
from jaxbn.experiments._running import run
from jaxbn.experiments._side_by_side import run_these, shares, workers
from jaxbn.experiments._verdicts import LEVEL, LEVEL_OF_TWO

FIRST, SECOND = tuple(range(100, 105)), tuple(range(100, 110))


@pytest.fixture
def made_up(monkeypatch):
    return put_in_place(monkeypatch)


def read(folder, name="results.json"):
    return json.loads((folder / name).read_text())


def interrupt(monkeypatch, seeds):
    """Lets runs end where they measure so many seeds."""
    measure = MadeUp.measure

    def until(settings):
        if settings.seeds == seeds:
            raise KeyboardInterrupt
        return measure(settings)

    monkeypatch.setattr(MadeUp, "measure", until)


def test_undecided_claims_get_more_seeds(made_up, tmp_path, capsys):
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    assert made_up.looks == (FIRST, SECOND)
    said = capsys.readouterr().out
    assert "1 of 1 claims are undecided with 5 seeds; goes on with 10" in said
    assert run("learning_rate", Settings(str(tmp_path), most_seeds=5)) == 0
    assert run("learning_rate", Settings(str(tmp_path), size="smoke")) == 0
    assert made_up.looks[2:] == (FIRST, FIRST)


def test_a_run_goes_on_with_its_second_look(made_up, tmp_path, monkeypatch):
    settings = Settings(str(tmp_path))
    with monkeypatch.context() as context:
        interrupt(context, seeds=10)
        with pytest.raises(KeyboardInterrupt):
            run("learning_rate", settings)
    record = read(tmp_path)
    assert record["seeds"] == list(FIRST) and "shown_by" not in record
    record["seconds"] = 1000.0
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert run("learning_rate", settings) == 0
    assert made_up.looks == (FIRST, SECOND)
    record = read(tmp_path)
    assert record["seeds"] == list(SECOND) and "shown_by" in record
    assert record["seconds"] >= 1000
    assert not (tmp_path / "results.old.json").exists()
    assert run("learning_rate", settings) == 0  # It is whole, and measured again.
    assert made_up.looks[2:] == (FIRST, SECOND)


def test_a_second_look_keeps_what_was_published(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(made_up, "mean", 9.0)
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    assert made_up.looks == (FIRST,)
    before = (tmp_path / "results.json").read_bytes()
    claims = made_up.show
    monkeypatch.setattr(made_up, "show", lambda found: claims({"x": found["x"] - 8.9}))
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    assert made_up.looks == (FIRST, SECOND)
    assert (tmp_path / "results.old.json").read_bytes() == before


def test_a_level_for_one_look_and_for_two():
    assert Settings("", seeds=5, most_seeds=5).level == LEVEL
    assert Settings("", size="smoke").level == LEVEL
    assert Settings("").level == LEVEL_OF_TWO
    assert Settings("", most_seeds=50).level == LEVEL / 2


def test_numbers_are_kept_when_judging_fails(made_up, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(made_up, "mean", float("nan"))
    assert run("learning_rate", Settings(str(tmp_path))) == 1
    assert "not all finite" in capsys.readouterr().err
    assert read(tmp_path)["numbers"]["x"] == [None] * 5


def test_what_lay_in_the_folder_is_kept(made_up, tmp_path):
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    assert not (tmp_path / "results.old.json").exists()
    before = (tmp_path / "results.json").read_bytes()
    assert run("learning_rate", Settings(str(tmp_path), first_seed=200)) == 0
    assert (tmp_path / "results.old.json").read_bytes() == before
    assert read(tmp_path)["seeds"][0] == 200
    (tmp_path / "results.json").write_text("{")
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    assert (tmp_path / "results.old.json").read_text() == "{"


def test_results_are_kept_until_there_are_others(made_up, tmp_path, monkeypatch):
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    interrupt(monkeypatch, seeds=6)
    with pytest.raises(KeyboardInterrupt):
        run("learning_rate", Settings(str(tmp_path), seeds=6))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_results_of_another_experiment_are_not_overwritten(made_up, tmp_path, capsys):
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["saturation", f"--workdir={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path} holds results of learning_rate, expected saturation's; "
        "name another workdir\n"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_verdicts_of_few_seeds_are_announced(made_up, tmp_path, capsys):
    assert run("learning_rate", Settings(str(tmp_path), seeds=4)) == 0
    said = capsys.readouterr().out
    assert "learning_rate: verdicts need at least 5 seeds\n" in said
    assert run("learning_rate", Settings(str(tmp_path), seeds=5)) == 0
    assert "need at least" not in capsys.readouterr().out


def test_the_registry_shows_what_json_holds(made_up):
    result = registry.run_experiment("learning_rate", seeds=3)
    assert result.numbers["x"].tolist() == [1.1, -0.9, 1.1]


def test_settings_that_cannot_be_run_are_refused(tmp_path, capsys):
    assert main(["learning_rate", f"--workdir={tmp_path}", "--seeds=0"]) == 2
    assert "seeds is 0, expected 1 or more" in capsys.readouterr().err
    assert main(["learning_rate", f"--workdir={tmp_path}", "--dataset=digits"]) == 1
    assert "digits has 1442 train examples" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_experiments_are_processes_that_are_announced(monkeypatch, capsys):
    ran = []

    def process(command, **options):
        ran.append((command[3:], options.get("env", {}).get("XLA_FLAGS", "")))
        code = int("saturation" in command)
        return subprocess.CompletedProcess(command, code, f"said by {command[3]}\n")

    monkeypatch.setattr(subprocess, "run", process)
    small = Settings("W", num_devices=4, jobs=3)
    smoke = Settings("V", size="smoke")
    assert run_these({"saturation": small, "smoothness": smoke}, 1) == 1
    (first, flags), (second, quick) = ran
    assert first[0] == "saturation" and "--workdir=W" in first
    assert "--num_devices=4" in first and "--jobs=1" in first
    assert not any("data_dir" in word for word in first)
    assert second[0] == "smoothness" and side_by_side.QUICK in quick and not flags
    out, err = capsys.readouterr()
    assert out.index("saturation begins\n") < out.index("# saturation\nsaid by satur")
    assert out.index("smoothness begins\n") < out.index("# smoothness\nsaid by smoot")
    assert err == "failed: saturation\n"


def test_what_ends_first_is_shown_first(monkeypatch, capsys):
    ended = threading.Event()

    def apart(name, settings):
        if name == "slow":
            assert ended.wait(60)
            time.sleep(0.2)
        ended.set()
        return 0, f"said by {name}"

    monkeypatch.setattr(side_by_side, "run_apart", apart)
    assert run_these(dict.fromkeys(("slow", "fast"), Settings("")), 2) == 0
    assert capsys.readouterr().out == "# fast\nsaid by fast\n# slow\nsaid by slow\n"


def test_an_interrupt_starts_no_more(monkeypatch):
    ran = []

    def apart(name, settings):
        ran.append(name)
        if name == "a":
            raise KeyboardInterrupt
        time.sleep(0.3)
        return 0, ""

    monkeypatch.setattr(side_by_side, "run_apart", apart)
    with pytest.raises(KeyboardInterrupt):
        run_these(dict.fromkeys("abc", Settings("")), 1)
    assert "c" not in ran


def test_shares_of_cores():
    assert shares([0, 2, 5], 2) == [[0, 5], [2]]
    assert shares([3, 4], 5) == [[3], [4], [3], [4], [3]]


def cores_of_children(jobs):
    """Returns the cores of processes that as many threads start at the same time."""
    together = threading.Barrier(jobs)

    def start(i):
        together.wait(60)
        code = "import os; print(sorted(os.sched_getaffinity(0)))"
        command = [sys.executable, "-S", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    with workers(jobs) as pool:
        return list(pool.map(start, range(jobs)))


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="there are no shares of cores here"
)
def test_processes_side_by_side_have_a_share_each():
    cores = sorted(os.sched_getaffinity(0))
    assert cores_of_children(1) == [cores]
    for jobs in (2, 3):
        assert sorted(cores_of_children(jobs)) == sorted(shares(cores, jobs))
    assert sorted(os.sched_getaffinity(0)) == cores


def test_a_platform_without_shares_runs_on_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with workers(2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def said(capsys, *arguments):
    """Returns the code and the output of a command, in one line."""
    try:
        code = main([*arguments])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, " ".join((out + err).replace("│", " ").split())


def test_help(capsys):
    for arguments in ((), ("-h",), ("--help",)):
        code, text = said(capsys, *arguments)
        assert code == 0 and all(f" {name} " in text for name in EXPERIMENTS)
        assert text.startswith("usage: python -m jaxbn.experiments NAME --workdir=DIR")
        example = "Example: python -m jaxbn.experiments learning_rate --workdir=runs/lr"
        assert text.endswith(f"{example} NAME --help shows an experiment's flags")
    code, text = said(capsys, "saturation", "--help")
    assert code == 0 and "usage: python -m jaxbn.experiments saturation" in text
    assert "Saturated units and vanishing gradients" in text.split("--workdir")[0]
    assert "Seeds used instead where a claim is undecided with `seeds`" in text
    assert "full: needs an accelerator." in text
    assert "Runs all experiments, each in a folder" in said(capsys, "all", "--help")[1]
    text = said(capsys, "verify", "--help")[1]
    assert "Only report; exit code 1 if a result is not up to date." in text
    text = said(capsys, "report", "--help")[1]
    assert "--workdir" in text and "--seeds" not in text
    code, text = said(capsys, "report", "--workdir=W", "--seeds=3")
    assert code == 2 and "Unrecognized options: --seeds=3" in text
    code, text = said(capsys, "lr", "--workdir=W")
    assert code == 2 and "no experiment is called 'lr', expected one of mnist" in text


def test_a_process_that_cannot_be_started_ends_no_other(monkeypatch, capsys):
    def process(command, **options):
        if "saturation" in command:
            raise OSError("no process is left")
        return subprocess.CompletedProcess(command, 0, "said\n")

    monkeypatch.setattr(subprocess, "run", process)
    each = {"saturation": Settings("W"), "smoothness": Settings("V")}
    assert run_these(each, 1) == 1
    said = capsys.readouterr()
    assert "# saturation\nOSError: no process is left\n" in said.out
    assert "# smoothness\nsaid\n" in said.out and said.err == "failed: saturation\n"


def test_cores_that_may_not_be_chosen_are_left(monkeypatch):
    def refuse(process, cores):
        raise PermissionError("not in this container")

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    with workers(2) as pool:
        assert pool.submit(int, "3").result() == 3
