"""The supernet of a converted network: it runs and extracts the same networks, of the user's own class."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.conversion import ConvertedNetwork, ConvertedSupernet, convert
from oneshot.evaluation import recalibrate, recalibrated
from oneshot.supernets import SearchSpace, SubnetConfig, Supernet
from oneshot.testing import SupernetContract
from oneshot.testing.spaces import surprise


class Block(nn.Module):
    """Residual, with a depthwise convolution and squeeze-and-excitation."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise, self.bn2 = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden), nn.BatchNorm2d(hidden)
        self.reduce, self.gate = nn.Conv2d(hidden, 16, 1), nn.Conv2d(16, hidden, 1)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        y = y * torch.sigmoid(self.gate(F.relu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return x + self.project(y)


class Net(nn.Module):
    """A stem, three blocks, a concatenation, and a classifier that reads flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(24, 48), Block(24, 64), Block(24, 32))
        self.left, self.right = nn.Conv2d(24, 16, 1), nn.Conv2d(24, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(48)
        self.fc = nn.Linear(48 * 4, 10)
        self.num_features = 48

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Attending(nn.Module):
    """Two layers of attention whose heads are an attribute."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.embed, self.pos = nn.Linear(6, dim), nn.Parameter(torch.randn(1, 5, dim) * 0.02)
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.pos
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
        return self.head(x.mean(1))


class TestContract(SupernetContract):
    """What every supernet must keep."""

    @pytest.fixture
    def supernet(self) -> ConvertedSupernet:
        torch.manual_seed(0)
        return convert(Net(), torch.randn(2, 3, 16, 16), kernel=True, source=f"{__name__}.Net")

    def test_sampling_is_uniform_over_as_many_configs_as_size_says(self, space: SearchSpace) -> None:
        """Over every choice, where it means something."""
        matrix = space.sample_matrix(20_000, 0)
        depth = matrix[:, -1] == 1
        for gene, size in enumerate(space.gene_sizes):
            rows = matrix[depth] if "blocks_2" in space.choices[gene].name else matrix
            assert surprise(np.bincount(rows[:, gene], minlength=size), np.full(size, len(rows) / size)) < 5

    def test_mutations_of_dead_genes_do_not_happen(self, supernet: Supernet) -> None:
        space: Any = supernet.space
        config, rng = space.smallest, np.random.default_rng(0)
        for _ in range(50):
            assert space.canonical(space.mutate(config, rng)) != space.canonical(config)


def some_statistics(network: nn.Module) -> None:
    """Statistics and scales of batch normalisation that are no defaults."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 2)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    found = Net().eval()
    some_statistics(found)
    return found


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def configs(supernet: ConvertedSupernet, count: int = 6) -> list[SubnetConfig]:
    space = supernet.space
    return [space.smallest, space.largest, *(space.sample(seed) for seed in range(count))]


def test_the_largest_architecture_is_the_network(net: Net, x: Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    supernet = convert(net, x).eval()
    assert torch.allclose(supernet(x, supernet.space.largest), net(x), atol=1e-6)
    assert supernet.network.state_dict().keys() == before.keys()
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(module.training for module in convert(net, x).modules())
    assert supernet.num_classes == 10 and supernet.input_shape == (3, 16, 16) and supernet.head == "fc"


def test_sorting_leaves_outputs_unchanged_in_float64(net: Net, x: Tensor) -> None:
    net, x = net.double(), x.double()
    supernet = convert(net, x).eval()
    assert (supernet(x, supernet.space.largest) - net(x)).abs().max() < 1e-10
    weight = supernet.network.blocks[0].expand.weight  # type: ignore[union-attr, index]
    assert not torch.equal(weight, net.blocks[0].expand.weight)  # type: ignore[arg-type, union-attr]  # it was sorted
    importance = supernet.graph.groups[1]
    assert importance.name == "width_blocks_0_expand"


def test_extracted_networks_compute_what_the_supernet_does(net: Net, x: Tensor) -> None:
    supernet = convert(net, x, kernel=True).eval()
    assert {choice.name.partition("_")[0] for choice in supernet.space.choices} == {"width", "kernel", "depth"}
    for config in configs(supernet, 20):
        network = supernet.extract(config)
        assert type(network.network) is Net and isinstance(network, ConvertedNetwork)
        assert torch.equal(network(x), supernet(x, config))
        ours = {t.untyped_storage().data_ptr() for t in supernet.state_dict().values()}
        assert not ours & {t.untyped_storage().data_ptr() for t in network.state_dict().values()}


def test_layers_say_their_sizes(net: Net, x: Tensor) -> None:
    supernet = convert(net, x, kernel=True)
    config = supernet.space.smallest
    small: Any = supernet.extract(config).network
    block = small.blocks[0]
    hidden = config["width_blocks_0_expand"][0]
    assert (block.expand.out_channels, block.depthwise.groups, block.depthwise.in_channels) == (hidden,) * 3
    assert block.depthwise.kernel_size == (3, 3) and block.depthwise.padding == (1, 1)
    assert block.bn1.num_features == hidden == block.gate.out_channels
    assert isinstance(small.blocks[2], nn.Identity) and not isinstance(small.blocks[0], nn.Identity)
    assert small.fc.in_features == 4 * small.norm.num_features
    assert net.blocks[0].depthwise.padding == (2, 2)  # type: ignore[union-attr]  # the user's network stays


def test_heads_and_hidden_units_of_attention_vary() -> None:
    torch.manual_seed(0)
    net, x = Attending().eval(), torch.randn(3, 5, 6)
    supernet = convert(net, x).eval()
    heads = next(choice for choice in supernet.space.choices if choice.name.startswith("heads"))
    assert heads.candidates == (1, 2, 3, 4)
    for config in configs(supernet, 10):
        network = supernet.extract(config)
        assert torch.equal(network(x), supernet(x, config))
        assert network.network.heads == config[heads.name][0]  # type: ignore[union-attr]
        assert network.network.head_dim == 8  # type: ignore[union-attr]
    fixed = convert(net, x, heads=False)
    assert not any(choice.name.startswith("heads") for choice in fixed.space.choices)
    assert any("heads=False" in one.why for one in fixed.graph.fixed)


def test_gradients_reach_the_part_that_ran_and_nothing_else(net: Net, x: Tensor) -> None:
    supernet = convert(net, x).train()
    config = supernet.space.smallest
    means = {name: buffer.clone() for name, buffer in supernet.network.named_buffers()}
    supernet(x, config).square().mean().backward()
    kept = int(config["width_stem"][0])
    gradient = supernet.network.stem.weight.grad  # type: ignore[union-attr]
    assert gradient[:kept].abs().sum() > 0 and gradient[kept:].abs().sum() == 0
    assert all(p.grad is None for p in supernet.network.blocks[2].parameters())  # type: ignore[union-attr, index]
    mean = supernet.network.norm.running_mean  # type: ignore[union-attr]
    left, right = (int(config[f"width_{name}"][0]) for name in ("left", "right"))
    moved = mean != means["norm.running_mean"]
    assert moved.tolist() == [True] * left + [False] * (16 - left) + [True] * right + [False] * (32 - right)


def test_training_an_extracted_network_is_training_the_supernet(net: Net, x: Tensor) -> None:
    supernet = convert(net, x).train()
    config = supernet.space.sample(3)
    network = supernet.extract(config)
    assert network.training
    assert torch.equal(network(x), supernet(x, config))
    after = supernet.extract(config)
    for (name, ours), (_, theirs) in zip(network.named_buffers(), after.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_recalibrated_statistics_are_those_of_the_network(net: Net, x: Tensor) -> None:
    """Also those that are copied, because they are of two groups one after the other."""
    supernet = convert(net, x).eval()
    config = supernet.space.sample(5)
    network = supernet.extract(config)
    recalibrate(network, [x, x.flip(0) * 2])
    with recalibrated(supernet, config, [x, x.flip(0) * 2]):
        inside = supernet.extract(config)
    assert torch.equal(inside.network.norm.running_mean, network.network.norm.running_mean)  # type: ignore[union-attr]
    assert torch.equal(inside(x), network(x)) and not torch.equal(supernet(x, config), network(x))


class Auxiliary(Net):
    """A network that has another output in training."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        if not self.training:
            return y
        return y + self.auxiliary(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def test_layers_that_run_in_training_only_are_refused_unless_what_they_read_is_frozen(x: Tensor) -> None:
    with pytest.raises(ValueError, match="in training auxiliary does not follow"):
        convert(Auxiliary(), x)
    supernet = convert(Auxiliary(), x, freeze=["stem"])
    assert supernet.train()(x, supernet.space.smallest).shape == (4, 10)


def test_widths_of_blocks_that_are_left_out_do_not_count(net: Net, x: Tensor) -> None:
    space = convert(net, x).space
    depth = next(choice for choice in space.choices if choice.name.startswith("depth"))
    assert depth.candidates == (2, 3)
    genes = space.genes_of(space.largest)
    genes[[c.name for c in space.choices].index(depth.name)] = 0
    assert space.dropped(genes[None]).tolist() == [[False, False, True]] or space.dropped(genes[None]).tolist() == [
        [False, True]
    ]
    other = genes.copy()
    other[[c.name for c in space.choices].index("width_blocks_2_expand")] = 0
    assert space.repair(other[None]).tolist() == [genes.tolist()]
    found = {space.config_of(row) for row in space.repair(space.sample_matrix(3000, 0))}
    assert len(found) <= space.size


def test_uniform_scales_all_widths(net: Net, x: Tensor) -> None:
    supernet = convert(net, x)
    half = supernet.uniform(0.5)
    assert half["width_blocks_1_expand"] == (32,) and half["width_stem"][0] in (8, 16)
    assert supernet.uniform(1.0) == supernet.space.largest
    with pytest.raises(ValueError, match="ratio must be above 0"):
        supernet.uniform(0)


def test_supernets_are_copied_and_pickled(net: Net, x: Tensor) -> None:
    supernet = convert(net, x).eval()
    config = supernet.space.sample(0)
    for other in (copy.deepcopy(supernet), pickle.loads(pickle.dumps(supernet))):
        assert torch.equal(other(x, config), supernet(x, config))
        other.network.fc.weight.data.zero_()
    assert supernet.network.fc.weight.abs().sum() > 0  # type: ignore[union-attr]


def test_resolutions_are_a_choice() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()
    supernet = convert(net, torch.randn(2, 3, 32, 32), resolutions=(16, 24, 32)).eval()
    assert supernet.space["resolution"].candidates == (16, 24, 32) and supernet.has_resolutions
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(supernet(images, supernet.space.largest), net(images), atol=1e-6)
    small = supernet.extract(supernet.space.smallest)
    assert small.input_shape == (3, 16, 16)
    assert supernet(images, supernet.space.smallest).shape == (2, 4)


def test_the_last_layer_is_replaced_for_other_classes(net: Net, x: Tensor) -> None:
    supernet = convert(net, x, num_classes=3)
    assert supernet.num_classes == 3 and supernet(x, supernet.space.smallest).shape == (4, 3)
    assert net.fc.out_features == 10
    assert convert(net, x, num_classes=10).replaced_head is None


def test_the_table_says_what_varies_and_what_does_not(net: Net, x: Tensor) -> None:
    text = str(convert(net, x, freeze=["stem"]))
    assert "width_blocks_0_expand" in text and "depth_blocks" in text and "architectures" in text
    assert "freeze='stem' asks for it" in text and "it is a side of the output" in text
    assert "smallest:" in text and "parameters" in text and "MACs" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": ()}, "width must be parts"),
        ({"width": (0.5, 1.5)}, "width must be parts"),
        ({"multiple": 0}, "multiple must be a whole number"),
        ({"freeze": ["stme"]}, "Did you mean 'stem'"),
        ({"num_classes": 3, "output": "logits", "freeze": ["nothing.*"]}, "freeze must hold paths"),
    ],
)
def test_options_out_of_range_are_refused(net: Net, x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(net, x, **options)


def test_a_batch_of_one_and_other_things_are_refused(net: Net, x: Tensor) -> None:
    with pytest.raises(ValueError, match="batch of two inputs or more"):
        convert(net, x[:1])
    with pytest.raises(ValueError, match="example_input must be a tensor"):
        convert(net, [x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be given a torch\.nn\.Module"):
        convert("resnet18", x)  # type: ignore[arg-type]


class Deciding(Net):
    """A network whose code looks at numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_network_that_decides_by_numbers_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="must run the same operators whatever the numbers are"):
        convert(Deciding(), x)
