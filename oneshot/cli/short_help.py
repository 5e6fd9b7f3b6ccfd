"""The help of commands with hundreds of options: the common ones on one screen. ``--help-all`` shows everything."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module

WIDEST, NARROW = 100, 72  # columns; below the second, the text about an option stands under it
MARGIN, INDENT = 24, 6  # where the text about an option begins: beside it, or under it

_RUN = """
  --config FILE         YAML file with any of these options; may be given several times. Examples: experiments/
  --out FOLDER          folder of the run (runs/{command})
  --overwrite           replace the folder if it holds a run
  --resume              go on where the run in the folder was stopped
  --seed_everything N   seed of everything (0)
"""

_TRAINER = """
  --trainer.max_epochs N
  --trainer.accelerator auto|cpu|gpu     where to train
  --trainer.devices N                    how many of them
  --trainer.precision 32|bf16-mixed|16-mixed
  --trainer.limit_train_batches N        of an epoch, for a quick look
  --trainer.enable_progress_bar false
"""

_DATA = """
  --data CLASS          such as oneshot.data.SearchDataModule, ImageFolder or Digits of oneshot.data, or your own
  --data.NAME VALUE     its arguments, such as --data.init_args.batch_size 32; --data.help CLASS lists them
"""

_MODEL = """
  --model CLASS         the method, such as oneshot.{methods}, or your own
  --model.NAME VALUE    its arguments, such as {example}; --model.help CLASS lists them
  --model.supernet CLASS, --model.supernet.NAME VALUE
                        such as oneshot.supernets.{supernets}
"""

_TEXTS = {
    "search": (
        "oneshot search --config FILE [options]",
        "Train a supernet and derive an architecture.",
        "",
        _RUN,
        _MODEL.format(
            methods="DARTS, GDAS, PCDARTS, ProxylessNAS",
            example="--model.arch_lr 6e-4",
            supernets="DARTSSupernet, NASBench201Supernet, FBNetSupernet, ProxylessSupernet",
        ),
        "oneshot search --config experiments/digits/search.yaml --trainer.max_epochs 10",
    ),
    "pareto": (
        "oneshot pareto --config FILE [options]",
        "Search a front of networks, the best of every size: NAT.",
        "",
        _RUN,
        _MODEL.format(
            methods="NAT",
            example="--model.objectives \"['macs']\"",
            supernets="MobileNetV3Supernet, ElasticResNetSupernet, ViTSupernet",
        ),
        "oneshot pareto --config experiments/nat/digits.yaml, then: oneshot pick runs/pareto --knee",
    ),
    "retrain": (
        "oneshot retrain SOURCE --config FILE [options]",
        "Train the network of a search, an exported network or a published genotype, from new weights.",
        """
  SOURCE                folder of a search or an export, a subnet.json, DARTS_V2 or another published cell, or a
                        NAS-Bench-201 string
  --inherit             begin with the weights of the search
  --teacher FOLDER      run or export of a trained network that this one learns from as well; how much says
                        --model.teacher_weight
""",
        _RUN,
        """
  --model.lr VALUE      options of the training, see oneshot.Retrain
  --model.network.NAME VALUE
                        size of the network, such as --model.network.init_args.channels 36
""",
        "oneshot retrain runs/search --config experiments/digits/retrain.yaml",
    ),
    "evaluate": (
        "oneshot evaluate TARGET [options]",
        "Test a retrained network on its own data, or an exported network on data that is given.",
        """
  TARGET                folder of a retraining or of an export
  --report              put every class and the worst mistakes of this test on the page in that folder
""",
        """
  --config FILE         YAML file with any of these options
""",
        "",
        "oneshot evaluate runs/retrain",
    ),
}

_OTHERS = {
    "measure": """\
usage: oneshot measure --supernet CLASS [options]

Measure the latencies of a space on this machine, and verify them.

  --supernet CLASS      such as oneshot.supernets.FBNetSupernet; --supernet.NAME VALUE its arguments
  --from SEARCH         in its place: folder of a run, YAML file of a search, or a network to convert (timm:resnet18)
  --config FILE         YAML file with any of these options
  --out FILE            table to write (runs/latency.json; .csv with --few-shot and of elastic spaces)
  --runtime eager|compile|onnxruntime
  --device NAME         what to measure on: cpu, cuda
  --dtype NAME          float32, bfloat16, float16 or int8
  --threads N           of the CPU
  --batch N             inputs in one pass
  --networks N          how many are measured
  --verify N            compare with this many whole random networks
  --few-shot N          measure this many only, and take the rest from known devices
  --elsewhere           write a .csv to be filled in on another machine
  --seed N              of the networks
  --overwrite           begin anew

example: oneshot measure --supernet oneshot.supernets.FBNetSupernet --out table.json --verify 50
--help-all shows all options.
""",
    "profile": """\
