"""The command line: one function per verb. torch is imported only by commands that compute."""

import sys

from cyclopts import App, CycloptsError

from equispike.cli.cite import cite
from equispike.cli.conversion import check, convert, diagnose
from equispike.cli.demo import demo
from equispike.cli.evaluation import evaluate
from equispike.cli.export import export
from equispike.cli.report import report
from equispike.cli.shared import err
from equispike.cli.sweep import sweep
from equispike.cli.training import keep, lower_thresholds, models, train
from equispike.errors import EquispikeError, one_line

app = App(
    name="equispike",
    help=(
        "Run a trained ReLU network as spikes, and know what was lost.\n\n"
        "A trained image classifier becomes a network of integrate-and-fire neurons: weights carry over, each layer "
        "gets a firing threshold, and spike rates stand for activations. Start with: equispike demo"
    ),
    suppress_keyboard_interrupt=False,  # main says what became of the files
)
for command in (
    *(demo, check, train, lower_thresholds, keep, models, convert, evaluate, diagnose, report, export),
    *(sweep, cite),
):
    app.command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input of any kind ends in one line on standard error and exit code 2."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (EquispikeError, CycloptsError) as error:
        err.print(f"equispike: {one_line(error, None)}")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("equispike: interrupted; nothing half written was left behind")
        sys.exit(130)
