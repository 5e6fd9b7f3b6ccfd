"""One run of a network on tensors without numbers: every operator, every tensor, and where written-down sizes go."""

from __future__ import annotations

import contextlib
import copy
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from oneshot._lightning import FakeTensorMode, TorchDispatchMode, tree_leaves, tree_map
from oneshot.inputs import Inputs
from oneshot.supernets.base import restored_modes


@dataclass(frozen=True)
class Ref:
    """A tensor of a trace, by its number."""

    number: int


@dataclass
class TensorFacts:
    """What is known of a tensor.

    Args:
        shape: Its sizes.
        itemsize: Bytes of an entry.
        name: Of a parameter or buffer; "" of others.
        weights: Whether it follows from parameters and buffers alone.
        maker: The operator that made it, its number; -1 of what was there before.
    """

    shape: tuple[int, ...]
    itemsize: int
    name: str = ""
    weights: bool = False
    maker: int = -1


@dataclass
class Op:
    """An operator that ran.

    Args:
        path: Which one, such as ``("aten", "convolution", "default")``.
        args: Arguments, tensors as :class:`Ref`.
        kwargs: Likewise.
        outputs: Its tensors; those of in-place operators are arguments.
        module: Path of the module that it ran in.
    """

    path: tuple[str, str, str]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    module: str

    @property
    def func(self) -> Any:
        """The operator itself."""
        return operator.attrgetter(".".join(self.path))(torch.ops)

    @property
    def name(self) -> str:
        """Such as ``"convolution"``."""
        return self.path[1]

    @property
    def inputs(self) -> list[int]:
        """Numbers of all tensors among its arguments."""
        return [leaf.number for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref)]


@dataclass
class Call:
    """A module that ran.

    Args:
        path: Its path.
        inputs: Tensors it was given.
        outputs: Tensors it returned.
        first: Number of its first operator.
        last: Number of the operator behind its last.
        simple: Whether it was given one tensor and nothing else, and returned one.
        passes: Whether its first argument was a tensor, and it returned one.
    """

    path: str
    inputs: tuple[int, ...]
    first: int
    outputs: tuple[int, ...] = ()
    last: int = 0
    simple: bool = False
    passes: bool = False


@dataclass(frozen=True)
class Written:
    """A size that stands in an attribute of a module, or follows from some, and became a dimension of a tensor.

    Args:
        value: The whole number.
        tensor: Which tensor.
        dim: Which dimension of it.
        function: Of torch that was called.
        op: Number of the operator before which it was called.
    """

    value: TrackedInt
    tensor: int
    dim: int
    function: str
    op: int


@dataclass
class Trace:
    """What :func:`trace` has seen.

    Args:
        ops: Operators, in the order they ran.
        tensors: All tensors, by number.
        calls: Modules that ran.
        written: Sizes that stand in attributes.
        names: Numbers of parameters and buffers.
        inputs: Numbers of the inputs.
        outputs: Numbers of the outputs.
        changed: Attributes that ``forward`` changes, such as caches, with what they were before.
    """

    ops: list[Op] = field(default_factory=list)
    tensors: list[TensorFacts] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    changed: dict[tuple[str, str], Any] = field(default_factory=dict)


class TrackedInt(int):
    """A whole number that knows which attributes of modules and sizes of tensors it comes from.

    Attributes:
        attribute: Path of the module, name of the attribute, index in a tuple or None; only of plain attributes.
        side: Number of a tensor and the dimension whose size it is; only of plain sizes.
        formula: A function of other numbers, and these.
    """

    attribute: tuple[str, str, int | None] | None = None
    side: tuple[int, int] | None = None
    formula: tuple[Callable[..., int], tuple[Any, ...]] | None = None

    def __new__(cls, value: int, **origin: Any) -> TrackedInt:
        self = super().__new__(cls, value)
        for name, what in origin.items():
            setattr(self, name, what)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)

    def __deepcopy__(self, memo: object) -> TrackedInt:
        return self


def _tracked(name: str, function: Callable[..., int]) -> None:
    def method(*args: Any) -> Any:
        if not all(isinstance(arg, int) for arg in args):
            return getattr(int, name)(*(int(arg) if isinstance(arg, int) else arg for arg in args))
        value = getattr(int, name)(*map(int, args))
        return TrackedInt(value, formula=(function, args)) if isinstance(value, int) else value

    setattr(TrackedInt, name, method)


