"""Ways to run a search faster or in less memory change nothing of what it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from oneshot import DARTS
from oneshot.callbacks import StepProfile
from oneshot.supernets import DARTSSupernet, NASBench201Supernet, reduced_space
from oneshot.supernets.base import OperationSupernet
from oneshot.testing import fit, random_streams

SUPERNETS = {
    "darts": lambda: DARTSSupernet(channels=4, cells=3, num_classes=3, in_channels=1, image_size=8),
    "s4": lambda: DARTSSupernet(reduced_space("s4"), channels=4, cells=3, num_classes=3, in_channels=1, image_size=8),
    "nasbench201": lambda: NASBench201Supernet(
        channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8
    ),
}


def search(name: str, order: int = 1, **options: Any) -> dict[str, Tensor]:
    """State after an epoch of three steps in float64."""
    torch.manual_seed(0)
    supernet: OperationSupernet = SUPERNETS[name]()
    module = DARTS(supernet, order=order, arch_lr=0.1, **options).double()  # type: ignore[arg-type]  # 1 or 2
    fit(module, random_streams(supernet, dtype=torch.float64), epochs=1)
    return module.state_dict()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", SUPERNETS)
def test_gradient_checkpointing_gives_the_same_search(name: str, order: int) -> None:
    torch.testing.assert_close(
        search(name, order, gradient_checkpointing=True), search(name, order), rtol=1e-9, atol=1e-12
    )


def test_gradient_checkpointing_computes_each_cell_again() -> None:
    calls = []
    for on in (False, True):
        supernet = SUPERNETS["darts"]()
        supernet.gradient_checkpointing = on
        count = [0]
        for cell in supernet.cells:
            cell.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        arch = supernet.one_hot(supernet.space.sample(0))
        torch.nn.functional.cross_entropy(supernet(torch.randn(2, 1, 8, 8), arch), torch.tensor([0, 1])).backward()
        calls.append(count[0])
    assert calls == [3, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order"), [pytest.param("darts", 1, marks=pytest.mark.nightly), ("nasbench201", 2)])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_supernet_gives_the_same_search(name: str, order: int) -> None:
    torch._dynamo.reset()
    seen: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(len(graph.graph.nodes))
        return graph.forward

    compiled = search(name, order, compile={"backend": backend, "fullgraph": True})
    assert seen and max(seen) > 100  # the whole supernet, in one graph
    torch.testing.assert_close(compiled, search(name, order), rtol=1e-9, atol=1e-12)


class Scales(pl.Callback):
    """Records both scales after each step."""

    def __init__(self) -> None:
        self.scales: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, DARTS) and pl_module._arch_scaler is not None
        plugin: Any = trainer.precision_plugin
        self.scales.append((plugin.scaler.get_scale(), pl_module._arch_scaler.get_scale()))


def half(order: int = 1, *, initial: float = 2.0**10, **options: Any) -> tuple[dict[str, Tensor], Scales]:
    torch.manual_seed(0)
    supernet = SUPERNETS["nasbench201"]()
    module, scales = DARTS(supernet, order=order, arch_lr=0.1, **options), Scales()  # type: ignore[arg-type]  # 1 or 2
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=initial))
    fit(module, random_streams(supernet), epochs=1, plugins=[plugin], callbacks=[scales])
    return {name: value.clone() for name, value in module.state_dict().items()}, scales


@pytest.mark.parametrize("order", [1, 2])
def test_sixteen_bits_come_close_to_thirty_two(order: int) -> None:
    """The optimiser of the alphas, Adam, would not notice a wrong scale; plain SGD does."""
    torch.manual_seed(0)
    supernet = SUPERNETS["nasbench201"]()
    module = SGDForAlphas(supernet, order=order, arch_lr=1.0)  # type: ignore[arg-type]  # 1 or 2
    fit(module, random_streams(supernet, batches=1), epochs=1)
    torch.manual_seed(0)
    supernet = SUPERNETS["nasbench201"]()
    narrow = SGDForAlphas(supernet, order=order, arch_lr=1.0)  # type: ignore[arg-type]  # 1 or 2
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    fit(narrow, random_streams(supernet, batches=1), epochs=1, plugins=[plugin])
    assert_close_in_direction_and_length(
        narrow.alphas["cell"].detach().flatten(), module.alphas["cell"].detach().flatten()
    )
    torch.manual_seed(0)
    ours, theirs, start = (
        torch.cat([weight.detach().flatten() for weight in net.parameters()])
        for net in (narrow.supernet, module.supernet, SUPERNETS["nasbench201"]())
    )
    assert_close_in_direction_and_length(ours - start, theirs - start)


def assert_close_in_direction_and_length(ours: Tensor, theirs: Tensor) -> None:
    """A wrong scale is off by a factor of a thousand."""
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.9
    assert 0.8 < float(ours.norm() / theirs.norm()) < 1.25


class SGDForAlphas(DARTS):
    def configure_optimizers(self) -> Any:
        weights, _ = super().configure_optimizers()
        return [weights, torch.optim.SGD(self.alphas.parameters(), self.arch_lr)]


def test_each_optimiser_has_its_scaler_and_an_overflow_skips_the_step_of_one() -> None:
    before = {name: value for name, value in half()[0].items() if name.startswith("supernet.")}
    after, scales = half(initial=2.0**60)  # overflows in the weights, not in the alphas
    weight_scales, arch_scales = zip(*scales.scales, strict=True)
    assert weight_scales[-1] < 2.0**60
    assert len(set(arch_scales)) == 1
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), id="cuda"),
        pytest.param(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), id="cpu"),
    ],
)
def test_a_step_that_needs_too_much_memory_says_what_to_change(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = SUPERNETS["nasbench201"]()

    def forward(*args: Any) -> None:
        raise error

    monkeypatch.setattr(supernet, "forward", forward)
    match = "needs more memory than there is.*batch size, now 8.*channels.*gradient_checkpointing=True.*Torch says: "
    with pytest.raises(RuntimeError, match=match) as raised:
        fit(DARTS(supernet), random_streams(supernet), epochs=1)
    assert "more" not in str(raised.value).split("Torch says: ")[1]


def test_other_errors_of_a_step_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = SUPERNETS["nasbench201"]()
    monkeypatch.setattr(supernet, "forward", lambda *args: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match=r"^The size of tensor a"):
        fit(DARTS(supernet), random_streams(supernet), epochs=1)


@pytest.mark.parametrize("steps", [2, 100])
def test_a_profile_names_the_parts_of_a_step(steps: int, tmp_path: Path) -> None:
    supernet = SUPERNETS["nasbench201"]()
    fit(DARTS(supernet), random_streams(supernet), epochs=1, callbacks=[StepProfile(tmp_path, skip=1, steps=steps)])
    table = (tmp_path / "table.txt").read_text()
    assert "step of the alphas" in table and "aten::mkldnn_convolution" in table
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert sum(event.get("name") == "step of the weights" for event in trace["traceEvents"]) == 2
    with pytest.raises(ValueError, match="got steps=0, skip=3"):
        StepProfile(steps=0)
