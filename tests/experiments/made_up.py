"""Experiments that are made up, in the places of real ones."""

from jaxbn.experiments import EXPERIMENTS, Result
from jaxbn.experiments._verdicts import greater

NAMES = ("learning_rate", "pattern_leakage", "saturation")


class MadeUp:
    """A module of an experiment, whose claim is undecided at first."""

    __doc__ = "Made up."
    SOURCE = "nothing"
    mean = 0.1
    looks = ()
    """The seeds of each call of `measure`."""

    @classmethod
    def measure(cls, settings):
        cls.looks += (settings.seed_numbers,)
        return {"x": [cls.mean + (-1) ** seed for seed in settings.seed_numbers]}

    @classmethod
    def show(cls, found):
        claim = greater("a claim", found["x"])

        def draw(figure):
            figure.subplots()

        return Result(("x",), [(found["x"],)], [claim], draw, found)


def put_in_place(monkeypatch, names=NAMES[:1]):
    """Makes the experiments called so, and no other, the one that is made up."""
    package = "jaxbn.experiments"
    for module in ("_running", "_registry", "_results", "_state"):
        monkeypatch.setattr(f"{package}.{module}.module_of", lambda name: MadeUp)
    for module in ("_results", "_records", "_state"):
        place = f"{package}.{module}.fingerprint"
        monkeypatch.setattr(place, lambda name, function: function)
    some = {name: EXPERIMENTS[name] for name in names}
    monkeypatch.setattr(f"{package}._verify.EXPERIMENTS", some)
    monkeypatch.setattr(MadeUp, "looks", ())
    return MadeUp
