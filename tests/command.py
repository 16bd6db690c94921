"""The equispike command, called in this process."""

from equispike.cli import main


def exit_code(*arguments: str) -> int:
    """What a shell would get."""
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
