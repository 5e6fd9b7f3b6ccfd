"""Base classes of supernets and of the standalone networks that come out of them."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneshot.tasks.task import Task, task_of

from .execution import ExecutionPlan
from .mixed_op import MixedOp, Path
from .space import ArchGraph, SearchSpace, SubnetConfig

INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
AnySubnet = TypeVar("AnySubnet", bound="Subnet")


class WithTask(nn.Module):
    """A network that knows what its outputs are for.

    A class says it by ``default_task``, the name of a built-in task or a :class:`~oneshot.tasks.Task`; ``task =
    "segmentation"`` in the body of a class says the same. An instance may be given another.

    Attributes:
        vocabularies: Of several inputs those that are whole numbers (words, categories), by name, and the number that
            all of them are below.
        frozen_statistics: Whether normalisation reads the running statistics that it came with, wherever it runs, and
            nothing computes them anew, see :func:`hold_statistics`.
        own_head: Whether the last layer of every architecture is fitted to its own features, wherever it is evaluated
            or exported (:func:`~oneshot.training.head.fit_head`): the shared one is for the largest.
    """

    default_task: ClassVar[str | Task] = "classification"
    vocabularies: Mapping[str, int] = MappingProxyType({})
    frozen_statistics: bool = False
    own_head: bool = False
    input_shape: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        given = cls.__dict__.get("task")
        if isinstance(given, str | Task):  # classes of users
            cls.default_task = given
            del cls.task

    @property
    def task(self) -> Task:
        """What the outputs are for, and so how they are trained and measured."""
        task = self.__dict__.get("_task")
        return task_of(self.default_task) if task is None else task

    @task.setter
    def task(self, task: Task | str) -> None:
        given = task_of(task)
        if (outputs := getattr(self, "num_classes", None)) is not None:
            given.check_outputs(outputs)
        self.__dict__["_task"] = given


class Subnet(WithTask, ABC):
    """A standalone network: no mixed operations, no alphas, and ``type(net)(**net.init_args)`` builds it again.

    Attributes:
        config: The architecture, where it came out of a search space.
        init_args: JSON-able keyword arguments of the constructor.
        input_shape: Shape of one input: C, H, W of an image, T of a text, or any other, such as C, D, H, W of a volume,
            C, T of a signal, F of a row of a table; of several inputs, the shape of each by its name.
        num_classes: Number of outputs: classes, labels, or numbers that are predicted.
        texts: Whether inputs are texts, with a label for every word.
        has_resolutions: Whether resolution is part of the architecture: images of other sizes are resized for it.
    """

    texts: bool = False
    has_resolutions: bool = False
    config: SubnetConfig | None = None
    init_args: dict[str, Any]
    input_shape: Any
    num_classes: int

    @abstractmethod
    def forward(self, x: Any) -> Tensor:
        """``[B, *input_shape] -> [B, num_classes]``, for segmentation ``[B, num_classes, H, W]``."""

    @abstractmethod
    def graphs(self) -> list[ArchGraph]:
        """What a picture of the network shows."""

    def forward_with_auxiliary(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """Logits of the network and of its auxiliary head, ``None`` where it has none. For training only."""
        return self(x), None

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The last feature map of every resolution, fine to coarse, ``[B, C_i, H_i, W_i]``: what a detector reads.

        Raises:
            ValueError: If the network does not offer them.
        """
        raise ValueError(
            f"A network must offer feature maps here; {type(self).__name__} offers no feature maps. Take a "
            "NASNetNetwork or a DARTSNetwork."
        )

    def check_saved(self) -> None:
        """Check that another process can build this network from its class and :attr:`init_args`; it can by default.

        Raises:
            ValueError: If it cannot.
        """

    def strip_auxiliary(self) -> None:
        """Remove the auxiliary head, if there is one; it is for training only."""

    def describes(self, config: SubnetConfig) -> bool:
        """Whether a config is of the architecture of this network; the sizes of the network are not part of it.

        True where nothing is known: networks that do not take their own config in the constructor override this.
        """
        return self.config is None or self.config == config

    def set_drop_path(self, probability: float) -> None:
        """Set the probability of dropping a path in training.

        Raises:
            ValueError: If the network has no droppable paths and ``probability`` is not 0.
        """
        if probability:
            raise ValueError(f"{type(self).__name__} has no droppable paths; drop_path must be 0, got {probability}.")


