"""Knowledge distillation: a network learns from the outputs of another one, as well as from the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneshot.functional import alpha_divergence
from oneshot.supernets.base import Subnet


class Distillation:
    r"""The loss of a network that learns from a teacher (Hinton et al., arXiv:1503.02531, section 2).

    .. math:: (1 - w) \, L(\text{outputs}, \text{targets}) + w \, T^2 \, KL(\sigma(t / T) \| \sigma(s / T))

    with the logits t of the teacher and s of the network, the weight w and the temperature T. Where outputs are no
    logits of classes, the second part is :meth:`oneshot.tasks.Task.divergence`, without a temperature. The teacher sees
    the very batch that the network sees, augmented and mixed alike (Beyer et al., arXiv:2106.05237).

    Args:
        teacher: Stays as it is.
        student: What learns from it.
        weight: Of the teacher, w.
        temperature: T.

    Raises:
        ValueError: If a number is out of its range, or the networks read or say other things.
    """

    def __init__(self, teacher: Subnet, student: Subnet, weight: float, temperature: float) -> None:
        if not 0 < weight <= 1 or not temperature > 0:
            raise ValueError(
                "teacher_weight must be above 0 and at most 1, and temperature above 0; got "
                f"{weight} and {temperature}. Leave teacher out to learn from the labels alone."
            )
        if teacher is student:
            raise ValueError("A teacher must be another network than the one that learns; got the same object twice.")
        for name in ("num_classes", "input_shape", "task"):
            theirs, ours = getattr(teacher, name), getattr(student, name)
            if theirs != ours:
                raise ValueError(
                    f"A teacher must have the {name} of the network that learns; got {theirs} and {ours}. "
                    "Build it for the same data."
                )
        self.teacher, self.weight, self.temperature = teacher, weight, temperature

    def to(self, device: torch.device) -> None:
        """Move the teacher to where the batches are."""
        self.teacher.to(device).eval()

    def loss(self, x: Any, outputs: Tensor, plain: Tensor) -> Tensor:
        """The whole loss.

        Args:
            x: Inputs, ``[B, ...]``.
            outputs: Of the network for them, ``[B, outputs, ...]``.
            plain: Its loss by the labels, a scalar.
        """
        with torch.no_grad():
            theirs = self.teacher.eval()(x)
        task, heat = self.teacher.task, self.temperature
        teacher, student = task.as_logits(theirs), task.as_logits(outputs)
        if teacher is None or student is None:
            other = task.divergence(outputs, theirs)
        else:
            other = heat**2 * alpha_divergence(teacher / heat, student / heat, clip=float("inf"))
        return (1 - self.weight) * plain + self.weight * other
