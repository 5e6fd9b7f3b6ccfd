"""FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable NAS (Wu et al., CVPR 2019)."""

from __future__ import annotations

import math

import numpy as np

from oneshot.cost import CostPenalty
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    AlphaStd,
    ArchEvery,
    ArchOptimizer,
    DropPath,
    FixedGradientOptions,
    Unpack,
    WeightNesterov,
)
from oneshot.engine.samplers import GumbelSoftmaxSampler, Perturbation
from oneshot.functional import in_32_bits, is_temperature
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.space import SubnetConfig


class ExponentialGumbelSampler(GumbelSoftmaxSampler):
    """A concrete distribution whose temperature is ``start * exp(-rate * epoch)``.

    Raises:
        ValueError: If a temperature or the rate is out of its range; at the first epoch, if the last temperature is.
    """

    def __init__(self, start: float, rate: float) -> None:
        super().__init__(start, start)
        if not math.isfinite(rate):
            raise ValueError(f"The rate at which a temperature falls must be finite; got {rate}. 0 keeps it.")
        self.rate = rate

    def schedule(self, epoch: int, epochs: int) -> None:
        exponent = -self.rate * max(0, epochs - 1)
        if not is_temperature(end := self.start * math.exp(min(700.0, max(-700.0, exponent)))):
            raise ValueError(
                f"Temperatures must stay above 0; at a rate of {self.rate} that of epoch {epochs} is {end:.1e}, and a "
                "softmax is NaN. Choose a temperature_rate nearer to 0, or fewer epochs."
            )
        self.temperature.fill_(self.start).mul_((-self.rate * self.temperature.new_tensor(epoch)).exp())


class FBNetOptions(FixedGradientOptions, WeightNesterov, DropPath, AlphaStd, ArchEvery, ArchOptimizer, total=False):
    """Options that :class:`FBNet` passes on."""

    perturbation: Perturbation | None


class FBNet(BilevelSearch):
    """Gumbel-softmax edge weights, and a loss in which the expected latency counts (arXiv:1812.03443).

    The loss of the alphas is ``CE * a * log(LAT)^b`` (equation 2), LAT differentiable in the sampled edge weights
    (equation 6): ``penalty=CostPenalty(latency, "fbnet")``. Any other form of
    :class:`~oneshot.cost.CostPenalty` works too. Networks are drawn from the distribution at the end (section 3.3);
    :meth:`sample` does that, :meth:`derive` takes the most likely.

    There is no official code. Defaults are the paper's where it gives them: SGD 0.1 with a cosine, decay 1e-4, Adam
    0.01 with decay 5e-4, alphas still for 10 epochs of 90; temperature ``5 exp(-0.045 epoch)``.

    Args:
        supernet: The supernet of any space of operation choices.
        penalty: What an architecture costs and how that counts.
        temperature: At the first epoch.
        temperature_rate: Rate of its exponential decay, per epoch.
        weight_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_lr_min: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_betas: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_warmup_epochs: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> search = FBNet(supernet, CostPenalty("macs", "fbnet"))
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        penalty: CostPenalty,
        *,
        temperature: float = 5.0,
        temperature_rate: float = 0.045,
        weight_lr: float = 0.1,
        weight_lr_min: float = 0.0,
        weight_decay: float = 1e-4,
        arch_lr: float = 0.01,
        arch_betas: tuple[float, float] = (0.9, 0.999),
        arch_weight_decay: float = 5e-4,
        arch_warmup_epochs: int = 10,
        **kwargs: Unpack[FBNetOptions],
    ) -> None:
        super().__init__(
            supernet,
            ExponentialGumbelSampler(temperature, temperature_rate),
            penalty=penalty,
            weight_lr=weight_lr,
            weight_lr_min=weight_lr_min,
            weight_decay=weight_decay,
            arch_lr=arch_lr,
            arch_betas=arch_betas,
            arch_weight_decay=arch_weight_decay,
            arch_warmup_epochs=arch_warmup_epochs,
            **kwargs,
        )

    def sample(self, seed: int) -> SubnetConfig:
        """Draw an architecture from the distribution the search has learned (by the Gumbel-max trick)."""
        rng = np.random.default_rng(seed)
        scores = {name: in_32_bits(p).cpu().numpy() for name, p in self.probabilities().items()}
        return self.supernet.space.most_likely({name: p / rng.exponential(size=p.shape) for name, p in scores.items()})
