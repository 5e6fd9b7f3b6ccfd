"""The command line. Answers ``--help`` at once: everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from oneshot._version import __version__
from oneshot.storage.faults import machine_fault
from oneshot.storage.interrupts import GOES_ON, Terminated, interruption, sigterm_raises
from oneshot.storage.trust import imports_from_here, split_options

from . import short_help
from .options import OneLineErrors, did_you_mean, name_classes, one_line
from .terminal import tolerate_encodings

EPILOG = """\
search, retrain and evaluate take every option of the Trainer, the method and the data, from YAML and from the command
line: --config FILE, --model.arch_lr 6e-4, --data.init_args.batch_size 32, --trainer.max_epochs 10; 'oneshot search
--help' shows the common ones, --help-all every one. Examples are in experiments/.
"""

INSIDE = "let the files take decoded images, uint8 [B, H, W, C], and resize and normalise them"


def _parser() -> argparse.ArgumentParser:
    parser = OneLineErrors(
        prog="oneshot", description="Neural architecture search on PyTorch Lightning.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"oneshot {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    quickstart = commands.add_parser("quickstart", help="search, retrain and export on small real images, in minutes")
    quickstart.add_argument("--out", default="runs/quickstart", help="folder to write (%(default)s)")
    quickstart.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    quickstart.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")

    # These hand their options on to parsers of their own, which also print their help.
    commands.add_parser("search", help="train a supernet and derive an architecture", add_help=False)
    commands.add_parser("retrain", help="train the derived network", add_help=False)
    commands.add_parser("evaluate", help="test a retrained or exported network", add_help=False)

    commands.add_parser(
        "measure", help="measure the latencies of a space on this machine, and verify them", add_help=False
    )

    commands.add_parser("pareto", help="search a front of networks: NAT", add_help=False)
    commands.add_parser(
        "discrete", help="search by evolution, reinforcement learning, Bayesian optimisation, morphisms", add_help=False
    )
    pick = commands.add_parser("pick", help="take a network from the front of a search, calibrate and export it")
    pick.add_argument("run", help="folder of 'oneshot pareto' or 'oneshot discrete'")
    for name, what in (("latency", "ms"), ("macs", "MACs"), ("params", "parameters"), ("memory", "bytes")):
        pick.add_argument(
            f"--{name}", type=float, metavar="MOST", help=f"the smallest error with at most so many {what}"
        )
    pick.add_argument(
        "--max-error", type=float, metavar="SHARE", help="the cheapest with at most this error, 0.05 is 5 %%"
    )
    pick.add_argument(
        "--at-most", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="bounds of other objectives"
    )
    pick.add_argument(
        "--near", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="the nearest to these values"
    )
    pick.add_argument("--knee", action="store_true", help="where a little less of one costs most of another")
    pick.add_argument("--finetune", type=int, default=0, metavar="EPOCHS", help="train it so long before the export")
    pick.add_argument("--lr", type=float, default=0.005, help="learning rate of that (%(default)s)")
    pick.add_argument("--out", help="folder to write (RUN/picked)")
    pick.add_argument(
        "--formats", nargs="*", default=["torch_export", "onnx"], choices=["torch_export", "onnx"], help="(all)"
    )
    pick.add_argument("--with-preprocessing", action="store_true", help=INSIDE)
    pick.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    pick.add_argument("--no-measure", dest="measure", action="store_false", help="do not measure its latency here")

    derive = commands.add_parser("derive", help="derive the architecture of a search from its checkpoint")
    derive.add_argument("run", help="folder of a search")
    derive.add_argument("--checkpoint", help="another checkpoint than RUN/checkpoints/last.ckpt")
    derive.add_argument("--out", help="file to write (RUN/subnet.json)")
    derive.add_argument(
        "--measure",
        action="store_true",
        help="meet the latency target of the search on this machine, measured; exit code 3 if it is not met",
    )

    export = commands.add_parser("export", help="write a network as safetensors, torch.export and ONNX, each verified")
    export.add_argument("run", help="folder of a retraining, or of a search (its inherited weights)")
    export.add_argument("--out", help="folder to write (RUN/export)")
    export.add_argument(
        "--formats", nargs="*", default=["torch_export", "onnx"], choices=["torch_export", "onnx"], help="(all)"
    )
    export.add_argument("--with-preprocessing", action="store_true", help=INSIDE)
    export.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    export.add_argument("--no-measure", dest="measure", action="store_false", help="do not measure its latency here")

    data = commands.add_parser("data", help="look at a folder of images: classes, sizes, duplicates, problems")
    data.add_argument("folder", help="folder of images in a folder for each class, or of images and masks")

    show = commands.add_parser("show", help="picture of the cells and table of parameters and MACs")
    show.add_argument(
        "target",
        help="run, export, subnet.json, published genotype (DARTS_V2), 'Genotype(...)' or NAS-Bench-201 string",
    )
    show.add_argument("--out", help="picture to write, .png or .svg (<name>.png here)")
    for reader in (pick, derive, export, show):
        reader.add_argument(
            "--trust",
            action="append",
            default=[],
            metavar="NAME",
            help="module whose classes may be built",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line, ``--traceback`` shows where they come from."""
    tolerate_encodings()
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in words  # wherever it stands
    args, rest = parser.parse_known_args([word for word in words if word != "--traceback"])
    if (text := short_help.wanted(args.command, rest)) is not None:
        sys.stdout.write(text)
        return 0
    if argv is None and not traceback:  # on a real command line a path of ours means nothing
        warnings.showwarning = _show_warning
    if args.command in ("pick", "export"):  # where the data of a run are now
        args.data_options, rest = split_options(rest, "--data")
    if rest and args.command not in ("search", "pareto", "discrete", "retrain", "evaluate", "measure"):
        parser.error(f"{args.command} does not know {' '.join(rest)}.{_nearest(parser, args.command, rest[0])}")
    if args.command in short_help.COMMANDS:
        rest = short_help.show_all(rest)
    # Lightning's tree walk uses a class torch is about to remove; nobody at a command line can do anything about it.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    try:
        with sigterm_raises(), imports_from_here(_read_first(args, rest)):
            return _run(args, rest)
    except BaseException as error:
        if (stopped := interruption(error)) is not None:
            if argv is None:  # a second Ctrl-C ends what Python still has to do, without a word
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            return _stopped(args.command, stopped)
        if traceback or not isinstance(error, Exception):
            raise
        way = "" if machine_fault(error) is None else f" {_way(args.command)}"
        said = _reason(str(error))
        if not isinstance(error, ValueError | ImportError | RuntimeError | OSError):
            said = (
                f"{type(error).__name__}: {said} This is a bug of oneshot, or of a class it was given, or a file is "
                "damaged in a way it does not know; --traceback shows where."
            )
        sys.stderr.write(f"oneshot {args.command}: {said}{way}\n")
        return 1


