"""``python -m equispike.cli``: the command line."""

from equispike.cli import main

main()
