"""The best of a study once more: what is chosen by short trainings is confirmed by long ones."""

from __future__ import annotations

from pathlib import Path

from oneshot.discrete.events import ADVICE, LOG, EventLog, Header, checked_event
from oneshot.discrete.protocol import Proposal, Scalar, SearchStrategy
from oneshot.discrete.record import Objective
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import SearchSpace, SubnetConfig


class Reevaluation(SearchStrategy):
    """The best architectures of another study, each once, best first; the evaluator decides how thorough it is.

    Results of short trainings, few samples or proxies are inexact, and the best of many is the luckiest. A second study
    of the best few, with longer trainings, tells them apart at little cost.

    Args:
        space: The space of that study.
        study: Its folder. It should be finished: the best of a study that goes on may become others.
        best: How many, by its objectives: the first, or ``scalar`` of all.
        fidelity: Which results count, if there are several fidelities (epochs).
        seed: Changes nothing.
        scalar: What both studies minimise, given all values.

    Raises:
        ValueError: If there is no study in the folder, it is of another space, its log is damaged, fewer architectures
            were evaluated, or there are several fidelities and none is named.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: str | Path,
        *,
        best: int = 5,
        fidelity: float | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if best < 1:
            raise ValueError(f"best must be at least 1; got {best}.")
        ranked = self._ranked(Path(study), fidelity)
        if len(ranked) < best:
            raise ValueError(
                f"The study must have at least best={best} successful evaluations; {study} has {len(ranked)}. Go on "
                "with it, or take fewer."
            )
        self._left = ranked[:best]

    def _ranked(self, folder: Path, fidelity: float | None) -> list[SubnetConfig]:
        """All that were evaluated at this fidelity, best first."""
        log = EventLog(folder / LOG)
        if not log.events:
            raise ValueError(f"study must be the folder of a discrete search; there is no {LOG} in {folder}.")
        header = checked(log.events[0], Header, f"{log.path}, line 1", advice=ADVICE)
        self.space.check_same(header["space"], f"The log {log.path}")
        objectives = [Objective.parse(text) for text in header["objectives"]]
        asked: dict[int, Proposal] = {}
        losses: dict[float | None, dict[SubnetConfig, float]] = {}
        for line, row in enumerate(log.events[1:], start=2):
            event = checked_event(row, f"{log.path}, line {line}")
            if event["event"] == "ask":
                asked[event["number"]] = Proposal.from_dict(event)
            elif event["event"] == "tell" and event["metrics"] is not None:
                if (proposal := asked.get(event["number"])) is None:
                    raise ValueError(f"{log.path}, line {line} must answer what was asked before. {ADVICE}")
                loss = float(self.scalar(tuple(objective.value(event["metrics"]) for objective in objectives)))
                losses.setdefault(proposal.fidelity, {})[proposal.config] = loss
        log.check()
        if fidelity not in losses and (fidelity is not None or len(losses) > 1):
            known = ", ".join(f"{found:g}" for found in sorted(f for f in losses if f is not None)) or "none"
            raise ValueError(
                f"fidelity must be one of those of {folder}, since results of different ones do not compare: {known}; "
                f"got {fidelity}."
            )
        found = losses.get(fidelity) or next(iter(losses.values()), {})
        return sorted(found, key=found.__getitem__)

    def _propose(self) -> Proposal | None:
        while self._left:
            if self._is_new(genes := self.space.repair(self.space.encode([self._left.pop(0)]))[0]):
                return self._new(genes)
        return None
