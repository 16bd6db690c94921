"""``python -m equispike``: the command line."""

from equispike.cli import main

main()
