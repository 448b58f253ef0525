"""Mutation testing: would the tests notice if the arithmetic were slightly wrong?

    pip install cosmic-ray coverage
    python -m tests.mutation map --work DIR       # which test runs which line
    python -m tests.mutation run --work DIR       # a sample, one after the other
    python -m tests.mutation report --work DIR    # docs/reliability/mutants.*

A *mutant* is the library with one small change: a sign, a comparison, a number, a
guard taken away. It is *killed* if a test fails and *survives* otherwise; a survivor is
a test that is missing, or *equivalent*, a change that nobody could see
(`_equivalent.py` says why). The operators are those of Cosmic Ray that keep a program
plausible, and three of ours for guards (`_operators.py`). Cosmic Ray's own runner
starts a process for each mutant, most of whose time goes to importing JAX; here each is
a fork of one that has imported it (`_trial.py`), and of the tests those that run the
changed line come first (`_select.py`).

`run` goes on where it was stopped, and `run --again` tries survivors once more, by more
tests. `run --only WORD` takes the mutants of files and lines with that word.
"""
