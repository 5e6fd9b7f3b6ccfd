"""Pure mathematics: no Lightning, no state. Each formula has a test against an independent float64 implementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.supernets.base import frozen_batch_norm as frozen_batch_norm

NARROW = (torch.float16, torch.bfloat16)
LEAST_TEMPERATURE = 1e-20

# Gradients of the weights -> what an optimiser takes from each weight, over a learning rate, and its derivatives.
Step = Callable[[Sequence[Tensor]], tuple[Sequence[Tensor], Sequence[Tensor | float]]]


def unrolled_arch_grad(
    train_loss: Callable[[], Tensor],
    val_loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    momentum_buffers: Sequence[Tensor | None] | None = None,
    step: Step | None = None,
    epsilon: float = 0.01,
    average: Callable[[list[Tensor]], list[Tensor]] = list,
) -> list[Tensor]:
    r"""Gradient of the validation loss after one virtual weight step (DARTS second order, arXiv:1806.09055, eq. 7, 8).

    An optimiser takes :math:`w' = w - \xi s(g)` with :math:`g = \nabla_w L_t`. For SGD with momentum buffer :math:`b`,
    it is :math:`s(g) = g + \lambda w + \mu b`. Those of :func:`sgd_step` and :func:`adam_step` act element by element,
    and the derivative is a diagonal matrix :math:`D = \partial s / \partial g`, for SGD the identity. Then

    .. math:: \nabla_\alpha L_v(w', \alpha) - \xi \frac{\nabla_\alpha L_t(w^+, \alpha) - \nabla_\alpha L_t(w^-, \alpha)}
        {2 \epsilon}, \quad w^\pm = w \pm \epsilon D v, \quad v = \nabla_{w'} L_v(w', \alpha)

    where the step of the finite difference is ``epsilon / norm(D v)``. Five gradients; the error is of order epsilon^2.

    Args:
        train_loss: Training loss at the current values of ``weights`` and ``alphas``, which it reads in place.
        val_loss: Validation loss, likewise.
        weights: Leaf tensors of any shapes; moved during the call, restored bit for bit, also after an exception.
        alphas: Leaf tensors of any shapes.
        lr: Learning rate of the virtual step, xi.
        momentum: Momentum of the weight optimiser, mu.
        weight_decay: Weight decay of the weight optimiser, lambda.
        momentum_buffers: Its momentum buffers, one per weight, ``None`` before its first step.
        step: Of another optimiser, in place of ``momentum``, ``weight_decay`` and ``momentum_buffers``: gives s and the
            diagonal of D, one tensor (or number) per weight, for the gradients g.
        epsilon: Length of the finite difference in weight space. The paper's 0.01 is long for small networks, where it
            crosses kinks of ReLU: with a few channels the result can be several times off, at 1e-6 (float64) it is not.
        average: Averages gradients over the processes that see parts of one batch; every gradient goes through it, so
            that all processes take the same virtual step.

    Returns:
        One gradient per alpha. ``.grad`` of nothing is touched.
    """
    buffers = momentum_buffers or [None] * len(weights)

    def step_of_sgd(gradients: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
        moved = [
            sgd_step(w, g, momentum=momentum, weight_decay=weight_decay, buffer=b)
            for w, g, b in zip(weights, gradients, buffers, strict=True)
        ]
        return [update for update, _ in moved], [slope for _, slope in moved]

    backup = [w.detach().clone() for w in weights]
    try:
        gradients = average(_grad(train_loss(), weights))
        with torch.no_grad():
            updates, slopes = (step or step_of_sgd)(gradients)
            for w, update in zip(weights, updates, strict=True):
                w.sub_(lr * update)
        gradients = average(_grad(val_loss(), [*alphas, *weights]))
        grad_alphas, v = gradients[: len(alphas)], gradients[len(alphas) :]
        v = [x if isinstance(slope, float) and slope == 1 else slope * x for slope, x in zip(slopes, v, strict=True)]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in v]))
        eps = epsilon / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # v = 0 gives a zero difference, not 0 / 0
        sides = []
        devices = {w.device.index for w in weights if w.device.type == "cuda"}
        for sign in (1, -1):
            with torch.no_grad():
                for w, original, x in zip(weights, backup, v, strict=True):
                    w.copy_(original + sign * eps * x)
            # Both sides draw the same random numbers; the difference of two draws, divided by epsilon, would be noise.
            with torch.random.fork_rng(sorted(devices), enabled=sign == 1):
                sides.append(average(_grad(train_loss(), alphas)))
        return [g - lr * (p - n) / (2 * eps) for g, p, n in zip(grad_alphas, *sides, strict=True)]
    finally:
        with torch.no_grad():
            for w, original in zip(weights, backup, strict=True):
                w.copy_(original)


def sgd_step(
    weight: Tensor,
    gradient: Tensor,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    buffer: Tensor | None = None,
) -> tuple[Tensor, float]:
    r"""What ``torch.optim.SGD`` takes from a weight, over its learning rate, and the derivative in the gradient.

    With :math:`g' = g + \lambda w`, and the buffer :math:`b' = \mu b + (1 - d) g'`, at first :math:`b' = g'`, it
    takes :math:`b'`; with Nesterov's momentum :math:`g' + \mu b'`.

    Args:
        weight: Any shape.
        gradient: Of the same shape.
        momentum: mu.
        dampening: d.
        weight_decay: lambda.
        nesterov: Whether the momentum is Nesterov's.
        buffer: b; ``None`` before the first step.
    """
    update = gradient + weight_decay * weight
    step, slope = update, 1.0
    if buffer is not None:
        slope = 1.0 - dampening
        step = (update if slope == 1 else slope * update) + momentum * buffer
    if nesterov:
        return update + momentum * step, 1.0 + momentum * slope
    return step, slope


def adam_step(
    weight: Tensor,
    gradient: Tensor,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    average: Tensor | None = None,
    square: Tensor | None = None,
    steps: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""What Adam takes from a weight, over its learning rate, and the derivative in the gradient, element by element.

    (arXiv:1412.6980, algorithm 1; AdamW: arXiv:1711.05101, algorithm 2.) In step t,

    .. math:: m = \beta_1 m_0 + (1 - \beta_1) g, \quad v = \beta_2 v_0 + (1 - \beta_2) g^2, \quad
        s = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} =: \frac{\hat m}{q}, \quad
        \frac{\partial s}{\partial g} = \frac{1 - \beta_1}{(1 - \beta_1^t) q}
        - \frac{\hat m}{q^2} \frac{(1 - \beta_2) g}{\sqrt{v (1 - \beta_2^t)}}

    Weight decay is added to the gradient, or, decoupled, to the step, where it has no part in the derivative. Where
    both the gradient and v are 0, the last fraction, which jumps there, counts as 0. In its very first step Adam moves
    by the sign of the gradient, and the derivative is near 0.

    Args:
        weight: Any shape.
        gradient: Of the same shape.
        betas: Decays of both averages.
        eps: epsilon.
        weight_decay: Weight decay.
        decoupled: Whether it is AdamW's.
        average: The average of gradients before this step; ``None`` is 0.
        square: The average of their squares; ``None`` is 0.
        steps: Steps before this one, t - 1.
    """
    g = gradient if decoupled else gradient + weight_decay * weight
    (beta1, beta2), t = betas, steps + 1
    m = (1 - beta1) * g if average is None else beta1 * average + (1 - beta1) * g
    v = (1 - beta2) * g.square() if square is None else beta2 * square + (1 - beta2) * g.square()
    first, second = 1 - beta1**t, 1 - beta2**t
    q, mean = (v / second).sqrt() + eps, m / first
    root = (v * second).sqrt()
    bend = torch.where(root > 0, (1 - beta2) * g / torch.where(root > 0, root, 1), 0)
    step, slope = mean / q, (1 - beta1) / (first * q) - mean / q.square() * bend
    return (step + weight_decay * weight if decoupled else step), slope


def clip_to_simplex(weights: Tensor) -> Tensor:
    """Rows without negative numbers that sum to 1: negative weights become 0, then every row is divided by its sum.

    What SmoothDARTS does to perturbed weights (arXiv:2002.05283, section 3.3, and the authors' code). Not the nearest
    point of the simplex. A row of which nothing is left becomes one-hot at its largest weight.

    Args:
        weights: ``[R, O]``.

    Example:
        >>> clip_to_simplex(torch.tensor([[0.6, 0.6, -0.1], [-0.2, -0.1, -0.3]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 1.0000, 0.0000]])
    """
    clipped = weights.clamp(0, 1)
    sums = clipped.sum(-1, keepdim=True)
    largest = torch.nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights)
    return torch.where(sums > 0, clipped / torch.where(sums > 0, sums, 1), largest)


