"""MnasNet: Platform-Aware Neural Architecture Search for Mobile (Tan et al., CVPR 2019, arXiv:1807.11626)."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot._typing import Unpack
from oneshot.supernets.space import SearchSpace

from .ppo import PPO, SMALL, UnscaledPPOOptions

SOFT, HARD = (-0.07, -0.07), (0.0, -1.0)


def mnasnet_reward(accuracy: float, latency: float, target: float, *, exponents: tuple[float, float] = SOFT) -> float:
    r"""Accuracy times a power of the latency (arXiv:1807.11626, equations 2 and 3).

    .. math:: ACC \cdot (LAT / T)^w, \quad w = \alpha \text{ if } LAT \le T \text{ else } \beta

    Args:
        accuracy: Accuracy in any unit, above 0.
        latency: Above 0.
        target: T, in the unit of the latency.
        exponents: Alpha and beta. ``SOFT``, -0.07 for both: 5 % more accuracy is worth twice the latency. ``HARD``, 0
            and -1: what keeps the target is judged by accuracy alone.

    Raises:
        ValueError: If accuracy is negative, latency or target not above 0.

    Example:
        >>> round(mnasnet_reward(75.0, 80.0, 80.0), 3), round(mnasnet_reward(75.0, 160.0, 80.0), 3)
        (75.0, 71.448)
    """
    if accuracy < 0 or not latency > 0 or not target > 0:
        raise ValueError(
            f"A reward must be of an accuracy of at least 0, a latency and a target above 0; got {accuracy}, "
            f"{latency} and "
            f"{target}. Give accuracies as objectives to be minimised, so as their negatives."
        )
    below, above = exponents
    return float(accuracy * (latency / target) ** (below if latency <= target else above))


class MnasNetScalar:
    """Minus :func:`mnasnet_reward`, as any strategy of one objective takes it: ``scalar=MnasNetScalar(80.0)``.

    Of the values of a result the first is minus the accuracy, the second the latency: a study with the objectives
    ``["max accuracy", "min latency"]``. Both stay in the records; the front is not that of the reward. A throughput is
    turned into a latency where the table is read.

    Args:
        target: T, in the unit of the latency.
        exponents: ``SOFT`` or ``HARD``, or alpha and beta.

    Raises:
        ValueError: If the target is not above 0.

    Example:
        >>> MnasNetScalar(80.0, HARD)((-0.75, 40.0))
        -0.75
    """

    def __init__(self, target: float, exponents: tuple[float, float] = SOFT) -> None:
        if not target > 0:
            raise ValueError(f"The target of the latency must be above 0, in its unit; got {target}.")
        self.target, self.exponents = target, exponents

    def __call__(self, values: Sequence[float]) -> float:
        """The value that is minimised.

        Raises:
            ValueError: If there are fewer than two values, or the first is not minus an accuracy.
        """
        if len(values) < 2:
            raise ValueError(
                f"MnasNet must be given two objectives, minus accuracy and latency; got {len(values)}. The "
                "objectives of the "
                "study are ['max accuracy', 'min latency']."
            )
        return -mnasnet_reward(-values[0], values[1], self.target, exponents=self.exponents)


class MnasNet(PPO):
    """PPO with the reward of MnasNet. The paper drew some 8,000 networks for a phone, with a target of 75 to 80 ms.

    The space of the paper is factorised: every block of the network has its own kernel, expansion, depth and so on.
    ``tables.accel_nasbench`` has one.

    Args:
        space: The space to search.
        target: Latency to aim at, in the unit of the second objective.
        exponents: See :class:`MnasNetScalar`.
        **kwargs: See :class:`~.ppo.PPO`; but for ``scalar``.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        target: float,
        exponents: tuple[float, float] = SOFT,
        **kwargs: Unpack[UnscaledPPOOptions],
    ) -> None:
        super().__init__(space, scalar=MnasNetScalar(target, exponents), **kwargs)

    @classmethod
    def small(  # type: ignore[override]  # the target has no default
        cls,
        space: SearchSpace,
        *,
        target: float,
        exponents: tuple[float, float] = SOFT,
        **kwargs: Unpack[UnscaledPPOOptions],
    ) -> MnasNet:
        """The strategy with the settings of :meth:`~.ppo.PPO.small`.

        Args:
            space: The space to search.
            target: See the class.
            exponents: See :class:`MnasNetScalar`.
            **kwargs: See :class:`~.ppo.PPO`; but for ``scalar``.
        """
        settings: UnscaledPPOOptions = {**SMALL, **kwargs}
        return cls(space, target=target, exponents=exponents, **settings)
