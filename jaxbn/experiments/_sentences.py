"""What the page of results says in sentences: how they were made, and of how many."""

from collections.abc import Mapping
from typing import Any

from jaxbn.experiments._harness import Settings
from jaxbn.experiments._registry import module_of
from jaxbn.experiments._verdicts import OUTCOMES

Found = Mapping[str, dict[str, Any]]
"""Records with verdicts, by experiment."""
NEW = Settings.first_seed
"""The smallest seed that no design or bound was chosen on."""
INTRODUCTION = """\
Each claim is a quantity of every seed, mostly a difference of two arms with the same
seed, and a bound. Its mean and 95 % confidence interval over seeds (Student's t) are
printed before the bound. A claim is *held* if the whole interval satisfies the bound,
*refuted* if none of it does, *undecided* else. The claims of an experiment are judged
together: `p` is the two-sided p-value with Holm's correction, and a claim is decided
where it is at most 0.05. An experiment with undecided claims is run once more with
twice as many seeds, if that is asked for, as it is by default; then `p` has to be at
most 0.0294 in both looks, the first one too (Pocock 1977). So all verdicts of an
experiment are right with a chance of about 95 %, where quantities are roughly normal
over seeds.
Of a claim with several parts all have to hold, and it is refuted by one that does not,
at a level divided by their number. All this is stricter than the intervals: one just on
the right side of its bound may leave a claim undecided.

Seeds vary the weights, the order of training and whatever else is random. Training and
test images are the same for all, so that the intervals say nothing about other images.

*Errors* are shares of wrong answers in percent, *points* differences of these. The
*normalization batch size* (NBS) is how many examples are normalized together.
*Mini-batch* statistics are of these examples; *population* statistics stand for all
data: *running* ones are moving averages from training, *precise* ones are measured with
the trained net. *In decades* is the logarithm to base 10: 2.301 is 200.

Designs and bounds were chosen on the seeds 0 to 4, or in pilot runs of other code.
Tables show means and standard deviations over seeds. Made by `python -m
jaxbn.experiments`, and held against today's code by `python -m jaxbn.experiments
verify`."""


def summary(name: str) -> str:
    """Returns the first line of what an experiment says of itself."""
    return (module_of(name).__doc__ or "").splitlines()[0].rstrip(".")


def counted(found: Found) -> str:
    """Returns how many claims had each outcome, in words."""
    every = [v["outcome"] for result in found.values() for v in result["verdicts"]]
    return ", ".join(f"{every.count(outcome)} {outcome}" for outcome in OUTCOMES)


def facts(result: dict[str, Any]) -> str:
    """Returns what a result was measured with, in words."""
    settings, seeds = result["settings"], result["seeds"]
    said = f"{settings['size']}, {len(seeds)} seeds from {seeds[0]}"
    if len(seeds) > settings["seeds"]:
        said += f", since claims were undecided with {settings['seeds']}"
    return f"{said}; {result['seconds']:.0f} s, {result['date']}, {result['machine']}"


def conditions(found: Found) -> str:
    """Returns of which sizes and seeds results are, in words."""
    sizes: dict[str, list[str]] = {}
    for name, result in found.items():
        sizes.setdefault(result["settings"]["size"], []).append(name)
    if len(sizes) == 1:
        said = [f"All is of size {next(iter(sizes))}."]
    else:
        each = (f"{size} ({', '.join(names)})" for size, names in sizes.items())
        said = [f"Sizes differ: {'; '.join(each)}."]
    if "smoke" in sizes:
        said.append("What is of size smoke shows that an experiment runs, no more.")
    every = [seed for result in found.values() for seed in result["seeds"]]
    said.append(f"Seeds are from {min(every)} to {max(every)}.")
    if early := on_old_seeds(found):
        said.append(
            f"Run on seeds below {NEW}, on which designs and bounds were chosen: "
            f"{', '.join(early)}."
        )
    else:
        said.append("No design and no bound was chosen on any of them.")
    return " ".join(said)


def unseen(found: Found) -> str:
    """Returns whether verdicts are of seeds that nothing was chosen on, in words."""
    early = on_old_seeds(found)
    but = f", but for those of {', '.join(early)}" if early else ""
    return f"The verdicts above are of seeds that were never used while choosing{but}."


def on_old_seeds(found: Found) -> list[str]:
    """Returns the experiments that were run on seeds for choosing designs."""
    return [name for name, result in found.items() if min(result["seeds"]) < NEW]


def not_held(found: Found) -> list[tuple[str, str, str]]:
    """Returns experiments, claims and outcomes of what is not held, refuted first."""
    return [
        (name, verdict["claim"], outcome)
        for outcome in OUTCOMES[1:]
        for name, result in found.items()
        for verdict in result["verdicts"]
        if verdict["outcome"] == outcome
    ]


def changed(found: Found) -> list[tuple[str, str, str]]:
    """Returns experiments, what was changed after a first run, and of which claims."""
    each = []
    for name, result in found.items():
        claims: dict[str, list[str]] = {}
        for verdict in result["verdicts"]:
            if verdict["changed"]:
                claims.setdefault(verdict["changed"], []).append(verdict["claim"])
        for what, some in claims.items():
            every = len(some) == len(result["verdicts"])
            each.append((name, what, "all claims" if every else "; ".join(some)))
    return each
