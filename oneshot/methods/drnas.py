"""DrNAS: Dirichlet Neural Architecture Search (Chen, Wang, Cheng, Tang, Hsieh, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    AlphaStd,
    ArchBetas,
    ArchEvery,
    ArchLr,
    ArchWarmup,
    DropPath,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightDecay,
    WeightLr,
    WeightLrMin,
    WeightNesterov,
)
from oneshot.engine.samplers import Perturbation, Sampler
from oneshot.engine.stages import Stage, carry_states, check_stages, strongest
from oneshot.supernets.base import OperationSupernet, lay_out, layout_of
from oneshot.supernets.space import SearchSpace
from oneshot.supernets.widening import Widened, drop_candidates, widen_candidates
from oneshot.training.optimizers import OptimizerFactory, default_of


class DirichletSampler(Sampler):
    """Edge weights drawn from ``Dirichlet(elu(alpha) + 1)``, differentiably (arXiv:2006.10355, section 3.1).

    Of the candidates that are kept, if some were dropped: the others have no weight. That is how the kept ones of all
    are distributed when their weights are scaled to a sum of 1, as the authors' code does.

    Args:
        space: Lets candidates be dropped by :meth:`keep`.
    """

    def __init__(self, space: SearchSpace | None = None) -> None:
        super().__init__()
        self._numbers = {} if space is None else {choice.name: i for i, choice in enumerate(space.choices)}
        for number, choice in enumerate(() if space is None else space.choices):
            every = torch.arange(len(choice.candidates)).expand(choice.rows, -1).clone()
            self.register_buffer(f"kept_{number}", every)

    def kept(self) -> dict[str, Tensor]:
        """Indices of the candidates of every row that were not dropped, ``{choice: [R, K]}``."""
        return {name: self.get_buffer(f"kept_{number}") for name, number in self._numbers.items()}

    def keep(self, kept: Mapping[str, Tensor]) -> None:
        """Drop the other candidates, ``{choice: [R, K]}``."""
        for name, number in self._numbers.items():
            setattr(self, f"kept_{number}", kept[name].to(self.get_buffer(f"kept_{number}").device))

    def concentrations(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Concentrations of the candidates that are kept, ``{choice: [R, K]}``."""
        kept = self.kept()
        return {name: concentration(a.gather(1, kept[name]) if name in kept else a) for name, a in alphas.items()}

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        drawn = {name: Dirichlet(c, validate_args=False).rsample() for name, c in self.concentrations(alphas).items()}
        return self._in_place(drawn, alphas)

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of the distribution."""
        means = {name: F.normalize(c, p=1, dim=-1) for name, c in self.concentrations(alphas).items()}
        return self._in_place(means, alphas)

    def _in_place(self, weights: Mapping[str, Tensor], alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the kept candidates among zeros, ``{choice: [R, O]}``."""
        kept = self.kept()
        return {
            name: w if w.shape == alphas[name].shape else torch.zeros_like(alphas[name]).scatter(1, kept[name], w)
            for name, w in weights.items()
        }


class DrNASOptions(
    FixedGradientOptions,
    WeightLr,
    WeightLrMin,
    WeightDecay,
    WeightNesterov,
    DropPath,
    AlphaStd,
    ArchLr,
    ArchBetas,
    ArchWarmup,
    ArchEvery,
    Penalised,
    total=False,
):
    """Options that :class:`DrNAS` passes on."""

    perturbation: Perturbation | None