class Supernet(WithTask, ABC):
    """Shared weights of all architectures of a space. Alphas live beside it, never inside.

    Attributes:
        space: The search space.
        input_shape: Shape of one input: C, H, W of an image, T of a text, or any other, such as C, D, H, W of a volume,
            C, T of a signal, F of a row of a table; of several inputs, the shape of each by its name.
        num_classes: Number of outputs: classes, labels, or numbers that are predicted.
        texts: Whether inputs are texts, with a label for every word.
        has_resolutions: Whether architectures differ in resolution: :meth:`run_config` resizes images for them.
        has_candidates: Whether an architecture picks one of the candidate operations at every place, so that there is a
            number for each, as in tables of latencies.
        settings: What all networks of the supernet are built with that a resumed search must share.
        gradient_checkpointing: Keep nothing of a cell but its inputs, and compute it again in the backward pass: less
            memory for a third more time (arXiv:1604.06174).
    """

    texts: bool = False
    has_resolutions: bool = False
    has_candidates: bool = False
    settings: Mapping[str, Any] = MappingProxyType({})
    gradient_checkpointing: bool = False
    space: SearchSpace
    input_shape: Any
    num_classes: int

    @abstractmethod
    def forward(self, x: Any, arch: Any) -> Tensor:
        """Run one architecture, or a mixture of them.

        Args:
            x: Inputs, ``[B, *input_shape]``, or several by name.
            arch: What to run: edge weights in spaces of operation choices, a ``SubnetConfig`` in elastic spaces.

        Returns:
            Outputs, ``[B, num_classes]``, for segmentation ``[B, num_classes, H, W]``.
        """

    @abstractmethod
    def run_config(self, x: Any, config: SubnetConfig) -> Tensor:
        """Run one architecture with the shared weights: ``[B, *input_shape] -> [B, num_classes]``.

        Raises:
            ValueError: If ``config`` is not of this space.
        """

    @abstractmethod
    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> Subnet:
        """Build one architecture as a standalone network.

        Args:
            config: An architecture of :attr:`space`.
            inherit: Copy the shared weights; otherwise the weights are drawn anew. Device, data type and mode are the
                supernet's. In eval mode the output then has the bits of :meth:`run_config`, which makes the same calls.
                NAS-Bench-1Shot1, which also sums over zeros, and a mixture of all candidates under ``one_hot(config)``
                are the same function, but round differently on some processors.

        Raises:
            ValueError: If ``config`` is not of this space.
        """

    def prepare(self, network: AnySubnet, config: SubnetConfig) -> AnySubnet:
        """Give an extracted network its config and task, and this supernet's device, data type and mode."""
        network.config = config
        if self.frozen_statistics:
            network.frozen_statistics = True
        if self.own_head:
            network.own_head = True
        if network.task != self.task:
            network.task = self.task
        return network.to(next(self.parameters())).train(self.training)

    def shape_of(self, config: SubnetConfig) -> Any:
        """Shape of one input of an architecture: :attr:`input_shape`, unless the space has resolutions to choose."""
        return self.input_shape

    def check_images(self, size: int) -> None:
        """Check that images have enough pixels for all architectures; nothing to check without :attr:`has_resolutions`.

        Args:
            size: Their shorter side.

        Raises:
            ValueError: If they have not, and enlarging them was not asked for.
        """

    def resolution(self, config: SubnetConfig) -> int:
        """Last side of the inputs of an architecture: of square images, their height and width."""
        return int(self.shape_of(config)[-1])

    def sort_channels(self) -> bool:
        """Put channels that smaller architectures leave out last, by importance; whether any weights have moved.

        The function of the largest architecture stays the same. Nothing to do here; elastic supernets do it.
        """
        return False

    def rank_channels(self, batches: Iterable[tuple[Any, Tensor]]) -> bool:
        """:meth:`sort_channels` by what it does to the loss on samples, to first order, if a channel is left out.

        Args:
            batches: Training samples, not augmented: inputs and targets ``[B, ...]``; hundreds are enough.

        Returns:
            Whether any weights have moved.

        Raises:
            ValueError: If this supernet sorts by weights alone, losses are not finite, or there are no samples.
        """
        raise ValueError(
            f"Channels are ranked by samples in converted networks alone; {type(self).__name__} sorts them by weights. "
            "Leave rank_channels out."
        )

    def candidate_parameters(self) -> dict[str, Tensor]:
        """Number of weights behind every candidate, ``{choice: [R, O]}``; empty where candidates share weights."""
        return {}

    def drop_paths(self, probability: float) -> None:
        """Let every mixed operation lose the images of a batch with this probability in training.

        Raises:
            ValueError: If there are no mixed operations and ``probability`` is not 0.
        """
        mixed = [module for module in self.modules() if isinstance(module, MixedOp)]
        if probability and not mixed:
            raise ValueError(f"{type(self).__name__} has no droppable paths; drop_path must be 0, got {probability}.")
        for module in mixed:
            module.drop_path = probability

    def run_cell(self, cell: nn.Module, *inputs: Any) -> Any:
        """``cell(*inputs)``, computed again in the backward pass if that is asked for; statistics move once."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return cell(*inputs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _same_statistics(cell)

        return checkpoint(cell, *inputs, use_reentrant=False, context_fn=contexts)


class OperationSupernet(Supernet):
    """A supernet of operation choices: ``forward`` takes edge weights, so alphas can be trained by gradient descent.

    Attributes:
        partial_channels: K, where the candidates read the first of K parts of the channels (PC-DARTS).
    """

    has_candidates = True
    partial_channels: int = 1

    @abstractmethod
    def forward(self, x: Any, arch: Mapping[str, Tensor]) -> Tensor:
        """Run under edge weights.

        Args:
            x: Inputs, ``[B, *input_shape]``, or several by name.
            arch: Edge weights of every choice, ``{choice: [R, O]}``, or a :class:`~.mixed_op.Path` in place of a
                tensor, of which only the candidates run that have weight. Where several cells share a choice,
                :class:`~.mixed_op.CellWeights` have others for every cell.

        Returns:
            Outputs, ``[B, num_classes]``, for segmentation ``[B, num_classes, H, W]``.
        """

    def run_config(self, x: Any, config: SubnetConfig) -> Tensor:
        like, rows = next(self.parameters()), self.space.one_hot(config)
        weights = {name: torch.from_numpy(w) for name, w in rows.items()}
        logits: Tensor = self(x, {name: Path(w.to(like), w != 0) for name, w in weights.items()})
        return logits

    def shared_choices(self) -> dict[tuple[str, ...], int]:
        """Choices that are made once for several cells, and for how many; the choices of one kind of cell together.

        Of these :meth:`forward` also takes :class:`~.mixed_op.CellWeights`, other weights for every cell. Here there
        are none.
        """
        return {}

    @abstractmethod
    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        """For every choice and every row, the mixed operations that row decides (one per cell that shares it)."""

    def picked_ops(self, network: Subnet) -> list[list[nn.Module]]:
        """For every gene of the space, the modules of an extracted network that are its pick (one per cell).

        By these a network is taken apart to count its candidates, each run once. Without them, as here, the list is
        empty and counting builds a network for every candidate.

        Args:
            network: What :meth:`extract` has built.
        """
        return []

    def execution_plan(self, network: Subnet) -> ExecutionPlan | None:
        """How an extracted network runs, by which the memory of its candidates adds up.

        Without it, as here, memory is refused, and parameters and MACs must be sums over the candidates.

        Args:
            network: What :meth:`extract` has built.
        """
        return None

    def one_hot(self, config: SubnetConfig) -> dict[str, Tensor]:
        """Edge weights ``{choice: [R, O]}`` that select exactly ``config``, on the supernet's device."""
        like = next(self.parameters())
        return {name: torch.from_numpy(w).to(like) for name, w in self.space.one_hot(config).items()}

    def candidate_parameters(self) -> dict[str, Tensor]:
        """Number of weights behind every candidate, ``{choice: [R, O]}``, summed over the cells that share the row."""
        mixed_ops, counts = self.mixed_ops(), {}
        for choice in self.space.choices:
            rows = [
                [sum(count_parameters(mixed.ops[o]) for mixed in row) for o in range(len(choice.candidates))]
                for row in mixed_ops[choice.name]
            ]
            counts[choice.name] = torch.tensor(rows, dtype=torch.float64)
        return counts

    def check_inheritance(self, inherit: bool) -> None:
        """Check that a standalone network can have the shared weights.

        Raises:
            ValueError: If the candidates read a part of the channels only.
        """
        if inherit and self.partial_channels > 1:
            raise ValueError(
                f"partial_channels must be 1 for weights to be inherited; it is {self.partial_channels}, so candidates "
                "have weights for a part of the channels, and no network can inherit them. Use "
                "extract(config, inherit=False) and retrain."
            )

    def check_arch(self, arch: Mapping[str, Tensor]) -> None:
        """Check names and shapes of edge weights, see :func:`check_edge_weights`."""
        check_edge_weights(self.space, arch)


