"""MACs of torch.nn by closed formulas, written here once more, in every mode; what has no formula is named."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry, register_flop_formula

from oneshot.cost import count, count_candidates
from oneshot.cost.counting.network import MacCounter
from oneshot.cost.counting.operators import FORMULAS, macs_of
from oneshot.supernets import NASBench201Supernet

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
]
aten = torch.ops.aten


class Lambda(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def attention(queries: int, keys: int, size: int, kdim: int = 0, vdim: int = 0) -> int:
    """Projections of queries and of outputs, of keys, and of values; scores, and sums by scores."""
    projections = 2 * queries * size * size + keys * size * (kdim or size) + keys * size * (vdim or size)
    return projections + 2 * queries * keys * size


def feed_forward(length: int, size: int, hidden: int) -> int:
    return 2 * length * size * hidden


def recurrent(steps: int, gates: int, inputs: int, hidden: int, out: int = 0) -> int:
    """One layer in one direction; ``out`` is the size of a projection."""
    state = out or hidden
    return steps * (gates * hidden * (inputs + state) + (hidden * out if out else 0))


ENCODER = attention(10, 10, 16) + feed_forward(10, 16, 32)
DECODER = attention(10, 10, 16) + attention(10, 10, 16) + feed_forward(10, 16, 32)
encoder = partial(nn.TransformerEncoderLayer, 16, 4, 32)
decoder = partial(nn.TransformerDecoderLayer, 16, 4, 32)
MULTIPLY: list[tuple[str, Callable[[], nn.Module], Any, int]] = [
    ("linear", lambda: nn.Linear(6, 5), (6,), 30),
    ("linear on a sequence", lambda: nn.Linear(6, 5), (7, 6), 7 * 30),
    ("bilinear", lambda: nn.Bilinear(3, 4, 5), [(3,), (4,)], 3 * 4 * 5),
    ("conv1d", lambda: nn.Conv1d(4, 6, 3, stride=2, groups=2), (4, 11), 5 * 6 * 3 * 4 // 2),
    ("conv2d", lambda: nn.Conv2d(4, 6, (3, 2), dilation=2, groups=2), (4, 9, 8), 5 * 6 * 6 * 6 * 4 // 2),
    ("conv3d", lambda: nn.Conv3d(2, 4, 3, padding=1), (2, 3, 4, 5), 60 * 27 * 8),
    ("depthwise", lambda: nn.Conv2d(4, 4, 3, padding="same", groups=4), (4, 6, 6), 36 * 9 * 4),
    ("circular", lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 6, 6), 36 * 9 * 16),
    ("transposed 1d", lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (4, 5), 5 * 3 * 24 // 2),
    ("transposed 2d", lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 5), 25 * 9 * 24),
    ("transposed 3d", lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 4), 24 * 8 * 6),
    ("rnn", lambda: nn.RNN(6, 5), (7, 6), recurrent(7, 1, 6, 5)),
    ("rnn relu", lambda: nn.RNN(6, 5, nonlinearity="relu", batch_first=True), (7, 6), recurrent(7, 1, 6, 5)),
    ("gru", lambda: nn.GRU(6, 5), (7, 6), recurrent(7, 3, 6, 5)),
    ("gru deep", lambda: nn.GRU(6, 5, 2), (7, 6), recurrent(7, 3, 6, 5) + recurrent(7, 3, 5, 5)),
    ("gru both", lambda: nn.GRU(6, 5, bidirectional=True), (7, 6), 2 * recurrent(7, 3, 6, 5)),
    ("lstm", lambda: nn.LSTM(6, 5), (7, 6), 1540),
    ("lstm no bias", lambda: nn.LSTM(6, 5, bias=False, batch_first=True), (7, 6), recurrent(7, 4, 6, 5)),
    ("lstm both", lambda: nn.LSTM(6, 5, bidirectional=True), (7, 6), 2 * recurrent(7, 4, 6, 5)),
    (
        "lstm deep, both",
        lambda: nn.LSTM(6, 5, 3, bidirectional=True),
        (7, 6),
        2 * recurrent(7, 4, 6, 5) + 4 * recurrent(7, 4, 10, 5),
    ),
    ("lstm projected", lambda: nn.LSTM(6, 5, proj_size=3), (7, 6), recurrent(7, 4, 6, 5, out=3)),
    (
        "lstm projected, deep",
        lambda: nn.LSTM(6, 5, 2, proj_size=3, bidirectional=True),
        (7, 6),
        2 * recurrent(7, 4, 6, 5, 3) + 2 * recurrent(7, 4, 6, 5, 3),
    ),
    ("rnn cell", lambda: nn.RNNCell(6, 5), (6,), recurrent(1, 1, 6, 5)),
    ("gru cell", lambda: nn.GRUCell(6, 5), (6,), recurrent(1, 3, 6, 5)),
    ("lstm cell", lambda: nn.LSTMCell(6, 5), (6,), recurrent(1, 4, 6, 5)),
    ("attention", lambda: nn.MultiheadAttention(16, 4), (10, 16), 13_440),
    ("attention, batch first", lambda: nn.MultiheadAttention(16, 4, batch_first=True), (10, 16), 13_440),
    (
        "attention to others",
        lambda: nn.MultiheadAttention(16, 4, kdim=8, vdim=6, batch_first=True),
        [(10, 16), (7, 8), (7, 6)],
        attention(10, 7, 16, 8, 6),
    ),
    (
        "attention to others of the same size",
        lambda: nn.MultiheadAttention(16, 4, bias=False),
        [(10, 16), (7, 16), (7, 16)],
        attention(10, 7, 16),
    ),
    # add_bias_kv and add_zero_attn add one key each, which are not projected
    (
        "attention with more keys",
        lambda: nn.MultiheadAttention(16, 4, add_bias_kv=True, add_zero_attn=True),
        (10, 16),
        attention(10, 10, 16) + 2 * 10 * 2 * 16,
    ),
    ("encoder layer", lambda: encoder(batch_first=True), (10, 16), 23_680),
    ("encoder layer, norm first", lambda: encoder(batch_first=True, norm_first=True), (10, 16), ENCODER),
    ("encoder layer, length first", lambda: encoder(activation="gelu"), (10, 16), ENCODER),
    ("encoder layer, odd activation", lambda: encoder(activation=F.silu, batch_first=True), (10, 16), ENCODER),
    ("encoder", lambda: nn.TransformerEncoder(encoder(batch_first=True), 2), (10, 16), 2 * ENCODER),
    ("encoder, length first", lambda: nn.TransformerEncoder(encoder(), 2), (10, 16), 2 * ENCODER),
    ("decoder layer", lambda: decoder(batch_first=True), (10, 16), DECODER),
    (
        "decoder layer, other memory",
        lambda: decoder(),
        [(10, 16), (7, 16)],
        attention(10, 10, 16) + attention(10, 7, 16) + feed_forward(10, 16, 32),
    ),
    ("decoder", lambda: nn.TransformerDecoder(decoder(batch_first=True), 2), (10, 16), 2 * DECODER),
    ("transformer", lambda: nn.Transformer(16, 4, 1, 1, 32), (10, 16), ENCODER + DECODER),
    ("in a sequence", lambda: nn.Sequential(encoder(), nn.Linear(16, 2)), (10, 16), ENCODER + 10 * 32),
]
W, B = torch.ones(3, 4, 5), torch.ones(5)
OPERATIONS: list[tuple[str, Callable[[Tensor], Any], tuple[int, ...], int]] = [
    ("matrix and vector", lambda x: x[0] @ torch.ones(12), (7, 12), 84),
    ("mv", lambda x: x[0].mv(torch.ones(12)), (7, 12), 84),
    ("vector and matrix", lambda x: torch.ones(7) @ x[0], (7, 12), 84),
    ("addmv", lambda x: torch.addmv(torch.ones(7), x[0], torch.ones(12)), (7, 12), 84),
    ("addmv in place", lambda x: torch.ones(7).addmv_(x[0], torch.ones(12)), (7, 12), 84),
    ("dot", lambda x: x[0] @ x[0], (12,), 12),
    ("vdot", lambda x: torch.vdot(x[0], x[0]), (12,), 12),
    ("addr", lambda x: torch.ones(12, 12).addr(x[0], x[0]), (12,), 144),
    ("mm", lambda x: x @ torch.ones(12, 3), (12,), 36),
    ("mm into a tensor", lambda x: torch.mm(x, torch.ones(12, 3), out=torch.empty(1, 3)), (12,), 36),
    ("addmm in place", lambda x: torch.ones(1, 3).addmm_(x, torch.ones(12, 3)), (12,), 36),
    ("bmm", lambda x: x.bmm(x.mT), (7, 12), 7 * 7 * 12),
    ("baddbmm", lambda x: torch.baddbmm(x.new_ones(1, 7, 7), x, x.mT), (7, 12), 7 * 7 * 12),
    ("baddbmm in place", lambda x: torch.ones(1, 7, 7).baddbmm_(x, x.mT), (7, 12), 7 * 7 * 12),
    ("addbmm", lambda x: torch.addbmm(torch.ones(7, 7), x, x.mT), (7, 12), 7 * 7 * 12),
    ("chain", lambda x: torch.linalg.multi_dot([x[0], x[0].T, x[0]]), (2, 9), 2 * 9 * 2 + 2 * 2 * 9),
    ("einsum", lambda x: torch.einsum("bij,jk->bik", x, torch.ones(12, 3)), (7, 12), 7 * 12 * 3),
    ("tensordot", lambda x: torch.tensordot(x, torch.ones(7, 12, 3), 2), (7, 12), 7 * 12 * 3),
    ("integers", lambda x: torch._int_mm(torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 8).char()), (1,), 4096),
    ("conv_tbc", lambda x: torch.conv_tbc(x.mT[0, :, :, None] * torch.ones(4), W, B), (1, 9), 7 * 3 * 4 * 5),
    ("bilinear", lambda x: F.bilinear(x, x, torch.ones(5, 12, 12)), (12,), 5 * 144),
    ("distances, few", lambda x: torch.cdist(x, x), (7, 12), 7 * 7 * 12),
    ("distances, many", lambda x: torch.cdist(x, x), (30, 3), 30 * 30 * 3),
    ("attention", lambda x: F.scaled_dot_product_attention(x, x, x), (2, 10, 8), 2 * 2 * 100 * 8),
    (
        "causal attention",
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        (2, 10, 8),
        2 * 2 * 100 * 8,
    ),
    (
        "grouped queries",
        lambda x: F.scaled_dot_product_attention(x, x[:, :2, :7], x[:, :2, :7], enable_gqa=True),
        (4, 10, 8),
        2 * 4 * 10 * 7 * 8,
    ),
    ("masked", lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(10, 10)), (2, 10, 8), 3200),
    ("affine grid", lambda x: F.affine_grid(x, [1, 3, 4, 5], align_corners=False), (2, 3), 20 * 2 * 3),
]
IMAGES, VOLUME, LINE = (4, 8, 8), (4, 8, 8, 8), (4, 8)
FREE: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    **{
        name: (getattr(nn, name), LINE)
        for name in (
            *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish"),
            *("LogSigmoid", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink"),
            *("Softsign", "Tanh", "Tanhshrink", "Identity", "Flatten", "Dropout", "Dropout1d", "AlphaDropout"),
            *("FeatureAlphaDropout", "CosineSimilarity", "PairwiseDistance"),
        )
    },
    **{name: (partial(getattr(nn, name), -1), LINE) for name in ("LogSoftmax", "Softmax", "Softmin")},
    "Softmax2d": (nn.Softmax2d, IMAGES),
    "Threshold": (lambda: nn.Threshold(0.1, 20), LINE),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), LINE),
    "Dropout2d": (nn.Dropout2d, IMAGES),
    "Dropout3d": (nn.Dropout3d, VOLUME),
    **{
        f"{kind}{d}d": (partial(getattr(nn, f"{kind}{d}d"), 4), shape)
        for d, shape in ((1, LINE), (2, IMAGES), (3, VOLUME))
        for kind in ("BatchNorm", "InstanceNorm")
    },
    **{
        f"{kind}{d}d": (partial(getattr(nn, f"{kind}{d}d"), *args), shape)
        for d, shape in ((1, LINE), (2, IMAGES), (3, VOLUME))
        for kind, args in (
            *(("AvgPool", (2,)), ("MaxPool", (2,)), ("LPPool", (2, 2)), ("AdaptiveAvgPool", (3,))),
            *(("AdaptiveMaxPool", (3,)), ("CircularPad", (1,)), ("ConstantPad", (1, 2.0)), ("ReflectionPad", (1,))),
            *(("ReplicationPad", (1,)), ("ZeroPad", (1,))),
        )
    },
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_size=3), IMAGES),
    "FractionalMaxPool3d": (lambda: nn.FractionalMaxPool3d(2, output_size=3), VOLUME),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4), IMAGES),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(3), IMAGES),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm(8), LINE),
    "RMSNorm": (lambda: nn.RMSNorm(8), LINE),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGES),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGES),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), IMAGES),
    "Fold": (lambda: nn.Fold((4, 4), (2, 2)), (4 * 2, 9)),
    "Unfold": (lambda: nn.Unfold(2), IMAGES),
    "Upsample": (lambda: nn.Upsample(scale_factor=2.0, mode="bicubic"), IMAGES),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(16), IMAGES),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(16), IMAGES),
    "Embedding": (lambda: nn.Embedding(10, 4), (7,)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(10, 4), (7,)),
}
# What takes no lone tensors of one type: losses (tried below), indices, containers, and classes nobody makes.
ELSEWHERE = {"MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "AdaptiveLogSoftmaxWithLoss"}
NO_LAYERS = {
    *("Module", "Container", "DataParallel", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "RNNBase"),
    *("RNNCellBase", "Sequential"),
}


@pytest.fixture(autouse=True)
def nothing_left_on() -> Iterator[None]:
    yield
    assert not torch.is_inference_mode_enabled()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def lazily(name: str, *args: Any, shape: tuple[int, ...]) -> nn.Module:
    layer: nn.Module = getattr(nn, name)(*args)
    layer(torch.zeros(2, *shape))
    return layer


@pytest.mark.parametrize(("make", "shape", "macs"), [pytest.param(*case, id=name) for name, *case in MULTIPLY])
def test_layers_multiply_what_their_formulas_say(make: Callable[[], nn.Module], shape: Any, macs: int) -> None:
    network = make()

    assert count(network, shape).macs == macs
    with torch.inference_mode():
        assert count(network, shape).macs == macs
    assert count(network.to(torch.float64), shape).macs == macs
    assert count(network.to("meta"), shape).macs == macs


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        pytest.param(lambda: nn.MultiheadAttention(16, 4, batch_first=True), "_native_multi_head_attention", id="mha"),
        pytest.param(lambda: encoder(batch_first=True), "_transformer_encoder_layer_fwd", id="encoder"),
    ],
)
def test_fused_and_plain_layers_count_the_same(make: Callable[[], nn.Module], fused: str) -> None:
    """Without gradients a kernel does all of it; with them it is made of parts."""
    network, seen = make().eval(), set()

    class Watch(MacCounter):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(func._overloadpacket.__name__)
            return super().__torch_dispatch__(func, types, args, kwargs)

    x = torch.ones(1, 10, 16)
    inputs = (x,) * (3 if fused == "_native_multi_head_attention" else 1)
    with torch.no_grad(), Watch() as at_once:
        network(*inputs)
    assert fused in seen
    seen.clear()
    with Watch() as in_parts:
        network(*inputs)
    assert fused not in seen

    assert at_once.macs == in_parts.macs > 0


@pytest.mark.parametrize(("function", "shape", "macs"), [pytest.param(*case, id=name) for name, *case in OPERATIONS])
def test_operators_multiply_what_their_formulas_say(
    function: Callable[[Tensor], Any], shape: tuple[int, ...], macs: int
) -> None:
    assert count(Lambda(function), shape).macs == macs
    with torch.inference_mode():
        assert count(Lambda(function), shape).macs == macs


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        pytest.param("LazyLinear", (6,), 30, id="linear"),
        *(
            pytest.param(f"Lazy{kind}{d}d", (4, *(6,) * d), 6**d * 3**d * 20, id=f"{kind}{d}d")
            for d in (1, 2, 3)
            for kind in ("Conv", "ConvTranspose")
        ),
        *(
            pytest.param(f"Lazy{kind}Norm{d}d", (4, *(6,) * d), 0, id=f"{kind}{d}d")
            for d in (1, 2, 3)
            for kind in ("Batch", "Instance")
        ),
    ],
)
def test_lazy_layers_count_once_they_know_their_shapes(layer: str, shape: tuple[int, ...], macs: int) -> None:
    args = () if "Norm" in layer else (5,) if layer == "LazyLinear" else (5, 3, 1, 1)
    lazy: nn.Module = getattr(nn, layer)(*args)
    if macs:
        with pytest.raises(ValueError, match="must know its shapes before it is counted; weight of this Lazy.*Run"):
            count(lazy, shape)

    assert count(lazily(layer, *args, shape=shape), shape).macs == macs


@pytest.mark.parametrize("name", FREE)
def test_other_layers_count_nothing_and_say_so_without_a_warning(name: str) -> None:
    make, shape = FREE[name]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = count(make(), shape)
        with torch.inference_mode():
            assert counts == count(make(), shape)

    assert (counts.macs, counts.uncounted) == (0, ())


def losses() -> dict[str, Callable[[], Any]]:
    x, y, classes = torch.rand(5, 4), torch.rand(5, 4), torch.arange(5) % 4
    signs = torch.ones(5)
    pairs = ("BCE", "BCEWithLogits", "Huber", "KLDiv", "L1", "MSE", "MultiLabelSoftMargin", "PoissonNLL", "SmoothL1")
    return {
        **{f"{name}Loss": (lambda name=name: getattr(nn, f"{name}Loss")()(x, y)) for name in pairs if name != "KLDiv"},
        "KLDivLoss": lambda: nn.KLDivLoss(reduction="batchmean")(x.log(), y),
        "CTCLoss": lambda: nn.CTCLoss()(x[:, None].log_softmax(-1), classes[None, 1:3], [5], [2]),
        "CosineEmbeddingLoss": lambda: nn.CosineEmbeddingLoss()(x, y, signs),
        "CrossEntropyLoss": lambda: nn.CrossEntropyLoss()(x, classes),
        "GaussianNLLLoss": lambda: nn.GaussianNLLLoss()(x, y, y + 0.1),
        "HingeEmbeddingLoss": lambda: nn.HingeEmbeddingLoss()(x[:, 0], signs),
        "MarginRankingLoss": lambda: nn.MarginRankingLoss()(x[:, 0], y[:, 0], signs),
        "MultiLabelMarginLoss": lambda: nn.MultiLabelMarginLoss()(x, torch.zeros(5, 4, dtype=torch.long)),
        "MultiMarginLoss": lambda: nn.MultiMarginLoss()(x, classes),
        "NLLLoss": lambda: nn.NLLLoss()(x, classes),
        "NLLLoss2d": lambda: nn.NLLLoss(reduction="sum")(x[..., None, None], classes[:, None, None]),
        "SoftMarginLoss": lambda: nn.SoftMarginLoss()(x[:, 0], signs),
        "TripletMarginLoss": lambda: nn.TripletMarginLoss()(x, y, x),
        "TripletMarginWithDistanceLoss": lambda: nn.TripletMarginWithDistanceLoss()(x, y, x),
    }


@pytest.mark.parametrize("name", losses())
def test_losses_count_nothing(name: str) -> None:
    with MacCounter() as counter:
        losses()[name]()

    assert (counter.macs, counter.uncounted) == (0, {})


def test_unpooling_counts_nothing_and_the_adaptive_softmax_its_matrices() -> None:
    for d in (1, 2, 3):
        pooled, where = getattr(nn, f"MaxPool{d}d")(2, return_indices=True)(torch.rand(1, 2, *(4,) * d))
        with MacCounter() as counter:
            getattr(nn, f"MaxUnpool{d}d")(2)(pooled, where)
        assert (counter.macs, counter.uncounted) == (0, {})
    layer, x, words = nn.AdaptiveLogSoftmaxWithLoss(16, 20, [10], div_value=4.0), torch.rand(3, 16), torch.arange(3)
    with MacCounter() as counter:
        layer(x, words)
    assert counter.macs == 3 * 16 * 11  # no word is in the tail


def test_every_layer_of_torch_nn_is_tried_here() -> None:
    layers = {name for name, kind in vars(nn).items() if inspect.isclass(kind) and issubclass(kind, nn.Module)}
    multiply = {type(make()).__name__ for _, make, _, _ in MULTIPLY}
    lazy = {name for name in layers if name.startswith("Lazy")}
    tried = multiply | lazy | set(FREE) | set(losses()) | ELSEWHERE | NO_LAYERS

    assert layers - tried - {"LinearCrossEntropyLoss"} == set()


SMALL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(torch.no_grad, id="no_grad"),
        pytest.param(torch.enable_grad, id="enable_grad"),
        pytest.param(torch.inference_mode, id="inference_mode"),
        pytest.param(lambda: torch.autocast("cpu", torch.bfloat16), id="autocast"),
    ],
)
def test_macs_are_the_same_in_every_mode(mode: Callable[[], AbstractContextManager[None]]) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    costs = [count_candidates(supernet, what).costs(supernet.space.sample_matrix(9, 0)) for what in ("macs", "memory")]
    plain = count(SMALL, (3, 8, 8))

    with mode():
        made = encoder(batch_first=True)  # its parameters may be inference tensors
        counts = count(SMALL, (3, 8, 8))
        again = [count_candidates(supernet, w).costs(supernet.space.sample_matrix(9, 0)) for w in ("macs", "memory")]
        assert count(made, (10, 16)).macs == 23_680
        assert count(encoder(batch_first=True).bfloat16(), (10, 16)).macs == 23_680
        assert count(nn.LSTM(6, 5).bfloat16(), (7, 6)).macs == 1_540

    assert counts.macs == plain.macs == 36 * 9 * 12 + 72
    assert (again[0] == costs[0]).all()
    if mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        assert counts == plain
        assert (again[1] == costs[1]).all()
    assert count(made, (10, 16)).macs == 23_680


def test_what_torch_compile_made_is_counted() -> None:
    network = torch.compile(nn.Linear(3, 4), backend="eager")

    assert count(network, (3,)).macs == 12
    assert network(torch.zeros(1, 3)).shape == (1, 4)


def test_padded_sequences_multiply_as_far_as_they_reach() -> None:
    layers = nn.TransformerEncoder(encoder(batch_first=True), 2).eval()
    network = Lambda(lambda x: layers(x, src_key_padding_mask=torch.arange(10)[None] >= 7))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype")
        macs = count(network, (10, 16)).macs

    assert macs == 2 * (attention(7, 7, 16) + feed_forward(7, 16, 32))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        pytest.param(lambda: nn.Linear(6, 5), (2, 6), id="linear"),
        pytest.param(lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 5), id="convolution"),
        pytest.param(lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5), id="depthwise"),
        pytest.param(lambda: nn.Conv1d(4, 8, 3, groups=2, stride=2), (2, 4, 9), id="grouped"),
        pytest.param(lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (2, 4, 5, 5), id="transposed"),
        pytest.param(lambda: nn.LSTM(6, 5), (7, 2, 6), id="lstm"),
    ],
)
def test_each_gradient_costs_as_much_as_the_output(layer: Callable[[], nn.Module], x: tuple[int, ...]) -> None:
    network, images = layer(), torch.ones(x, requires_grad=True)

    with MacCounter() as forward:
        output = network(images)
    with MacCounter() as backward:
        (output if isinstance(output, Tensor) else output[0]).sum().backward()

    assert backward.macs == 2 * forward.macs > 0


@torch.library.custom_op("oneshot_tests::square", mutates_args=())
def square(x: Tensor) -> Tensor:
    return x @ x.mT


@pytest.mark.parametrize(
    ("function", "shape", "named"),
    [
        pytest.param(torch.fft.rfft, (8,), "aten::_fft_r2c", id="fft"),
        pytest.param(lambda x: torch.linalg.inv(x + torch.eye(4)), (4, 4), "aten::linalg_inv_ex", id="inverse"),
        pytest.param(lambda x: torch.cdist(x, x, p=1.0), (4, 4), "aten::_cdist_forward", id="other-distances"),
        pytest.param(lambda x: torch.eye(3).to_sparse() @ x.T, (3,), "aten::mm", id="sparse"),
        pytest.param(square, (3, 4), "oneshot_tests::square", id="custom"),
    ],
)
@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
def test_operators_without_a_formula_are_named(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], named: str, inference: bool
) -> None:
    network = nn.Sequential(nn.Linear(shape[-1], shape[-1]), Lambda(function))

    with (
        torch.inference_mode() if inference else contextlib.nullcontext(),
        pytest.warns(UserWarning, match=rf"lower bound: .*{named} \(1x\).*register_flop_formula") as caught,
    ):
        counts = count(network, shape)

    assert caught[0].filename == __file__
    assert counts.uncounted == (named,)
    assert counts.macs == shape[-1] ** 2 * (shape[0] if len(shape) > 1 else 1)


def test_a_registered_formula_is_used() -> None:
    register_flop_formula(torch.ops.oneshot_tests.square)(
        lambda x, *, out_shape=None, **kwargs: 2 * x[0] * x[1] ** 2 * x[2]
    )
    try:
        counts = count(Lambda(square), (3, 4))
    finally:
        del flop_registry[torch.ops.oneshot_tests.square]

    assert (counts.macs, counts.uncounted) == (36, ())


def test_kernels_of_other_devices_count_as_those_of_this_one() -> None:
    def of(operator: Any, *args: Any, out: Any = None) -> int | None:
        return macs_of(operator.default, args, {}, out)

    t = partial(torch.zeros, device="meta")
    x, out = t(2, 4, 9, 9), t(2, 6, 7, 7)
    expected = out.numel() * 2 * 9

    assert of(aten.cudnn_convolution, x, t(6, 2, 3, 3), [0], [1], [1], 2, True, False, False, out=out) == expected
    assert of(aten.mkldnn_convolution, x, t(6, 2, 3, 3), None, [0], [1], [1], 2, out=out) == expected
    assert of(aten.slow_conv_transpose2d, out, t(6, 4, 3, 3), [3, 3], out=x) == out.numel() * 4 * 9
    lstm = nn.LSTM(6, 5, 2, proj_size=3, bidirectional=True, device="meta")
    weights = [w for layer in lstm.all_weights for w in layer]
    flat: tuple[Any, ...] = (None, None, None, 2, 5, 3, 2, False, 0.0, False, True, [], None)
    packed = of(aten._cudnn_rnn, t(7, 2, 6), weights, 5, *flat)
    assert packed == 2 * (2 * recurrent(7, 4, 6, 5, 3) + 2 * recurrent(7, 4, 6, 5, 3))
    query, key = t(1, 2, 10, 8), t(1, 2, 7, 8)
    for kernel in (aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention):
        assert of(kernel, query, key, key, None, False) == 2 * 2 * 10 * 7 * 8
    assert of(aten._scaled_dot_product_flash_attention, query, key, key) == 2 * 2 * 10 * 7 * 8
    assert of(aten._scaled_dot_product_fused_attention_overrideable, query, key, key) == 2 * 2 * 10 * 7 * 8
    assert of(aten._grouped_mm, t(10, 4), t(3, 4, 5), t(3)) == 10 * 4 * 5
    assert of(aten._grouped_mm, t(4, 10), t(10, 5), t(3)) == 4 * 10 * 5
    assert of(aten._grouped_mm, t(3, 4, 10), t(10, 6), t(3)) == 4 * 10 * 6


def test_all_formulas_are_of_operators_that_are_there() -> None:
    assert [name for name in FORMULAS if not hasattr(aten, name)] == []


def test_pytorchs_own_list_and_a_batch_in_front_give_other_numbers() -> None:
    """Mistakes that the cases above would notice."""

    class Theirs(MacCounter):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if (flops := flop_registry.get(func._overloadpacket)) is not None:
                self.macs += flops(*args, **(kwargs or {}), out_val=out) // 2
            return out

    missed = []
    for name, make, shape, macs in MULTIPLY:
        if isinstance(shape, tuple) and name not in ("in a sequence", "linear"):
            network, counter = make().eval(), Theirs()
            required = [p for p in inspect.signature(network.forward).parameters.values() if p.default is p.empty]
            with torch.no_grad(), counter:
                network(*[torch.zeros(1, *shape)] * len(required))  # 10 sequences of length 1 if not batch_first
            if counter.macs != macs:
                missed.append(name)

    assert {"attention", "attention, batch first", "encoder layer", "encoder", "lstm", "transformer"} <= set(missed)
