"""``oneshot derive``: the architecture of a search's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oneshot.cost.target import TargetAttempt
from oneshot.deploy.latency import measured_on
from oneshot.engine.gradient import GradientSearch
from oneshot.engine.module import SearchModule
from oneshot.storage.files import write_recorded

from .next_steps import to_retrain
from .run import SUBNET, RunFolder
from .terminal import say

MISSED = 3  # exit code if a network was derived that does not meet its target


def derive(
    run: str,
    *,
    checkpoint: str | None = None,
    out: str | None = None,
    measure: bool = False,
    trust: Sequence[str] = (),
) -> int:
    """``oneshot derive RUN``: write the architecture of a search's checkpoint, measured if asked for.

    Returns:
        The exit code: 3 if the measured latency is more than 1 % above the target of the search.
    """
    folder = RunFolder(Path(run), tuple(trust))
    module = folder.module(checkpoint)
    if not isinstance(module, SearchModule):
        raise ValueError(
            f"RUN must be a search, to derive its architecture; {run} is a retraining. Name the run of its search."
        )
    attempts: list[TargetAttempt] = []
    if measure:
        if not isinstance(module, GradientSearch):
            raise ValueError(
                f"--measure must be used with a search that has a latency target; {type(module).__name__} has "
                "none. Leave it out."
            )
        for told in measured_on(module.cost_models().values()):
            say(told)
        attempts = module.meet_target()
        for attempt in attempts:
            say(f"{attempt.measured:.4g} ms measured, {attempt.predicted:.4g} ms by the table")
    config, path = attempts[-1].config if attempts else module.derive(), Path(out or Path(run) / SUBNET)
    write_recorded(path, config.to_json())
    say(str(config))
    say(f"Written: {path}")
    say(to_retrain(run, folder.config["data"]))
    if attempts and isinstance(module, GradientSearch) and module.penalty is not None:
        say(attempts[-1].verdict(module.penalty.target))
        return 0 if attempts[-1].meets(module.penalty.target) else MISSED
    return 0
