"""The head of a trained network, fitted in closed form to data that are new to it.

A network that was trained on other data reads features that are worth having; its last layer is of other classes, or
drawn at random. Trained from there, the random head spoils the features before it has become useful. So the head is
fitted to the features as they are, first (linear probing, then fine-tuning: Kumar et al., arXiv:2202.10054).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from oneshot.errors import HeadError
from oneshot.inputs import cast, mapped
from oneshot.regression.ridge import ridge
from oneshot.supernets.base import Subnet, Supernet, batch_statistics, restored_modes
from oneshot.tasks.task import Task

from .batches import check_batch, check_logits, pair_of
from .samples import fit_samples

if TYPE_CHECKING:
    import pytorch_lightning as pl

MOST = 10_000  # samples of a fit: so many features fit into memory, and more change little
PRIOR = 10.0  # standard deviation of logits
Head = nn.Linear | nn.Conv2d
Run = Callable[[Any], Tensor]


class HeadFit(NamedTuple):
    """What :func:`fit_head` did.

    Args:
        head: Path of the layer.
        samples: How many it was fitted to.
        penalty: Of the ridge regression, chosen by leaving one out.
        scale: What the outputs of the regression are multiplied by to become logits; 1 for numbers.
        value: Metric of the task on the samples, each predicted by the fit without it: what to expect of new ones.
    """

    head: str
    samples: int
    penalty: float
    scale: float
    value: float


def check_head_task(task: Task) -> None:
    """Check that heads for a task can be fitted in closed form.

    Raises:
        ValueError: If they cannot.
    """
    if type(task).linear_targets is Task.linear_targets:
        raise ValueError(
            "fit_head fits a linear layer to one target for each input: to classes, labels or numbers; got the task "
            f"{task.name or type(task).__name__!r}. Leave it out, or define linear_targets in a task of your own."
        )


@torch.no_grad()
def fit_head(
    network: Subnet | Supernet,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    run: Run | None = None,
    batch_norm: Literal["running", "batch"] = "running",
) -> HeadFit:
    """Fit the last layer of a network to its features by ridge regression, and put the solution into the layer.

    Features are those of the network in eval mode, so that nothing is dropped. The penalty is the one with the smallest
    leave-one-out error (:func:`~oneshot.regression.ridge.ridge`). Targets are what
    :meth:`~oneshot.tasks.Task.linear_targets` says, such as 1 for the class of a sample and 0 for the others; samples
    count as the class weights of the task say. Of classes and labels, the outputs ``o_k`` of the regression then become
    logits ``s o_k + t_k``: s and t minimise the loss of the task on the outputs for samples that were left out.

    The layer is the one that ``network.head`` names (a path), or else the last of those whose outputs are the
    network's: ``nn.Linear`` or a 1x1 convolution, also with a mean over places after it.

    Args:
        network: Its head changes in place; nothing else does.
        batches: Training samples, not augmented: inputs ``[B, ...]`` and targets ``[B, ...]``.
        run: What gives the outputs ``[B, outputs]`` of inputs, such as one architecture of a supernet; by default the
            network.
        batch_norm: Which statistics batch normalisation reads: ``"running"``, for a network whose statistics stay, or
            those of each ``"batch"``, as in a training that moves them; a last batch of less than half the size of the
            first is then left out.

    Raises:
        ValueError: If the task is none of classes, labels or numbers; there is no such layer; batches do not fit the
            network; or there are fewer than two samples.
        HeadError: If features are not finite, or do not differ between samples.
    """
    task = network.task
    check_head_task(task)
    found: _Head | None = None
    features, targets = list[Tensor](), list[Tensor]()
    like, whole = next(network.parameters()), run or network
    with restored_modes(network), contextlib.ExitStack() as inside:
        network.eval()
        if batch_norm == "batch":
            inside.enter_context(batch_statistics(network))
        for number, batch in enumerate(batches):
            x, y = pair_of(batch)
            check_batch(network, x, y, first=number == 0)
            if batch_norm == "batch" and number and len(y) < len(targets[0]) / 2:
                continue
            x = cast(x, like)
            found = _find(network, whole, mapped(lambda part: part[:2], x)) if found is None else found
            features.append(found.features(whole, x).double().cpu())
            targets.append(y.cpu())
    if found is None or sum(map(len, targets)) < 2:
        raise ValueError("A head must be fitted to at least two samples; got fewer. Pass a loader that is not used up.")
    x, y = torch.cat(features), torch.cat(targets)
    return _solve(task, found, x, y, network.num_classes)


def fit_head_before_training(
    trainer: pl.Trainer, network: Subnet | Supernet, run: Run | None = None, *, frozen: bool = False
) -> None:
    """:func:`fit_head` on the training samples of a fit that begins, up to 10,000, as they are evaluated.

    Batch normalisation reads what it will read in training. The first process fits, and all others get its head.

    Args:
        trainer: Its loaders are set up. Of loaders without a data module samples may be augmented.
        network: See :func:`fit_head`.
        run: See :func:`fit_head`.
        frozen: Whether the running statistics of batch normalisation are read in training, too.

    Raises:
        ValueError: See :func:`fit_head`; in all processes.
    """
    found: tuple[str | None, HeadFit | None, list[Tensor]] = None, None, []
    if trainer.is_global_zero:
        try:
            with fit_samples(trainer, MOST) as batches:
                own = fit_head(network, batches, run=run, batch_norm="running" if frozen else "batch")
            found = None, own, [part.detach().cpu() for part in network.get_submodule(own.head).parameters()]
        except ValueError as error:
            found = str(error), None, []
    wrong, fit, parts = trainer.strategy.broadcast(found)
    if wrong is not None or fit is None:
        raise ValueError(wrong)
    with torch.no_grad():
        for parameter, part in zip(network.get_submodule(fit.head).parameters(), parts, strict=True):
            parameter.copy_(part)
    rank_zero_info(
        f"Head {fit.head!r} fitted to {fit.samples:,} training samples in closed form: {network.task.metric_name} "
        f"{fit.value:.4g}, each sample predicted by the fit without it."
    )


class _Head(NamedTuple):
    """The last layer, and over which dimensions its outputs are averaged."""

    path: str
    layer: Head

    def averaged(self, x: Tensor) -> Tensor:
        """``[B, ..., C]`` of a linear layer, or ``[B, C, H, W]`` of a convolution, to ``[B, C]``."""
        if isinstance(self.layer, nn.Conv2d):
            return x.flatten(2).mean(2)
        return x if x.dim() == 2 else x.flatten(1, -2).mean(1)

    def features(self, run: Run, x: Any) -> Tensor:
        """What the layer reads of inputs, ``[B, P]``."""
        calls = _calls({self.path: self.layer}, run, x)[1]
        return self.averaged(calls[0][1])


def _calls(layers: dict[str, Head], run: Run, x: Any) -> tuple[Tensor, list[tuple[str, Tensor, Tensor]]]:
    """Outputs of a network, and of every call of one of the layers path, input and output, in order."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def listen(path: str, layer: Head) -> Any:
        return layer.register_forward_hook(lambda _, given, output: calls.append((path, given[0], output)))

    handles = [listen(path, layer) for path, layer in layers.items()]
    try:
        return run(x), calls
    finally:
        for handle in handles:
            handle.remove()


