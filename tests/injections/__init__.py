"""Faults put into real runs of `train.py`: does `--resume` go on bit for bit?

    python -m tests.injections --count=300 --seed=0 --jobs=2 --out=FILE.json
    python -m tests.injections --only=17            # one of them again
    python -m tests.injections --table FILE.json    # the table of what was recorded

An injection trains a small network, does something to the process or its files at a
moment drawn from the seed, gives back what it took (space, permissions), calls
`--resume` and compares with a run that nothing happened to: every array of the last
checkpoint, `metrics.jsonl` and `metrics.csv` byte for byte, the summary's scores. What
came out is one of

- *recovered*: all the same, after what happened was met;
- *unharmed*: all the same, and nothing took notice;
- *refused*: one line that names what is wrong, with nothing removed or overwritten;
- *lost*: anything else, such as a traceback, other numbers, a run that hangs, or a
  whole checkpoint set aside;
- *skipped*: this machine cannot do it, for the reason given.

A kill or a full disk has to end as *recovered* or *unharmed*; only damage to the files
of a run, and a second run in its folder, may be *refused*.

`_plan` draws what is done, `_process`, `_warm` and `_child` run the script, `_stage`
holds what injections share, `_signals`, `_space`, `_damage` and `_others` do the harm,
`_judge` compares and `_table` counts.
"""

from tests.injections._plan import Injection as Injection
from tests.injections._plan import chosen as chosen
from tests.injections._plan import draw as draw
from tests.injections._table import table as table
from tests.injections._table import totals as totals