usage: oneshot profile --supernet CLASS [options]
       oneshot profile --from SEARCH [options]

Show what the architectures of a space cost, and whether bounds can be reached, before any training. The exit code is 3
if there is a bound that no architecture is known to keep.

  --supernet CLASS      such as oneshot.supernets.MobileNetV3Supernet; --supernet.NAME VALUE its arguments
  --data CLASS, --data.NAME VALUE
                        what a search will read: the supernet gets its image size, channels and number of classes
  --from SEARCH         in its place: folder of a run, or YAML file of a search, with its costs and bounds;
                        or a network to convert (timm:resnet18, torchvision:resnet18, mypackage.build)
  --config FILE         YAML file with any of these options
  --bound NAME=VALUE ...
                        largest costs, such as macs=300e6 latency=8
  --cost FILE ...       latencies that 'oneshot measure' has written: FILE or NAME=FILE
  --counts NAME ...     what is counted (params macs memory)
  --samples N           architectures that are drawn (10,000, or as many as take a minute)
  --seed N              of the draws
  --out NAME            write NAME.json and NAME.png; with one of these endings, only that

example: oneshot profile --supernet oneshot.supernets.MobileNetV3Supernet --bound macs=150e6 params=4e6
--help-all shows all options.
""",
    "rank": """\
usage: oneshot rank --supernet CLASS --data CLASS [options]

Score random architectures of a space without training them, and rank them. With trained networks to compare with, say
how the order by each score agrees with theirs. More is better, for every score.

  --supernet CLASS      such as oneshot.supernets.NASBench201Supernet; --supernet.NAME VALUE its arguments
  --from SEARCH         in its place: folder of a run, YAML file of a search, or a network to convert (timm:resnet18)
  --data CLASS, --data.NAME VALUE
                        what the networks read; without data random numbers, for scores that take no labels
  --config FILE         YAML file with any of these options. Example: experiments/proxies/digits.yaml
  --names NAME ...      params macs grad_norm snip grasp fisher synflow jacov naswot zen zico swap reg_swap meco az_nas
                        (params macs naswot synflow)
  --by NAME ...         scores to order by, by their ranks together (all but params and macs)
  --options JSON        of proxies: '{"zico": {"batches": 4}}'
  --samples N           architectures that are drawn (50)
  --batch-size N        training samples that a network reads (32)
  --repeats N           draws of the weights; the score is their mean (1)
  --seed N              of the architectures and the weights
  --top N               architectures that are printed (10)
  --table FILE          trained networks to compare with: a .csv of NAS-Bench-201 or NAS-Bench-Macro, or class_path and
                        init_args of an evaluator
  --metric COLUMN       of the table; larger is better
  --out NAME            write NAME.csv and NAME.png; with one of these endings, only that

example: oneshot rank --supernet oneshot.supernets.NASBench201Supernet --data oneshot.data.Digits --names params naswot
--help-all shows all options.
""",
    "compare": """\
usage: oneshot compare --methods METHOD ... --supernet CLASS --data CLASS --trainer.max_epochs N [options]

Compare methods: the same space, data, budget and seeds for all, with spread and significance.

  --methods METHOD ...  such as DARTS GDAS my_module.MyMethod random; 'random' draws an architecture
  --seeds N ...         a run of every method for each of them (0 1 2)
  --config FILE         YAML file with any of these options; there a method may have class_path, init_args, label,
                        streams and supernet. Example: experiments/compare/
  --out FOLDER          folder of the comparison (runs/compare); the same command goes on with it
  --overwrite           begin anew
  --common.NAME VALUE   argument of all methods, such as weight_lr
  --baseline LABEL      compare the others with this method only

what is searched, and with what:
  --supernet CLASS, --supernet.NAME VALUE
                        such as oneshot.supernets.NASBench201Supernet
  --data CLASS, --data.NAME VALUE
                        such as oneshot.data.Digits; methods that need two halves of the data get them
  --trainer.max_epochs N
                        epochs of a search; --trainer.accelerator, --trainer.precision and the others as in 'search'
  --task NAME           what outputs are for, such as regression or a class of oneshot.tasks; by default the data's

what scores the networks that were found:
  --retrain.epochs N    retrain each from new weights, and test it; --retrain.lr and other options of oneshot.Retrain
  --network.NAME VALUE  arguments of the supernet that are others for these networks, such as a larger size
  --table FILE          look them up in a table of NAS-Bench-201 or -Macro, or the class of an Evaluator
  --metric TEXT         of the table: 'max accuracy', 'min error'

example: oneshot compare --config experiments/compare/digits.yaml --out runs/compare
--help-all shows all options.
""",
    "discrete": """\
usage: oneshot discrete --config FILE [options]

