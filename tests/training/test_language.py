"""Training a language model on text that is read in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from oneshot.data.text import TextData
from oneshot.deploy.export import export_subnet, load
from oneshot.deploy.manifest import read_manifest
from oneshot.supernets.recurrent import LanguageModel, LSTMLanguageModel, RecurrentLanguageModel
from oneshot.training.language import RetrainLanguage, activation_penalty, stopped_improving

QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
CELL = "Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=[1, 2])"


@pytest.fixture
def data(tmp_path: Path) -> TextData:
    """A text where the last two words tell the next one, and the last one alone does not."""
    path = tmp_path / "text.txt"
    path.write_text("a b a c\n" * 60, encoding="utf-8")
    return TextData(path, test_file=path, batch_size=4, eval_batch_size=2, window=9)


def network(data: TextData, **options: Any) -> RecurrentLanguageModel:
    return RecurrentLanguageModel(CELL, num_classes=data.num_classes, size=6, **options)


def fit(module: RetrainLanguage, data: TextData, *, epochs: int = 2, **options: Any) -> pl.Trainer:
    checkpoint = options.pop("ckpt_path", None)
    settings = {"accelerator": "cpu", "num_sanity_val_steps": 0, "max_epochs": epochs, **QUIET, **options}
    trainer = pl.Trainer(**settings)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer


# Formulas.


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        pytest.param([1.0], 0, False, id="nothing to compare"),
        pytest.param([1.0, 2.0], 0, True, id="worse at once"),
        pytest.param([1.0, 2.0], 1, False, id="too early"),
        pytest.param([1.0, 3.0, 2.0], 1, True, id="worse than the one before the last"),
        pytest.param([3.0, 1.0, 2.0], 1, False, id="worse than the last only"),
        pytest.param([2.0, 1.0, 1.5, 1.6, 1.4], 2, True, id="worse than the best of the old"),
        pytest.param([2.0, 1.9, 1.0, 1.6, 1.4], 2, False, id="the best is among the latest"),
    ],
)
def test_averaging_begins_when_old_losses_are_not_beaten(losses: list[float], patience: int, expected: bool) -> None:
    """Algorithm 1 of arXiv:1708.02182, counting as it does: t validations were before, the window is the last n."""
    *logs, v = losses
    t, n = len(logs), patience
    assert stopped_improving(losses, patience) is expected
    assert expected is (t > n and v > min(logs[i] for i in range(t - n)))


def test_the_penalties_are_the_mean_squares_of_outputs_and_of_their_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, dropped = (torch.randn(3, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    size = sum(float(v) ** 2 for v in dropped.flatten()) / dropped.numel()
    change = sum(float(raw[t + 1, b, i] - raw[t, b, i]) ** 2 for t in range(2) for b in range(2) for i in range(4)) / 16
    expected = torch.tensor(2 * size + 3 * change, dtype=torch.float64)
    torch.testing.assert_close(activation_penalty(raw, dropped, size=2.0, change=3.0), expected, rtol=1e-10, atol=1e-10)
    swapped = activation_penalty(dropped, raw, size=2.0, change=3.0)
    assert not torch.allclose(swapped, expected, rtol=1e-2)
    assert activation_penalty(raw[:1], dropped[:1], size=0.0, change=3.0) == 0  # no change in a single word


# Training.


@pytest.mark.parametrize("kind", ["cell", "lstm"])
def test_it_learns_what_only_a_memory_can_know(data: TextData, kind: str) -> None:
    off = {"dropout_words": 0.0, "dropout_embedding": 0.0, "dropout_hidden": 0.0, "dropout_output": 0.0}
    model: LanguageModel = (
        network(data, dropout_input=0.0, **off)
        if kind == "cell"
        else LSTMLanguageModel(num_classes=data.num_classes, size=6, hidden=8, **off)
    )
    with torch.no_grad():
        model.words.weight.mul_(15)  # the usual small ones, made for large networks, take long to get going
    module = RetrainLanguage(model, lr=4.0, grad_clip=2.0)
    trainer = fit(module, data, epochs=12)
    (result,) = trainer.test(module, datamodule=data, verbose=False)
    assert result["test/perplexity"] == pytest.approx(torch.tensor(result["test/loss"]).exp().item(), rel=1e-4)
    assert result["test/perplexity"] < 1.25  # a model of word pairs reaches 1.32


class Watch(pl.Callback):
    """Keeps the state before and the weights after each step; can save a checkpoint."""

    def __init__(self, save_at: int = -1, path: Path = Path()) -> None:
        self.states: list[Tensor | None] = []
        self.weights: list[list[Tensor]] = []
        self.save_at, self.path = save_at, path

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, RetrainLanguage)
        self.states.append(None if pl_module._state is None else pl_module._state[0].clone())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, RetrainLanguage)
        self.weights.append([p.detach().clone() for p in pl_module.network.parameters()])
        if len(self.weights) == self.save_at and not trainer.is_last_batch:  # Lightning can't resume from there
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(self.weights) == self.save_at:
            trainer.save_checkpoint(self.path)


def test_the_state_goes_on_within_an_epoch_and_starts_anew_with_the_next(data: TextData) -> None:
    watch = Watch()
    fit(RetrainLanguage(network(data)), data, callbacks=[watch])
    steps = len(data.train_dataloader())
    assert len(watch.states) == 2 * steps and steps > 3
    assert all(state is None or (not state.requires_grad and state.any()) for state in watch.states)
    assert [i for i, state in enumerate(watch.states) if state is None] == [0, steps]


def test_evaluation_carries_the_state_and_weighs_every_word_alike(data: TextData) -> None:
    torch.manual_seed(0)
    data.window = 7  # the last window has two words, and not a whole line of the text, which would be like the mean
    module = RetrainLanguage(network(data))
    with torch.no_grad():
        module.network.words.weight.mul_(50)  # so that losses differ from word to word
    trainer = pl.Trainer(accelerator="cpu", **QUIET)
    (result,) = trainer.test(module, datamodule=data, verbose=False)
    rows = data.test_dataloader().rows
    with torch.no_grad():
        logits = module.network.eval()(rows[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits, rows[:, 1:]).item()
    assert result["test/loss"] == pytest.approx(expected, rel=1e-5)


def averaging_from_the_second_epoch(data: TextData, **options: Any) -> tuple[RetrainLanguage, pl.Trainer]:
    """A learning rate that makes the loss worse, and no patience."""
    torch.manual_seed(0)
    module = RetrainLanguage(network(data), lr=60.0, grad_clip=5.0, patience=0)
    module._val_losses = [0.0]  # nothing is better
    return module, fit(module, data, **options)


def test_from_the_trigger_on_the_mean_of_the_weights_is_evaluated_and_exported(data: TextData) -> None:
    watch, steps = Watch(), len(data.train_dataloader())
    module, _ = averaging_from_the_second_epoch(data, epochs=3, callbacks=[watch])
    assert module.averaging and int(module.average.n_averaged) == 2 * steps
    exported = module.network_for_export()
    for mean, *values in zip(exported.parameters(), *watch.weights[steps:], strict=True):
        torch.testing.assert_close(mean, torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)
    x = torch.zeros(2, 3, dtype=torch.int64)
    assert torch.equal(module.eval()(x), exported(x))
    assert not torch.allclose(module.network(x), exported(x), rtol=1e-2)
    assert not exported.training and all(p.requires_grad for p in exported.parameters())


def test_without_a_trigger_nothing_is_averaged(data: TextData) -> None:
    module = RetrainLanguage(network(data), patience=None)
    module._val_losses = [0.0]
    fit(module, data)
    assert not module.averaging and int(module.average.n_averaged) == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.network_for_export().parameters(), module.network.parameters(), strict=True)
    )


@pytest.mark.parametrize("save_at", [2, 16, 19], ids=["before", "at-the-end-of-an-epoch", "while-averaging"])
def test_a_training_resumed_anywhere_equals_an_uninterrupted_one(data: TextData, tmp_path: Path, save_at: int) -> None:
    path, steps = tmp_path / "middle.ckpt", len(data.train_dataloader())
    assert steps == 8
    whole, _ = averaging_from_the_second_epoch(data, epochs=3, callbacks=[Watch(save_at, path)])
    torch.manual_seed(1)
    resumed = RetrainLanguage(network(data), lr=60.0, grad_clip=5.0, patience=0)
    trainer = fit(resumed, data, epochs=3, ckpt_path=path)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0.0, atol=0.0)
    assert resumed._val_losses == whole._val_losses and resumed.averaging
    assert trainer.callback_metrics["train/loss"] > 0


@pytest.mark.parametrize("kind", ["cell", "lstm"])
def test_what_was_trained_is_exported_with_its_words_and_loaded(data: TextData, tmp_path: Path, kind: str) -> None:
    sizes: dict[str, Any] = {"num_classes": data.num_classes, "size": 6, "window": 3}
    module = RetrainLanguage(
        RecurrentLanguageModel(CELL, **sizes) if kind == "cell" else LSTMLanguageModel(hidden=5, **sizes)
    )
    with torch.no_grad():
        module.network.words.weight.mul_(15)
    fit(module, data, epochs=1)
    trained, folder = module.network_for_export().eval(), tmp_path / "model"
    export_subnet(trained, folder, classes=data.vocabulary.words)
    loaded = load(folder)
    assert isinstance(loaded, LanguageModel) and loaded.task.metric_name == "perplexity"
    longer = data.test_tokens[:14].view(2, 7)
    assert torch.equal(loaded(longer), trained(longer))
    before = trained.read(longer[:, :4], trained.start(2)).state
    went_on = loaded.read(longer[:, 4:], before).logits
    torch.testing.assert_close(went_on, trained(longer)[..., 4:])
    assert not torch.allclose(loaded(longer[:, 4:]), went_on)  # from a state of zeros

    words, session = data.test_tokens[:15].view(5, 3), onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(None, {"images": words.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), trained(words))
    manifest = read_manifest(folder)
    assert manifest is not None and manifest["classes"] == list(data.vocabulary.words)
    takes = manifest["files"]["model.onnx"]["input"]
    assert (takes["shape"], takes["range"], takes["dtype"]) == (["batch", 3], "numbers of words", "int64")
    assert manifest["predict"]["script"] is None and "how a text becomes these" in manifest["predict"]["reason"]
    with pytest.raises(ValueError, match="classes must name each"):
        export_subnet(trained, tmp_path / "other", classes=data.vocabulary.words[1:])
    assert not (tmp_path / "other").exists()


def test_penalties_change_the_training_but_not_the_loss_that_is_logged(data: TextData) -> None:
    results = []
    for penalty in (0.0, 5.0):
        torch.manual_seed(0)
        module = RetrainLanguage(network(data), penalty_size=penalty, penalty_change=penalty)
        trainer = fit(module, data, epochs=1, limit_train_batches=1)
        weights = torch.cat([p.detach().flatten() for p in module.network.parameters()])
        results.append((trainer.callback_metrics["train/loss"], weights))
    assert results[0][0] == results[1][0]
    assert not torch.allclose(results[0][1], results[1][1], rtol=1e-3)


def test_gradients_are_clipped(data: TextData) -> None:
    torch.manual_seed(0)
    model = network(data)
    before = [p.detach().clone() for p in model.parameters()]
    fit(RetrainLanguage(model, lr=1.0, grad_clip=1e-3, weight_decay=0.0), data, epochs=1, limit_train_batches=1)
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, r"lr and grad_clip must be positive; got 0\.0"),
        ({"grad_clip": -1.0}, r"lr and grad_clip must be positive; got 20\.0 and -1\.0"),
        ({"patience": -1}, "patience must not be negative; got -1"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"penalty_size": -1.0}, "penalty_size must not be negative"),
        ({"penalty_change": -1.0}, "penalty_change must not be negative"),
    ],
)
def test_arguments_out_of_range_are_refused(data: TextData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrainLanguage(network(data), **options)


@pytest.mark.parametrize("options", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_settings_of_the_trainer_that_do_not_apply_are_refused(data: TextData, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="clips gradients and steps at every window"):
        fit(RetrainLanguage(network(data)), data, **options)


def test_several_processes_are_refused(data: TextData, monkeypatch: pytest.MonkeyPatch) -> None:
    module = RetrainLanguage(network(data))
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    module._trainer = pl.Trainer(accelerator="cpu", **QUIET)
    with pytest.raises(ValueError, match="trains in one; got 2"):
        module.setup("fit")


def test_a_network_for_another_vocabulary_is_refused(data: TextData) -> None:
    model = RecurrentLanguageModel(CELL, num_classes=99, size=6)
    with pytest.raises(ValueError, match="num_classes of TextData is 5, RecurrentLanguageModel was built for 99"):
        fit(RetrainLanguage(model), data)
