"""Surgery: models changed without touching their code.

Layers are found by `jaxbn.tree`; what a change would do can be read before it is done.
"""

from jaxbn.surgery._fold import Folded as Folded
from jaxbn.surgery._fold import fold as fold
from jaxbn.surgery._pairs import Pair as Pair
from jaxbn.surgery._pairs import find_pairs as find_pairs
