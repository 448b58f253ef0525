"""Population statistics: what should normalize at test time."""

from jaxbn.population._average import pool_batch_stats as pool_batch_stats
