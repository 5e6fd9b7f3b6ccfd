"""RobustDARTS: Understanding and Robustifying Differentiable Architecture Search (Zela et al., ICLR 2020)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.module import Batch
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.functional import largest_eigenvalue, sharpening_since
from oneshot.supernets.base import OperationSupernet, batch_statistics, restored_modes
from oneshot.supernets.space import SubnetConfig

OnSharpening = Literal["stop", "adapt"]


class RobustDARTS(BilevelSearch):
    """DARTS that watches the curvature of the validation loss, and stops or regularises before it collapses.

    Source: arXiv:1909.09656. Every second epoch the largest eigenvalue of the Hessian with respect to the alphas is
    measured on held-out data. When its running mean has risen by a third within four measurements, the search is on its
    way into a sharp valley, where rounding the architecture costs much. Then

    - ``"stop"`` (DARTS-ES) ends the search and derives the architecture of the epoch *before* the rise;
    - ``"adapt"`` (DARTS-ADA) goes back to that epoch, weights, alphas, optimisers and schedules, and on from there with
      ten times the weight decay. At the largest weight decay the search runs to its end.

    The paper's third way, more regularisation from the start, are the arguments ``weight_decay`` (3e-4 times 1, 3, 9,
    27, 81) and ``drop_path`` (0.2, 0.4, 0.6) of every method.

    Defaults are DARTS' and those of section 4.3; the factor and the largest weight decay of ``"adapt"`` are those of
    the authors' script. As in their code the eigenvalue includes the weight decay of the alphas, the Hessian is that of
    the validation loss without the look ahead, and batch normalisation has statistics of the batch. We differ in three
    points: the ratio is the paper's 0.75, not their code's 1 / 1.3; the batches measured on are always the same; and
    drop-path is off while measuring.

    Going back makes ``Trainer.current_epoch`` smaller, so epochs are run and logged again. What they go back to is kept
    in memory on the CPU and in every checkpoint: weights, alphas and optimisers of the last seven measurements.

    Args:
        supernet: The supernet of any space of operation choices.
        on_sharpening: What to do.
        order: 1 takes the weights as they are, 2 looks one weight step ahead (DARTS, arXiv:1806.09055), for which the
            optimiser of the weights must be SGD, Adam or AdamW.
        epsilon: Length of the finite difference of the second order.
        every: Epochs between two measurements.
        window: Measurements in a running mean.
        lag: Measurements between the two means that are compared.
        ratio: Earlier over later mean, below which it is a sharp rise.
        start_epoch: First epoch that may be gone back to.
        factor: What ``"adapt"`` multiplies the weight decay by, that of every group of the optimiser.
        max_weight_decay: Largest weight decay of ``"adapt"``.
        batches: Batches of the architecture stream the Hessian is averaged over, as large as those of the search. All
            of them are in memory at once, with their graphs, also under ``gradient_checkpointing``.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Attributes:
        measurements: Epochs and eigenvalues, in order; without the epochs that were gone back behind.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = RobustDARTS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.measurements
        []
    """

    _picked: Tensor

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        on_sharpening: OnSharpening = "stop",
        order: Literal[1, 2] = 2,
        epsilon: float = 0.01,
        every: int = 2,
        window: int = 5,
        lag: int = 4,
        ratio: float = 0.75,
        start_epoch: int = 10,
        factor: float = 10.0,
        max_weight_decay: float = 0.03,
        batches: int = 1,
        **kwargs: Unpack[GradientOptions],
    ) -> None:
        super().__init__(supernet, SoftmaxSampler(), **kwargs)
        if on_sharpening not in get_args(OnSharpening):
            raise ValueError(f"on_sharpening must be one of {get_args(OnSharpening)}; got {on_sharpening!r}.")
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2; got {order}.")
        for name, value in (("every", every), ("window", window), ("lag", lag), ("batches", batches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if window % 2 == 0:
            raise ValueError(f"window must be odd, because it lies around a measurement; got {window}.")
        if not 0 < ratio < 1:
            raise ValueError(f"ratio, of an earlier to a later curvature, must be below 1, as in a rise; got {ratio}.")
        if start_epoch < 0:
            raise ValueError(f"start_epoch must not be negative; got {start_epoch}. 0 is off.")
        if not factor > 1:
            raise ValueError(f"factor, by which the weight decay grows, must be above 1; got {factor}.")
        if on_sharpening == "adapt" and self.weight_factory is None and not self.weight_decay > 0:
            raise ValueError(f"weight_decay must be above 0, or no factor makes it larger; got {self.weight_decay}.")
        self.on_sharpening, self.order, self.epsilon = on_sharpening, order, epsilon
        self.every, self.window, self.lag, self.ratio, self.start_epoch = every, window, lag, ratio, start_epoch
        self.factor, self.max_weight_decay, self.batches = factor, max_weight_decay, batches
        self.measurements: list[tuple[int, float]] = []
        self._genes: list[list[int]] = []  # derived after each measurement
        self._snapshots: list[dict[str, Any]] = []  # after each of the last ones
        self.register_buffer("_picked", torch.full((supernet.space.num_genes,), -1))

    def arch_backward(self, batch: Batch) -> Tensor:
        return super().arch_backward(batch) if self.order == 1 else self.unrolled_backward(batch, self.epsilon)

    def derive(self) -> SubnetConfig:
        """The architecture before the rise, if the search was stopped by one; else the most likely one."""
        if self._picked[0] < 0:
            return super().derive()
        return self.supernet.space.decode(self._picked[None].cpu().numpy())[0]

    def eigenvalue(self) -> float:
        """Largest eigenvalue of the Hessian of the validation loss and the decay of the alphas, on held-out batches."""
        alphas = [alpha for alpha in self.alphas.values() if alpha.requires_grad]
        with (
            restored_modes(self.supernet),
            batch_statistics(self.supernet.eval()),  # no drop-path; batch normalisation sees its batch all the same
            self.without_16_bits(),
            self.differentiable_twice(),
            torch.enable_grad(),
        ):
            gradients = []
            for x, y in self.held_out(self.batches):
                loss = self.criterion(self.supernet.forward(self.as_supernet(x), self.edge_weights()), y)
                gradients.append(_flat_gradient(loss, alphas, create_graph=True))
            gradient = torch.stack(gradients).mean(0)

            def product(vector: Tensor) -> Tensor:
                image = _flat_gradient(gradient, alphas, grad_outputs=vector, retain_graph=True)
                return self.average_gradients([image])[0]

            return largest_eigenvalue(product, gradient.detach()) + self.arch_decay()

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.order == 2:
            self.check_second_order()
        decays = [group.get("weight_decay", 0.0) for group in self.trainer.optimizers[0].param_groups]
        if self.on_sharpening == "adapt" and not max(decays) > 0:
            raise ValueError(
                f"weight_decay must be above 0, or no factor makes it larger; that of the optimiser is {max(decays)}."
            )
        if self._picked[0] >= 0:  # resumed after it was stopped
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.current_epoch % self.every:
            return
        value = self.eigenvalue()
        self.log("arch/eigenvalue", value, sync_dist=True)
        self.measurements.append((self.current_epoch, value))
        self._genes.append(self.supernet.space.encode([self.derive()])[0].tolist())
        if self.on_sharpening == "adapt":
            self._snapshots = [*self._snapshots, self._snapshot()][-(self.window // 2 + self.lag + 1) :]
        if self.current_epoch + 1 < (self.trainer.max_epochs or 0):
            self._look_back()

    def _look_back(self) -> None:
        first = sum(epoch < self.start_epoch for epoch, _ in self.measurements)
        values = [value for _, value in self.measurements]
        before = sharpening_since(values, window=self.window, lag=self.lag, ratio=self.ratio, first=first)
        if before is None:
            return
        if self.on_sharpening == "stop":
            self._picked.copy_(torch.tensor(self._genes[before]))
            self.trainer.should_stop = True
            return
        decays = [self.factor * group.get("weight_decay", 0.0) for group in self.trainer.optimizers[0].param_groups]
        if 0 < max(decays) <= self.max_weight_decay * (1 + 1e-9):
            self._go_back(before, decays)

    def _snapshot(self) -> dict[str, Any]:
        state = {
            "supernet": self.supernet.state_dict(),
            "alphas": self.alphas.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "schedules": [config.scheduler.state_dict() for config in self.trainer.lr_scheduler_configs],
            **({} if self.ema is None else {"average": self.ema.state_dict()}),
        }
        return _on_cpu(state)  # type: ignore[no-any-return]  # the same structure

    def _go_back(self, measurement: int, decays: Sequence[float]) -> None:
        kept = len(self.measurements) - 1 - measurement  # measurements that are undone
        self._snapshots = self._snapshots[: len(self._snapshots) - kept]
        del self.measurements[measurement + 1 :], self._genes[measurement + 1 :]
        snapshot = copy.deepcopy(self._snapshots[-1])  # optimisers go on to work in the tensors they are given
        self.supernet.load_state_dict(snapshot["supernet"])
        self.alphas.load_state_dict(snapshot["alphas"])
        for optimizer, state in zip(self.trainer.optimizers, snapshot["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for config, state in zip(self.trainer.lr_scheduler_configs, snapshot.get("schedules", []), strict=False):
            config.scheduler.load_state_dict(state)
        if self.ema is not None:
            self.ema.load_state_dict(snapshot["average"])
        for group, decay in zip(self.trainer.optimizers[0].param_groups, decays, strict=True):
            group["weight_decay"] = decay
        # The end of that epoch is now, for all that follows from the epoch: schedules, data, the number still to run.
        progress = self.trainer.fit_loop.epoch_progress.current
        back = progress.completed - self.measurements[-1][0]
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, getattr(progress, name) - back)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        lists: dict[str, list[Any]] = {
            "measurements": self.measurements,
            "genes": self._genes,
            "snapshots": self._snapshots,
        }
        checkpoint["sharpening"] = {name: list(values) for name, values in lists.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        lists = {name: list(values) for name, values in checkpoint["sharpening"].items()}
        self.measurements, self._genes, self._snapshots = lists["measurements"], lists["genes"], lists["snapshots"]


def _flat_gradient(of: Tensor, inputs: list[Tensor], **options: Any) -> Tensor:
    parts = torch.autograd.grad(of, inputs, allow_unused=True, materialize_grads=True, **options)
    return torch.cat([part.flatten() for part in parts])


def _on_cpu(state: Any) -> Any:
    """A copy of nested dictionaries and lists, with the tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().clone().cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_on_cpu(value) for value in state)
    return state
