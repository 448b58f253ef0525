"""The command `jaxbn`: runs and files of weights looked at, converted, exported.

`_main` knows the subcommands, each a function in a file of its own whose arguments are
its flags. JAX is imported in the functions, so that help is there at once.
"""

from jaxbn.cli._main import main as main
