"""Exact size of a network: parameters, multiply-accumulates, and the memory of one forward pass."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from oneshot._lightning import (
    MKLDNN,
    HigherOrderOperator,
    TorchDispatchMode,
    coo_parts,
    is_composite,
    packet_of,
    run_in_parts,
    storage_key,
    tree_leaves,
)
from oneshot.inputs import Inputs, tensors
from oneshot.supernets.base import restored_modes, vocabulary_of
from oneshot.supernets.recurrent import LanguageModel

from .operators import macs_of

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

Shape = tuple[int, ...]
Shapes = Shape | Sequence[Shape] | Mapping[str, Shape]


@dataclass(frozen=True)
class Counts:
    """Size of a network.

    Args:
        params: Number of scalars in all parameters, those of an auxiliary head included.
        macs: Multiply-accumulates of one forward pass of one image.
        memory: Peak activation memory of that forward pass, bytes.
        uncounted: Operators that ran and have no formula. If there are any, ``macs`` is a lower bound.
    """

    params: int
    macs: int
    memory: int
    uncounted: tuple[str, ...] = field(default=(), repr=False)


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


def count(network: nn.Module, input_shape: Shapes, *, dtype: torch.dtype | None = None) -> Counts:
    """Count the parameters of ``network``, and what ``network(x)`` computes and keeps for one input.

    MACs are what papers of this field call FLOPs: the multiplications of convolutions, matrix products, attention and
    recurrent layers, as they run. Biases, normalisation, activations, softmax, pooling, interpolation, look-ups in
    tables, sums and elementwise products count nothing, an outer product among the latter; neither does what
    ``forward`` does not run (an auxiliary head). One of complex numbers counts as one. What is masked counts.

    Nothing is left out without a word: an operator that multiplies, or may do so, and has no formula (a Fourier
    transform, an operator of your own) gives a warning with its name, and ``macs`` is a lower bound then. The way to
    count it is ``torch.utils.flop_counter.register_flop_formula``.

    Memory is what eager PyTorch keeps alive at the worst moment, in eval mode and without gradients: the storages of
    all tensors, the image included and parameters and buffers excluded, as Python's references and the order of the
    operations have it. It is in bytes of the network's own precision, 4 for each number of a ``float32`` network. Max
    pooling makes its indices also without gradients, 8 bytes each. What a kernel needs for itself does not count.

    The network runs once, in eval mode, where it is; its training flags are restored. It may have any precision, lie on
    the device ``meta``, and be counted inside ``torch.inference_mode()`` or ``torch.autocast``.

    Args:
        network: Takes ``[B, C, H, W]``, or what else ``input_shape`` says; a
            :class:`~oneshot.supernets.recurrent.LanguageModel` takes ``[B, T]``.
        input_shape: Shape of one input, C, H, W; of a language model T; of a sequence L, E. Several shapes are those of
            several inputs, and a mapping of shapes those of one mapping of inputs (``vocabularies`` of the network says
            which of them are whole numbers). A layer of ``torch.nn`` that takes several gets the same one as often, so
            ``nn.MultiheadAttention`` attends to its own input. If the network, or the first layer of an
            ``nn.Sequential``, is one of ``torch.nn`` with ``batch_first=False``, the batch of 1 is put in the middle.
        dtype: Type of the inputs; by default that of the first parameter with digits, and ``int64`` if the network
            begins with an embedding, or has one and reads texts ``[T]``.

    Raises:
        ValueError: If there are lazy parameters without a shape.

    Example:
        >>> count(nn.Conv2d(3, 16, 3, padding=1, bias=False), (3, 32, 32))
        Counts(params=432, macs=442368, memory=77824)
    """
    return trace(network, input_shape, dtype=dtype)[0]


def trace(
    network: nn.Module,
    input_shape: Shapes,
    modules: Iterable[nn.Module] = (),
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Counts, dict[nn.Module, Visit], int]:
    """Run once as :func:`count` does, and measure some modules.

    Args:
        network: See :func:`count`.
        input_shape: See :func:`count`.
        modules: Modules of the network that run once each.
        dtype: See :func:`count`.

    Returns:
        Counts of the network, visits of the modules, and the most bytes held outside of them.

    Raises:
        ValueError: See :func:`count`.
    """
    inputs = one_input(network, input_shape, dtype)
    visits: dict[nn.Module, Visit] = {}
    meter = Meter([*network.parameters(), *network.buffers()])
    for x in inputs:
        for tensor in tensors(x):
            meter.keep(tensor)
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
        with restored_modes(network), torch.no_grad(), meter:
            network.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    params = sum(p.numel() for p in network.parameters())
    return Counts(params, meter.macs, max(peak, meter.peak), tuple(sorted(meter.uncounted))), visits, meter.peak


def one_input(network: nn.Module, input_shape: Shapes, dtype: torch.dtype | None = None) -> Sequence[Inputs]:
    """Zeros of one input, with a batch dimension where the network has it."""
    for name, parameter in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(parameter):
            raise ValueError(
                f"A network must know its shapes before it is counted; {name} of this {type(network).__name__} is "
                "lazy. Run the network once on an input first."
            )
    first = network
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    digits = [p for p in network.parameters() if p.is_floating_point() or p.is_complex()]
    like = next(iter(digits or network.parameters()), torch.empty(0))
    if isinstance(input_shape, Mapping):
        numbers, words_of = dtype or (like.dtype if digits else torch.get_default_dtype()), _vocabularies(network)
        return [
            {
                name: torch.zeros(1, *shape, device=like.device, dtype=torch.int64 if name in words_of else numbers)
                for name, shape in input_shape.items()
            }
        ]
    if dtype is None:
        words = isinstance(first, nn.Embedding | nn.EmbeddingBag | LanguageModel)
        words |= vocabulary_of(network, input_shape) is not None
        dtype = torch.int64 if words else like.dtype if digits else torch.get_default_dtype()
    given: Sequence[Any] = input_shape
    shapes: list[Shape] = list(given) if any(isinstance(size, Sequence) for size in given) else [tuple(given)]
    batch = 0 if _batch_first(first) else 1
    zeros = [torch.zeros(*shape[:batch], 1, *shape[batch:], device=like.device, dtype=dtype) for shape in shapes]
    if len(shapes) == 1 and type(network).__module__.startswith("torch.nn."):
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        arguments = inspect.signature(network.forward).parameters.values()
        zeros *= max(1, sum(a.default is a.empty and a.kind in kinds for a in arguments))  # fused if it is one tensor
    return zeros


def _vocabularies(network: nn.Module) -> Mapping[str, int]:
    """Inputs that are whole numbers, of a network that takes several by name."""
    found: Mapping[str, int] = getattr(network, "vocabularies", {})
    return found


def _batch_first(layer: nn.Module) -> bool:
    """Whether a layer of sequences has the batch in front of their lengths."""
    if isinstance(layer, nn.TransformerEncoder | nn.TransformerDecoder):
        layer = layer.layers[0]
    if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        layer = layer.self_attn
    sequences = isinstance(layer, nn.RNNBase | nn.MultiheadAttention | nn.Transformer)
    return bool(layer.batch_first) if sequences else True


class MacCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of what runs inside, in forward and backward passes alike.

    What ``torch.compile`` made runs without being compiled, so that its operators can be seen. At its end it warns of
    operators without a formula, if any ran; see :func:`count`.

    Attributes:
        macs: Multiply-accumulates so far.
        uncounted: Calls of operators without a formula, by name.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.macs = 0
        self.uncounted: Counter[str] = Counter()
        self._depth = 0  # taking operators apart enters once more
        self._eager = contextlib.ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and importing the compiler would take seconds

    def __enter__(self) -> Self:
        if self._depth == 0 and "torch._dynamo" in sys.modules:  # nothing is compiled without it
            self._eager.enter_context(torch.compiler.set_stance("force_eager"))
        self._depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]  # torch
        return self

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc, traceback)  # type: ignore[no-untyped-call]  # torch
        self._depth -= 1
        if self._depth == 0:
            self._eager.close()
        if self._depth == 0 and exc_type is None and self.uncounted:
            names = ", ".join(f"{name} ({calls}x)" for name, calls in sorted(self.uncounted.items()))
            warnings.warn(
                f"These MACs are a lower bound: no formula says what {names} multiplies. Register one, two FLOPs for a "
                "multiply-accumulate, by torch.utils.flop_counter.register_flop_formula.",
                stacklevel=_frames_of_ours(),
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plain = not isinstance(func, HigherOrderOperator)
        if plain and _composite(func) and not _nested(args):
            with self:
                return run_in_parts(func, args, kwargs)
        out = func(*args, **kwargs)
        macs = macs_of(func, args, kwargs, out)
        if macs is None:
            self.uncounted[f"{func.namespace}::{func.__name__ if not plain else packet_of(func).__name__}"] += 1
        else:
            self.macs += macs
        return out


_composite = functools.cache(is_composite)


def _nested(args: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_nested for leaf in tree_leaves(args))


def _frames_of_ours() -> int:
    """The stack level for ``warnings.warn`` at which code outside of ``oneshot.cost`` called."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("oneshot.cost"):
        frame, level = frame.f_back, level + 1
    return level


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
        self._known = {storage_key(part.untyped_storage()) for t in known for part in _strided_parts(t)}
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bound = 0  # as many bytes as there may be; looking what is still alive takes time

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor that was there before."""
        for part in _strided_parts(tensor):
            self._keep(part.untyped_storage())

    def _keep(self, storage: torch.UntypedStorage) -> None:
        key = storage_key(storage)
        held = self._held.get(key)
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


def _strided_parts(tensor: Tensor) -> list[Tensor]:
    """What a sparse tensor consists of; of any other, the tensor."""
    if tensor.layout is torch.sparse_coo:
        return coo_parts(tensor)
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [] if tensor.layout is MKLDNN else [tensor]
