"""Files of a run damaged after it ended: bits flipped, truncated, removed."""

from pathlib import Path
from typing import Any

from tests.injections._judge import (
    Lost,
    assert_in_words,
    assert_same,
    contents,
    resumed_from,
    set_aside,
    stored,
)
from tests.injections._plan import Injection
from tests.injections._stage import Stage


def run_damage(stage: Stage, injection: Injection, folder: Path) -> tuple[str, str]:
    """Damages files of a run and resumes; returns the outcome."""
    how, workdir = injection.how, folder / "w"
    reference = stage.reference(how["base"])
    stage.prepared(how["base"], how["state"], folder)
    outcome, said = _damage_and_resume(stage, how, workdir)
    if outcome != "refused":
        assert_same(workdir, reference, how["pictures"])
        if how["again"]:
            outcome, more = _damage_and_resume(stage, how, workdir)
            said = f"{said}; {more}"
            assert_same(workdir, reference, how["pictures"])
    return outcome, said


def _damage_and_resume(
    stage: Stage, how: dict[str, Any], workdir: Path
) -> tuple[str, str]:
    steps = stored(workdir)
    files = choose(workdir, how["steps"], how["which"])
    spoiled = {path: spoil(path, how) for path in files}
    hurt = {_step_of(path) for path in files} - {None}
    before = contents(workdir)
    run = stage.start(how, workdir.parent, "--resume")
    try:
        code, err, out = run.wait(), run.err, run.out
    finally:
        run.close()
    names = ", ".join(_role(path, workdir, steps) for path in files)
    if code in (1, 2):
        line = assert_in_words(code, err, (1, 2))
        if not any(path.name in line for path in files):
            raise Lost(f"{names}: does not name what is wrong: {line}")
        if contents(workdir) != before:
            raise Lost(f"{names}: refused, and yet files were changed: {line}")
        return "refused", f"{names}: {line}"
    try:
        aside = set_aside(code, err)
        if not set(aside) <= hurt:
            raise Lost(f"whole checkpoints were set aside: {aside}")
        whole = [step for step in steps if step not in aside]
        found = resumed_from(out)
        if found != (whole[-1] if whole else None):
            raise Lost(f"went on from {found}, of {whole}")
    except Lost as lost:
        raise Lost(f"{names}: {lost}") from None
    same = all(_bytes(path) == data for path, data in spoiled.items())
    return "unharmed" if same and not aside else "recovered", names


def choose(workdir: Path, steps: str | None, which: float) -> list[Path]:
    """Returns the files to damage: of checkpoints, or another one if `steps` is None.

    The same place in every checkpoint that is meant by 'newest', 'older' or 'all'.
    """
    folder = workdir / "checkpoints"
    if steps is None:
        files = (p for p in workdir.rglob("*") if folder not in p.parents)
        others = sorted(path for path in files if path.is_file())
        return [others[int(which * len(others))]]
    numbers = stored(workdir)
    meant = {"newest": numbers[-1:], "older": numbers[:-1], "all": numbers}[steps]
    found = []
    for number in meant:
        inside = (folder / f"step_{number:08d}").rglob("*")
        files = sorted(path for path in inside if path.is_file())
        found.append(files[int(which * len(files))])
    return found


def spoil(path: Path, how: dict[str, Any]) -> bytes | None:
    """Damages a file; returns what is left of it."""
    data = path.read_bytes()
    at = int(how["where"] * len(data))
    if how["what"] == "remove" or (not data and how["what"] == "flip"):
        path.unlink()
        return None
    left = data[:at]
    if how["what"] == "flip":
        left += bytes([data[at] ^ 1 << how["bit"]]) + data[at + 1 :]
    path.write_bytes(left)
    return left


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _step_of(path: Path) -> int | None:
    for part in path.parts:
        if part.startswith("step_") and part[5:].isdigit():
            return int(part[5:])
    return None


def _role(path: Path, workdir: Path, steps: list[int]) -> str:
    """Returns the file's place in words that are the same for every run."""
    parts = list(path.relative_to(workdir).parts)
    if path.parent.name == "d":  # orbax draws these names.
        parts[-1] = "*"
    if path.parent.name == "events":
        parts[-1] = "*"
    return "/".join(parts)
