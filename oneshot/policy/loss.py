"""The loss of a policy that is rewarded for what it draws."""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(
    log_probs: Tensor, entropies: Tensor, advantages: Tensor, *, entropy: float = 0.0, ratios: Tensor | None = None
) -> Tensor:
    r"""The loss of REINFORCE (arXiv:1611.01578, section 3.2), with a bonus for entropy.

    .. math:: -\frac{1}{m} \sum_k \Big( w_k (R_k - b) \sum_t \log \pi(a_t | a_{<t}) + \beta \sum_t H_t \Big)

    Args:
        log_probs: ``[N, D]``, differentiable.
        entropies: ``[N, D]``, differentiable.
        advantages: Reward minus baseline, ``[N]``.
        entropy: Beta.
        ratios: w, weights of samples that another policy drew, ``[N]``; 1 by default.

    Returns:
        Scalar.
    """
    weights = advantages if ratios is None else advantages * ratios
    return -(weights * log_probs.sum(1)).mean() - entropy * entropies.sum(1).mean()
