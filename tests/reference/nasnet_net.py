"""A textbook NASNet network: every step written out with functions, on the weights of ours, read by their names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
CellText = tuple[list[tuple[str, int, str, int, str]], list[int]]  # (op, state, op, state, combine) per block; output


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    mean, var = w[f"{name}.running_mean"].view(1, -1, 1, 1), w[f"{name}.running_var"].view(1, -1, 1, 1)
    scale, shift = w[f"{name}.weight"].view(1, -1, 1, 1), w[f"{name}.bias"].view(1, -1, 1, 1)
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def conv(x: Tensor, w: Weights, name: str, stride: tuple[int, int] = (1, 1), dilation: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    groups = x.shape[1] if kernel.shape[1] == 1 and x.shape[1] > 1 else 1
    padding = [dilation * (side - 1) // 2 for side in kernel.shape[2:]]
    return F.conv2d(x, kernel, None, stride, padding, dilation, groups)


def relu_conv_norm(x: Tensor, w: Weights, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    return norm(conv(x.relu(), w, f"{name}.1", (stride, stride), dilation), w, f"{name}.2")


def factorised(x: Tensor, w: Weights, name: str) -> Tensor:
    x = F.pad(x.relu(), (0, 2, 0, 2))  # zeros behind the image, for the shifted half of odd sizes
    size = [(side - 1) // 2 for side in x.shape[2:]]
    halves = [conv(x[:, :, s::2, s::2][:, :, : size[0], : size[1]], w, f"{name}.conv_{i}") for i, s in ((1, 0), (2, 1))]
    return norm(torch.cat(halves, 1), w, f"{name}.bn")


def operation(op: str, x: Tensor, w: Weights, name: str, stride: int) -> Tensor:
    if op == "skip_connect":
        return x if stride == 1 else factorised(x, w, name)
    if "pool" in op:
        k = int(op[-1])
        ones = F.pad(torch.ones_like(x), [k // 2] * 4)
        if op.startswith("max"):
            return F.max_pool2d(F.pad(x, [k // 2] * 4, value=float("-inf")), k, stride)
        return F.avg_pool2d(F.pad(x, [k // 2] * 4), k, stride) / F.avg_pool2d(ones, k, stride)
    if op.startswith("sep"):
        for first, step in ((0, stride), (4, 1)):
            x = conv(x.relu(), w, f"{name}.{first + 1}", (step, step))
            x = norm(conv(x, w, f"{name}.{first + 2}"), w, f"{name}.{first + 3}")
        return x
    if op.startswith("conv_"):
        x = conv(x.relu(), w, f"{name}.1", (1, stride))
        return norm(conv(x, w, f"{name}.2", (stride, 1)), w, f"{name}.3")
    return relu_conv_norm(x, w, name, stride, 2 if op == "nor_dil_conv_3x3" else 1)


def cell(s0: Tensor, s1: Tensor, text: CellText, w: Weights, name: str, reduction: bool) -> Tensor:
    blocks, output = text
    same = s0.shape[2:] == s1.shape[2:]
    before = relu_conv_norm(s0, w, f"{name}.preprocess0") if same else factorised(s0, w, f"{name}.preprocess0")
    states = [before, relu_conv_norm(s1, w, f"{name}.preprocess1")]
    for b, (op_a, a, op_b, b_, combine) in enumerate(blocks):
        left = operation(op_a, states[a], w, f"{name}.ops.{2 * b}", 2 if reduction and a < 2 else 1)
        right = operation(op_b, states[b_], w, f"{name}.ops.{2 * b + 1}", 2 if reduction and b_ < 2 else 1)
        if combine == "add":
            states.append(left + right)
        else:
            states.append(relu_conv_norm(torch.cat([left, right], 1), w, f"{name}.joins.{b + 2}"))
    shrunk = [factorised(states[s], w, f"{name}.shrinks.{s}") if reduction and s < 2 else states[s] for s in output]
    return torch.cat(shrunk, 1)


def nasnet(x: Tensor, normal: CellText, reduce: CellText, n: int, w: Weights) -> Tensor:
    """Logits with the CIFAR stem and ``n`` normal cells a stage."""
    x = norm(conv(x, w, "stem.0"), w, "stem.1")
    s0, s1 = x, x
    for index in range(3 * n + 2):
        reduction = index in (n, 2 * n + 1)
        s0, s1 = s1, cell(s0, s1, reduce if reduction else normal, w, f"cells.{index}", reduction)
    return s1.relu().mean((2, 3)) @ w["classifier.weight"].T + w["classifier.bias"]