Search by evolution, reinforcement learning, Bayesian optimisation or morphisms.

  --config FILE         YAML file with any of these options. Examples: experiments/discrete/
  --out FOLDER          folder of the study (runs/discrete)
  --resume              go on with the study in the folder
  --overwrite           replace the folder if it holds a study
  --strategy CLASS      such as oneshot.discrete.RegularizedEvolution, BANANAS or LEMONADE of oneshot.discrete
  --strategy.init_args.NAME VALUE
                        its arguments, such as --strategy.init_args.seed 3
  --evaluator CLASS     such as oneshot.discrete.TrainingEvaluator, or your own
  --evaluator.init_args.NAME VALUE
                        its arguments
  --objectives LIST     such as 'max accuracy', "['max accuracy', 'min params']" or "['min error', 'min latency']"
  --evaluations N       budget
  --hours N             budget of time
  --workers N           evaluations at a time; 0 in this process
  --timeout SECONDS     for one evaluation
  --retries N           how often a failed evaluation is tried again

example: oneshot discrete --config FILE --out runs/study, then: oneshot pick runs/study --knee
--help-all shows all options.
""",
}

COMMANDS = (*_TEXTS, *_OTHERS)


def short_help(command: str, width: int | None = None) -> str:
    """The text with the common options of a command.

    Args:
        command: Its name.
        width: Columns of the terminal; by default those it has. The text takes 100 at most.
    """
    return fitted(_text(command), min(width or shutil.get_terminal_size().columns, WIDEST))


def fitted(text: str, width: int) -> str:
    """Break the lines of a help for a terminal.

    Args:
        text: A line that begins with two blanks is an option with what it is for, after two blanks or more; a line that
            begins with many goes on with that. Other lines that follow each other are a paragraph.
        width: Columns.
    """
    return "".join(f"{line}\n" for block in _blocks(text) for line in _lines(block, width))


def _blocks(text: str) -> Iterator[str]:
    """Options and paragraphs in one line each; an empty line is a block, too."""
    block = ""
    for line in text.splitlines():
        goes_on = block.strip() and line.strip() and (line.startswith(" " * MARGIN) or _in_one(block, line))
        if goes_on:
            blanks = "  " if block.startswith("  ") and "  " not in block.strip() else " "
            block += f"{blanks}{line.strip()}"
            continue
        if block or line == "":
            yield from [block] if block else []
        if not line:
            yield ""
        block = line
    if block:
        yield block


def _in_one(block: str, line: str) -> bool:
    """Whether a line belongs to the paragraph before it."""
    return not block.startswith(("  ", "usage:")) and not line.startswith(("  ", "--help-all"))


def _lines(block: str, width: int) -> list[str]:
    def wrapped(text: str, first: int, rest: int) -> list[str]:
        wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        wrapper.initial_indent, wrapper.subsequent_indent = " " * first, " " * rest
        return wrapper.wrap(text)

    if not block.strip():
        return [""]
    if block.startswith(("usage:", "       ")):
        blanks = len(block) - len(block.lstrip())
        return wrapped(block.strip(), blanks, 7)
    if not block.startswith("  "):
        return wrapped(block, 0, 0)
    option, _, text = re.sub(r" {2,}", "\0", block.strip()).partition("\0")
    margin = MARGIN if width >= NARROW else INDENT
    if width >= NARROW and (len(option) + 4 <= MARGIN or len(option) + 4 + len(text) <= width):
        column = max(MARGIN, len(option) + 4)
        return wrapped(f"{option:<{column - 2}}{text}", 2, MARGIN) if text else [f"  {option}"]
    return wrapped(option, 2, 4) + (wrapped(text, margin, margin) if text else [])


def _text(command: str) -> str:
    if command in _OTHERS:
        return _OTHERS[command]
    usage, what, source, run, model, example = _TEXTS[command]
    parts = [
        f"usage: {usage}\n\n{what}",
        source.strip("\n"),
        run.strip("\n").replace("{command}", command),
        f"method and network:\n{model.strip(chr(10))}" if model else "",
        f"data:\n{_DATA.strip(chr(10))}",
        f"training:\n{_TRAINER.strip(chr(10))}" if command != "evaluate" else "",
        f"example: {example}\n--help-all shows all options, --print_config the configuration they make.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def wanted(command: str, words: Sequence[str]) -> str | None:
    """The text to print if the words ask for help; None if they do not, or the parser of the command prints it."""
    return short_help(command) if command in COMMANDS and any(word in ("-h", "--help") for word in words) else None


def show_all(words: Sequence[str]) -> list[str]:
    """Replace ``--help-all`` by ``--help``, and import all classes, so that the help of the parser names them."""
    if "--help-all" in words or any(word.endswith(".help") or ".help=" in word for word in words):
        for name in ("oneshot", "oneshot.supernets", "oneshot.data", "oneshot.discrete", "oneshot.cost"):
            package = import_module(name)
            for public in dir(package):
                if not public.startswith("_"):
                    getattr(package, public)
    return ["--help" if word == "--help-all" else word for word in words]
