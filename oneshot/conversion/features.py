"""Attributes that tell others how many features a network has, such as ``num_features``; it does not read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from .axes import Axis
from .draft import Draft
from .trace import Trace, TraceError, trace

NAMES = (
    *("num_features", "head_hidden_size", "in_features", "out_features", "embed_dim", "hidden_dim", "hidden_size"),
    *("feature_dim", "features_dim", "num_ftrs", "out_channels", "d_model", "dim", "dims", "width", "out_dim"),
)


def bind_features(draft: Draft) -> None:
    """Let attributes of the network, and of what its last layer is in, follow the sizes that they tell.

    Of an attribute such as ``num_features`` it is the last size of this value among the outputs of layers. Attributes
    that ``forward`` reads are left alone: a factor that was trained with the original size stays as it is.
    """
    bound = {(path, name) for (path, name, _), _ in draft.written}
    found = []
    for path, module in _outer(draft):
        for name in NAMES:
            value = module.__dict__.get(name)
            if type(value) is not int or value < 2 or (path, name) in bound:
                continue
            axis = _last_of_size(draft, value)
            if axis is not None:
                found.append((path, name, axis))
    if not _unread(draft, found):
        found = [one for one in found if _unread(draft, [one])]
    told = {(path, name) for path, name, _ in found} | bound
    for path, module in _outer(draft):
        left = [n for n in NAMES if (path, n) not in told and type(module.__dict__.get(n)) is int]
        draft.kept += [(f"{path}.{name}".lstrip("."), module.__dict__[name]) for name in left]
    draft.written += [((path, name, None), axis) for path, name, axis in found]


def _outer(draft: Draft) -> Iterator[tuple[str, nn.Module]]:
    """The network itself, and the modules that its last layer is in."""
    last = max(draft.tied.factors, default=-1)
    path = draft.trace.ops[last].module if last >= 0 else ""
    parts = path.split(".")
    for count in range(len(parts)):
        outer = ".".join(parts[:count])
        yield outer, draft.network.get_submodule(outer)


def _last_of_size(draft: Draft, size: int) -> Axis | None:
    for call in reversed(draft.trace.calls):
        for number in call.outputs:
            axes = draft.tied.axes.get(number, [])
            for axis in (*axes[-1:], *axes[1:2]):
                if axis.found().size == size:
                    return axis.found()
    return None


def _unread(draft: Draft, attributes: Sequence[tuple[str, str, Axis]]) -> bool:
    """Whether the network runs the same operators when these attributes are others."""
    if not attributes:
        return True
    modules = [(draft.network.get_submodule(path), name) for path, name, _ in attributes]
    try:
        for module, name in modules:
            module.__dict__[name] += 1
        return _ran(trace(draft.network, draft.inputs, attributes=False)) == _ran(draft.trace)
    except TraceError:
        return False
    finally:
        for module, name in modules:
            module.__dict__[name] -= 1


def _ran(run: Trace) -> list[tuple[object, ...]]:
    return [(op.path, repr(op.args), repr(op.kwargs)) for op in run.ops]
