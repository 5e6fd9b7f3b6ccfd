"""Text: the vocabulary, windows in order, and the two streams of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from oneshot.data.text import TextData, TextSearchData, Vocabulary, Windows, in_rows
from oneshot.methods.darts import DARTS
from oneshot.supernets.recurrent import RecurrentSupernet

LINES = "\n".join(f"w{i % 7} w{i % 3} = w{i % 2}\n" for i in range(40))  # every second line is empty


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


def test_rare_words_are_unknown_and_every_line_ends() -> None:
    vocabulary = Vocabulary.of(["a b a", "<unk> c", "", "b d <unk> a"], min_count=2)
    assert vocabulary.words == ("<unk>", "<eos>", "a", "b")
    assert vocabulary.encode(["a c", "", "b <unk>"]).tolist() == [2, 0, 1, 1, 3, 0, 1]
    assert Vocabulary.of(["b a"]).words[2:] == ("a", "b")  # in a fixed order


def test_rows_of_windows_go_on_where_they_ended_and_targets_are_the_next_words() -> None:
    tokens = torch.arange(47)
    batches = list(windows := Windows(in_rows(tokens, 4), 5))
    assert len(batches) == len(windows) == 2
    x, y = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    assert x.tolist() == [list(range(11 * row, 11 * row + 10)) for row in range(4)]
    assert torch.equal(y, x + 1)


def test_the_last_window_is_short_and_nothing_is_lost() -> None:
    batches = list(Windows(in_rows(torch.arange(26), 2), 5))
    assert [y.shape[1] for _, y in batches] == [5, 5, 2]


@pytest.mark.parametrize("given", [0, 1, 2, 3])
def test_windows_go_on_after_the_batches_that_were_given(given: int) -> None:
    rows = in_rows(torch.arange(26), 2)
    first, again = Windows(rows, 5), Windows(rows, 5)
    stream = iter(first)
    for _ in range(given):
        next(stream)
    again.load_state_dict(first.state_dict())
    rest = list(stream) or list(first)  # a whole pass is followed by another one
    assert [x.tolist() for x, _ in again] == [x.tolist() for x, _ in rest]
    assert len(list(again)) == 3  # the pass after that is whole


def test_validation_is_the_end_of_the_text_and_not_in_the_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*["a b c"] * 18, "new a", "new b"]), encoding="utf-8")
    data = TextData(path, val_fraction=0.1, batch_size=2, eval_batch_size=2)
    assert data.vocabulary.words == ("<unk>", "<eos>", "a", "b", "c")
    assert data.val_tokens.tolist() == [0, 2, 1, 0, 3, 1]
    assert len(data.train_tokens) == 18 * 4


def test_other_files_are_read_in_the_words_of_the_training_text(text: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("w1 other", encoding="utf-8")
    data = TextData(text, val_file=tmp_path / "other.txt", test_file=tmp_path / "other.txt")
    w1 = data.vocabulary.words.index("w1")
    assert data.val_tokens.tolist() == data.test_tokens.tolist() == [w1, 0, 1]


def test_the_fingerprint_tells_texts_and_settings_apart(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(LINES.replace("w6", "w7"), encoding="utf-8")
    prints = [TextData(text), TextData(other), TextData(text, window=5), TextData(text, min_count=20)]
    assert len({repr(data.fingerprint()) for data in prints}) == 4
    assert TextData(text).fingerprint() == TextData(text).fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "needs words; .*text.txt holds none", id="empty"),
        pytest.param(b" \n\n", "needs words; .*text.txt holds none", id="blank"),
        pytest.param(b"\xff\xfe\x00binary", "A text is UTF-8; .*text.txt is not", id="not UTF-8"),
        pytest.param(b"some\0bytes", "no zero bytes; .*text.txt has some", id="binary"),
        pytest.param(b"one two\nthree\nfour", "training text needs two words for each of the 64 rows", id="short"),
        pytest.param(None, "there is no file .*text.txt", id="missing"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TextData(path).train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, r"val_fraction must be strictly between 0 and 1; got 1\.0"),
        ({"window": 0}, "window must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextData("text.txt", **options)


def test_a_test_without_a_text_is_refused(text: Path) -> None:
    with pytest.raises(ValueError, match="got test_file=None"):
        TextData(text).test_dataloader()


def search_data(text: Path, **options: Any) -> TextSearchData:
    return TextSearchData(TextData(text, batch_size=4, eval_batch_size=4, window=4), **options)


def test_the_streams_share_the_training_text_and_hold_sequences_with_their_next_words(text: Path) -> None:
    data = search_data(text, arch_fraction=0.3)
    tokens, loaders = data.data.train_tokens, data.train_dataloader()
    parts = []
    for loader in loaders.values():
        x, y = (torch.cat(part) for part in zip(*loader, strict=True))
        assert x.shape == y.shape and x.shape[1] == 4
        assert torch.equal(x[:, 1:], y[:, :-1])
        parts.append(x)
    assert len(parts[0]) // 4 == round(0.7 * len(tokens)) // 4 // 4
    known = {tuple(row.tolist()) for row in tokens[: len(tokens) // 4 * 4].view(-1, 4)}
    assert {tuple(row) for row in parts[0].tolist()} <= known


def test_the_order_follows_seed_and_epoch(text: Path) -> None:
    first, same, other = (list(search_data(text, seed=s).train_dataloader()["weights"]) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, same, strict=True))
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_stream_without_text_is_refused(text: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"arch_fraction must be strictly between 0 and 1; got {fraction}"):
        search_data(text, arch_fraction=fraction)


def test_a_stream_shorter_than_a_batch_is_refused(text: Path) -> None:
    with pytest.raises(ValueError, match="The arch stream needs at least one full batch of 4 sequences; it has 2"):
        search_data(text, arch_fraction=0.04).train_dataloader()


class SaveAt(pl.Callback):
    """Saves a checkpoint after one step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            trainer.save_checkpoint(self.path)