for _name, _function in {
    "__add__": operator.add,
    "__sub__": operator.sub,
    "__mul__": operator.mul,
    "__floordiv__": operator.floordiv,
    "__radd__": lambda a, b: b + a,
    "__rsub__": lambda a, b: b - a,
    "__rmul__": lambda a, b: b * a,
    "__rfloordiv__": lambda a, b: b // a,
}.items():
    _tracked(_name, _function)


@contextlib.contextmanager
def tracked_attributes(network: nn.Module) -> Iterator[None]:
    """Inside, whole numbers among the attributes of modules, alone or in lists, know where they come from."""
    before: list[tuple[nn.Module, str, Any]] = []

    def follow(value: Any, path: str, name: str) -> Any:
        if type(value) is int and value > 1:
            return TrackedInt(value, attribute=(path, name, None))
        if type(value) in (tuple, list) and value and all(type(v) is int for v in value):
            found = [TrackedInt(v, attribute=(path, name, i)) if v > 1 else v for i, v in enumerate(value)]
            return type(value)(found)
        return value

    try:
        for path, module in network.named_modules():
            for name, value in list(module.__dict__.items()):
                if name.startswith("_") or (new := follow(value, path, name)) is value:
                    continue
                before.append((module, name, value))
                module.__dict__[name] = new
        yield
    finally:
        for module, name, value in before:
            module.__dict__[name] = value


_OWN = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}


