"""What every ATen operator says about the axes of its tensors.

A rule sets the axes of an operator's outputs and ties those of its inputs. An operator without a rule freezes what it
touches: networks stay right, with less to choose from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from . import views
from .axes import Axis, fixed, product, split_off, total
from .tied import Rule, Tied
from .trace import Ref, Trace


def tie(trace: Trace, known: Mapping[int, Sequence[Axis]] | None = None) -> Tied:
    """Apply the rules to all operators of a trace.

    Args:
        trace: The trace.
        known: Axes of weights that are known already, by the numbers of the tensors.
    """
    tied = Tied(trace, {number: list(axes) for number, axes in (known or {}).items()})
    for number in trace.inputs:
        tied.axes[number] = [fixed(size, "it is a side of the input") for size in trace.tensors[number].shape]
    for place, op in enumerate(trace.ops):
        _apply(Rule(tied, op, place))
    for number in trace.outputs:
        for axis in tied.axes.get(number, ()):
            axis.freeze("it is a side of the output")
    return tied


def _apply(r: Rule) -> None:
    """Set the axes of the outputs."""
    for number in r.op.inputs:
        r.of(number)
    rule = RULES.get(r.op.name.rstrip("_"), RULES.get(r.op.name))
    if rule is None and (r.op.name.endswith("_like") or r.op.name.rstrip("_") in MADE):
        rule = _made
    if rule is None and torch.Tag.pointwise in r.op.func.tags:
        rule = _pointwise
    before = {number for number in r.op.outputs if number in r.tied.axes}
    if rule is None:
        r.tied.unknown[r.place] = r.op.name
        r.freeze_inputs(f"operator {r.op.name} in {r.op.module or 'the network'} has no rule")
    else:
        rule(r)
    for number in r.op.outputs:
        if number not in r.tied.axes:
            r.tied.axes[number] = [fixed(size, r.why) for size in r.trace.tensors[number].shape]
        elif number not in before:
            sizes = tuple(axis.found().size for axis in r.tied.axes[number])
            if sizes != r.trace.tensors[number].shape:  # the rule does not know this form of the operator
                r.freeze_inputs(r.why)
                r.tied.axes[number] = [fixed(size, r.why) for size in r.trace.tensors[number].shape]


def _strided(r: Rule) -> None:
    """Pooling writes other strides into what it made; sides stay."""
    if r.shape(r.op.inputs[0]) == r.outputs()[0]:
        r.out(r.of(r.op.inputs[0]))
    else:
        r.freeze_inputs(r.why)


def _same(r: Rule) -> None:
    """One tensor in, the same axes out."""
    r.out(r.of(r.op.inputs[0]))


def _pointwise(r: Rule) -> None:
    """Sides that are broadcast follow the others."""
    shape = r.outputs()[0] if r.op.outputs else ()
    inputs = [r.of(number) for number in r.op.inputs]
    axes = []
    for place in range(1, len(shape) + 1):
        sides = [own[-place] for own in inputs if len(own) >= place and own[-place].found().size != 1]
        for other in sides[1:]:
            r.unify(sides[0], other)
        axes.append(sides[0] if sides else fixed(shape[-place], r.why))
    for place in range(len(r.op.outputs)):
        r.out(axes[::-1], place)


def _made(r: Rule) -> None:
    """A tensor of equal or random entries."""
    uniform = r.op.name not in ("arange", "linspace", "randperm", "tril_indices", "triu_indices")
    like = r.op.inputs and r.shape(r.op.inputs[0]) == r.outputs()[0] and r.op.name.endswith("_like")
    why = "" if uniform else f"{r.op.name} in {r.op.module or 'the network'} numbers its entries"
    axes = r.of(r.op.inputs[0]) if like else [Axis(size, fixed=why) for size in r.outputs()[0]]
    r.out(axes)


MADE = {
    *("arange", "empty", "eye", "full", "linspace", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "rand"),
    *("randint", "randn", "scalar_tensor", "zeros", "zero", "fill"),
}


def _convolution(r: Rule) -> None:
    x, w = r.of(r["input"]), r.of(r["weight"])
    groups, transposed = r["groups"], r["transposed"]
    if len(x) != len(w) or not r.weights(r["weight"]):
        r.freeze_inputs(r.why)
        return
    own, other = (1, 0) if transposed else (0, 1)  # which dimension of the weights is C_out, and which C_in
    if groups == 1:
        channels_in, channels_out = w[other], w[own]
    else:
        count = Axis(groups)
        r.tied.groups[r.place] = count
        if transposed:  # [C_in, C_out / groups, ...]
            channels_in, channels_out = w[0], product([count, w[1]])
            r.unify(w[0], product([count, Axis(w[0].found().size // groups)]))
        else:
            channels_in, channels_out = product([count, w[1]]), w[0]
            r.unify(w[0], product([count, Axis(w[0].found().size // groups)]))
    r.unify(x[1], channels_in)
    if r["bias"] is not None:
        r.unify(r.of(r["bias"])[0], channels_out)
    for side in w[2:]:
        if not side.found().fixed:
            side.found().centred = True
    r.out([x[0], channels_out, *map(r.new, r.outputs()[0][2:])])
    space = x[2:] if transposed else r.of(r.op.outputs[0])[2:]
    per_group = [x[1], w[1]] if transposed else [channels_out, w[1]]
    r.tied.factors[r.place] = [x[0], *per_group, *space, *w[2:]]


def _batch_norm(r: Rule) -> None:
    x = r.of(r["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if r.args.get(name) is not None:
            r.unify(x[1], r.of(r[name])[0])
    r.out(x)
    for place, shape in list(enumerate(r.outputs()))[1:]:
        r.out([x[1]] if shape == (x[1].found().size,) else [fixed(size, r.why) for size in shape], place)


def _layer_norm(r: Rule) -> None:
    x, count = r.of(r["input"]), len(r["normalized_shape"])
    for name in ("weight", "bias"):
        if r.args.get(name) is not None:
            for side, own in zip(x[-count:], r.of(r[name]), strict=True):
                r.unify(side, own)
    r.out(x)
    for place in range(1, len(r.op.outputs)):
        r.out([*x[:-count], *(fixed(1, r.why) for _ in range(count))], place)


def _group_norm(r: Rule) -> None:
    x, groups = r.of(r["input"]), r["group"]
    count = fixed(1, r.why)
    if groups > 1:
        count, inner = Axis(groups), fixed(x[1].found().size // groups, "it is the size of a group of normalisation")
        r.tied.groups[r.place] = count
        r.unify(x[1], product([count, inner]))
    for name in ("weight", "bias"):
        if r.args.get(name) is not None:
            r.unify(x[1], r.of(r[name])[0])
    r.out(x)
    for place in range(1, len(r.op.outputs)):
        r.out([x[0], count], place)


def _matrix(r: Rule) -> None:
    """``mm``, ``addmm``, ``bmm``, ``baddbmm``, ``mv`` with weights or between activations."""
    names = {
        "mm": ("self", "mat2"),
        "addmm": ("mat1", "mat2"),
        "bmm": ("self", "mat2"),
        "baddbmm": ("batch1", "batch2"),
    }
    left, right = (r[name] for name in names[r.op.name])
    a, b = r.of(left), r.of(right)
    for side, other in zip(a[:-2], b[:-2], strict=True):
        r.unify(side, other)
    r.unify(a[-1], b[-2])
    axes = [*a[:-1], b[-1]]
    if not r.weights(left) and not r.weights(right):
        why = "it is what heads of attention compare, or a number of tokens"
        r.freeze([a[-1], a[-2], b[-1]], why)
        _mark_heads(a[:-2])
    if r.op.name in ("addmm", "baddbmm"):
        bias = r.of(r["self"])
        for side, other in zip(bias[::-1], axes[::-1], strict=False):
            if side.found().size != 1:
                r.unify(side, other)
    r.out(axes)
    r.tied.factors[r.place] = [*a, b[-1]]


def _mark_heads(axes: Sequence[Axis]) -> None:
    for axis in axes:
        for leaf in axis.leaves():
            leaf.heads = True


def _linear(r: Rule) -> None:
    x, w = r.of(r["input"]), r.of(r["weight"])
    r.unify(x[-1], w[1])
    if r.args.get("bias") is not None:
        r.unify(r.of(r["bias"])[0], w[0])
    r.out([*x[:-1], w[0]])
    r.tied.factors[r.place] = [*x, w[0]]


def _attention(r: Rule) -> None:
    q, k, v = (r.of(r[name]) for name in ("query", "key", "value"))
    for side, *others in zip(q[:-2], k[:-2], v[:-2], strict=True):
        for other in others:
            r.unify(side, other)
    r.freeze([q[-2], q[-1], k[-2], k[-1], v[-1]], "it is what heads of attention compare, or a number of tokens")
    _mark_heads(q[1:-2])
    for name in ("attn_mask", "attn_bias"):
        if isinstance(r.args.get(name), Ref):
            for side, other in zip(r.of(r[name])[-3::-1], q[-3::-1], strict=False):
                if side.found().size != 1:
                    r.unify(side, other)
    r.out([*q[:-1], v[-1]])
    for place, shape in list(enumerate(r.outputs()))[1:]:
        sides = [*q[:-1]] if shape == tuple(side.found().size for side in q[:-1]) else None
        sides = [q[0], q[2], q[1]] if sides is None and shape == tuple(q[i].found().size for i in (0, 2, 1)) else sides
        if sides is not None:
            r.out(sides, place)
        elif math.prod(shape):
            r.freeze(q[1:-2])
    if len(q) == 4:
        r.tied.factors[r.place] = [*q[:-1], k[-2], total([q[-1], v[-1]])]


def _fused(r: Rule) -> None:
    """The whole of ``nn.MultiheadAttention`` or of ``nn.TransformerEncoderLayer`` on ``[B, L, E]``."""
    x = r.of(r.tensor("query", "src"))
    keys = r.of(r.tensor("key", "src"))
    layer = "ffn_weight_1" in r.args
    products = [x[2], x[2], x[2], x[2], keys[1], keys[1]]  # projections; scores, and sums of values
    if layer:
        products += [r.of(r["ffn_weight_1"])[0], r.of(r["ffn_weight_2"])[1]]
    r.out(x)
    if [side.found().size for side in keys] == [side.found().size for side in x]:
        r.tied.factors[r.place] = [x[0], x[1], x[2], total(products)]


def _frozen_dims(r: Rule) -> None:
    """The order of entries matters along some sides: these are frozen."""
    axes = r.of(r.op.inputs[0])
    dims = r.args.get("dims", r.args.get("dim"))
    dims = range(len(axes)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    r.freeze([axes[dim] for dim in dims])
    for place in range(len(r.op.outputs)):
        r.out(axes, place)


def _reduce(r: Rule) -> None:
    """Sums, means and largest entries along some sides."""
    axes = r.of(r.op.inputs[0])
    dims = r.args.get("dim")
    dims = range(len(axes)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in dims}
    if r.op.name in ("argmax", "argmin", "max", "min", "topk"):
        r.freeze([axes[dim] for dim in gone])
    keep = bool(r.args.get("keepdim", False))
    kept = [fixed(1, r.why) if dim in gone else axis for dim, axis in enumerate(axes) if keep or dim not in gone]
    for place in range(len(r.op.outputs)):
        r.out(kept, place)


def _window(sides: int) -> Callable[[Rule], None]:
    """Pooling and interpolation of the last sides."""

    def rule(r: Rule) -> None:
        axes = r.of(r.op.inputs[0])
        for place, shape in enumerate(r.outputs()):
            r.out([*axes[:-sides], *map(r.new, shape[-sides:])], place)

    return rule


def _weight_norm(r: Rule) -> None:
    """Directions and lengths of weights, ``v`` and ``g``."""
    v, g = r.of(r["v"]), r.of(r["g"])
    for side, own in zip(v, g, strict=True):
        if own.found().size != 1:
            r.unify(side, own)
    r.out(v)
    r.out(g, 1)


def _vector(r: Rule) -> None:
    """A matrix or a vector times a vector."""
    a, b = (r.of(number) for number in r.op.inputs)
    r.unify(a[-1], b[-1])
    r.out(a[:-1])
    r.tied.factors[r.place] = list(a)


def _unfold(r: Rule) -> None:
    """Windows side by side: channels times entries of a window."""
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    inner = fixed(shape[1] // axes[1].found().size, "it is an entry of a window")
    r.out([axes[0], product([axes[1], inner]), r.new(shape[2])])


def _fold(r: Rule) -> None:
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    channels = Axis(shape[1])
    r.unify(axes[1], product([channels, fixed(axes[1].found().size // shape[1], "it is an entry of a window")]))
    r.out([axes[0], channels, *map(r.new, shape[2:])])


def _grid(r: Rule) -> None:
    axes, shape = r.of(r["input"]), r.outputs()[0]
    r.freeze(r.of(r["grid"]))
    r.out([*axes[:2], *map(r.new, shape[2:])])


def _pixel_shuffle(r: Rule) -> None:
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    channels, inner = Axis(shape[-3]), fixed(axes[-3].found().size // shape[-3], r.why)
    r.unify(axes[-3], product([channels, inner]))
    r.out([*axes[:-3], channels, *map(r.new, shape[-2:])])


def _pixel_unshuffle(r: Rule) -> None:
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    inner = fixed(shape[-3] // axes[-3].found().size, r.why)
    r.out([*axes[:-3], product([axes[-3], inner]), *map(r.new, shape[-2:])])


def _glu(r: Rule) -> None:
    axes = list(r.of(r.op.inputs[0]))
    dim = r.args.get("dim", -1) % len(axes)
    size = axes[dim].found().size // 2
    first, second = split_off(axes[dim], [size, size], r.why)
    r.unify(first, second)
    axes[dim] = first
    r.out(axes)


def _embedding(r: Rule) -> None:
    weight = r.of(r["weight"])
    weight[0].freeze("it is a vocabulary")
    r.out([*r.of(r["indices"]), weight[1]])


def _index(r: Rule) -> None:
    """Entries that whole numbers pick."""
    axes, indices = r.of(r["self"]), r["indices"]
    used = [dim for dim, index in enumerate(indices) if index is not None]
    r.freeze([axes[dim] for dim in used], "its entries are looked up by their numbers")
    sides = max((r.of(indices[dim]) for dim in used), key=len)
    if used != list(range(used[0], used[0] + len(used))):
        r.freeze(axes)
        return
    for dim in used:
        r.freeze(r.of(indices[dim]))
    r.out([*axes[: used[0]], *sides, *axes[used[-1] + 1 :]])


def _index_select(r: Rule) -> None:
    axes, shape = list(r.of(r["self"])), r.outputs()[0]
    dim = r["dim"] % len(axes)
    axes[dim].freeze("its entries are looked up by their numbers")
    axes[dim] = fixed(shape[dim], r.why)
    r.out(axes)


def _repeat(r: Rule) -> None:
    axes, repeats = r.of(r.op.inputs[0]), r["repeats"]
    axes = [*(fixed(1, r.why) for _ in range(len(repeats) - len(axes))), *axes]
    r.out([product([fixed(n, r.why), axis]) if n > 1 else axis for n, axis in zip(repeats, axes, strict=True)])


def _nothing(r: Rule) -> None:
    """Questions and checks."""


_POOLS = {
    1: "avg_pool1d adaptive_avg_pool1d _adaptive_avg_pool1d max_pool1d upsample_linear1d upsample_nearest1d",
    2: """avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d
        upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        _upsample_nearest_exact2d reflection_pad2d replication_pad2d""",
    3: "avg_pool3d _adaptive_avg_pool3d max_pool3d_with_indices upsample_trilinear3d upsample_nearest3d",
}
RULES: dict[str, Callable[[Rule], None]] = {
    "convolution": _convolution,
    **dict.fromkeys(
        (
            *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
            *("batch_norm_with_update", "cudnn_batch_norm", "_batch_norm_no_update", "miopen_batch_norm"),
        ),
        _batch_norm,
    ),
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _matrix),
    "linear": _linear,
    **dict.fromkeys(("mv", "dot", "vdot"), _vector),
    "_weight_norm_interface": _weight_norm,
    "im2col": _unfold,
    "col2im": _fold,
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"), _grid),
    **dict.fromkeys(
        (
            *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"),
            *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
        ),
        _attention,
    ),
    **dict.fromkeys(("_native_multi_head_attention", "_transformer_encoder_layer_fwd"), _fused),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), views.view),
    **dict.fromkeys(("t", "transpose", "permute"), views.permute),
    "as_strided": _strided,
    "squeeze": views.squeeze,
    "unsqueeze": views.unsqueeze,
    "expand": views.expand,
    "slice": views.sliced,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), views.split),
    **dict.fromkeys(("select", "unbind"), views.select),
    "cat": views.cat,
    "stack": views.stack,
    **dict.fromkeys(("constant_pad_nd", "reflection_pad1d", "replication_pad1d"), views.pad),
    **dict.fromkeys(("roll", "flip", "cumsum", "cumprod", "sort"), _frozen_dims),
    **dict.fromkeys(
        (
            *("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm"),
            *("logsumexp", "argmax", "argmin", "max", "min", "any", "all", "prod"),
        ),
        _reduce,
    ),
    **dict.fromkeys(
        (
            *("clone", "alias", "detach", "_to_copy", "contiguous", "dropout", "native_dropout", "lift_fresh"),
            *("_softmax", "_log_softmax", "_safe_softmax", "alpha_dropout", "lift_fresh_copy", "rms_norm"),
        ),
        _same,
    ),
    **dict.fromkeys(
        (
            "copy",
            "masked_fill",
            "where",
            "add",
            "sub",
            "mul",
            "div",
            "addcmul",
            "lerp",
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "_prelu_kernel",
        ),
        _pointwise,
    ),
    **{name: _window(sides) for sides, names in _POOLS.items() for name in names.split()},
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "glu": _glu,
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "repeat": _repeat,
    **dict.fromkeys(("sym_size", "is_pinned", "_assert_async", "_assert_tensor_metadata"), _nothing),
}
