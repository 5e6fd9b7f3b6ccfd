"""The command line. It answers ``--help`` at once, because only the command that runs imports what is heavy."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TextIO

from oneshot._version import __version__
from oneshot.storage.command_line import command_line
from oneshot.storage.faults import machine_fault
from oneshot.storage.interrupts import Terminated, interruption, sigterm_raises
from oneshot.storage.trust import imports_from_here, split_options

from . import short_help
from .commands import COMMANDS
from .options import OneLineErrors, UsageError, did_you_mean, name_classes, one_line
from .terminal import tolerate_encodings

EPILOG = """\
search, retrain and evaluate take every option of the Trainer, the method and the data, from YAML and from the command
line: --config FILE, --model.arch_lr 6e-4, --data.init_args.batch_size 32, --trainer.max_epochs 10; 'oneshot search
--help' shows the common ones, --help-all every one. 'oneshot examples' lists files to begin with.
"""


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    """Help as wide as the terminal, and no wider than is easy to read."""
    return argparse.HelpFormatter(prog, width=min(shutil.get_terminal_size().columns, short_help.WIDEST))


def _parsers() -> tuple[OneLineErrors, dict[str, OneLineErrors]]:
    """The parser of the command line, and those of the commands that declare their options."""
    parser = OneLineErrors(
        prog="oneshot",
        description="Neural architecture search on PyTorch Lightning.",
        epilog=EPILOG,
        formatter_class=_help_formatter,
    )
    parser.add_argument("--version", action="version", version=f"oneshot {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, command in COMMANDS.items():
        declares = command.options is not None
        own = commands.add_parser(name, help=command.help, add_help=declares, formatter_class=_help_formatter)
        if command.options is not None:
            command.options(own)
            own.usage = own.short_usage()
            parsers[name] = own
    return parser, parsers


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line, ``--traceback`` shows where they come from."""
    tolerate_encodings()
    parser, parsers = _parsers()
    words = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in words  # wherever it stands
    words = [word for word in words if word != "--traceback"]
    if words and words[0] in parsers:  # they show all their options anyhow
        words = ["--help" if word == "--help-all" else word for word in words]
    args, rest = parser.parse_known_args(words)
    if (text := short_help.wanted(args.command, rest)) is not None:
        sys.stdout.write(text)
        return 0
    if argv is None and not traceback:  # without the line of our code, which means nothing to the user
        warnings.showwarning = _show_warning
    command = COMMANDS[args.command]
    if command.reads_data:
        args.data_options, rest = split_options(rest, "--data")
    if command.options is None:
        rest = short_help.show_all(rest)
    elif rest:
        nearest = did_you_mean(rest[0].partition("=")[0], parsers[args.command].option_names())
        parser.error(f"{args.command} does not know {' '.join(rest)}.{nearest}")
    # Lightning uses a class that torch is about to remove; the user of a command cannot change that.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    try:
        with sigterm_raises(), imports_from_here(_read_first(args, rest)), command_line(words):
            from .early_checks import check  # here, because --help needs nothing of it

            check(args.command, args, rest)
            return _run(args, rest)
    except BaseException as error:
        if (stopped := interruption(error)) is not None:
            if argv is None:  # a second Ctrl-C ends the process at once and silently
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            return _stopped(args.command, stopped)
        if traceback or not isinstance(error, Exception):
            raise
        way = "" if machine_fault(error) is None else f" {command.after_a_stop}"
        said = _reason(str(error))
        if not isinstance(error, ValueError | ImportError | RuntimeError | OSError):
            said = (
                f"{type(error).__name__}: {said} This is a bug of oneshot, or of a class it was given, or a file is "
                "damaged in a way it does not know; --traceback shows where."
            )
        sys.stderr.write(f"oneshot {args.command}: {said}{way}\n")
        return _failed(args.command, error)


def _run(args: argparse.Namespace, rest: list[str]) -> int:
    """Run the command; returns the exit code."""
    run: Callable[..., Any] = getattr(import_module(f"oneshot.cli.{args.command}"), args.command)
    if COMMANDS[args.command].options is None:
        return run(rest) or 0
    found = run(**{name: value for name, value in vars(args).items() if name not in ("command", "traceback")})
    return found if isinstance(found, int) else 0  # a function of Python may give what it has found


def _failed(command: str, error: Exception) -> int:
    """The exit code of an error; of options the same as where the parser of the command finds it.

    Raises:
        SystemExit: As parsers do.
    """
    if isinstance(error, UsageError) and command != "discrete":
        raise SystemExit(2) from None
    return 1


def _read_first(args: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The folder that a command reads, or goes on with."""
    if named := getattr(args, "run", None) or getattr(args, "target", None):
        return [named]
    if args.command in ("evaluate", "retrain"):
        return list(rest[:1])
    option = "--from" if args.command in ("measure", "profile") else "--out"
    if option == "--out" and "--resume" not in rest:
        return []
    pairs = zip(rest, [*rest[1:], ""])  # which is longer where there are no words
    after = [word.partition("=")[2] for word in rest if word.startswith(f"{option}=")]
    return [value for word, value in pairs if word == option] + after


def _stopped(command: str, stopped: BaseException) -> int:
    """Say how to go on after Ctrl-C or SIGTERM; return the exit code that shells give for the signal."""
    what, code = ("stopped by SIGTERM", 143) if isinstance(stopped, Terminated) else ("interrupted", 130)
    way = stopped.args[0] if stopped.args else COMMANDS[command].after_a_stop
    sys.stderr.write(f"oneshot {command}: {what}. {way}\n")
    return code


def _reason(message: str) -> str:
    """The error in one line, without the list of all types that an option may have."""
    return name_classes(one_line(message))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(f"oneshot: warning: {' '.join(str(message).split())}\n")