def check_edge_weights(space: SearchSpace, weights: Mapping[str, Tensor]) -> None:
    """Check names and shapes of edge weights.

    Args:
        space: The search space.
        weights: Should be ``{choice: [R, O]}``.

    Raises:
        ValueError: Naming the choice, the shape it must have and the shape it has.
    """
    for choice in space.choices:
        shape = tuple(weights[choice.name].shape) if choice.name in weights else None
        if shape != (choice.rows, len(choice.candidates)):
            raise ValueError(
                f"Edge weights of space {space.name!r} must hold {choice.name!r} with shape "
                f"[{choice.rows}, {len(choice.candidates)}]; got {shape and list(shape)}."
            )


@contextlib.contextmanager
def restored_modes(*modules: nn.Module) -> Iterator[None]:
    """Inside, modules may change between training and eval mode; afterwards each layer has the mode it had."""
    modes = {layer: layer.training for module in modules for layer in module.modules()}
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


@contextlib.contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses batch statistics as ever, but does not move its running statistics.

    The same for instance normalisation that keeps running statistics.
    """
    layers = _layers_with_statistics(module)
    instances = [m for m in module.modules() if isinstance(m, INSTANCE) and m.track_running_stats]
    momenta = [layer.momentum for layer in instances]
    for layer in layers:
        layer.track_running_stats = False
    for instance in instances:
        instance.momentum = 0.0  # it moves its statistics even if it does not track them
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for instance, momentum in zip(instances, momenta, strict=True):
            instance.momentum = momentum


def hold_statistics(module: nn.Module) -> None:
    """Have normalisation read its running statistics, which stay as they are, until ``train()`` is called.

    Only layers that keep statistics are put into eval mode; scale and shift are trained as before. A module with
    ``frozen_statistics`` is not calibrated anew either, and so are networks that it yields.

    Raises:
        ValueError: If there are none.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    if not layers:
        raise ValueError(
            f"freeze_statistics holds running statistics of batch normalisation; {type(module).__name__} keeps none. "
            "Leave it out."
        )
    for layer in layers:
        layer.eval()


