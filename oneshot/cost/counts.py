"""Exact size of a network: parameters, multiply-accumulates, and the memory of one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from oneshot.supernets.recurrent import LanguageModel


@dataclass(frozen=True)
class Counts:
    """Size of a network.

    Args:
        params: Number of scalars in all parameters, those of an auxiliary head included.
        macs: Multiply-accumulates of one forward pass of one image.
        memory: Peak activation memory of that forward pass, bytes.
    """

    params: int
    macs: int
    memory: int


@dataclass(frozen=True)
class Visit:
    """What one module did in a forward pass.

    Args:
        macs: Its multiply-accumulates.
        start: Bytes that tensors hold when it begins, its input among them.
        peak: Most bytes they hold until it ends, without what traced modules inside of it need.
        end: Bytes they hold when it has ended, its output among them.
    """

    macs: int
    start: int
    peak: int
    end: int


def count(network: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Count the parameters of ``network``, and what ``network(x)`` computes and keeps for one image.

    MACs are what papers of this field call FLOPs: the multiplications of convolutions and matrix products, as they run.
    Biases, batch normalisation, activations, pooling and additions count nothing, and neither does what ``forward``
    does not run (an auxiliary head).

    Memory is what eager PyTorch keeps alive at the worst moment, in eval mode and without gradients: the storages of
    all tensors, the image included and parameters and buffers excluded, as Python's references and the order of the
    operations have it. It is in bytes of the network's own precision, 4 for each number of a ``float32`` network. Max
    pooling makes its indices also without gradients, 8 bytes each. What a kernel needs for itself does not count.

    The network runs once, in eval mode, where it is; its training flags are restored.

    Args:
        network: Takes ``[B, C, H, W]``; a :class:`~oneshot.supernets.recurrent.LanguageModel` takes ``[B, T]``.
        input_shape: Shape of one input, C, H, W; of a language model T.

    Example:
        >>> count(nn.Conv2d(3, 16, 3, padding=1, bias=False), (3, 32, 32))
        Counts(params=432, macs=442368, memory=77824)
    """
    return trace(network, input_shape)[0]


def trace(
    network: nn.Module, input_shape: tuple[int, ...], modules: Iterable[nn.Module] = ()
) -> tuple[Counts, dict[nn.Module, Visit], int]:
    """Run once as :func:`count` does, and look at some modules.

    Args:
        network: See :func:`count`.
        input_shape: See :func:`count`.
        modules: Modules of the network that run once each.

    Returns:
        Counts of the network, visits of the modules, and the most bytes held outside of them.
    """
    like = next(network.parameters(), torch.empty(0))
    dtype = torch.int64 if isinstance(network, LanguageModel) else like.dtype
    x = torch.zeros(1, *input_shape, device=like.device, dtype=dtype)
    visits: dict[nn.Module, Visit] = {}
    meter = Meter([*network.parameters(), *network.buffers()])
    meter.keep(x)
    peak = meter.peak
    opened: list[tuple[int, int, int]] = []

    def enter(module: nn.Module, args: object) -> None:
        live = meter.live()
        opened.append((meter.macs, live, meter.peak))
        meter.peak = live

    def leave(module: nn.Module, args: object, output: object) -> None:
        nonlocal peak
        macs, start, outer = opened.pop()
        visits[module] = Visit(meter.macs - macs, start, meter.peak, meter.live())
        peak, meter.peak = max(peak, meter.peak), outer

    hooks = [hook for m in modules for hook in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with _eval_mode(network), torch.no_grad(), meter:
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    params = sum(p.numel() for p in network.parameters())
    return Counts(params, meter.macs, max(peak, meter.peak)), visits, meter.peak


class MacCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of what runs inside, in forward and backward passes alike.

    Attributes:
        macs: Multiply-accumulates so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and importing the compiler would take seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (flops := flop_registry.get(func._overloadpacket)) is not None:
            self.macs += flops(*args, **(kwargs or {}), out_val=out) // 2
        return out


class Meter(MacCounter):
    """Counts multiply-accumulates, and the bytes that the tensors inside hold.

    Storages that tensors share count once, and as long as one of them is alive.

    Args:
        known: Tensors whose storages do not count, such as parameters.

    Attributes:
        peak: Most bytes so far.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in known}
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bound = 0  # as many bytes as there may be; looking what is still alive takes time

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor that was there before."""
        storage = tensor.untyped_storage()
        key, held = storage._cdata, self._held.get(storage._cdata)
        if key in self._known or (held is not None and not held[0].expired()):  # type: ignore[no-untyped-call]  # torch
            return
        self._held[key] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]  # torch
        self._bound += storage.nbytes()
        if self._bound > self.peak:
            self._bound = self.live()
            self.peak = max(self.peak, self._bound)

    def live(self) -> int:
        """Bytes now."""
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}  # type: ignore[no-untyped-call]  # torch
        return sum(size for _, size in self._held.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.keep(leaf)
        return out


@contextlib.contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
