"""Population statistics: what should normalize at test time."""

from jaxbn.population._agree import assert_replicas_agree as assert_replicas_agree
from jaxbn.population._merge import merge_batch_stats as merge_batch_stats
from jaxbn.population._precise import PreciseReport as PreciseReport
from jaxbn.population._precise import precise_batch_stats as precise_batch_stats
