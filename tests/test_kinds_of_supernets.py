"""Searches of every kind of supernet: refused where they cannot be, right in 16 bits, frozen, and of any dimension."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelSummary, RichModelSummary
from torch import Tensor, nn

import oneshot
from oneshot.cost import CostPenalty
from oneshot.engine.alphas import AlphaSearch
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.module import SearchModule
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.functional import in_32_bits, wide
from oneshot.supernets import MobileNetV3Supernet, NASBench201Network
from oneshot.supernets.base import (
    OperationSupernet,
    Subnet,
    batch_statistics,
    frozen_batch_norm,
    inherit_weights,
    lay_out,
)
from oneshot.supernets.mixed_op import MixedOp, mixed_op
from oneshot.supernets.space import ArchGraph, Choice, SearchSpace, SubnetConfig
from oneshot.testing import PlantedSupernet, fit, random_streams

Method = Callable[[Any], SearchModule]
GRADIENT: dict[str, Method] = {
    "DARTS": oneshot.DARTS,
    "DARTS, order 2": lambda s: oneshot.DARTS(s, order=2),
    "PCDARTS": lambda s: oneshot.PCDARTS(s, arch_warmup_epochs=0),
    "GDAS": oneshot.GDAS,
    "SNAS": oneshot.SNAS,
    "FBNet": lambda s: oneshot.FBNet(s, CostPenalty("macs", "fbnet"), arch_warmup_epochs=0),
    "target": lambda s: oneshot.DARTS(s, penalty=CostPenalty("macs", "target", target=30_000.0)),
    "ProxylessNAS": lambda s: oneshot.ProxylessNAS(s, arch_warmup_epochs=0, arch_every=1),
    "REINFORCE": lambda s: oneshot.ProxylessNAS(s, gradient="reinforce", arch_warmup_epochs=0, arch_every=1),
    "FairDARTS": oneshot.FairDARTS,
    "RobustDARTS": lambda s: oneshot.RobustDARTS(s, batches=1),
    "SmoothDARTS, RS": lambda s: oneshot.SmoothDARTS(s, attack="random"),
    "SmoothDARTS, ADV": oneshot.SmoothDARTS,
    "DARTSPT": lambda s: oneshot.DARTSPT(s, train_epochs=1, tune_epochs=0, batches=1),
    "DrNAS": oneshot.DrNAS,
    "BetaDARTS": oneshot.BetaDARTS,
    "OLES": oneshot.OLES,
    "LambdaDARTS": oneshot.LambdaDARTS,
    "DARTSMinus": oneshot.DARTSMinus,
    "DSNAS": oneshot.DSNAS,
}
SHARING: dict[str, Method] = {
    "RandomSharing": lambda s: oneshot.RandomSharing(s, candidates=2, finalists=1),
    "FairNAS": lambda s: oneshot.FairNAS(s, candidates=2, finalists=1),
    "ENAS": lambda s: oneshot.ENAS(s, updates=1, batch=1, candidates=1, finalists=1),
}
OF_ANY: dict[str, Method] = {
    **SHARING,
    "BigNAS": oneshot.BigNAS,
    "AlphaNet": oneshot.AlphaNet,
    "OnceForAll": oneshot.OnceForAll,
    "NAT": oneshot.NAT,
}


def small(name: str = "") -> OperationSupernet:
    torch.manual_seed(0)
    parts, cells = 2 if name == "PCDARTS" else 1, 2 if name == "LambdaDARTS" else 1
    return PlantedSupernet(channels=4, edges=2, partial_channels=parts, cells=cells)


# Kinds.


@pytest.mark.parametrize("method", GRADIENT.values(), ids=GRADIENT.keys())
def test_a_search_that_mixes_refuses_an_elastic_supernet(method: Method) -> None:
    supernet = MobileNetV3Supernet(num_classes=3, image_size=32, widths=(0.25,), depths=(1, 2), stem="cifar")

    with pytest.raises(ValueError, match="mixes candidate .* of MobileNetV3Supernet differ in sizes .* by NAT, .* or"):
        method(supernet)


@pytest.mark.parametrize("name", [*GRADIENT, *OF_ANY])
def test_a_network_a_class_and_nonsense_are_no_supernets(name: str) -> None:
    method = (GRADIENT | OF_ANY)[name]

    with pytest.raises(ValueError, match="must be given a supernet, .* got a Sequential, one network. Give one of"):
        method(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match="got a NASBench201Network, one network"):
        method(NASBench201Network("|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|", channels=4))
    with pytest.raises(ValueError, match=r"got the class PlantedSupernet. Build one: \w+\(PlantedSupernet\(...\)\)"):
        method(PlantedSupernet)
    with pytest.raises(ValueError, match="got a str, which is none"):
        method("NASBench201Supernet")


# 16 bits.


@pytest.mark.parametrize("name", [*GRADIENT, *SHARING])
def test_a_search_in_true_16_bits_derives_and_its_alphas_have_32(name: str) -> None:
    supernet = small(name)
    module = (GRADIENT | SHARING)[name](supernet)
    alphas = module.alphas if isinstance(module, AlphaSearch) else {}
    before = {key: alpha.detach().clone() for key, alpha in alphas.items()}

    fit(module, random_streams(supernet, batches=2), epochs=1, precision="bf16-true")

    supernet.space.validate(module.derive())
    assert {p.dtype for p in supernet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in module.arch_parameters()} == ({torch.float32} if name in GRADIENT else set())
    assert set(alphas) == ({choice.name for choice in supernet.space.choices} if name in GRADIENT else set())
    for key, alpha in alphas.items():
        assert torch.isfinite(alpha).all()
        assert not torch.equal(alpha, before[key])
        assert not torch.equal(alpha, alpha.bfloat16().float())  # nor was it rounded on the way


def test_small_steps_would_be_lost_in_16_bits() -> None:
    """Why alphas keep 32: a step of 3e-4 does not move a 1."""
    one = torch.ones(3)

    assert torch.equal(one.bfloat16() + 3e-4, one.bfloat16())
    assert not torch.equal(one + 3e-4, one)
    assert wide(lambda x: x.bfloat16())(one).dtype == torch.float32
    assert wide(lambda x: x.double())(one).dtype == torch.float64
    assert wide(lambda x: x.to("meta"))(one).device.type == "meta"
    assert in_32_bits(one.double()).dtype == torch.float64


def test_the_second_order_is_computed_in_32_bits_also_of_weights_of_16() -> None:
    """The finite difference moves weights by less than 16 bits can tell."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        supernet = small()
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter.copy_(parameter.bfloat16())
        module = oneshot.DARTS(supernet.to(dtype), order=2, alpha_std=0.0)
        watch = _FirstGradient()
        data = random_streams(supernet, batches=1)
        state = {key: value.clone() for key, value in supernet.state_dict().items()}
        fit(module, data, epochs=1, callbacks=[watch])
        found.append(watch.gradient)
        assert {t.dtype for t in supernet.parameters()} == {dtype}
        assert state.keys() == supernet.state_dict().keys()

    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)


