"""Plain text for language models: a vocabulary of words, text read in order, and shuffled sequences for a search."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .images import ShuffleSampler, StreamLoader

Batch = tuple[Tensor, Tensor]  # words and the words after them, both int64 [B, T]
UNKNOWN, END = "<unk>", "<eos>"


@dataclass(frozen=True)
class Vocabulary:
    """Words by number: ``<unk>``, ``<eos>``, then the others, frequent ones first.

    Args:
        words: All words.

    Example:
        >>> vocabulary = Vocabulary.of(["the cat sees the cat", "a dog"], min_count=2)
        >>> vocabulary.words
        ('<unk>', '<eos>', 'cat', 'the')
        >>> vocabulary.encode(["the dog"])
        tensor([3, 0, 1])
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, lines: Sequence[str], *, min_count: int = 1) -> Vocabulary:
        """Words that occur at least ``min_count`` times; spaces separate words."""
        counts = Counter(word for line in lines for word in line.split())
        kept = [word for word, n in counts.items() if n >= min_count and word not in (UNKNOWN, END)]
        return cls((UNKNOWN, END, *sorted(kept, key=lambda word: (-counts[word], word))))

    def encode(self, lines: Sequence[str]) -> Tensor:
        """Numbers of all words, int64 ``[N]``, with ``<eos>`` after every line, empty ones too (as is usual)."""
        index = {word: i for i, word in enumerate(self.words)}
        return torch.tensor([index.get(word, 0) for line in lines for word in (*line.split(), END)])


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file.

    Raises:
        ValueError: If there is no such file, it is not UTF-8 text, or it holds no word.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"A text is a file of words; there is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"A text is UTF-8; {path} is not ({error}). Convert it, or is it a binary file?") from error
    if "\0" in text:
        raise ValueError(f"A text has no zero bytes; {path} has some. Is it a binary file?")
    if not text.strip():
        raise ValueError(f"A text needs words; {path} holds none.")
    return text.splitlines()


def in_rows(tokens: Tensor, batch_size: int) -> Tensor:
    """Cut a text into parts that are read side by side.

    Args:
        tokens: ``[N]``.
        batch_size: Number of parts, B.

    Returns:
        ``[B, N // B]``; every row goes on where the row above ends, the rest of the text is left out.
    """
    length = len(tokens) // batch_size
    return tokens[: length * batch_size].view(batch_size, length)


