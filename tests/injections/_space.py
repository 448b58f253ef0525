"""Space and permissions taken away, and given back."""

import ctypes
import os
import stat
import subprocess
from pathlib import Path

from tests.injections._judge import Lost, assert_in_words, assert_same
from tests.injections._plan import Injection
from tests.injections._signals import await_moment, resume
from tests.injections._stage import Stage

_NEW_NAMESPACE = 0x00020000


class Cannot(Exception):
    """This machine cannot do it; says why."""


def enter_namespace() -> str:
    """Keeps mounts to this process and those it starts; returns why not, or ''."""
    if os.geteuid() != 0:
        return "only root may mount"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE):
        return f"no namespace for mounts: {os.strerror(ctypes.get_errno())}"
    made = _mount("--make-rprivate", "/")
    return made and f"no namespace for mounts: {made}"


def run_limit(stage: Stage, injection: Injection, folder: Path) -> tuple[str, str]:
    """Limits the size of files, as a quota would, until the run ends."""
    how = injection.how
    reference = stage.reference(how["base"])
    run = stage.start(how, folder, limit=how["bytes"])
    try:
        said = _end(run.wait(), run.err)
    finally:
        run.close()
    resume(stage, how, folder)
    assert_same(folder / "w", reference, how["pictures"])
    return ("recovered" if said else "unharmed"), said


def run_full(stage: Stage, injection: Injection, folder: Path) -> tuple[str, str]:
    """Gives the workdir a disk of its own that is too small; then a larger one."""
    how = injection.how
    reference = stage.reference(how["base"])
    workdir = folder / "w"
    workdir.mkdir()
    size = f"size={how['kilobytes']}k,nr_inodes={how['files']}"
    failed = _mount("-t", "tmpfs", "-o", size, "none", str(workdir))
    if failed:
        raise Cannot(failed)
    try:
        run = stage.start(how, folder)
        try:
            said = _end(run.wait(), run.err)
        finally:
            run.close()
        larger = "remount,size=64m,nr_inodes=0"
        if failed := _mount("-o", larger, str(workdir)):
            raise Cannot(failed)
        resume(stage, how, folder)
        assert_same(workdir, reference, how["pictures"])
    finally:
        subprocess.run(["umount", "--lazy", str(workdir)], check=True)
    return ("recovered" if said else "unharmed"), said


def run_forbidden(stage: Stage, injection: Injection, folder: Path) -> tuple[str, str]:
    """Takes the permission to write away, at a moment, and gives it back at the end."""
    how, workdir = injection.how, folder / "w"
    reference = stage.reference(how["base"])
    hold = None if how["delay"] else (how["moment"], how["count"])
    run = stage.start(how, folder, hold=hold, powerless=True)
    try:
        await_moment(run, how, workdir)
        taken = _take(workdir, how["where"])
        run.go()
        said = _end(run.wait(), run.err)
    finally:
        run.close()
    for path, mode in taken.items():
        path.chmod(mode)
    resume(stage, how, folder)
    assert_same(workdir, reference, how["pictures"])
    return ("recovered" if said else "unharmed"), said


def _take(workdir: Path, where: str) -> dict[Path, int]:
    """Returns what has lost its permission to write, with the mode that it had."""
    paths = [workdir, *workdir.rglob("*")] if where == "everything" else [workdir]
    if where == "checkpoints":
        paths = [workdir / "checkpoints"]
    found = {}
    for path in paths:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode & ~0o222)
        except FileNotFoundError:  # Not there yet, or no more.
            continue
        found[path] = mode
    return found


def _end(code: int, err: str) -> str:
    """Returns the line in which the run said what it met, '' if it met nothing."""
    if code == 0 and not err.strip():
        return ""
    said = assert_in_words(code, err)
    words = ("cannot be read or written", "could not be written", "No space left")
    words += ("File too large", "Permission denied")
    if not any(word in said for word in words):
        raise Lost(f"does not name what is wrong: {said}")
    return said


def _mount(*arguments: str) -> str:
    """Returns why a mount failed, or ''."""
    command = ["mount", *arguments]
    made = subprocess.run(command, capture_output=True, text=True)
    failed = made.stderr.strip().splitlines() or [f"mount ended with {made.returncode}"]
    return failed[0] if made.returncode else ""