class _FirstGradient(pl.Callback):
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, SearchModule)
        if optimizer is trainer.optimizers[1]:
            self.gradient = torch.cat([a.grad.flatten() for a in pl_module.alphas.values() if a.grad is not None])


# Frozen parameters.


@pytest.mark.parametrize("name", [*GRADIENT, *SHARING])
def test_frozen_parameters_stay_and_stop_nothing(name: str) -> None:
    supernet = small(name)
    frozen = next(supernet.parameters()).requires_grad_(False)
    before = frozen.clone()
    module = (GRADIENT | SHARING)[name](supernet)

    fit(module, random_streams(supernet, batches=2), epochs=1)

    supernet.space.validate(module.derive())
    assert torch.equal(frozen, before)


def test_the_second_order_of_a_frozen_parameter_is_that_of_a_constant() -> None:
    """The same gradient as where the parameter is a buffer."""
    found = []
    for buffer in (False, True):
        supernet = small()
        stem = supernet.stem[0]
        weight = stem.weight.detach().clone()
        if buffer:
            del stem.weight
            stem.register_buffer("weight", weight)
        else:
            stem.weight.requires_grad_(False)
        watch = _FirstGradient()
        fit(
            oneshot.DARTS(supernet, order=2, alpha_std=0.0),
            random_streams(supernet, batches=1),
            epochs=1,
            callbacks=[watch],
        )
        found.append(watch.gradient)

    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