def _is_head(layer: nn.Module) -> TypeGuard[Head]:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def _find(network: Subnet | Supernet, run: Run, x: Any) -> _Head:
    """The layer whose outputs are those of the network, for a batch of inputs."""
    name, modules = type(network).__name__, dict(network.named_modules())
    layers = {path: layer for path, layer in modules.items() if _is_head(layer)}
    declared = getattr(network, "head", None)
    if isinstance(declared, str):
        path = declared if declared in modules else f"network.{declared}"  # of a network within
        if path not in layers:
            got = type(modules[path]).__name__ if path in modules else "none"
            raise ValueError(
                f"{name}.head must be the path of an nn.Linear or a 1x1 convolution; {declared!r} is {got}."
            )
        layers = {path: layers[path]}
    outputs, calls = _calls(layers, run, x)
    check_logits(outputs, network, x)
    for path, given, output in reversed(calls):
        found = _Head(path, layers[path])
        if output.dim() < 2:
            continue
        ours = found.averaged(output)
        if ours.shape != outputs.shape or not torch.allclose(ours, outputs, rtol=1e-3, atol=1e-5, equal_nan=True):
            continue
        _check(found, network, [call[0] for call in calls].count(path), found.averaged(given).shape[1])
        return found
    wanted = f"{declared!r}, which it names as its head," if isinstance(declared, str) else "an nn.Linear or a 1x1 conv"
    raise ValueError(
        f"fit_head needs a network whose outputs are those of its last layer; the outputs of {name} are not those of "
        f"{wanted} or their mean over places. Leave fit_head out."
    )


