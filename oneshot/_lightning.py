"""All that we use of PyTorch, Lightning, torchmetrics and jsonargparse although its name there is private.

Private names may change in any release. Every folder takes them from here, except ``supernets``, which imports nothing
of ours. ``tests/test_lightning.py`` says which one is gone in which version. Slow imports are
inside functions.
"""

from __future__ import annotations

import contextlib
import warnings
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelSummary, RichProgressBar
    from pytorch_lightning.strategies import DDPStrategy
    from rich.progress import TaskID
    from torchmetrics import Metric

__all__ = [
    "BatchNorm",
    "ConvNd",
    "FakeTensorMode",
    "HigherOrderOperator",
    "NormBase",
    "OpOverload",
    "TorchDispatchMode",
    "tree_leaves",
    "tree_map",
]

MKLDNN: torch.layout = torch._mkldnn  # type: ignore[attr-defined]  # a layout that is opaque to PyTorch as well


# Torchmetrics


def is_sum(metric: Metric) -> bool:
    """Whether all that a metric keeps are tensors that add up over batches and processes."""
    from torchmetrics.utilities import dim_zero_sum

    states = metric.metric_state
    return all(metric._reductions[name] is dim_zero_sum and isinstance(states[name], Tensor) for name in states)


# Lightning


def restore_loaders(trainer: pl.Trainer) -> None:
    """Put the loaders where the checkpoint says they were."""
    trainer.fit_loop._load_combined_loader_states()


def is_tuned(trainer: pl.Trainer) -> bool:
    """Whether the checkpoint that is read is of a tuner, which puts back what there was before it; by its name."""
    return Path(str(trainer.ckpt_path or "")).name.startswith((".scale_batch_size_", ".lr_find_"))


def may_stop_early(trainer: pl.Trainer) -> bool:
    """Whether ``min_epochs`` and ``min_steps`` are reached, so that ``should_stop`` ends the fit."""
    return trainer.fit_loop._can_stop_early


def validation_source(trainer: pl.Trainer) -> Any:
    """Where a fit gets its validation loaders from; has ``is_defined()`` and ``dataloader()``."""
    return trainer.fit_loop.epoch_loop.val_loop._data_source


def is_about_to_log(trainer: pl.Trainer) -> bool:
    """Whether the metrics of this step go to the loggers."""
    return trainer._logger_connector.should_update_logs


def metrics_to_log(trainer: pl.Trainer) -> dict[str, Any]:
    """What goes to the loggers next."""
    return dict(trainer._logger_connector.metrics["log"])


def step_to_log(trainer: pl.Trainer) -> int:
    """The step that the next metrics are logged at."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def ddp_arguments(strategy: DDPStrategy) -> dict[str, Any]:
    """Arguments with which the strategy will wrap the module; may be changed in ``setup``."""
    return strategy._ddp_kwargs


def summary_table(*args: Any) -> str:
    """Lightning's table of layers, as text."""
    from pytorch_lightning.utilities.model_summary.model_summary import _format_summary_table

    return _format_summary_table(*args)


def summary_depth(callback: ModelSummary) -> int:
    """How deep the table of layers goes."""
    return callback._max_depth


def add_task(bar: RichProgressBar, total: int, what: str) -> TaskID:
    """Add one more line to a progress bar."""
    return bar._add_task(total, what)


# jsonargparse


@contextlib.contextmanager
def quiet_jsonargparse() -> Iterator[None]:
    """Inside, nothing is said of a method that jsonargparse is about to rename; older releases have one name only.

    Lightning calls it, too, and that call is not ours to change.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*(JsonargparseDeprecationWarning|instantiate_classes)")
        yield


def parsing_settings() -> dict[str, Any]:
    """The settings that ``set_parsing_settings`` changes; the public function can't read them."""
    from jsonargparse import _common

    return _common.parsing_settings


def read_whole_numbers_first(parser: ArgumentParser) -> None:
    """Make options that are whole numbers or fractions read ``1`` as a whole number: one batch, not all of them.

    Python has one ``Union`` for ``int | float`` and ``float | int``, in the order in which some module makes it first,
    and jsonargparse takes the first type that fits.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        kinds = list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else []
        if int in kinds and float in kinds and all(isinstance(kind, type) for kind in kinds):
            kinds.remove(int)
            kinds.insert(kinds.index(float), int)
            setattr(action, "_typehint", reduce(or_, kinds))  # noqa: B010  # no attribute of argparse's class


# PyTorch


def leave_out_of_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Parameters and buffers whose gradients and values DDP does not share."""
    from torch.nn.parallel import DistributedDataParallel

    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(names))  # type: ignore[no-untyped-call]  # torch


def is_composite(operator: OpOverload[..., Any]) -> bool:
    """Whether an operator is made of others. In inference mode it is dispatched as a whole, and otherwise in parts."""
    name = operator.name()  # type: ignore[no-untyped-call]  # torch
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


def run_in_parts(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a composite operator as the operators that it is made of."""
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def packet_of(operator: OpOverload[..., Any]) -> Any:
    """All overloads of the operator together."""
    return operator._overloadpacket


def argument_names(operator: OpOverload[..., Any]) -> list[str]:
    """Names of the operator's arguments, in order."""
    return [argument.name for argument in operator._schema.arguments]


def argument_defaults(operator: OpOverload[..., Any]) -> dict[str, Any]:
    """Defaults of the operator's arguments that have one, by name."""
    return {a.name: a.default_value for a in operator._schema.arguments if a.has_default_value()}


def storage_key(storage: torch.UntypedStorage) -> int:
    """A number that no other storage has as long as this one lives."""
    key: int = storage._cdata
    return key


def nested_sizes(tensor: Tensor) -> Tensor:
    """Sizes of the tensors in a nested one, ``[B, dimensions]``."""
    sizes: Tensor = tensor._nested_tensor_size()
    return sizes


def coo_parts(tensor: Tensor) -> list[Tensor]:
    """Indices and values of a sparse tensor in COO layout, also of one that is not coalesced."""
    return [tensor._indices(), tensor._values()]


# Operators that public functions become on their way to the kernels.
PRELU_KERNEL = torch.ops.aten._prelu_kernel
ADAPTIVE_AVERAGE = torch.ops.aten._adaptive_avg_pool2d
