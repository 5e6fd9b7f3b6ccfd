"""The commands: what ``oneshot --help`` says of them, and the options of those that declare them here.

The command NAME is the function NAME in the file NAME.py of this folder, which is imported when the command runs. The
function gets the options that are declared here, by name; a command with a parser of its own gets the words of the
command line. It returns the exit code; None is 0. This file imports nothing heavy: ``--help`` answers at once.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import NamedTuple

from oneshot.storage.interrupts import GOES_ON

BEGINS_AGAIN = "Nothing is kept; the same command begins again."
INSIDE = "let the files take decoded images, uint8 [B, H, W, C], and resize and normalise them"


class Command(NamedTuple):
    """A command of ``oneshot``.

    Args:
        help: What it does, in a line.
        options: Declares its options; None if it has a parser of its own, which also prints the help.
        after_a_stop: How the command goes on after it was stopped.
        reads_data: Whether options of the data say where those of a run are now: ``--data.init_args.root photos``.
    """

    help: str
    options: Callable[[ArgumentParser], object] | None = None
    after_a_stop: str = BEGINS_AGAIN
    reads_data: bool = False


def _quickstart(parser: ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/quickstart", help="folder to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")


def _auto(parser: ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="?",
        metavar="IMAGES",
        help="folder with a folder of images for each class, a .csv file, or an .npz file with arrays x and y",
    )
    parser.add_argument("--latency", type=float, metavar="MS", help="most milliseconds of one sample on this machine")
    parser.add_argument("--out", default="runs/auto", help="folder to write (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="budget of the whole command (%(default)g)")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="NETWORK",
        help="network to begin with: timm:NAME, torchvision:NAME or mypackage.build",
    )
    parser.add_argument("--weights", metavar="FILE", help="its trained weights")
    parser.add_argument(
        "--weights-by-order",
        action="store_true",
        help="take the tensors of the file in their order, not by name",
    )
    parser.add_argument("--target", metavar="COLUMN", help="column of a .csv file that is predicted")
    parser.add_argument("--leave-out", nargs="+", metavar="COLUMN", help="columns of a .csv file that are not used")
    parser.add_argument("--metric", help="what is maximised, such as balanced_accuracy or f1 (that of the task)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the images (as large as can be)")
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        choices=["eager", "compile", "onnxruntime"],
        help="what runs it (%(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, help="of one pass on the CPU (%(default)s)")
    parser.add_argument("--int8", action="store_true", help="quantise the network, and measure quantised ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on where the command was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")


MOVED = "with --data.init_args.root FOLDER if its images have moved"


def _pick(parser: ArgumentParser) -> None:
    parser.add_argument("run", help=f"folder of 'oneshot pareto' or 'oneshot discrete'; {MOVED}")
    for name, what in (("latency", "ms"), ("macs", "MACs"), ("params", "parameters"), ("memory", "bytes")):
        said = f"take the smallest error with at most this many {what}"
        parser.add_argument(f"--{name}", type=float, metavar="MOST", help=said)
    parser.add_argument(
        "--max-error", type=float, metavar="SHARE", help="take the cheapest with at most this error, 0.05 is 5 %%"
    )
    for option, what in (("--at-most", "bounds of other objectives"), ("--near", "take the nearest to these values")):
        parser.add_argument(option, nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=what)
    parser.add_argument(
        "--knee", action="store_true", help="take the point where a little less of one objective costs most of another"
    )
    parser.add_argument(
        "--finetune",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="train the network for so many epochs before the export",
    )
    parser.add_argument("--lr", type=float, default=0.005, help="learning rate of --finetune (%(default)s)")
    _files(parser, "RUN/picked")
    _trust(parser)


def _derive(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="folder of a search")
    parser.add_argument("--checkpoint", help="another checkpoint than RUN/checkpoints/last.ckpt")
    parser.add_argument("--out", help="file to write (RUN/subnet.json)")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure on this machine until the latency target of the search is met; exit code 3 if it is not met",
    )
    _trust(parser)


def _export(parser: ArgumentParser) -> None:
    parser.add_argument("run", help=f"folder of a retraining, or of a search (its inherited weights); {MOVED}")
    _files(parser, "RUN/export")
    _trust(parser)


def _data(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of images in a folder for each class, or of images and masks")


def _show(parser: ArgumentParser) -> None:
    parser.add_argument(
        "target",
        help="run, export, subnet.json, published genotype (DARTS_V2), 'Genotype(...)' or NAS-Bench-201 string; or a "
        "network to convert, timm:NAME, torchvision:NAME or mypackage.build",
    )
    parser.add_argument("--out", help="picture to write, .png or .svg (<name>.png here)")
    parser.add_argument(
        "--arguments", metavar="JSON", help="of the function that builds a network to convert: '{\"in_chans\": 1}'"
    )
    parser.add_argument(
        "--input-shape",
        metavar="JSON",
        help="of one input of a network to convert: '[3, 64, 64]'; timm's have their own by default",
    )
    _trust(parser)


def _report(parser: ArgumentParser) -> None:
    what = "folder of a run, a study, a comparison, an export, or of several; or a table of latencies"
    parser.add_argument("run", help=what)
    parser.add_argument("--out", metavar="FILE", help="page to write (RUN/report.html)")


def _examples(parser: ArgumentParser) -> None:
    what = "file to write, such as digits/search.yaml, a folder of them, or 'all'; without a name they are listed"
    parser.add_argument("names", nargs="*", metavar="NAME", help=what)
    parser.add_argument(
        "--out", default="experiments", help="folder to write to (%(default)s, as in the commands of the documentation)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that have changed")


FORMATS = ["torch_export", "onnx", "openvino", "executorch"]


def _files(parser: ArgumentParser, out: str) -> None:
    """Which files of a network are written, and where."""
    parser.add_argument("--out", help=f"folder to write ({out})")
    parser.add_argument(
        "--formats",
        nargs="*",
        default=FORMATS[:2],
        choices=FORMATS,
        help="files besides the safetensors (torch_export onnx)",
    )
    parser.add_argument(
        "--opset", type=int, metavar="N", help="of the ONNX file, 18 to 25, for a runtime that knows no later one"
    )
    parser.add_argument("--with-preprocessing", action="store_true", help=INSIDE)
    parser.add_argument(
        "--int8",
        nargs="?",
        const="",
        metavar="DATA",
        help="also write model.int8.onnx, calibrated on training images and compared on test images: those of RUN, or "
        "of the folder DATA if they are there now",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="SHARE",
        help="with --int8: largest loss of the metric, otherwise nothing is written (0.01 of an accuracy, 5 %% of an "
        "error)",
    )
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        help="with --int8: bits of the weights (7); 8 is finer, but wrong on x86 processors without VNNI",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    parser.add_argument(
        "--no-measure", dest="measure", action="store_false", help="do not measure the latency on this machine"
    )


def _trust(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="module or package whose classes may be built"
    )


COMMANDS = {
    "auto": Command("from a folder and milliseconds to a tested network, in one command", _auto, GOES_ON),
    "quickstart": Command("search, retrain and export on small real images, in minutes", _quickstart),
    "search": Command("train a supernet and derive an architecture", after_a_stop=GOES_ON),
    "retrain": Command("train the derived network", after_a_stop=GOES_ON),
    "evaluate": Command("test a retrained or exported network"),
    "measure": Command(
        "measure the latencies of a space on this machine, and verify them",
        after_a_stop="The same command goes on.",
    ),
    "profile": Command("show what the architectures of a space cost, and whether bounds can be reached"),
    "rank": Command("score random architectures without training, and compare the scores with a table"),
    "pareto": Command("search a front of networks: NAT", after_a_stop=GOES_ON),
    "discrete": Command(
        "search by evolution, reinforcement learning, Bayesian optimisation, morphisms", after_a_stop=GOES_ON
    ),
    "compare": Command(
        "compare methods: the same space, data, budget and seeds for all, with spread and significance",
        after_a_stop="The same command goes on after the runs that are finished.",
    ),
    "pick": Command("take a network from the front of a search, calibrate and export it", _pick, reads_data=True),
    "derive": Command("derive the architecture of a search from its checkpoint", _derive),
    "export": Command("write a network as safetensors, torch.export and ONNX, each verified", _export, reads_data=True),
    "data": Command("look at a folder of images: classes, sizes, duplicates, problems", _data),
    "report": Command("write report.html of a run: one page with results, pictures, warnings and commands", _report),
    "examples": Command("configuration files that come with the package: list them, or write some", _examples),
    "show": Command("picture of the cells and table of parameters and MACs", _show),
}
