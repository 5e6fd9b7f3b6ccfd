"""``oneshot data``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oneshot.cli.main import main
from oneshot.data import write_shapes
from tests.messy import messy


def examined(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what was printed, on one line."""
    capsys.readouterr()
    code = main(["data", str(folder)])
    return code, " ".join(capsys.readouterr().out.split())


def test_a_folder_that_can_be_used_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = examined(messy(tmp_path / "m"), capsys)
    assert (
        code == 0
        and text.endswith(f"Usable. Next: oneshot auto {tmp_path / 'm'} --latency 10")
        and "stops:" not in text
    )
    for word in (
        "bright top │ 15 │ 5",
        "señal │ 15 │ 5",
        "TIFF",
        "WEBP",
        "CMYK",
        "I;16",
        "turned by EXIF │ 5:",
        "24 to 48",
    ):
        assert word in text, word
    assert "copy.jpg" not in text and "occur" not in text


def test_what_stops_is_told_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = messy(tmp_path / "m")
    (folder / "val/señal/zero.jpg").touch()
    (folder / "Train/dark top/page.png").write_text("<html>404</html>")
    (folder / "Train/empty").mkdir()
    code, text = examined(folder, capsys)
    assert code == 1 and text.endswith(f"Not usable as it is. Next: oneshot data {folder}")
    for word in (
        "2 of 62 are not",
        "zero.jpg' is not (an empty file)",
        "page.png' is not (a web page",
        "empty' has none",
    ):
        assert word in text, word
    assert "unreadable='skip'" in text and "'oneshot auto' goes on without them by itself." in text


def test_what_is_doubtful_is_told_and_does_not_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)

    def image(path: str, pixels: np.ndarray | None = None) -> Path:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8) if pixels is None else pixels).save(place)
        return place

    for part in ("train", "test"):
        for i in range(22):
            image(f"{part}/ant/{i}.png")
        for i in range(2):
            image(f"{part}/bee/{i}.png")
    shutil.copy(tmp_path / "train/ant/0.png", tmp_path / "test/ant/copy.png")
    with Image.open(tmp_path / "train/ant/1.png") as again:
        again.save(tmp_path / "train/ant/1.bmp")  # other bytes, the same pixels
    with Image.open(tmp_path / "test/ant/2.png") as again:
        again.save(tmp_path / "test/bee/2.bmp")
    image("train/ant/white.png", np.full((8, 8, 3), 255, np.uint8))
    image("train/ant/dark.png", rng.integers(4000, size=(8, 8)).astype(np.uint16))
    image("train/stray.png")
    (tmp_path / "train/ant/phone.heic").touch()
    code, text = examined(tmp_path, capsys)
    assert code == 0
    for word in (
        "1 images are in more than one part (the same pixels)",
        "1 images are in more than one class (the same pixels)",
        "1 images occur several times (the same pixels)",
        "1 images have one colour only",
        "1 images of 16 bits use less than a sixteenth of their range",
        "The largest class has 12 times the training images of the smallest.",
        "have no class and are left out: stray.png",
        "kinds that are not read (.heic)",
    ):
        assert word in text, (word, text)


@pytest.mark.parametrize(
    ("folders", "message"),
    [(("a",), "at least two classes"), ((), "has no sub-folders"), (("test/a", "test/b"), "needs train beside it")],
)
def test_a_folder_of_another_layout_is_not_usable(
    folders: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for j in range(2):
            pixels = np.random.default_rng(2 * i + j).integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{j}.png")
    code, text = examined(tmp_path, capsys)
    assert code == 1 and message in text


def test_images_with_masks_are_described_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "shapes", image_size=16, train_size=5, test_size=3)
    code, text = examined(tmp_path / "shapes", capsys)
    assert code == 0 and "images │ 5 │ 3" in text and "masks │ 5 │ 3" in text
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "shapes/test/masks/00001.png")
    code, text = examined(tmp_path / "shapes", capsys)
    assert code == 1 and "A mask has the size of its image" in text


def test_no_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err
