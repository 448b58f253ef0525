"""Surgery: models changed without touching their code.

Layers are found by `jaxbn.tree`; what a change would do can be read before it is done.
"""

from jaxbn.surgery._fold import Folded as Folded
from jaxbn.surgery._fold import fold as fold
from jaxbn.surgery._freeze import Plan as Plan
from jaxbn.surgery._freeze import freeze as freeze
from jaxbn.surgery._freeze import freeze_labels as freeze_labels
from jaxbn.surgery._freeze import plan_freezing as plan_freezing
from jaxbn.surgery._pairs import Pair as Pair
from jaxbn.surgery._pairs import find_pairs as find_pairs
from jaxbn.surgery._where import choose as choose