@contextlib.contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses batch statistics also in eval mode, and does not move its running statistics.

    Running statistics of a supernet are those of no single architecture. Nothing changes where they are frozen.
    """
    if getattr(module, "frozen_statistics", False):
        yield
        return
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    with frozen_batch_norm(module), restored_modes(*layers):
        for layer in layers:
            layer.training = True
        yield


def _layers_with_statistics(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


@contextlib.contextmanager
def _same_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation reads and saves what it always does, and its running statistics stay."""
    layers = _layers_with_statistics(module)
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def example_inputs(network: WithTask, count: int) -> Any:
    """A batch of random inputs of a network: numbers, or whole numbers below the size of a vocabulary; always the same.

    Args:
        network: Declares ``input_shape``; of several inputs also ``vocabularies``.
        count: Samples.
    """
    generator, shape = torch.Generator().manual_seed(0), network.input_shape

    def random(part: Sequence[int], words: int | None) -> Tensor:
        if words is not None:
            return torch.randint(words, (count, *part), generator=generator)
        return torch.randn((count, *part), generator=generator)

    if isinstance(shape, Mapping):
        return {name: random(part, network.vocabularies.get(name)) for name, part in shape.items()}
    return random(shape, vocabulary_of(network, shape))


def vocabulary_of(network: nn.Module, input_shape: Any) -> int | None:
    """Words that a network of texts ``[T]`` knows, int64 below this number; of other networks ``None``.

    That is what every embedding knows; a language model without an embedding layer knows the words that it predicts.
    """
    if isinstance(input_shape, Mapping) or len(input_shape) != 1:
        return None
    sizes = [module.num_embeddings for module in network.modules() if isinstance(module, nn.Embedding)]
    if not sizes and isinstance(network, Subnet | Supernet) and network.texts:
        return network.num_classes
    return min(sizes) if sizes else None


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def layout_of(*weights: Tensor) -> torch.memory_format:
    """How weights ``[C_out, C_in, k, k]`` lie in memory; kernels are chosen, and so numbers rounded, by it.

    Of 1x1 kernels ``is_contiguous`` says both; their strides do not.
    """
    last = any(w.dim() == 4 and w.shape[1:].numel() > 1 and w.stride()[1::2] == (1, w.shape[1]) for w in weights)
    return torch.channels_last if last else torch.contiguous_format


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of two-dimensional convolutions out in memory; others have no such layout, and stay."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=layout)


