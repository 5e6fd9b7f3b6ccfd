"""A network that learns from another one: the loss against float64, what the teacher sees, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oneshot.supernets.base import Subnet
from oneshot.supernets.space import ArchGraph
from oneshot.training.retrain import Retrain
from tests.reference.formulas import softmax


class Affine(Subnet):
    """Logits are an affine function of three pixels."""

    def __init__(self, seed: int, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.num_classes, self.input_shape, self.init_args = outputs, (3, 1, 1), {}
        self.fc, self.drop = nn.Linear(3, outputs), nn.Dropout(0.5)
        with torch.no_grad():
            self.fc.weight.mul_(4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.fc(x.flatten(1))

    def graphs(self) -> list[ArchGraph]:
        return []


def batches(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 1, 1, generator=generator), torch.randint(3, (8,), generator=generator)


def by_hand(x: Tensor, y: Tensor, teacher: Affine, student: Affine, weight: float, heat: float) -> float:
    """The loss in float64; a term for every image."""
    total = 0.0
    for image, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
        t, s = (
            net.fc.weight.detach().double().numpy() @ image + net.fc.bias.detach().double().numpy()
            for net in (teacher, student)
        )
        p, q = softmax(t / heat), softmax(s / heat)
        total += (1 - weight) * -np.log(softmax(s)[label])
        total += weight * heat**2 * float((p * (np.log(p) - np.log(q))).sum())
    return total / len(x)


def fit(module: Retrain, folder: Path, epochs: int = 1, data: Any = None, **options: Any) -> pl.Trainer:
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings: dict[str, Any] = {**dict.fromkeys(names, False), "limit_val_batches": 0, "max_epochs": epochs}
    trainer = pl.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **settings)
    loader = DataLoader(TensorDataset(*(data or batches())), 8)
    trainer.fit(module, loader, loader, weights_only=True if options else None, **options)
    return trainer


def step(folder: Path, student: Affine, teacher: Affine, **options: Any) -> float:
    """Loss of the first step."""
    trainer = fit(Retrain(student, teacher=teacher, **options), folder)
    return float(trainer.callback_metrics["train/loss"])


@pytest.mark.parametrize(("weight", "heat"), [(0.9, 4.0), (0.3, 1.0), (1.0, 2.5)])
def test_the_loss_equals_its_formula(weight: float, heat: float, tmp_path: Path) -> None:
    teacher, student = Affine(0), Affine(1)
    expected = by_hand(*batches(), teacher, student, weight, heat)
    assert step(tmp_path, copy.deepcopy(student), teacher, teacher_weight=weight, temperature=heat) == pytest.approx(
        expected, rel=1e-5
    )
    others = [
        by_hand(*batches(), student, teacher, weight, heat),  # the other way round
        by_hand(*batches(), teacher, student, weight, heat * 1.2),
        by_hand(*batches(), teacher, student, weight * 0.9, heat),
    ]
    assert all(abs(other - expected) > 1e-3 for other in others)


def test_the_teacher_sees_the_mixed_images_that_the_student_sees(tmp_path: Path) -> None:
    teacher, student = Affine(0), Affine(1)
    torch.manual_seed(0)
    np.random.seed(0)
    step(tmp_path, student, teacher, mixup=1.0)
    assert torch.equal(teacher.seen[-1], student.seen[-1]) and not torch.equal(teacher.seen[-1], batches()[0])


def test_a_student_becomes_its_teacher_which_stays_as_it_is_and_is_not_saved(tmp_path: Path) -> None:
    teacher, student = Affine(0), Affine(1)
    before = copy.deepcopy(teacher.state_dict())
    module = Retrain(student, teacher=teacher, teacher_weight=1.0, optimizer="adamw", lr=0.1, weight_decay=0.0)
    trainer = fit(module, tmp_path, epochs=200)
    x = batches(1)[0]
    difference = (student(x).log_softmax(1) - teacher(x).log_softmax(1)).abs().max()
    assert float(difference.detach()) < 0.1
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training and all(parameter.grad is None for parameter in teacher.parameters())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [name for name in saved["state_dict"] if "teacher" in name or "distillation" in name]
    assert module.facts()["teacher"] == "1 of the loss, at 4"


def test_a_fit_is_not_resumed_without_its_teacher(tmp_path: Path) -> None:
    trainer = fit(Retrain(Affine(1), teacher=Affine(0)), tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="teacher"):
        fit(Retrain(Affine(1)), tmp_path, ckpt_path=tmp_path / "last.ckpt")


def test_numbers_are_learned_by_their_own_loss(tmp_path: Path) -> None:
    teacher, student = Affine(0, outputs=1), Affine(1, outputs=1)
    teacher.task = student.task = "regression"
    x, y = batches()[0], torch.randn(8, 1)
    ours, theirs = student(x).detach(), teacher(x).detach()
    expected = 0.75 * (ours - y).square().mean() + 0.25 * (ours - theirs).square().mean()
    trainer = fit(Retrain(student, teacher=teacher, teacher_weight=0.25), tmp_path, data=(x, y))
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"teacher": Affine(0), "teacher_weight": 0.0}, "above 0 and at most 1", id="weight"),
        pytest.param({"teacher": Affine(0), "temperature": 0.0}, "temperature above 0; got 0.9 and 0.0", id="heat"),
        pytest.param(
            {"teacher": Affine(0, outputs=4)}, "num_classes of the network that learns; got 4 and 3", id="else"
        ),
    ],
)
def test_teachers_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retrain(Affine(1), **options)
    network = Affine(1)
    with pytest.raises(ValueError, match="must be another network than the one that learns"):
        Retrain(network, teacher=network)