# Dimensions.


class LayersSupernet(OperationSupernet):
    """Two candidates on signals, images or volumes, or on vectors: ``dims`` 1, 2, 3 or 0."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.space = SearchSpace("layers", (Choice("layer", ("one", "two")),))
        self.num_classes, self.input_shape = 2, (2, *(5,) * dims)
        self.dims = dims
        self.stem, self.head = self.layer(2, 4), nn.Linear(4, 2)
        self.mixed = mixed_op([nn.Sequential(self.layer(4, 4), nn.ReLU()), self.layer(4, 4)])

    def layer(self, inputs: int, outputs: int) -> nn.Module:
        if not self.dims:
            return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs))
        kinds: tuple[Any, ...] = (
            getattr(nn, f"Conv{self.dims}d"),
            getattr(nn, f"BatchNorm{self.dims}d"),
            getattr(nn, f"InstanceNorm{self.dims}d"),
        )
        options = {"affine": True, "track_running_stats": True}
        return nn.Sequential(
            kinds[0](inputs, outputs, 3, padding=1), kinds[1](outputs, affine=False), kinds[2](outputs, **options)
        )

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        x = self.mixed(self.stem(x), arch["layer"][0])
        logits: Tensor = self.head(x.flatten(2).mean(2) if self.dims else x)
        return logits

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> LayersNetwork:
        net = LayersNetwork(self.dims, int(config["layer"][0] == "two"))
        if inherit:
            inherit_weights(net.stem, self.stem)
            inherit_weights(net.op, self.mixed.ops[net.pick])
            inherit_weights(net.head, self.head)
        net.config = config
        return net.train(self.training)

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"layer": [[self.mixed]]}


class LayersNetwork(Subnet):
    def __init__(self, dims: int, pick: int) -> None:
        super().__init__()
        like = LayersSupernet(dims)
        self.stem, self.op, self.head, self.pick = like.stem, like.mixed.ops[pick], like.head, pick
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # a network has the scale that the search left out
                layer.affine = True
                layer.weight = nn.Parameter(torch.full((layer.num_features,), 7.0))
                layer.bias = nn.Parameter(torch.full((layer.num_features,), 7.0))
        self.init_args = {"dims": dims, "pick": pick}
        self.num_classes, self.input_shape = 2, like.input_shape

    def forward(self, x: Tensor) -> Tensor:
        x = self.op(self.stem(x))
        logits: Tensor = self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)
        return logits

    def graphs(self) -> list[ArchGraph]:
        return []


@pytest.mark.parametrize("method", [oneshot.DARTS, oneshot.GDAS, GRADIENT["DARTS, order 2"], SHARING["RandomSharing"]])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_supernets_of_any_dimension_are_searched_and_inherited(dims: int, method: Method) -> None:
    torch.manual_seed(0)
    supernet = LayersSupernet(dims)
    module = method(supernet)

    fit(module, random_streams(supernet, batches=2), epochs=1)

    config = module.derive()
    x = torch.randn(3, *supernet.input_shape)
    with torch.no_grad():
        network = supernet.eval().extract(config)
        torch.testing.assert_close(network(x), supernet.run_config(x, config), rtol=1e-5, atol=1e-6)
    layer = next((m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)), None)
    assert layer is None or (layer.weight is not None and (layer.weight == 1).all() and (layer.bias == 0).all())


def test_images_are_laid_out_and_all_else_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Conv1d(3, 4, 3), nn.Linear(3, 4))

    lay_out(network, torch.channels_last)

    image, volume = network[0].weight, network[1].weight
    assert isinstance(image, Tensor) and image.is_contiguous(memory_format=torch.channels_last)
    assert not image.is_contiguous()
    assert isinstance(volume, Tensor) and volume.is_contiguous()


@pytest.mark.parametrize(
    "kind",
    [
        *(partial for partial in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
        *(partial for partial in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    ],
)
def test_a_normalisation_of_any_kind_may_become_learnable(kind: Any) -> None:
    source = kind(4, affine=False, track_running_stats=True)
    source.running_mean.fill_(3.0)
    target = kind(4, affine=True, track_running_stats=True)
    nn.init.zeros_(target.weight)  # as residual networks begin; the function must be the source's

    inherit_weights(nn.Sequential(target), nn.Sequential(source))

    assert (target.weight == 1).all() and (target.bias == 0).all() and (target.running_mean == 3).all()
    with pytest.raises(ValueError, match=r"missing \['0.num_batches_tracked', '0.running_mean', '0.running_var'\]"):
        inherit_weights(nn.Sequential(target), nn.Sequential(kind(4, affine=False, track_running_stats=False)))


@pytest.mark.parametrize(
    "make",
    [lambda a: nn.LayerNorm(4, elementwise_affine=a), lambda a: nn.GroupNorm(2, 4, affine=a)],
    ids=["layer", "group"],
)
def test_other_normalisations_may_become_learnable(make: Callable[[bool], nn.Module]) -> None:
    target = make(True)

    inherit_weights(target, make(False))

    assert [name for name, _ in target.named_parameters()] == ["weight", "bias"]


def test_linear_layers_must_have_weights_to_inherit() -> None:
    with pytest.raises(ValueError, match=r"missing \['bias'\]"):
        inherit_weights(nn.Linear(3, 4), nn.Linear(3, 4, bias=False))


@pytest.mark.parametrize("freeze", [frozen_batch_norm, batch_statistics])
def test_statistics_of_instances_stay_where_those_of_batches_do(freeze: Any) -> None:
    layer, x = nn.InstanceNorm2d(3, track_running_stats=True), torch.randn(4, 3, 5, 5) + 2
    expected = nn.InstanceNorm2d(3)(x)

    with freeze(layer):
        assert torch.equal(layer(x), expected)
    assert not layer.running_mean.any() and layer.momentum == 0.1 and layer.training  # type: ignore[operator]  # it has
    layer(x)
    assert layer.running_mean.any()  # type: ignore[operator]  # it has


# Lightning's summary.


@pytest.mark.parametrize("summary", [None, ModelSummary, RichModelSummary], ids=["default", "plain", "rich"])
def test_the_summary_has_layers_and_no_operations_that_nobody_counted(
    summary: type[ModelSummary] | None, caplog: pytest.LogCaptureFixture
) -> None:
    supernet, printed = small(), io.StringIO()
    module = BilevelSearch(supernet, SoftmaxSampler())
    with caplog.at_level(logging.INFO, "pytorch_lightning"), contextlib.redirect_stdout(printed):
        options: dict[str, Any] = {"callbacks": [summary()]} if summary else {}
        fit(module, random_streams(supernet, batches=1), epochs=1, enable_model_summary=True, **options)
    said = printed.getvalue() + "\n".join(record.getMessage() for record in caplog.records)

    assert "PlantedSupernet" in said and "Trainable params" in said
    assert "flops" not in said.lower()


def test_a_module_with_an_example_keeps_lightnings_summary(caplog: pytest.LogCaptureFixture) -> None:
    supernet = small()
    module = BilevelSearch(supernet, SoftmaxSampler())
    module.example_input_array = torch.zeros(1, *supernet.input_shape)

    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        fit(
            module, random_streams(supernet, batches=1), epochs=1, enable_model_summary=True, callbacks=[ModelSummary()]
        )

    assert any("Total Flops" in record.getMessage() for record in caplog.records)