class Windows:
    """Batches of consecutive words: row ``b`` of a batch continues row ``b`` of the previous batch.

    A loader of a single process that knows how many batches it has given, so that a fit can be resumed within an epoch.

    Args:
        rows: The text, ``[B, L]``.
        window: Words in a batch's row, T; the last batch may have fewer.
    """

    def __init__(self, rows: Tensor, window: int) -> None:
        self.rows, self.window = rows, window
        self._given = self._skip = 0

    def __len__(self) -> int:
        return -(-(self.rows.shape[1] - 1) // self.window)

    def state_dict(self) -> dict[str, int]:
        """Number of batches given in this pass."""
        return {"batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next pass there; after a whole one, at the beginning."""
        self._skip = state["batches"] % len(self)

    def __iter__(self) -> Iterator[Batch]:
        self._given, self._skip = self._skip, 0
        while self._given < len(self):
            start = self._given * self.window
            part = self.rows[:, start : start + self.window + 1]
            self._given += 1
            yield part[:, :-1], part[:, 1:]


class Sequences(Dataset[Batch]):
    """Sequences of ``window`` words with the words after them; each stands alone, so that they can be shuffled.

    Args:
        tokens: The text, ``[N]``.
        window: Words in a sequence, T.
    """

    def __init__(self, tokens: Tensor, window: int) -> None:
        count = max(0, len(tokens) - 1) // window
        self.x = tokens[: count * window].view(count, window)
        self.y = tokens[1 : count * window + 1].view(count, window)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, item: int | tuple[int, int]) -> Batch:
        """One sequence, ``[T]`` and ``[T]``."""
        x, y = self.__getitems__([item])
        return x[0], y[0]

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Batch:
        """A batch, ``[B, T]`` and ``[B, T]``, of plain indices or the pairs of a ``ShuffleSampler``."""
        chosen = torch.tensor([item[0] if isinstance(item, tuple) else item for item in items])
        return self.x[chosen], self.y[chosen]


class TextData(pl.LightningDataModule):
    """A plain text file, read in order, for training a language model that carries its state from batch to batch.

    Words are what stands between spaces; every line ends with ``<eos>``. The vocabulary is that of the training text:
    what occurs less than ``min_count`` times there is ``<unk>`` everywhere, so perplexities can be compared between
    models of one vocabulary only. A training batch is ``(x, y)``, int64 ``[B, T]``; ``y`` are the words after ``x``.

    Args:
        train_file: The training text.
        val_file: The validation text; by default, the last lines of the training text, which are then not trained on.
        test_file: The test text.
        val_fraction: Share of the lines that are validated on where there is no ``val_file``.
        batch_size: Rows of a training batch, B: parts of the text that are read side by side.
        eval_batch_size: The same for validation and test.
        window: Words in a row, T.
        min_count: How often a word of the vocabulary occurs.

    Raises:
        ValueError: If a number is out of its range; on first use, if a file is missing, empty, not UTF-8 text, or too
            short for one batch.
    """

    preprocessing: None = None  # a vocabulary is no preprocessing of images

    def __init__(
        self,
        train_file: str | Path,
        *,
        val_file: str | Path | None = None,
        test_file: str | Path | None = None,
        val_fraction: float = 0.1,
        batch_size: int = 64,
        eval_batch_size: int = 10,
        window: int = 35,
        min_count: int = 1,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must be strictly between 0 and 1; got {val_fraction}.")
        counts = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "window": window,
            "min_count": min_count,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}.")
        self.train_file, self.val_file, self.test_file = train_file, val_file, test_file
        self.val_fraction, self.batch_size, self.eval_batch_size = val_fraction, batch_size, eval_batch_size
        self.window, self.min_count = window, min_count

    @cached_property
    def _lines(self) -> tuple[list[str], list[str]]:
        lines = read_lines(self.train_file)
        if self.val_file is not None:
            return lines, read_lines(self.val_file)
        cut = round(len(lines) * (1 - self.val_fraction))
        return lines[:cut], lines[cut:]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the training text."""
        return Vocabulary.of(self._lines[0], min_count=self.min_count)

    @property
    def num_classes(self) -> int:
        """Size of the vocabulary, V."""
        return len(self.vocabulary.words)

    @cached_property
    def train_tokens(self) -> Tensor:
        """The training text, int64 ``[N]``."""
        return self.vocabulary.encode(self._lines[0])

    @cached_property
    def val_tokens(self) -> Tensor:
        """The validation text, int64 ``[N]``."""
        return self.vocabulary.encode(self._lines[1])

    @cached_property
    def test_tokens(self) -> Tensor:
        """The test text, int64 ``[N]``.

        Raises:
            ValueError: If no ``test_file`` was given.
        """
        if self.test_file is None:
            raise ValueError("A test needs a text; got test_file=None. Pass test_file to TextData.")
        return self.vocabulary.encode(read_lines(self.test_file))

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a training sees."""
        return {
            "words": len(self.train_tokens),
            "vocabulary": self.num_classes,
            "checksum": zlib.crc32(self.train_tokens.numpy().data, zlib.crc32(repr(self.vocabulary.words).encode())),
            "batch size": self.batch_size,
            "window": self.window,
        }

    def setup(self, stage: str | None = None) -> None:
        """Reads the files, once."""
        _ = self.train_tokens

    def train_dataloader(self) -> Windows:
        """The training text in order."""
        return self._windows(self.train_tokens, self.batch_size, "training")

    def val_dataloader(self) -> Windows:
        """The validation text in order."""
        return self._windows(self.val_tokens, self.eval_batch_size, "validation")

    def test_dataloader(self) -> Windows:
        """The test text in order."""
        return self._windows(self.test_tokens, self.eval_batch_size, "test")

    def _windows(self, tokens: Tensor, batch_size: int, name: str) -> Windows:
        if len(tokens) < 2 * batch_size:
            raise ValueError(
                f"The {name} text needs two words for each of the {batch_size} rows of a batch; it has {len(tokens)}. "
                "Lower the batch size, or take a longer text."
            )
        return Windows(in_rows(tokens, batch_size), self.window)


class TextSearchData(pl.LightningDataModule):
    """The TRAINING text in two parts, one for the weights and one for the architecture; test is not used.

    Under Lightning a training batch is ``{"weights": (x, y), "arch": (x, y)}``, int64 ``[B, T]`` each: sequences that
    stand alone, in an order that is drawn anew in every epoch. An incomplete last batch is dropped.

    Args:
        data: The text, with the vocabulary of all of it.
        arch_fraction: Share of the architecture's part, which is the end of the text.
        seed: Order of the sequences.

    Raises:
        ValueError: If ``arch_fraction`` is not inside (0, 1); on first use, if a part has fewer sequences than a batch.
    """

    preprocessing: None = None  # a vocabulary is no preprocessing of images

    def __init__(self, data: TextData, *, arch_fraction: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0 < arch_fraction < 1:
            raise ValueError(f"arch_fraction must be strictly between 0 and 1; got {arch_fraction}. 0.5 is usual.")
        self.data, self.arch_fraction, self.seed = data, arch_fraction, seed

    @property
    def num_classes(self) -> int:
        """Size of the vocabulary, V."""
        return self.data.num_classes

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a search sees."""
        return {**self.data.fingerprint(), "split": self.arch_fraction, "seed": self.seed}

    def setup(self, stage: str | None = None) -> None:
        """Reads the files, once."""
        self.data.setup(stage)

    def train_dataloader(self) -> dict[str, DataLoader[Batch]]:
        """Both streams; Lightning cycles the shorter one.

        Raises:
            ValueError: If a stream has fewer sequences than a batch.
        """
        tokens = self.data.train_tokens
        cut = round(len(tokens) * (1 - self.arch_fraction))
        epoch = self.trainer.current_epoch if self.trainer else 0
        streams: dict[str, DataLoader[Batch]] = {}
        for number, (name, part) in enumerate({"weights": tokens[:cut], "arch": tokens[cut:]}.items()):
            dataset = Sequences(part, self.data.window)
            sampler = ShuffleSampler(dataset, seed=self.seed, stream=number, epoch=epoch)
            if len(sampler) < self.data.batch_size:
                raise ValueError(
                    f"The {name} stream needs at least one full batch of {self.data.batch_size} sequences; it has "
                    f"{len(sampler)}. Lower batch_size or window, or take a longer text."
                )
            streams[name] = StreamLoader(
                dataset, self.data.batch_size, sampler=sampler, drop_last=True, **self._options()
            )
        return streams

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation text as sequences, in order."""
        return self._in_order(self.data.val_tokens)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test text as sequences, in order."""
        return self._in_order(self.data.test_tokens)

    def _in_order(self, tokens: Tensor) -> DataLoader[Batch]:
        return DataLoader(Sequences(tokens, self.data.window), self.data.batch_size, **self._options())

    def _options(self) -> dict[str, Any]:
        # a generator, or a loader would draw from torch's global state
        return {"collate_fn": _as_it_is, "generator": torch.Generator().manual_seed(self.seed)}


def _as_it_is(batch: Batch) -> Batch:
    return batch
