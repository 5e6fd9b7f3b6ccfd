"""``oneshot derive --measure`` ends with a verdict, on a clock that is known."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from oneshot.cli.main import main
from oneshot.cost import CostPenalty, Device
from oneshot.cost.latency.device import Run
from oneshot.methods.gdas import GDAS
from oneshot.supernets import NASBench201Supernet
from tests.latency_tables import CELLS, table_of

LEAST = 2.25  # ms of the fastest cell that has an output, by the table


@pytest.mark.parametrize(
    ("factor", "code", "verdict"),
    [
        pytest.param(1.0, 0, r"Target of 8 ms met: \S+ ms measured \(5 times, .*below it", id="met"),
        pytest.param(2.0, 0, r"Target of 8 ms met: \S+ ms measured \(5 times, .*below it", id="met-in-the-end"),
        pytest.param(10.0, 3, r"Target of 8 ms NOT met: 22.5 ms measured \(5 times, .*181.2% above it", id="missed"),
        pytest.param(
            8.04 / LEAST, 0, r"Target of 8 ms met: 8.04 ms .*0.5% above it; up to 1% above counts", id="within"
        ),
        pytest.param(
            8.12 / LEAST, 3, r"Target of 8 ms NOT met: 8.12 ms .*1.5% above it; up to 1% above counts", id="just-not"
        ),
    ],
)
def test_derive_ends_with_a_verdict_on_the_target_and_an_exit_code(
    factor: float,
    code: int,
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    supernet = NASBench201Supernet(**CELLS)
    path = table_of(supernet, tmp_path / "phone.json")
    search = GDAS(supernet, penalty=CostPenalty(path, "target", target=8.0))
    assert search.penalty is not None and search.penalty.cost is not None
    cost = search.penalty.cost
    data = {"class_path": "oneshot.data.Digits", "init_args": {}}
    run = SimpleNamespace(module=lambda checkpoint: search, config={"data": data})
    monkeypatch.setattr("oneshot.cli.derive.RunFolder", lambda folder, trust: run)
    monkeypatch.setattr(Device, "prepare", lambda self, network: lambda: factor * cost.cost(network.config))
    used: list[tuple[str, int, int]] = []

    def time(self: Device, run: Run) -> float:
        used.append((self.runtime, self.threads, self.batch))
        ms = run()
        assert isinstance(ms, float)
        return ms

    monkeypatch.setattr(Device, "time", time)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: {}\ndata: {}\n", encoding="utf-8")
    assert main(["derive", str(tmp_path / "run"), "--measure", "--out", str(tmp_path / "subnet.json")]) == code
    *_, last = capsys.readouterr().out.splitlines()
    assert re.match(verdict, last), last
    assert (tmp_path / "subnet.json").is_file() and set(used) == {("eager", 1, 1)}


def test_a_target_that_is_no_latency_is_not_measured(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    search = GDAS(supernet, penalty=CostPenalty("macs", "target", target=1e9))
    with pytest.raises(ValueError, match="must be in ms; the penalty has one in MACs"):
        search.meet_target(Device("eager", "cpu"))
    with pytest.raises(ValueError, match="the device must be named: meet_target"):
        search.meet_target()