class DrNAS(BilevelSearch):
    """Edge weights drawn from Dirichlet distributions, whose concentrations are what is learned (arXiv:2006.10355).

    A row that is still undecided draws every mixture of its candidates alike, which explores; the distance of the
    concentrations from 1, where that is so, is penalised (equation 7): ``"l2"`` is a decay of the alphas, as in the
    authors' code by default, ``"kl"`` the divergence from the uniform distribution (:func:`dirichlet_kl`). Derived is
    what is largest in the mean. Theirs compares edges by the softmax of the alphas; within a row both agree.

    Defaults are the authors' for NAS-Bench-201 (100 epochs, batches of 64): SGD 0.025 to 0.001, Adam 3e-4 for the
    alphas. That is one stage.

    With ``stages`` it is the progressive search of section 4, by which candidates come to read more of the channels in
    the same memory. When a stage begins, every edge keeps the candidates with the largest alphas, the others are
    deleted, and those that stay are widened with the weights they have (:func:`~oneshot.supernets.widening.widen`).
    Momenta follow their weights; the schedules go on. In each stage the alphas wait for ``arch_warmup_epochs``. The
    authors' stages, of ``max_epochs`` 100 and 50, after 10 epochs in which the alphas wait:

    =============  ============================================  ============================================
    space          supernet                                      ``stages``
    =============  ============================================  ============================================
    NAS-Bench-201  ``partial_channels=4``                        ``[Stage(50, candidates=3, partial_channels=2)]``
    DARTS          ``partial_channels=6, channels=36, cells=20`` ``[Stage(25, candidates=4, partial_channels=4)]``
    =============  ============================================  ============================================

    Args:
        supernet: The supernet of any space of operation choices.
        regularizer: Distance from the uniform distribution.
        regularizer_weight: Its weight. The authors' 1e-3 is for ``"l2"``.
        stages: Later stages, see :class:`~oneshot.engine.stages.Stage`; in one process, and without perturbation.
        arch_optimizer: See :class:`~oneshot.engine.gradient.GradientSearch`; decays the alphas in place of ``"l2"``.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`; no ``arch_weight_decay``, which ``"l2"`` is.

    Raises:
        ValueError: If the regularizer is unknown or its weight negative, or stages do not follow each other; at the
            start of ``fit``, if a stage would begin after its end, or there are several processes.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = DrNAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.probabilities()["cell"][0].round(decimals=1)
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    sampler: DirichletSampler

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        regularizer: Literal["l2", "kl"] = "l2",
        regularizer_weight: float = 1e-3,
        stages: Sequence[Stage] = (),
        arch_optimizer: OptimizerFactory | None = None,
        **kwargs: Unpack[DrNASOptions],
    ) -> None:
        if regularizer not in ("l2", "kl"):
            raise ValueError(f"regularizer must be 'l2' or 'kl'; got {regularizer!r}.")
        if regularizer_weight < 0:
            raise ValueError(f"regularizer_weight must not be negative; got {regularizer_weight}. 0 is off.")
        decay = regularizer_weight if regularizer == "l2" else 0.0
        if arch_optimizer is not None:
            if decay:
                raise ValueError(
                    "The regularizer 'l2' is a weight decay of Adam, which arch_optimizer replaces. Give that "
                    "optimiser a weight_decay, and pass regularizer_weight=0 or regularizer='kl'."
                )
            decay = default_of(BilevelSearch, "arch_weight_decay")  # of Adam, which is not there
        self.check_kind(supernet)
        check_stages(stages, supernet)
        sampler = DirichletSampler(supernet.space if stages else None)
        super().__init__(supernet, sampler, arch_weight_decay=decay, arch_optimizer=arch_optimizer, **kwargs)
        if stages and self.perturbation is not None:
            raise ValueError(
                "A perturbation gives candidates weight that a stage has dropped. Leave out perturbation, or stages."
            )
        self.kl_weight = regularizer_weight if regularizer == "kl" else 0.0
        self.stages, self._entered = tuple(stages), 0
        if stages:
            self.register_buffer("_stage", torch.tensor(0))

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        loss = super().arch_loss(loss, weights)
        if self.kl_weight:
            concentrations = self.sampler.concentrations(dict(self.alphas.items()))
            divergences = [dirichlet_kl(c).sum() for c in concentrations.values()]
            loss = loss + self.kl_weight * torch.stack(divergences).sum()
        return loss

    # Stages.

    @property
    def stage(self) -> int:
        """Number of the stage, 0 for the first."""
        return self._entered

    def moves_alphas(self) -> bool:
        began = self.stages[self.stage - 1].epoch if self.stage else 0
        return super().moves_alphas() and self.current_epoch - began >= self.arch_warmup_epochs

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.stages or getattr(self.trainer, "fast_dev_run", False):
            return
        if self.trainer.world_size > 1:
            raise ValueError(
                f"A search in stages must run in one process, because its parameters change their shapes; this fit has "
                f"{self.trainer.world_size}. Use Trainer(devices=1), or leave out stages."
            )
        if self.stages[-1].epoch >= (self.trainer.max_epochs or 0):
            raise ValueError(
                f"The last stage must begin before the fit ends; it begins at epoch {self.stages[-1].epoch} of "
                f"max_epochs={self.trainer.max_epochs}. Train longer, or begin it earlier."
            )

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        while self.stage < len(self.stages) and self.stages[self.stage].epoch <= self.current_epoch:
            self.begin_stage()

    @torch.no_grad()
    def begin_stage(self) -> None:
        """Drop the candidates with the least alphas, widen the others, and go on; during a fit."""
        stage, kept = self.stages[self.stage], self.sampler.kept()
        if stage.candidates is not None:
            kept = {name: strongest(self.alphas[name], own, stage.candidates) for name, own in kept.items()}
        widened = self._change(kept, stage.partial_channels)
        weights, alphas = (optimizer.optimizer for optimizer in self.optimizer_pair)
        carry_states([weights], widened, list(self.supernet.parameters()))
        for name, alpha in self.alphas.items():  # dropped ones are 0, and stay so
            there = torch.zeros_like(alpha).scatter(1, kept[name], 1.0)
            moments = [value for value in alphas.state.get(alpha, {}).values() if isinstance(value, Tensor)]
            for tensor in (alpha, *(moment for moment in moments if moment.shape == alpha.shape)):
                tensor.mul_(there)
        self.restart_average()

    def _change(self, kept: Mapping[str, Tensor], parts: int | None) -> Widened:
        """Make the supernet, and the average of its weights, that of the next stage."""
        indices, widened = {name: own.tolist() for name, own in kept.items()}, Widened()
        averaged = [] if self.ema is None else [cast(OperationSupernet, self.ema.module)]
        layout = layout_of(*self.supernet.parameters())
        for supernet in (*averaged, self.supernet):
            drop_candidates(supernet, indices)
            if parts is not None:
                seed = torch.Generator().manual_seed(self.run_seed + self.stage)
                widened = widen_candidates(supernet, parts, seed)
            lay_out(supernet, layout)
        self.sampler.keep(kept)
        self._entered += 1
        self.get_buffer("_stage").fill_(self._entered)
        return widened

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **({"stages": repr(self.stages)} if self.stages else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.stages and "_stage" in state_dict:
            if int(state_dict["_stage"]) < self.stage:
                raise ValueError(
                    f"The state of stage {int(state_dict['_stage'])} must be loaded into a new search; this one is in "
                    f"stage {self.stage} already, and has dropped candidates. Build another."
                )
            names = self.sampler.kept()
            kept = {name: state_dict[f"sampler.kept_{number}"] for number, name in enumerate(names)}
            while self.stage < int(state_dict["_stage"]):
                self._change(kept, self.stages[self.stage].partial_channels)
        return super().load_state_dict(state_dict, *args, **kwargs)


def concentration(alpha: Tensor) -> Tensor:
    """``elu(alpha) + 1``, any shape; at least 1e-3, below which gradients of a draw are astronomical."""
    return (F.elu(alpha) + 1).clamp_min(1e-3)


def dirichlet_kl(concentration: Tensor) -> Tensor:
    """Divergence of Dirichlet distributions from the uniform one, ``KL(Dirichlet(c) || Dirichlet(1))``, in nats.

    Args:
        concentration: c, above 0, ``[R, O]``.

    Returns:
        ``[R]``.

    Example:
        >>> dirichlet_kl(torch.ones(1, 3))
        tensor([0.])
    """
    return kl_divergence(Dirichlet(concentration), Dirichlet(torch.ones_like(concentration)))
