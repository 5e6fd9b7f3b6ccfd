"""``oneshot search``: train a supernet, and derive an architecture."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot.callbacks import (
    ArchLogger,
    CollapseMonitor,
    GenotypePlot,
    SearchProgressBar,
    SubnetExport,
)
from oneshot.engine.module import SearchModule
from oneshot.report.page import REPORT

from .next_steps import to_retrain
from .terminal import say
from .trainer import RunCLI, say_latencies


def search(args: Sequence[str]) -> None:
    """``oneshot search``: fit a search and leave its architecture in the run's folder."""
    cli = RunCLI(
        "search",
        args,
        model_class=SearchModule,
        subclass_mode_model=True,
        callbacks=lambda out: [
            ArchLogger(),
            GenotypePlot(out),
            SubnetExport(out),
            CollapseMonitor(),
            SearchProgressBar(),
        ],
    )
    say_latencies(cli)
    with cli.alone():
        folder = cli.fit()
        cli.conclude(lambda: cli.model.evaluation_supernet.extract(cli.model.derive(), inherit=False))
    if cli.trainer.is_global_zero:
        say(str(cli.model.derive()))
        say(f"Run: {folder}, with {REPORT}.")
        say(to_retrain(folder, cli.config.data.as_dict()))
