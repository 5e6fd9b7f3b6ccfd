"""Zero-cost proxies a second time: in float64, from the papers, by loops, without hooks, modes or modules of ours.

The network is fixed: two convolutions with batch normalisation and ReLU, mean over positions, linear layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
EPS = 1e-5


def normalised(x: Tensor) -> Tensor:
    """Batch normalisation without scale: ``[B, C, H, W]``."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPS)


def run(w: Weights, x: Tensor, *, bn: bool = True) -> dict[str, Tensor]:
    """Everything that the network computes, by name."""
    norm: Callable[[Tensor], Tensor] = normalised if bn else lambda t: t
    seen = {"conv1": F.conv2d(x, w["conv1"], padding=1)}
    seen["bn1"] = norm(seen["conv1"])
    seen["relu1"] = seen["bn1"].clamp(min=0)
    seen["conv2"] = F.conv2d(seen["relu1"], w["conv2"], padding=1, stride=2)
    seen["bn2"] = norm(seen["conv2"])
    seen["relu2"] = seen["bn2"].clamp(min=0)
    seen["out"] = seen["relu2"].mean(dim=(2, 3)) @ w["linear"].T + w["bias"]
    return seen


def loss_of(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy, written out."""
    out = run(w, x)["out"]
    return torch.stack([torch.logsumexp(row, 0) - row[label] for row, label in zip(out, y)]).mean()


def numeric_gradient(f: Callable[[], float], x: Tensor, h: float = 1e-6) -> Tensor:
    """Central differences with respect to every entry."""
    g = torch.zeros_like(x)
    for index in itertools.product(*map(range, x.shape)):
        before = x[index].item()
        x[index] = before + h
        up = f()
        x[index] = before - h
        down = f()
        x[index] = before
        g[index] = (up - down) / (2 * h)
    return g


def weight_gradients(w: Weights, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Gradients of the three weights, by differences."""
    return {n: numeric_gradient(lambda: float(loss_of(w, x, y)), w[n]) for n in ("conv1", "conv2", "linear")}


def grasp(w: Weights, x: Tensor, y: Tensor) -> float:
    """``-w^T H g`` from the whole Hessian."""
    names = ("conv1", "conv2", "linear")
    flat = torch.cat([w[n].flatten() for n in names])

    def f(v: Tensor) -> Tensor:
        parts = torch.split(v, [w[n].numel() for n in names])
        return loss_of({**w, **{n: p.view_as(w[n]) for n, p in zip(names, parts)}}, x, y)

    g = torch.autograd.functional.jacobian(f, flat)
    hessian = torch.autograd.functional.hessian(f, flat)
    return float(-(flat @ (hessian @ g)))


def fisher(w: Weights, x: Tensor, y: Tensor) -> float:
    """By channel and image, with gradients of activations by adding something to them."""
    seen = run(w, x)
    extra = {n: torch.zeros_like(seen[n]).requires_grad_(True) for n in ("conv1", "conv2", "out")}
    a = normalised(F.conv2d(x, w["conv1"], padding=1) + extra["conv1"]).clamp(min=0)
    a = normalised(F.conv2d(a, w["conv2"], padding=1, stride=2) + extra["conv2"]).clamp(min=0)
    out = a.mean(dim=(2, 3)) @ w["linear"].T + w["bias"] + extra["out"]
    loss = torch.stack([torch.logsumexp(row, 0) - row[label] for row, label in zip(out, y)]).mean()
    loss.backward()
    total = 0.0
    for name, part in extra.items():
        g, act = part.grad, seen[name]
        assert g is not None
        for channel in range(act.shape[1]):
            squares = [float((act[n, channel] * g[n, channel]).sum()) ** 2 for n in range(len(act))]
            total += 0.5 * sum(squares) / len(squares)
    return total


def path_sum(w: Weights, shape: tuple[int, ...]) -> float:
    """The sum over all paths of products of absolute weights, times the three layers every path goes through.

    By Euler's theorem ``sum w dR/dw`` over one layer is R, for R is linear in the weights of each layer.
    """
    positive = {n: v.abs() for n, v in w.items()} | {"bias": torch.zeros_like(w["bias"])}
    return 3 * float(run(positive, torch.ones(1, *shape, dtype=torch.float64), bn=False)["out"].sum())


def codes(w: Weights, x: Tensor) -> np.ndarray[Any, Any]:
    """Open ReLUs, ``[B, U]``."""
    seen = run(w, x)
    return np.concatenate([(seen[n] > 0).flatten(1).numpy() for n in ("bn1", "bn2")], axis=1)


def naswot(c: np.ndarray[Any, Any]) -> float:
    """Log determinant of U minus Hamming distances."""
    kernel = [[float(sum(int(p == q) for p, q in zip(a, b))) for b in c] for a in c]
    return math.log(abs(np.linalg.det(np.array(kernel))))


def jacov(w: Weights, x: Tensor) -> float:
    """Of numpy's correlations and general eigenvalues."""
    jacobian = torch.autograd.functional.jacobian(lambda t: run(w, t)["out"].sum(), x).flatten(1).numpy()
    v = np.real(np.linalg.eigvals(np.corrcoef(jacobian)))
    return float(-np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5)))


def zico(parts: list[dict[str, Tensor]]) -> float:
    """From the gradients of several batches."""
    total = 0.0
    for name in parts[0]:
        terms = []
        for values in zip(*(part[name].flatten().tolist() for part in parts)):
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
            if deviation > 1e-9:  # differences have an error of this size
                terms.append(sum(abs(v) for v in values) / len(values) / deviation)
        total += math.log(sum(terms))
    return total


def zen(w: Weights, x: Tensor, e: Tensor, gamma: float) -> float:
    """Of given weights and inputs."""
    plain, moved = run(w, x), run(w, x + gamma * e)
    delta = sum(float((a - b).abs().sum()) for a, b in zip(plain["relu2"], moved["relu2"])) / len(x)
    scale = 0.0
    for name in ("conv1", "conv2"):
        variances = [float(plain[name][:, c].numpy().var()) for c in range(plain[name].shape[1])]
        scale += math.log(math.sqrt(sum(variances) / len(variances)))
    return math.log(delta) + scale


def meco(maps: list[Tensor]) -> float:
    """Sum of least eigenvalues over maps ``[C, H, W]``."""
    total = 0.0
    for features in maps:
        with np.errstate(all="ignore"):
            correlation = np.nan_to_num(np.corrcoef(features.flatten(1).numpy()), nan=0.0, posinf=0.0, neginf=0.0)
        total += float(np.min(np.real(np.linalg.eigvals(correlation))))
    return total


def entropy(features: Tensor) -> float:
    """Of the principal components of ``[B, C, H, W]``, through singular values of the centred data."""
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).numpy()
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    p = values / values.sum()
    return float(-(p * np.log(p + 1e-8)).sum())


def trainability(signs: Tensor, back: Tensor) -> float:
    """Mean outer product of output signs and input gradients, pixel by pixel; the largest singular value of it."""
    batch, _, height, width = signs.shape
    stride = back.shape[2] // height
    total: Any = 0
    for b, i, j in itertools.product(range(batch), range(height), range(width)):
        block = back[b, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].flatten().numpy()
        total = total + np.outer(block, signs[b, :, i, j].numpy())
    s = math.sqrt(float(np.max(np.linalg.eigvalsh(total.T @ total)))) / (batch * height * width)
    return 2 - s - 1 / (s + 1e-6)
