"""A fuzz of every public name: wrong arguments end in a refusal in jaxbn's words.

An `Entry` (`_judge.py`) is a public name with a call of it that is right. Each argument
is replaced by each of a pool of wrong values, and by what is like the right one and
wrong somewhere (`_wrong.py`). What may come of it: a result, or a ValueError or
TypeError that a `raise` of jaxbn has raised and whose message names the argument.

What is let through, with reasons: `OF_OTHERS` in `_judge.py`, and errors within the
call of a model, which are the model's.
"""

from tests.fuzz import _arithmetic, _data, _modules, _surgery, _tools, _trees
from tests.fuzz._flags import command_lines as command_lines
from tests.fuzz._flags import fields as fields
from tests.fuzz._flags import run_line as run_line
from tests.fuzz._judge import Complaint as Complaint
from tests.fuzz._judge import Entry as Entry
from tests.fuzz._judge import judge as judge
from tests.fuzz._wrong import Wrong as Wrong

KINDS = {
    "arithmetic": _arithmetic.entries,
    "norms": _modules.pairs,
    "modules": _modules.modules,
    "networks": _modules.networks,
    "models": _tools.entries,
    "trees": _trees.entries,
    "surgery": _surgery.entries,
    "data": _data.entries,
    "flags": lambda: [fields()],
}
"""What makes the entries, by kind."""