def _plain(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that are not PyTorch's own."""
    own = "_" if type(module).__module__.startswith("torch.nn.") else ("__",)  # recurrent layers keep references
    ends = ("_hooks", "_with_kwargs")
    return {n: v for n, v in module.__dict__.items() if not (n in _OWN or n.endswith(ends) or n.startswith(own))}


Attributes = dict[tuple[str, str], Any]
ABSENT = "absent"


@contextlib.contextmanager
def isolated(
    network: nn.Module, first: Mapping[tuple[str, str], Any] | None = None, *, known: bool = False
) -> Iterator[Attributes]:
    """Inside, modules may keep things in their attributes; afterwards these are what they were before.

    What a layer keeps for the next run belongs to a network of other sizes.

    Args:
        network: The network.
        first: What attributes are at first, by path of the module and name; :data:`ABSENT` of those that are not there.
        known: Whether ``first`` has all modules that change their attributes, so that no others are looked at.

    Yields:
        Attributes that are changed inside, with what they were before; filled afterwards.
    """
    changed: Attributes = {}
    if known and not first:
        yield changed
        return
    looked = {path for path, _ in first or ()} if known else None
    owners = ((path, m) for path, m in network.named_modules() if looked is None or path in looked)
    before = [(path, module, own, _copies(own)) for path, module in owners for own in [_plain(module)]]
    modules = {path: module for path, module, _, _ in before}
    try:
        for (path, name), value in (first or {}).items():
            if path in modules and (type(value) is not str or value != ABSENT):
                modules[path].__dict__[name] = copy.copy(value)
            elif path in modules:  # of blocks that are left out there is none
                modules[path].__dict__.pop(name, None)
        yield changed
    finally:
        for path, module, own, copies in before:
            for name in _plain(module).keys() - own.keys():
                changed[path, name] = ABSENT
                del module.__dict__[name]
            for name, value in own.items():
                refill = name in copies and _members(copies[name]) != _members(value)
                if refill or module.__dict__.get(name) is not value:
                    changed[path, name] = copies.get(name, value)
                    module.__dict__[name] = value
                if refill:
                    _refill(value, copies[name])


def _copies(own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.copy(value) for name, value in own.items() if type(value) in (dict, list, set)}


def _refill(container: Any, members: Any) -> None:
    if isinstance(container, list):
        container[:] = members
    else:
        container.clear()
        container.update(members)


def _members(container: Any) -> list[Any]:
    return [(id(k), id(v)) for k, v in container.items()] if isinstance(container, dict) else [*map(id, container)]


UNSEEN = ("prim", "profiler")  # namespaces of questions and records
SHAPED = {"view", "reshape", "expand", "unflatten", "new_zeros", "new_ones", "repeat", "view_copy", "broadcast_to"}
RESHAPED_IN_PLACE = {  # the tensor that they change has a new number from then on
    *("transpose_", "t_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_", "as_strided_", "resize_"),
}


class _Recorder(TorchDispatchMode):
    """Writes operators down, and keeps all tensors alive."""

    def __init__(self, trace: Trace, modules: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.trace, self.modules = trace, modules
        self.numbers: dict[int, int] = {}
        self.kept: list[Tensor] = []

    def number(self, tensor: Tensor, maker: int = -1, name: str = "", *, weights: bool = False) -> int:
        """Number of a tensor, a new one if it is new."""
        if id(tensor) not in self.numbers:
            self.numbers[id(tensor)] = len(self.trace.tensors)
            self.kept.append(tensor)
            facts = TensorFacts(tuple(tensor.shape), tensor.element_size(), name, weights or bool(name), maker)
            self.trace.tensors.append(facts)
        return self.numbers[id(tensor)]

    def refs(self, tree: Any) -> Any:
        # A tensor that is nobody's output is a constant of the code.
        return tree_map(lambda v: Ref(self.number(v, weights=True)) if isinstance(v, Tensor) else v, tree)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "namespace", "") in UNSEEN:
            return func(*args, **kwargs)
        inputs, named = self.refs(args), self.refs(kwargs)
        out = func(*args, **kwargs)
        place, tensors = len(self.trace.ops), self.trace.tensors
        path = tuple(str(func).split("."))
        if len(path) != 3:
            raise NotImplementedError(
                f"operator {func} cannot be looked into; take it out of the network to convert it"
            )
        op = Op(path, tuple(inputs), dict(named), (), self.modules[-1] if self.modules else "")
        of_weights = all(tensors[i].weights for i in op.inputs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if op.name in RESHAPED_IN_PLACE:
            for leaf in made:
                self.numbers.pop(id(leaf), None)
        op.outputs = tuple(self.number(leaf, place, weights=of_weights) for leaf in made)
        self.trace.ops.append(op)
        return out


class _Sizes(TorchFunctionMode):
    """Notes where tracked numbers become sizes of tensors."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = len(self.recorder.trace.ops)
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.shape.__get__ or func == torch.Tensor.size:  # type: ignore[attr-defined]
            return self._sides(args, kwargs, out)
        if name == "__getitem__" or any(isinstance(leaf, TrackedInt) for leaf in tree_leaves((args, kwargs))):
            self._note(name, args, kwargs, out, before)
        return out

    def _sides(self, args: Any, kwargs: Any, out: Any) -> Any:
        """Sizes of a tensor that know whose they are."""
        number = self.recorder.numbers.get(id(args[0]))
        if number is None:
            return out
        if isinstance(out, int):
            dim = args[1] if len(args) > 1 else kwargs["dim"]
            return TrackedInt(out, side=(number, dim % args[0].dim()))
        return torch.Size([TrackedInt(size, side=(number, dim)) for dim, size in enumerate(out)])

    def _note(self, name: str, args: Any, kwargs: Any, out: Any, before: int) -> None:
        def note(value: Any, tensor: Any, dim: int) -> None:
            if isinstance(value, TrackedInt) and isinstance(tensor, Tensor):
                number = self.recorder.number(tensor)
                self.recorder.trace.written.append(Written(value, number, dim % tensor.dim(), name, before))

        rest = args[1:]
        if name in SHAPED:
            skip = 1 if name == "unflatten" else 0
            start = int(rest[0]) % args[0].dim() if skip else 0
            sizes = rest[skip:] or kwargs.get("size", kwargs.get("shape", kwargs.get("sizes", ())))
            sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes
            offset = out.dim() - len(sizes) if name in ("expand", "repeat", "broadcast_to") else start
            for place, value in enumerate(sizes):
                note(value, out, offset + place)
        elif name in ("split", "split_with_sizes"):
            sizes = rest[0] if rest else kwargs.get("split_size", kwargs.get("split_size_or_sections"))
            dim = rest[1] if len(rest) > 1 else kwargs.get("dim", 0)
            listed = sizes if isinstance(sizes, Sequence) else [sizes] * len(out)
            for value, part in zip(listed, out, strict=False):
                if part.shape[dim] == value:
                    note(value, part, dim)
        elif name == "layer_norm":
            sizes = rest[0] if rest else kwargs["normalized_shape"]
            for place, value in enumerate(sizes):
                note(value, out, out.dim() - len(sizes) + place)
        elif name == "__getitem__":
            picks = rest[0] if isinstance(rest[0], tuple) else (rest[0],)
            if all(isinstance(pick, slice) for pick in picks):
                for dim, pick in enumerate(picks):
                    if pick.start in (None, 0) and pick.step in (None, 1) and pick.stop == out.shape[dim]:
                        note(pick.stop, out, dim)


@contextlib.contextmanager
def _calls(network: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Inside, calls of modules are written down.

    The modules themselves have no hooks, for with some, layers of attention run otherwise.
    """
    trace, open_calls = recorder.trace, list[Call]()
    paths = {id(module): path for path, module in network.named_modules()}

    def numbers(tree: Any) -> tuple[int, ...]:
        return tuple(recorder.number(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in paths:
            call = Call(paths[id(module)], numbers(args), len(trace.ops))
            call.passes = bool(args) and isinstance(args[0], Tensor)
            call.simple = call.passes and len(args) == 1
            trace.calls.append(call)
            open_calls.append(call)
            recorder.modules.append(call.path)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) in paths:
            recorder.modules.pop()
            call = open_calls.pop()
            call.inputs, call.outputs, call.last = (*call.inputs, *numbers(kwargs)), numbers(output), len(trace.ops)
            call.simple = call.simple and not kwargs and isinstance(output, Tensor)
            call.passes = call.passes and isinstance(output, Tensor)

    with contextlib.ExitStack() as stack:
        for handle in (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, with_kwargs=True)):
            stack.callback(handle.remove)
        yield


def called_with(network: nn.Module, tensors: dict[str, Tensor], x: Inputs) -> Any:
    """Call a network with other tensors in the places of its parameters and buffers.

    Shared tensors are given once, by their first name. A module that is there under several paths gets them once: torch
    would put the first ones back last, and leave the others in the network.

    Args:
        network: It stays as it is.
        tensors: By name; those that ``forward`` puts in their places are there afterwards.
        x: Inputs.
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    given = {id(tensor): tensors[name] for name, tensor in named if name in tensors}
    places = {
        f"{path}.{name}" if path else name: given[id(tensor)]
        for path, module in network.named_modules()
        for named_here in (module.named_parameters, module.named_buffers)
        for name, tensor in named_here(recurse=False, remove_duplicate=False)
        if id(tensor) in given
    }
    out = functional_call(network, places, (x,), tie_weights=False)
    tensors.update({name: places[name] for name in tensors if name in places})
    return out


class TraceError(Exception):
    """A network that does not run on tensors without numbers.

    Attributes:
        trace: What there was until then.
        module: Path of the module it happened in.
        cause: What was raised.
    """

    def __init__(self, trace: Trace, module: str, cause: Exception) -> None:
        super().__init__(str(cause))
        self.trace, self.module, self.cause = trace, module, cause


def trace(
    network: nn.Module,
    inputs: Inputs,
    state: Mapping[str, Tensor] | None = None,
    *,
    attributes: bool = True,
    training: bool = False,
    numbers: bool = False,
) -> Trace:
    """Run a network once, without numbers.

    Args:
        network: It stays as it is.
        inputs: One batch; their shapes and types count, not their numbers.
        state: Parameters and buffers in place of the network's own, of other shapes.
        attributes: Whether written-down sizes are followed.
        training: Whether it runs in training mode.
        numbers: Whether it runs with numbers nevertheless, as it does alone, and all tensors stay alive until the end.

    Raises:
        TraceError: If it does not run.
    """
    found, modules = Trace(), list[str]()
    recorder = _Recorder(found, modules)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    known = dict(network.named_parameters()) | dict(network.named_buffers())
    state = {**known, **(state or {})}
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored_modes(network))
        network.train().eval()  # lets networks that keep caches in eval mode forget them
        found.changed = stack.enter_context(isolated(network))
        if not numbers:
            stack.enter_context(_plain_attention())
        if attributes:
            stack.enter_context(tracked_attributes(network))
        stack.enter_context(_calls(network.train(training), recorder))
        if not numbers:
            stack.enter_context(fake)
        stack.enter_context(torch.no_grad())
        taken: Callable[[Tensor], Tensor] = Tensor.detach if numbers else lambda t: fake.from_tensor(t.detach())
        tensors: dict[str, Tensor] = {name: taken(tensor) for name, tensor in state.items() if name in known}
        x = tree_map(lambda v: taken(v) if isinstance(v, Tensor) else v, inputs)
        found.names = {name: recorder.number(t, name=name) for name, t in tensors.items()}
        found.inputs = [recorder.number(leaf) for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
        stack.enter_context(recorder)
        if attributes:
            stack.enter_context(_Sizes(recorder))
        stack.enter_context(_quiet())
        try:
            out = called_with(network, tensors, x)
        except Exception as error:
            raise TraceError(found, modules[-1] if modules else "", error) from error
        found.outputs = [recorder.number(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch does not log what fails without numbers: it is raised, too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Inside, layers of attention run operator by operator, as they do in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