def worst_weights(
    rows: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    epsilon: float,
    steps: int = 7,
    average: Callable[[list[Tensor]], list[Tensor]] = list,
) -> dict[str, Tensor]:
    """Edge weights near ``rows`` under which the loss is high (SmoothDARTS-ADV, arXiv:2002.05283, equation 7).

    Projected gradient ascent from a random start: steps of ``2 * epsilon / steps`` along the sign of the gradient, each
    followed by clipping to ``rows +- epsilon`` and then to the simplex, as in the authors' code.

    Args:
        rows: Edge weights on the simplex, ``{choice: [R, O]}``.
        loss: Training loss under given edge weights; scalar, differentiable in them.
        epsilon: Largest change of a weight, before rows are divided by their sums.
        steps: Gradient steps.
        average: Averages over the processes that see parts of one batch, so that all climb the same hill.

    Returns:
        Edge weights on the simplex, ``{choice: [R, O]}``; ``rows`` where climbing has not raised the loss.
    """
    names = list(rows)

    def measure(at: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return average([loss(dict(zip(names, at, strict=True))).detach()])[0]

    start = [rows[name].detach() for name in names]
    here = [clip_to_simplex(row + torch.empty_like(row).uniform_(-epsilon, epsilon)) for row in start]
    for _ in range(steps):
        with torch.enable_grad():
            here = [row.requires_grad_() for row in here]
            gradients = average(_grad(loss(dict(zip(names, here, strict=True))), here))
        moved = [row.detach() + 2 * epsilon / steps * g.sign() for row, g in zip(here, gradients, strict=True)]
        here = [clip_to_simplex(row + (m - row).clamp(-epsilon, epsilon)) for row, m in zip(start, moved, strict=True)]
    risen = measure(here) > measure(start)
    return {name: torch.where(risen, high, low) for name, high, low in zip(names, here, start, strict=True)}


def largest_eigenvalue(product: Callable[[Tensor], Tensor], like: Tensor, *, steps: int = 32) -> float:
    r"""Largest eigenvalue of a symmetric matrix of which only products with vectors are known.

    Lanczos' method: the largest eigenvalue of the matrix projected on ``v, Av, A^2 v, ...`` for a random ``v``, with
    every vector orthogonalised against all before. It approaches from below; with ``steps >= n`` it is exact.

    *Largest* is meant with its sign: power iteration would give the eigenvalue of largest magnitude, and the most
    negative one where a loss bends downwards more than it bends upwards. A matrix that is not quite symmetric, as
    Hessians in finite precision are, counts as ``(A + A^T) / 2``, whose eigenvalues are real.

    Args:
        product: ``[n] -> [n]``, product of the matrix with a vector.
        like: A vector of the length, device and type ``product`` takes, ``[n]``.
        steps: Products at most.

    Example:
        >>> matrix = torch.diag(torch.tensor([-3.0, 1.0, 2.0]))
        >>> round(largest_eigenvalue(lambda v: matrix @ v, torch.zeros(3)), 4)
        2.0
    """
    generator = torch.Generator().manual_seed(0)  # the same vector in every process, and nobody's random numbers
    vector = torch.randn(like.numel(), generator=generator, dtype=torch.float64)
    basis, images = vector.new_empty(0, len(vector)), vector.new_empty(0, len(vector))
    while len(basis) < min(steps, len(vector)):
        length = vector.norm()
        for _ in range(2):  # once is not enough in finite precision
            vector = vector - basis.T @ (basis @ vector)
        if vector.norm() <= 1e-6 * length:  # what was seen is mapped into itself
            break
        vector = vector / vector.norm()
        image = product(vector.to(like)).detach().double().cpu()
        basis, images = torch.cat([basis, vector[None]]), torch.cat([images, image[None]])
        vector = image
    projected = basis @ images.T
    return float(torch.linalg.eigvalsh((projected + projected.T) / 2)[-1])


def sharpening_since(
    eigenvalues: Sequence[float], *, window: int = 5, lag: int = 4, ratio: float = 0.75, first: int = 0
) -> int | None:
    r"""Index of the last good measurement before a sharp rise (DARTS-ES, arXiv:1909.09656, section 4.3).

    With :math:`\bar\lambda(i)` the mean of the measurements around i, the search has got into a sharp valley when
    :math:`\bar\lambda(i - k) / \bar\lambda(i) < 0.75`, and i - k is where it was still good. The last i is the one
    whose window is complete; windows that would begin before the first measurement are shorter, as in the authors'
    code.

    Args:
        eigenvalues: Measurements so far, in order.
        window: Measurements a mean is taken over, centred; odd.
        lag: k, measurements between the two means.
        ratio: Below it the rise is sharp. The authors' code has 1 / 1.3.
        first: The first measurement that may be returned.

    Returns:
        i - k, or ``None`` if there was no such rise.

    Example:
        >>> sharpening_since([0.1, 0.1, 0.1, 0.4], window=1, lag=1)
        2
    """
    half = window // 2
    now = len(eigenvalues) - 1 - half
    before = now - lag

    def mean(centre: int) -> float:
        around = eigenvalues[max(0, centre - half) : centre + half + 1]
        return sum(around) / len(around)

    if before < max(0, first):
        return None
    # not as a quotient: eigenvalues at or below 0 are those of no valley, let alone a sharp one
    return before if mean(now) > 0 and mean(before) < ratio * mean(now) else None


def alignment(gradients: Tensor) -> Tensor:
    """Mean cosine between the gradients of different cells (Lambda-DARTS, arXiv:2210.07998); scalar.

    Args:
        gradients: One row for every cell, ``[L, D]``, L at least 2.

    Example:
        >>> alignment(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
        tensor(0.3333)
    """
    units, cells = F.normalize(gradients, dim=1), len(gradients)
    return (units.sum(0).square().sum() - units.square().sum()) / (cells * (cells - 1))


def alignment_gradient(gradients: Tensor) -> Tensor:
    r"""Derivative of :func:`alignment` in every gradient, ``[L, D] -> [L, D]``; 0 for a gradient of 0.

    .. math:: \frac{2}{L (L - 1)} \frac{1}{\|g_l\|} (I - u_l u_l^\top) \sum_{k \ne l} u_k, \quad u_l = g_l / \|g_l\|
    """
    units, norms, cells = F.normalize(gradients, dim=1), gradients.norm(dim=1, keepdim=True), len(gradients)
    others = units.sum(0) - units
    along = others - units * (units * others).sum(1, keepdim=True)
    derivative: Tensor = 2 / (cells * (cells - 1)) * along / norms.where(norms > 0, torch.inf)
    return derivative


def gradient_match(pairs: Sequence[tuple[Tensor, Tensor]], *, accumulated: bool = False) -> Tensor:
    """Cosine of the gradients of a module on training and on held-out data (OLES, NeurIPS 2023); 0 of a gradient of 0.

    Args:
        pairs: Both gradients of every weight, of equal shapes.
        accumulated: Take the cosine between the first and the sum of both.

    Example:
        >>> gradient_match([(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]))])
        tensor(0.6000)
    """
    ours, theirs = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    return F.cosine_similarity(ours, ours + theirs if accumulated else theirs, dim=0, eps=1e-30)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row in nats.

    Args:
        probabilities: ``[R, O]``, rows sum to 1.

    Returns:
        ``[R]``.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    entropies: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropies


def alpha_divergence(
    teacher: Tensor, student: Tensor, *, alphas: Sequence[float] = (1.0,), clip: float = 5.0
) -> Tensor:
    r"""Alpha-divergence of the student's probabilities from the teacher's, for distillation; mean over the batch.

    .. math:: D_\alpha(p \| q) = \frac{1}{\alpha (\alpha - 1)} \sum_i q_i
        \left[ \left( \frac{p_i}{q_i} \right)^\alpha - 1 \right]

    with the teacher's :math:`p` and the student's :math:`q`; at 1 it is :math:`KL(p \| q)`, at 0 :math:`KL(q \| p)`. A
    negative alpha punishes a student that is too certain, a positive one a student that is not certain enough. Of
    several alphas each image has the one with the largest divergence. So that single classes do not make the gradient
    explode, :math:`(p/q)^\alpha` is at most ``clip`` in both value and gradient, as is the ratio itself at 0; at 1
    there is nothing to clip, for the gradient of :math:`KL(p \| q)` is bounded. Source: AlphaNet, arXiv:2102.07954,
    equations 3 to 7, and the authors' code (facebookresearch/AlphaNet, ``loss_ops.py``); its alphas are -1 and 1, its
    clip is 5.

    Args:
        teacher: Logits, ``[B, classes, ...]``; they get no gradient.
        student: Logits of the same shape.
        alphas: One or several.
        clip: Largest importance weight; infinity for none.

    Returns:
        Scalar, differentiable in ``student``.

    Raises:
        ValueError: If there is no alpha, or ``clip`` is below 1.
    """
    if not alphas or not clip >= 1:
        raise ValueError(f"A divergence has at least one alpha and a clip of 1 or more; got {alphas} and clip={clip}.")
    log_p, log_q = teacher.detach().log_softmax(1), student.log_softmax(1)
    q, log_ratio = log_q.detach().exp(), log_p - log_q.detach()
    values, slopes = [], []
    for alpha in alphas:
        # The gradient of a divergence is that of -sum(q weight log q), with q and the weight held constant. Their
        # product is finite where the student has forgotten a class, and the weight alone is not.
        if alpha == 0:
            weighted = q * log_ratio.clamp(max=math.log(clip))
            value = -weighted
        elif alpha == 1:
            weighted = log_p.exp()
            value = weighted * log_ratio
        else:
            weighted = ((alpha * log_ratio).clamp(max=math.log(clip)) + log_q.detach()).exp()
            value = (weighted - q) / (alpha * (alpha - 1))
            weighted = weighted / alpha
        values.append(value.sum(1))
        slopes.append(-(weighted * log_q).sum(1))
    value, slope = torch.stack(values), torch.stack(slopes)
    largest = value.argmax(0, keepdim=True)
    value, slope = value.gather(0, largest).mean(), slope.gather(0, largest).mean()
    return value + slope - slope.detach()


def expected_cost(weights: Mapping[str, Tensor], costs: Mapping[str, Tensor]) -> Tensor:
    """Expected cost of an architecture whose candidates have additive costs.

    Args:
        weights: Edge weights ``{choice: [R, O]}``.
        costs: Candidate costs ``{choice: [R, O]}``, any unit.

    Returns:
        Scalar in the unit of ``costs``, differentiable in ``weights``.

    Raises:
        ValueError: If names or shapes differ.

    Example:
        >>> expected_cost({"layer": torch.tensor([[0.5, 0.5]])}, {"layer": torch.tensor([[1.0, 3.0]])})
        tensor(2.)
    """
    ours = {name: tuple(w.shape) for name, w in weights.items()}
    theirs = {name: tuple(c.shape) for name, c in costs.items()}
    if ours != theirs:
        raise ValueError(f"Costs need the names and shapes of the edge weights, {ours}; got {theirs}.")
    return torch.stack([(w * costs[name].to(w)).sum() for name, w in weights.items()]).sum()


def most_likely_within(
    probabilities: Sequence[npt.NDArray[np.float64]],
    costs: Sequence[npt.NDArray[np.float64]],
    *,
    low: float,
    high: float,
    bins: int = 4096,
) -> list[int]:
    """Most likely choice of one candidate per row whose total cost is between ``low`` and ``high``.

    A multiple-choice knapsack, solved by dynamic programming over the sum. Every cost is rounded up to a multiple of
    ``high / bins``, so no sum is above ``high``; with R rows one may be taken for up to R of these dearer than it is.

    Args:
        probabilities: Of the candidates of every row, R of ``[O]``; O may differ.
        costs: Of the same candidates, not negative.
        low: Least sum. If none is between, the greatest below is taken, and if all are above ``high``, the cheapest.
        high: Greatest sum.
        bins: Steps of the sum.

    Returns:
        Index of the candidate of every row.

    Example:
        >>> likely, cost = np.array([0.6, 0.4]), np.array([1.0, 2.0])
        >>> most_likely_within([likely, likely], [cost, cost], low=2.5, high=3.1)
        [1, 0]
    """
    cheapest = [int(row.argmin()) for row in costs]
    if high <= 0 or sum(row.min() for row in costs) > high:
        return cheapest
    best, picks = np.full(bins + 1, -np.inf), []
    best[0] = 0.0
    for row, cost in zip(probabilities, costs, strict=True):
        steps = np.ceil(np.asarray(cost) * (bins / high) - 1e-9).astype(np.int64)
        reached = np.full((len(steps), bins + 1), -np.inf)
        for o, (p, step) in enumerate(zip(row, steps, strict=True)):
            if step <= bins:
                reached[o, step:] = best[: bins + 1 - step] + math.log(max(p, 1e-300))
        picks.append((reached.argmax(0), steps))
        best = reached.max(0)
    start = min(max(math.ceil(low * bins / high), 0), bins)
    reachable = np.flatnonzero(best > -np.inf)
    if not len(reachable):
        return cheapest  # the rounding has left nothing
    window = reachable[reachable >= start]
    total = int(window[best[window].argmax()]) if len(window) else int(reachable[-1])
    chosen: list[int] = []
    for which, steps in reversed(picks):
        chosen.append(int(which[total]))
        total -= int(steps[chosen[-1]])
    return chosen[::-1]


def fair_paths(sizes: Sequence[int]) -> Tensor:
    """Single paths that together run every candidate of every row (FairNAS, arXiv:1907.01845, algorithm 1).

    Each row is a random permutation of its candidates, independent of the others; path number k takes the k-th of each.
    As many paths as the longest row has candidates; a shorter row goes on with further permutations, so that its
    candidates run equally often, give or take one. Drawn from torch's default generator.

    Args:
        sizes: Number of candidates of every row, length R.

    Returns:
        Candidates, int64 ``[max(sizes), R]``.

    Example:
        >>> fair_paths([3, 3]).sort(0).values
        tensor([[0, 0],
                [1, 1],
                [2, 2]])
    """
    count = max(sizes)
    rows = [torch.cat([torch.randperm(size) for _ in range(math.ceil(count / size))])[:count] for size in sizes]
    return torch.stack(rows, dim=1)


def warmup_cosine(step: int, *, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine down (arXiv:1608.03983, eq. 5).

    Args:
        step: Optimiser step, from 0.
        steps: Number of steps; at ``step == steps`` the factor has reached ``floor``.
        warmup: Steps before the maximum of 1, at ``(step + 1) / (warmup + 1)``.
        floor: Factor at the end.

    Example:
        >>> [round(warmup_cosine(step, steps=4, warmup=2), 2) for step in range(5)]
        [0.33, 0.67, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def is_temperature(value: float) -> bool:
    """Whether logits can be divided by a temperature: near 0 the quotient overflows, and the softmax is NaN.

    Args:
        value: The temperature; from 1e-20, where a softmax is one-hot long since, to 1e20, where it is uniform.
    """
    return LEAST_TEMPERATURE <= value <= 1 / LEAST_TEMPERATURE


def in_32_bits(x: Tensor) -> Tensor:
    """Convert ``x`` of any shape to 32 bits if it has 16, because NumPy does not know every 16-bit type."""
    return x.float() if x.dtype in NARROW else x


def wide(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a conversion of tensors, ``fn``, so that it narrows no wider tensor below 32 bits."""

    def converted(x: Tensor) -> Tensor:
        new = fn(x)
        return new if new.dtype not in NARROW or x.dtype in NARROW else x.to(new.device)

    return converted


def _grad(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients; zero for inputs the loss does not depend on (candidates that did not run)."""
    return list(torch.autograd.grad(loss, list(inputs), allow_unused=True, materialize_grads=True))
