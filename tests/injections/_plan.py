"""What is done when: every injection is drawn from the seed and its own number."""

import random
from typing import Any, NamedTuple

KINDS = {
    "checkpoint damaged": 24,
    "other file damaged": 12,
    "SIGKILL": 16,
    "SIGTERM": 8,
    "SIGINT": 8,
    "SIGHUP": 4,
    "SIGQUIT": 4,
    "limit on file sizes": 7,
    "disk full": 6,
    "no permission to write": 6,
    "second run": 4,
    "two processes": 1,
}
"""How often each kind is drawn, in a hundred. Two processes take the longest."""

CHOSEN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("checkpoint damaged", {"state": "killed", "steps": "newest", "what": "flip"}),
    ("checkpoint damaged", {"state": "killed", "steps": "newest", "what": "truncate"}),
    ("checkpoint damaged", {"state": "killed", "steps": "all", "what": "remove"}),
    ("other file damaged", {"state": "killed"}),
    ("other file damaged", {"state": "finished"}),
    ("SIGKILL", {"moment": "replace", "count": 5, "delay": 0.0}),
    ("SIGKILL", {"moment": "writing", "count": 3}),
    ("SIGTERM", {"moment": "chunk", "count": 33, "delay": 0.0, "fine": True}),
    ("SIGINT", {"moment": "evaluate", "count": 4, "delay": 0.0, "twice": True}),
    ("limit on file sizes", {}),
    ("no permission to write", {"where": "checkpoints", "moment": "save", "count": 3}),
    (
        "second run",
        {"after": "nothing", "moment": "evaluate", "count": 2, "delay": 0.0},
    ),
)
"""Those that run in CI; what is not said here is drawn."""

MOMENTS = {
    "restore": 1,
    "compile": 1,
    "chunk": 6,
    "evaluate": 6,
    "rows": 6,
    "replace": 12,
    "save": 6,
    "saved": 6,
    "prune": 2,
    "curves": 1,
    "summary": 1,
    "end": 1,
}
"""What a run of six epochs goes through, and at least how often; see `_child`."""


class Injection(NamedTuple):
    """One fault: its number, its kind, and what the kind needs to know."""

    index: int
    kind: str
    how: dict[str, Any]


def draw(seed: int, index: int) -> Injection:
    """Returns injection `index` of a seed, whatever the others are."""
    rng = random.Random(f"{seed}/{index}")
    (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
    return Injection(index, kind, _details(kind, rng))


def chosen(seed: int) -> list[Injection]:
    """Returns the dozen of CI, on one device."""
    found = []
    for index, (kind, given) in enumerate(CHOSEN):
        rng = random.Random(f"chosen/{seed}/{index}")
        how = {**_details(kind, rng), "base": "one", **given}
        how |= {name: _QUICK[name] for name in _QUICK if name in how}
        found.append(Injection(index, kind, how))
    return found


_QUICK = {"cold": False, "again": None}


def _details(kind: str, rng: random.Random) -> dict[str, Any]:
    # Of every four runs one has two devices with statistics of their own. Pictures
    # take a third of the time, and most runs draw none.
    how: dict[str, Any] = {"base": rng.choice(["one", "one", "one", "apart"])}
    how["pictures"] = kind == "other file damaged" or rng.random() < 0.2
    if kind.startswith("SIG"):
        return how | _signal(kind, rng)
    if kind == "limit on file sizes":
        return how | {"bytes": int(10 ** rng.uniform(2.5, 5.0))}
    if kind == "disk full":
        by_number = rng.random() < 0.2
        return how | {
            "kilobytes": 4000 if by_number else 4 * rng.randint(2, 150),
            "files": rng.randint(8, 90) if by_number else 0,
        }
    if kind == "no permission to write":
        where = rng.choice(["workdir", "checkpoints", "everything"])
        return how | {"where": where} | _moment(rng)
    if kind == "second run":
        flags = rng.choice([["--resume"], ["--resume"], []])
        return (
            how
            | {"flags": flags, "after": rng.choice(["nothing", "kill"])}
            | (_moment(rng, without=("replace", "prune", "summary", "end")))
        )
    if kind == "two processes":
        what = rng.choice(["stop", "stop", "kill"])
        how |= {"base": "two", "what": what, "process": rng.randrange(2)}
        how |= {"seconds": round(rng.uniform(1, 4), 1)}
        return how | _moment(rng, only=("compile", "chunk", "evaluate", "save"))
    return how | _damage(kind, rng)


def _signal(kind: str, rng: random.Random) -> dict[str, Any]:
    how = _moment(rng)
    if rng.random() < 0.3:  # In the write of a checkpoint, by what lies in the folder.
        how = {"moment": "writing", "count": rng.randint(1, 6)}
        how["delay"] = round(rng.uniform(0, 0.25), 3)
    elif rng.random() < 0.25:  # At any time.
        how = {"moment": "start", "count": 1, "delay": round(rng.uniform(0, 8), 2)}
    return how | {
        # Steps one at a time, so that it is in the middle of an epoch.
        "fine": rng.random() < 0.5,
        # A process of its own from the first import on; others share imports.
        "cold": rng.random() < 0.1,
        "twice": kind in ("SIGTERM", "SIGINT") and rng.random() < 0.3,
        # The run that resumes is killed too, and resumed.
        "again": _moment(rng) if rng.random() < 0.2 else None,
    }


def _moment(
    rng: random.Random, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> dict[str, Any]:
    names = [name for name in only or MOMENTS if name not in without]
    name = rng.choice(names)
    at_once = rng.random() < 0.6  # The process waits there until it has happened.
    delay = 0.0 if at_once else round(rng.uniform(0, 0.3), 3)
    return {"moment": name, "count": rng.randint(1, MOMENTS[name]), "delay": delay}


def _damage(kind: str, rng: random.Random) -> dict[str, Any]:
    state = rng.choice(["killed", "killed", "asked", "finished"])
    how: dict[str, Any] = {
        "state": state,
        "steps": None,
        "which": round(rng.random(), 4),
        "what": rng.choice(["flip", "flip", "truncate", "remove"]),
        "where": round(rng.random(), 4),
        "bit": rng.randrange(8),
        "again": False,
    }
    if kind == "checkpoint damaged":
        how["steps"] = rng.choice(["newest"] * 6 + ["older", "all"])
        if rng.random() < 0.1:  # The same step is damaged once more, after it was met.
            how |= {"state": "finished", "steps": "newest", "what": "truncate"}
            how["again"] = True
    return how