QUIET: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)


@pytest.mark.parametrize("save_at", [1, 7])
def test_a_search_resumed_within_an_epoch_equals_an_uninterrupted_one(text: Path, tmp_path: Path, save_at: int) -> None:
    def fit(seed: int, **options: Any) -> DARTS:
        torch.manual_seed(seed)
        data = search_data(text, arch_fraction=0.3)
        search = DARTS(RecurrentSupernet(num_classes=data.num_classes, size=4), arch_lr=0.1)
        checkpoint = options.pop("ckpt_path", None)
        trainer = pl.Trainer(
            max_epochs=2, limit_train_batches=6, accelerator="cpu", limit_val_batches=0, **QUIET, **options
        )
        trainer.fit(search, datamodule=data, ckpt_path=checkpoint)
        return search

    path = tmp_path / "middle.ckpt"
    whole = fit(0, callbacks=[SaveAt(save_at, path)], enable_checkpointing=False)
    resumed = fit(1, ckpt_path=path, enable_checkpointing=False)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0.0, atol=0.0)
    assert whole.derive() == resumed.derive()


def test_a_search_is_evaluated_on_text_it_does_not_train_on(text: Path) -> None:
    data = TextSearchData(TextData(text, test_file=text, batch_size=4, window=4))
    search = DARTS(RecurrentSupernet(num_classes=data.num_classes, size=4))
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=2, accelerator="cpu", enable_checkpointing=False, **QUIET)
    trainer.fit(search, datamodule=data)
    assert trainer.callback_metrics["val/loss"] > 0 and trainer.callback_metrics["train/perplexity"] >= 1
    (result,) = trainer.test(search, datamodule=data, verbose=False)
    assert set(result) == {"test/loss", "test/perplexity"}


def test_a_network_for_another_vocabulary_is_refused(text: Path) -> None:
    search = DARTS(RecurrentSupernet(num_classes=5, size=4))
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="num_classes of TextSearchData is 10, RecurrentSupernet was built for 5"):
        trainer.fit(search, datamodule=search_data(text))
