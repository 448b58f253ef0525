"""Programs that others wrote, with the import changed: does the training stay the same?

    python -m tests.programs --sources DIR [WORD ...]

DIR holds a clone (or a bare one) of each repository, in a folder named `owner+name` or
`name`, for example by `git clone https://github.com/google/flax DIR/google+flax`.
Nothing is fetched here; a repository or commit that is missing is said in one line.

The files of a pinned commit are unpacked into a temporary folder. There the name of the
layer, `nn.BatchNorm` or `nnx.BatchNorm`, is replaced by ours and the import is added;
no other word is touched, and each line that is gets printed. What a program imports and
has no use for here (TensorFlow, loggers) gets a stand-in. Eight steps on made data
follow, then one evaluation: with Flax's layer and with ours.

Rounding grows while a net is trained, by as much as the net decides. The measure of it
is a third training: Flax's layer, with the other of its two formulas for the variance.
"""

from tests.programs._change import IMPORT as IMPORT
from tests.programs._change import OURS as OURS
from tests.programs._change import Program as Program
from tests.programs._change import Source as Source
from tests.programs._change import change_text as change_text
from tests.programs._change import code_of_guide as code_of_guide
from tests.programs._change import train_with as train_with
from tests.programs._compare import compare as compare
from tests.programs._compare import run as run
from tests.programs._compare import table as table
from tests.programs._fit import STEPS as STEPS
from tests.programs._fit import Curve as Curve
from tests.programs._fit import draw as draw
from tests.programs._fit import fit_linen as fit_linen
from tests.programs._published import PROGRAMS as PROGRAMS
