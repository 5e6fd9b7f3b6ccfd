"""``oneshot pareto``: search a front of networks."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot.callbacks import (
    ParetoExport,
    SearchProgressBar,
    SubnetExport,
)
from oneshot.fronts.pick import front_rows
from oneshot.nat.nat import NAT
from oneshot.report.tables import network_table

from .next_steps import next_step
from .terminal import say
from .trainer import RunCLI, say_latencies


def pareto(args: Sequence[str]) -> None:
    """``oneshot pareto``: NAT, or go on with it; the front is in the run's folder after every search."""
    cli = RunCLI(
        "pareto",
        args,
        model_class=NAT,
        subclass_mode_model=True,
        callbacks=lambda out: [ParetoExport(out), SubnetExport(out), SearchProgressBar()],
    )
    say_latencies(cli)
    with cli.alone():
        folder = cli.fit()
        cli.conclude(lambda: cli.model.evaluation_supernet.extract(cli.model.derive(), inherit=False))
    if cli.trainer.is_global_zero:
        search = cli.model.pareto
        units = [cli.model.task.error_unit, *(objective.unit for objective in search.objectives)]
        say(network_table(front_rows(search.archive.objectives, units, search.archive.values[search.front()])))
        say(f"Run: {folder}, with report.html, front.png and front.html.")
        say(next_step("pick", folder, "--knee"))