def inherit_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy all tensors of ``source`` into ``target``, in the layout they have in memory, sharing nothing.

    The target's normalisation (batch, instance, group, layer or RMS) may have learnable scale and shift where the
    source has none (``affine``): these become 1 and 0, so the function stays the same and is trainable.

    Raises:
        ValueError: If anything else does not match.
    """
    affine = {
        f"{name}.{part}".lstrip("."): getattr(module, part)
        for name, module in target.named_modules()
        if isinstance(module, NORMALISATION)
        for part in ("weight", "bias")
        if getattr(module, part, None) is not None
    }
    lay_out(target, layout_of(*source.parameters()))
    missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
    with torch.no_grad():
        for name in affine.keys() & set(missing):
            affine[name].fill_(float(name.endswith("weight")))
    if set(missing) - affine.keys() or unexpected:
        raise ValueError(
            f"{type(source).__name__} must have the weights of {type(target).__name__}; "
            f"missing {sorted(set(missing) - affine.keys())}, unexpected {unexpected}."
        )


def arguments(scope: Mapping[str, Any], *besides: str) -> dict[str, Any]:
    """The arguments of a constructor by name: ``arguments(locals())`` as its first statement.

    Tuples become lists, as JSON has them.

    Args:
        scope: What ``locals()`` holds there.
        besides: Names to leave out, beside ``self``.
    """
    named = {name: value for name, value in scope.items() if name not in ("self", "__class__", *besides)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}


def check_classes(num_classes: int) -> None:
    """Check that a network has outputs; how many a task needs is its own business.

    Raises:
        ValueError: If there is none.
    """
    if num_classes < 1:
        raise ValueError(
            f"num_classes, the number of outputs, must be at least 1, and 2 for classes; got num_classes={num_classes}."
        )


def image_shape(in_channels: int, image_size: int | Sequence[int]) -> tuple[int, int, int]:
    """C, H, W of images.

    Args:
        in_channels: C.
        image_size: Height and width, or one number for both.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> image_shape(3, 32), image_shape(1, (16, 48))
        ((3, 32, 32), (1, 16, 48))
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ValueError(
            f"image_size must be one whole number, or height and width; got {image_size!r}. Write 32, or (16, 48)."
        )
    return in_channels, sides[0], sides[1]


def check_image_size(size: int | Sequence[int], halvings: int, name: str) -> None:
    """Check that both sides of images survive ``halvings`` reductions.

    Args:
        size: Height and width, or one number for both.
        halvings: How often the network halves them.
        name: Of the network, for the error.

    Raises:
        ValueError: Naming the smallest side that does.
    """
    if min(image_shape(1, size)[1:]) < 2**halvings:
        raise ValueError(
            f"{name} halves the resolution {halvings} times, so images must have at least {2**halvings} pixels; "
            f"got image_size={size}. Use larger images (or the 'cifar' stem, if this is the 'imagenet' one)."
        )
