"""Every method runs on every space of operation choices, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import oneshot
from oneshot.cost import CostPenalty
from oneshot.engine.module import SearchModule
from oneshot.engine.samplers import ReinMaxSampler
from oneshot.supernets import (
    DARTSSupernet,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    NASBenchMacroSupernet,
    OperationSupernet,
    ProxylessSupernet,
    RecurrentSupernet,
    SegmentationSupernet,
    darts_space,
)
from oneshot.testing.methods import fit

OPERATIONS = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")
SMALL: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "image_size": 8}
SUPERNETS: dict[str, Callable[[], OperationSupernet]] = {
    "darts": lambda: DARTSSupernet(darts_space(candidates=OPERATIONS, steps=2), channels=4, cells=3, **SMALL),
    "nasbench201": lambda: NASBench201Supernet(channels=4, cells_per_stage=1, **SMALL),
    "nasbench1shot1": lambda: NASBench1Shot1Supernet(1, channels=4, cells_per_stage=1, **SMALL),
    "nasbenchmacro": lambda: NASBenchMacroSupernet(channels=4, **SMALL),
    "fbnet": lambda: FBNetSupernet(width=0.25, head_channels=8, stem="cifar", **SMALL),
    "proxyless": lambda: ProxylessSupernet(width=0.25, stem="cifar", **SMALL),
    "recurrent": lambda: RecurrentSupernet(num_classes=12, size=6, window=5),
    "segmentation": lambda: SegmentationSupernet(
        layers_per_stage=1, width=0.25, num_classes=3, in_channels=1, image_size=32
    ),
}
METHODS: dict[str, Callable[[Any], SearchModule]] = {
    "darts-1": oneshot.DARTS,
    "darts-2": lambda s: oneshot.DARTS(s, order=2),
    "snas": oneshot.SNAS,
    "gdas": oneshot.GDAS,
    "fbnet": lambda s: oneshot.FBNet(s, CostPenalty("params", "fbnet"), arch_warmup_epochs=0),
    "proxylessnas": lambda s: oneshot.ProxylessNAS(s, arch_warmup_epochs=0),
    "fairdarts": oneshot.FairDARTS,
    "robustdarts": oneshot.RobustDARTS,
    "smoothdarts": oneshot.SmoothDARTS,
    "drnas": oneshot.DrNAS,
    "betadarts": oneshot.BetaDARTS,
    "oles": oneshot.OLES,
    "lambdadarts": oneshot.LambdaDARTS,
    "dartsminus": oneshot.DARTSMinus,
    "reinmax": lambda s: oneshot.BilevelSearch(s, ReinMaxSampler()),
    "dsnas": oneshot.DSNAS,
    "dartspt": lambda s: oneshot.DARTSPT(s, train_epochs=1, tune_epochs=0, batches=1),
    "random_sharing": lambda s: oneshot.RandomSharing(s, candidates=2, finalists=1),
    "fairnas": lambda s: oneshot.FairNAS(s, candidates=2, finalists=1),
    "enas": lambda s: oneshot.ENAS(s, updates=1, batch=2, candidates=2, finalists=1),
}


def streams(supernet: OperationSupernet) -> dict[str, DataLoader[Any]]:
    """One batch for each stream: of images and labels, of images and masks, or of words and the words after them."""
    loaders = {}
    for name in ("weights", "arch"):
        if isinstance(supernet, RecurrentSupernet):
            words = torch.randint(supernet.num_classes, (4, supernet.input_shape[0] + 1))
            x, y = words[:, :-1], words[:, 1:]
        else:
            x = torch.randn(4, *supernet.input_shape)
            pixels = supernet.input_shape[1:] if supernet.task == "segmentation" else ()
            y = torch.randint(supernet.num_classes, (4, *pixels))
        loaders[name] = DataLoader(TensorDataset(x, y), batch_size=4)
    return loaders


REFUSED = {
    ("fairnas", "recurrent"): "a candidate of every row in every path; space 'recurrent' forbids that",
    **{
        ("lambdadarts", space): "needs two cells that share a choice"
        for space in ("nasbenchmacro", "fbnet", "proxyless", "recurrent", "segmentation")
    },
    ("oles", "recurrent"): "OLES needs candidates with weights; RecurrentSupernet has none",
    ("dartspt", "recurrent"): "row by row, and keeps a candidate in each; space 'recurrent' forbids that",
}


# Hessians and decisions of chains of mobile blocks take longer than all the rest together.
LONG = [(method, space) for method in ("robustdarts", "dartspt") for space in ("fbnet", "proxyless")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "space"),
    [
        pytest.param(method, space, marks=pytest.mark.nightly if (method, space) in LONG else ())
        for method in METHODS
        for space in SUPERNETS
    ],
)
def test_a_method_searches_a_space(method: str, space: str) -> None:
    supernet = SUPERNETS[space]()
    if (method, space) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[method, space]):
            METHODS[method](supernet)
        return
    search = METHODS[method](supernet)
    before = [p.detach().clone() for p in (*supernet.parameters(), *search.arch_parameters())]
    fit(search, streams(supernet), epochs=1)
    after = [*supernet.parameters(), *search.arch_parameters()]
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    config = search.derive()
    supernet.space.validate(config)
    assert supernet.extract(config).config == config
