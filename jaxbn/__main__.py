"""`python -m jaxbn`: the command line, see `jaxbn.cli`."""

import sys

from jaxbn.cli import main

if __name__ == "__main__":
    sys.exit(main())
