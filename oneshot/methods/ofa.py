"""Once-for-All: Train One Network and Specialize it for Efficient Deployment (Cai et al., ICLR 2020)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from oneshot.sandwich import Phase, SandwichSearch
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import NONE, Candidate, SearchSpace

BLOCK = re.compile(r"k(\d+)_e(\d+)")  # a block's name: kernel and expansion


class OnceForAll(SandwichSearch):
    """Progressive shrinking: the largest network first, then smaller kernels, depths and expansions as well.

    (arXiv:1908.09791, section 3.2.) Resolutions and widths are free from the beginning, as resolutions are in the
    paper. In every step the largest network of the whole space learns from the labels, and sub-networks of the phase
    learn from its predictions. The paper's teacher is a copy of the largest network from before the shrinking; here it
    goes on learning, which needs no second network in memory.

    Args:
        supernet: An elastic supernet of blocks named ``k3_e6``: kernel, expansion.
        shrink_epochs: Epochs with the largest network alone (at every resolution), then with elastic kernels, depths
            and expansions; what is left of the fit trains the whole space.
        **kwargs: See :class:`~oneshot.sandwich.SandwichSearch`.

    Raises:
        ValueError: If the space has no such blocks, or there are not four numbers of epochs.
    """

    def __init__(self, supernet: Supernet, *, shrink_epochs: Sequence[int] = (8, 6, 6, 6), **kwargs: Any) -> None:
        phases = shrinking(supernet.space, shrink_epochs)
        super().__init__(supernet, **{"distillation": "kl", "smallest": False, "phases": phases, **kwargs})


def shrinking(space: SearchSpace, epochs: Sequence[int]) -> list[Phase]:
    """The phases of progressive shrinking; one of 0 epochs is left out.

    Args:
        space: Of blocks named ``k3_e6``.
        epochs: Of the largest network, elastic kernels, elastic depths and elastic expansions.

    Raises:
        ValueError: If the space has no such blocks, or there are not four numbers.
    """
    stages = [c for c in space.choices if all(BLOCK.fullmatch(str(pick)) for pick in c.candidates)]
    if not stages:
        raise ValueError(
            f"Progressive shrinking needs blocks that are named by kernel and expansion, such as 'k3_e6'; space "
            f"{space.name!r} has {space.choices[0].candidates}. Use SandwichSearch with phases of your own."
        )
    if len(epochs) != 4 or min(epochs) < 0:
        raise ValueError(f"There are four phases: largest, kernels, depths, expansions; got epochs {list(epochs)}.")
    phases = []
    for step, length in enumerate(epochs):
        picks: dict[str, list[Candidate]] = {}
        for choice in stages:
            sizes = {str(pick): [int(n) for n in BLOCK.findall(str(pick))[0]] for pick in choice.candidates}
            most = [max(numbers) for numbers in zip(*sizes.values(), strict=True)]
            picks[choice.name] = [
                pick for pick in choice.picks if (step >= 2 if pick == NONE else _allowed(sizes[str(pick)], most, step))
            ]
        if length:
            phases.append(Phase(length, picks))
    return phases


def _allowed(size: Sequence[int], most: Sequence[int], step: int) -> bool:
    """Whether a block of this kernel and expansion is trained."""
    return (step >= 1 or size[0] == most[0]) and (step >= 3 or size[1] == most[1])