def _check(found: _Head, network: nn.Module, calls: int, features: int) -> None:
    weight, name = found.layer.weight, f"{type(network).__name__}.{found.path}"
    if calls > 1:
        raise ValueError(f"A head that is fitted must run once for a batch; {name} runs {calls} times.")
    if weight.shape[1] != features:
        raise ValueError(
            f"A head is fitted to all the features it has weights for; {name} has them for {weight.shape[1]}, and the "
            f"architecture that runs gives {features}. Run the largest."
        )
    shared = [path for path, other in network.named_parameters(remove_duplicate=False) if other is weight]
    if len(shared) != 1:
        raise ValueError(
            f"A head that is fitted must have weights of its own; those of {name} are "
            f"{'shared: ' + ', '.join(shared) if shared else 'computed from others'}. Leave fit_head out."
        )


def _solve(task: Task, found: _Head, features: Tensor, targets: Tensor, outputs: int) -> HeadFit:
    """Ridge regression, calibration, and the solution in the layer; see :func:`fit_head`."""
    numbers = task.linear_targets(targets, outputs)
    assert numbers is not None  # check_head_task
    layer, weights = found.layer, _weights(task, targets)
    counts = slice(None) if weights is None else weights > 0  # a class of weight 0 says nothing
    if weights is not None:
        features, numbers, targets, weights = features[counts], numbers[counts], targets[counts], weights[counts]
    if not features.isfinite().all():
        raise HeadError("Features of a network must be finite for its head to be fitted; got NaN or infinity.")
    if not (features != features[:1]).any():
        raise HeadError(f"Features must differ between samples; all {len(features)} have the same.")
    fit = ridge(
        features.numpy(),
        numbers.numpy(),
        None if weights is None else weights.numpy(),
        intercept=layer.bias is not None,
    )
    left_out, scale, shift = torch.from_numpy(fit.left_out), 1.0, torch.zeros(outputs, dtype=torch.float64)
    if task.as_logits(left_out[:1]) is not None:
        scale, shift = calibrated(task, left_out, targets, shifted=layer.bias is not None)
    layer.weight.copy_(torch.from_numpy(scale * fit.coefficients.T).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(scale * torch.from_numpy(fit.intercept) + shift)
    metric = task.metric(outputs, sync=False)
    metric.update(*task.for_metric((scale * left_out + shift).float(), targets))
    return HeadFit(found.path, len(targets), fit.penalty, scale, float(metric.compute()))


def _weights(task: Task, targets: Tensor) -> Tensor | None:
    """Weights of samples by the weights of their classes, float64 ``[N]``; None where all count the same."""
    classes = getattr(task, "class_weights", None)
    if classes is None or targets.is_floating_point():
        return None
    return torch.tensor(classes, dtype=torch.float64)[targets.long()]


def calibrated(task: Task, outputs: Tensor, targets: Tensor, *, shifted: bool = True) -> tuple[float, Tensor]:
    """Scale s and shift t of the logits ``s * outputs + t`` of the least loss, which is convex in both.

    Where the outputs separate all samples, the loss falls for ever. So a normal prior is added, by which logits have a
    standard deviation of 10: ``(s^2 var(outputs) + mean(t^2)) / (2 * 10^2 * N)``.

    Args:
        task: Its loss is minimised.
        outputs: Of samples that nothing was fitted to, float64 ``[N, K]``.
        targets: ``[N, ...]``.
        shifted: Whether there is a shift; otherwise it is 0.

    Returns:
        s, and t ``[K]``.
    """
    criterion = task.criterion().double()
    targets = targets.double() if targets.is_floating_point() else targets
    scale, shift = torch.ones((), dtype=torch.float64), torch.zeros(outputs.shape[1], dtype=torch.float64)
    spread, prior = outputs.var(correction=0), 1 / (2 * PRIOR**2 * len(outputs))
    trained = [scale.requires_grad_(), *([shift.requires_grad_()] if shifted else [])]
    optimizer = torch.optim.LBFGS(
        trained, max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        found: Tensor = criterion(scale * outputs + shift, targets) + (scale**2 * spread + (shift**2).mean()) * prior
        found.backward()  # type: ignore[no-untyped-call]  # torch
        return found

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(scale.detach()), shift.detach()
