"""The command line: one function per verb. torch is imported only by commands that compute."""

import signal
import sys
import warnings
from typing import NoReturn, cast

from cyclopts import App, CycloptsError, Parameter

from equispike.cli.conversion import check_command, convert_command, diagnose_command
from equispike.cli.evaluation import evaluate_command
from equispike.cli.export import export_command, info_command
from equispike.cli.report import cite_command, demo_command, report_command
from equispike.cli.shared import err, in_options
from equispike.cli.sweep import sweep_command
from equispike.cli.training import keep_command, lower_thresholds_command, models_command, train_command
from equispike.errors import EquispikeError, one_line


def _default(value: object) -> str | None:
    """A default as it would be typed."""
    many = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    return " ".join(str(one) for one in many if one is not None and one is not False) or None


app = App(
    name="equispike",
    default_parameter=Parameter(show_default=_default, negative_iterable=()),
    help=(
        "Run a trained ReLU network as spikes, and know what was lost.\n\n"
        "A trained image classifier becomes a network of integrate-and-fire neurons: weights carry over, each layer "
        "gets a firing threshold, and spike rates stand for activations. Start with: equispike demo"
    ),
    suppress_keyboard_interrupt=False,  # main says what became of the files
)
for command in (
    demo_command,
    check_command,
    train_command,
    lower_thresholds_command,
    keep_command,
    models_command,
    convert_command,
    evaluate_command,
    diagnose_command,
    report_command,
    export_command,
    info_command,
    sweep_command,
    cite_command,
):
    app.command(command, name=command.__name__.removesuffix("_command").replace("_", "-"))


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input of any kind ends in one line on standard error and exit code 2."""
    typed = sys.argv[1:] if arguments is None else arguments
    again = "again, with --resume," if typed[:1] == ["train"] and "--resume" not in typed else "again"
    remedy = f"nothing half written was left behind. Start it {again} to go on"

    def terminated(*_: object) -> NoReturn:
        raise Terminated  # told when all is undone: telling needs modules, and one may be half loaded now

    try:
        signal.signal(signal.SIGTERM, terminated)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            app(arguments, exit_on_error=False, print_error=False)
    except (EquispikeError, CycloptsError) as error:
        err.print(f"equispike: {in_options(one_line(error, None))}")
        sys.exit(2)
    except OSError as error:  # a full disk, a name that is too long, a folder that is gone: whatever the system refuses
        where = f"{error.filename}: " if error.filename else ""
        err.print(f"equispike: {where}{error.strerror or one_line(error)}. Choose another place, or mend this one")
        sys.exit(2)
    except Terminated:
        err.print(f"equispike: terminated; {remedy}")
        sys.exit(143)
    except KeyboardInterrupt:
        err.print(f"equispike: interrupted; {remedy}")
        sys.exit(130)


def _warn(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):  # others are for programmers
        err.print(f"equispike: warning: {in_options(one_line(message, None))}")