def _run(args: argparse.Namespace, rest: list[str]) -> int:
    """Run the command; returns the exit code."""
    if args.command == "quickstart":
        from .quickstart import quickstart

        quickstart(args.out, seed=args.seed, overwrite=args.overwrite)
    elif args.command == "measure":
        from .measure import measure

        measure(rest)
    elif args.command == "discrete":
        from .discrete import discrete

        discrete(rest)
    elif args.command == "data":
        from .data import examine

        return 0 if examine(args.folder) else 1
    elif args.command == "pick":
        from .pick import pick

        pick(**{name: value for name, value in vars(args).items() if name not in ("command", "traceback")})
    elif args.command == "search":
        from .search import search

        search(rest)
    elif args.command == "pareto":
        from .pareto import pareto

        pareto(rest)
    elif args.command == "retrain":
        from .retrain import retrain

        retrain(rest)
    elif args.command == "evaluate":
        from .evaluate import evaluate

        evaluate(rest)
    elif args.command == "derive":
        from .derive import derive

        return derive(args.run, checkpoint=args.checkpoint, out=args.out, measure=args.measure, trust=args.trust)
    elif args.command == "export":
        from .export import export

        export(**{name: value for name, value in vars(args).items() if name not in ("command", "traceback")})
    else:
        from .show import show

        show(args.target, out=args.out, trust=args.trust)
    return 0


def _read_first(args: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The folder that a command reads, or goes on with."""
    if named := getattr(args, "run", None) or getattr(args, "target", None):
        return [named]
    if args.command in ("evaluate", "retrain"):
        return list(rest[:1])
    if "--resume" not in rest:
        return []
    pairs = zip(rest, [*rest[1:], ""], strict=True)
    return [value for word, value in pairs if word == "--out"] + [w[6:] for w in rest if w.startswith("--out=")]


def _stopped(command: str, stopped: BaseException) -> int:
    """Say how to go on after Ctrl-C or SIGTERM; returns what a shell reports for the signal."""
    what, code = ("stopped by SIGTERM", 143) if isinstance(stopped, Terminated) else ("interrupted", 130)
    sys.stderr.write(f"oneshot {command}: {what}. {stopped.args[0] if stopped.args else _way(command)}\n")
    return code


def _way(command: str) -> str:
    """How a command goes on after it was stopped."""
    if command in ("search", "pareto", "discrete", "retrain"):
        return GOES_ON
    return "The same command goes on." if command == "measure" else "Nothing is kept; the same command begins again."


def _reason(message: str) -> str:
    """What went wrong, in one line, without the listing of all types an option might have had."""
    return name_classes(one_line(message))


def _nearest(parser: argparse.ArgumentParser, command: str, word: str) -> str:
    """The option of a command that is nearest to a word that is none."""
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return did_you_mean(word.partition("=")[0], commands.choices[command]._option_string_actions)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(f"oneshot: warning: {' '.join(str(message).split())}\n")
