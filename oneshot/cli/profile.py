"""``oneshot profile``: what the architectures of a space cost, and whether bounds can be reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from oneshot.cost.profile import COUNTS
from oneshot.cost.profile import profile as profile_space
from oneshot.cost.resolve import FILES, OwnCosts, cost_name
from oneshot.report.profile import draw_profile
from oneshot.report.style import save_figure
from oneshot.storage.files import write_atomically

from .next_steps import of_the_same_space
from .outputs import picture_and_numbers
from .supernets import SupernetParser, read_supernet, supernet_parser
from .terminal import bars_on_a_terminal, say

OF_SEARCHES = ("costs", "bounds", "allow_noisy")
UNREACHED = 3  # exit code where no architecture is known to keep the bounds
WIDEST = 120  # columns of the text


def profile(args: Sequence[str]) -> int:
    """``oneshot profile``: print a table, histograms and what is known of bounds; write them with ``--out``.

    Returns:
        The exit code, 3 if there is a bound that no architecture is known to keep.
    """
    options, supernet = read_supernet(_parser(), args, also=OF_SEARCHES)
    bounds = {**(options.bounds or {}), **_bounds(options.bound)}
    picture, numbers = picture_and_numbers(options.out, ".json")
    with bars_on_a_terminal() as progress:
        found = profile_space(
            supernet,
            costs=_costs(options.costs, options.cost),
            counts=options.counts,
            bounds=bounds,
            samples=options.samples,
            seed=options.seed,
            allow_noisy=options.allow_noisy,
            progress=progress,
        )
    say(found.text(min(shutil.get_terminal_size().columns, WIDEST)))
    if numbers is not None:
        write_atomically(numbers, json.dumps(found.to_dict(), indent=1) + "\n")
        say(f"\nNumbers: {numbers}")
    if picture is not None:
        say(f"Picture: {save_figure(draw_profile(found), picture)}")
    if found.unreached:  # what comes next is another bound, or another space
        return UNREACHED
    say(of_the_same_space("rank" if options.cost else "measure", args))
    return 0


def _parser() -> SupernetParser:
    parser = supernet_parser(
        "profile",
        "Show what the architectures of a space cost, and whether bounds can be reached, before any training.",
        "to look at",
    )
    given = "latencies, .json or .csv: FILE or NAME=FILE"
    parser.add_argument("--cost", type=str, nargs="+", action="extend", metavar="FILE", help=given)
    parser.add_argument("--costs", type=OwnCosts | None, default=None, help="costs by name, as a search takes them")
    parser.add_argument("--counts", type=str, nargs="+", default=list(COUNTS), help="what is counted")
    most = "largest costs, such as macs=300e6"
    parser.add_argument("--bound", type=str, nargs="+", action="extend", metavar="NAME=VALUE", help=most)
    pairs = dict[str, float | tuple[float, float]] | None
    parser.add_argument("--bounds", type=pairs, default=None, help="the same as a mapping, as constraints of a search")
    many = "architectures that are drawn (10,000, or as many as take a minute)"
    parser.add_argument("--samples", type=int | None, default=None, help=many)
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    noisy = "take latencies that may be wrong, with a warning"
    parser.add_argument("--allow_noisy", "--allow-noisy", action="store_true", help=noisy)
    out = "file to write: NAME.json, NAME.png, or NAME for both"
    parser.add_argument("--out", type=str | None, default=None, help=out)
    return parser


def _bounds(texts: Sequence[str] | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")  # a file may have such a sign in its name
        try:
            value = float(number)
        except ValueError:
            value = None
        if not name or value is None:
            raise ValueError(f"--bound must be NAME=VALUE, such as macs=300e6 or latency=8; got {text!r}.")
        if name in found:
            raise ValueError(f"--bound must name a cost once; {name!r} is there twice. Leave out all but one.")
        found[name] = value
    return found


def _costs(by_name: Any, files: Sequence[str] | None) -> Any:
    """Costs of a search, or of a YAML file, and those of ``--cost``, by name."""
    named = dict(by_name) if isinstance(by_name, dict) else {"macs": by_name} if by_name is not None else {}
    several = len(files or ()) > 1
    for text in files or ():
        name, _, file = text.rpartition("=")
        if not file.endswith(FILES):
            raise ValueError(f"--cost must be FILE or NAME=FILE, a {' or '.join(FILES)} of latencies; got {text!r}.")
        name = name or cost_name(file, by_file=several)
        if name in named:
            raise ValueError(
                f"Costs must have different names; {name!r} is there already. Give it another one: --cost NAME={file}."
            )
        named[name] = file
    return named
