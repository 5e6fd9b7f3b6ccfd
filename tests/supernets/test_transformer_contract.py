"""A transformer as authors write it passes the contracts: tokens and last layers begin at 0, no batch statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.base import OperationSupernet, Subnet, inherit_weights
from oneshot.supernets.mixed_op import MixedOp, mixed_op
from oneshot.supernets.space import ArchGraph, Choice, SearchSpace, SubnetConfig
from oneshot.testing import SpaceContract

WIDTHS = {"mlp_1": 1, "mlp_2": 2, "mlp_4": 4}
SPACE = SearchSpace("transformer", (Choice("block", tuple(WIDTHS), rows=2),))
SIZE = 8


def mlp(width: int) -> nn.Module:
    last = nn.Linear(width * SIZE, SIZE)
    nn.init.zeros_(last.weight)  # a block begins as the identity
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(SIZE), nn.Linear(SIZE, width * SIZE), nn.GELU(), last)


class Body(nn.Module):
    """Patches, a class token, attention, and what the blocks are for."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, SIZE, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, SIZE)), nn.Parameter(torch.zeros(1, 5, SIZE))
        self.norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in blocks)
        self.attention = nn.ModuleList(nn.MultiheadAttention(SIZE, 2, batch_first=True) for _ in blocks)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(SIZE), nn.Linear(SIZE, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for i, (norm, attention, block) in enumerate(zip(self.norms, self.attention, self.blocks, strict=True)):
            y = norm(x)
            x = x + attention(y, y, y, need_weights=False)[0]
            x = x + (block(x) if weights is None else block(x, weights[i]))
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


class TransformerSupernet(OperationSupernet):
    def __init__(self) -> None:
        super().__init__()
        self.space, self.num_classes, self.input_shape = SPACE, 3, (3, 8, 8)
        self.body = Body([mixed_op([mlp(width) for width in WIDTHS.values()]) for _ in range(2)])

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        self.check_arch(arch)
        logits: Tensor = self.body(x, arch["block"])
        return logits

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> TransformerNetwork:
        self.space.validate(config)
        network = TransformerNetwork([str(pick) for pick in config["block"]]).to(next(self.parameters()))
        network.config = config
        if inherit:
            network.body.load_state_dict({n: getattr(self.body, n) for n in ("token", "position")}, strict=False)
            for name, part in network.body.named_children():
                if name != "blocks":
                    inherit_weights(part, getattr(self.body, name))
            for block, pick, mixed in zip(network.body.blocks, config["block"], self.body.blocks, strict=True):
                assert isinstance(mixed, MixedOp)
                inherit_weights(block, mixed.ops[list(WIDTHS).index(str(pick))])
        return network.train(self.training)

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"block": [[block] for block in self.body.blocks if isinstance(block, MixedOp)]}


class TransformerNetwork(Subnet):
    def __init__(self, blocks: list[str]) -> None:
        super().__init__()
        self.init_args: dict[str, Any] = {"blocks": list(blocks)}
        self.num_classes, self.input_shape = 3, (3, 8, 8)
        self.body = Body([mlp(WIDTHS[name]) for name in blocks])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits

    def graphs(self) -> list[ArchGraph]:
        return SPACE.graphs(SubnetConfig(SPACE.name, {"block": self.init_args["blocks"]}))


class TestTransformer(SpaceContract):
    @pytest.fixture
    def supernet(self) -> TransformerSupernet:
        torch.manual_seed(0)
        return TransformerSupernet()


def test_a_weight_without_a_part_in_the_output_is_still_found() -> None:
    """The contract moves weights from where they begin, and can tell those apart that nothing reads."""
    torch.manual_seed(0)
    supernet = TransformerSupernet()
    supernet.unused = nn.Linear(3, 3)

    with pytest.raises(AssertionError, match="unused.weight"):
        TestTransformer().test_every_weight_gets_a_gradient_under_uniform_edge_weights(supernet)


def test_before_weights_are_moved_most_have_no_gradient() -> None:
    """Otherwise this transformer would be no test of the contract."""
    supernet = TransformerSupernet()
    supernet(torch.randn(2, 3, 8, 8), {"block": torch.full((2, 3), 1 / 3)}).sum().backward()

    without = [name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()]
    assert len(without) > len(list(supernet.parameters())) / 2
