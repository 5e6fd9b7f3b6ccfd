"""``predict.py`` of an export, run where neither torch nor oneshot can be imported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from oneshot.data import ArrayData, ImageFolder, TableData, TimeSeries, encode_table
from oneshot.data.decoding import decode, opened, upright
from oneshot.data.facts import data_facts
from oneshot.deploy.export import export_subnet as export_all
from oneshot.deploy.export import load
from oneshot.deploy.manifest import read_manifest
from oneshot.deploy.prediction import prediction, script
from oneshot.evaluation.images import fitted
from oneshot.supernets import ArchGraph, MobileNetV3Supernet, NASBench201Network
from oneshot.supernets.base import Subnet
from tests.messy import messy

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
NEEDED = ("numpy", "PIL", "onnxruntime", "google", "flatbuffers", "packaging")  # and what onnxruntime imports
TURNS = [
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to numpy, Pillow and onnxruntime, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in NEEDED:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        place = Path(next(iter(spec.submodule_search_locations)))
        (folder / name).symlink_to(place)
        libraries = place.with_name({"PIL": "pillow"}.get(name, name) + ".libs")
        if libraries.is_dir():
            (folder / libraries.name).symlink_to(libraries)
    return folder


def python(packages: Path, code: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python without site-packages, with these packages alone."""
    head = f"import sys, runpy; sys.path.insert(0, {str(packages)!r})\n"
    command = [sys.executable, "-I", "-S", "-c", head + code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def predict(packages: Path, export: Path, *files: str | Path, folder: Path | None = None) -> list[str]:
    """Lines that ``python predict.py FILE...`` prints."""
    code = f"sys.argv[0] = {str(export / 'predict.py')!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = python(packages, code, *map(str, files), folder=folder or export)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def failure(packages: Path, export: Path, *files: str | Path) -> str:
    code = f"sys.argv[0] = {str(export / 'predict.py')!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = python(packages, code, *map(str, files), folder=export)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip()


def inputs(
    packages: Path, export: Path, files: Sequence[Path], tmp_path: Path
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """What the script hands to the network for each file."""
    manifest = read_manifest(export)
    assert manifest is not None
    function = manifest["predict"]["function"].replace("several", "arrays")
    code = (
        "import json, numpy, pathlib\n"
        f"names = runpy.run_path({str(export / 'predict.py')!r}, run_name='script')\n"
        f"manifest = json.loads(pathlib.Path({str(export / 'manifest.json')!r}).read_text(encoding='utf-8'))\n"
        f"for number, path in enumerate(sys.argv[1:]): numpy.savez({str(tmp_path)!r} + f'/{{number}}.npz', "
        f"**names[{function!r}](path, manifest))\n"
    )
    done = python(packages, code, *map(str, files), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [dict(np.load(tmp_path / f"{number}.npz")) for number in range(len(files))]


def export_subnet(network: Subnet, folder: Path, **options: Any) -> Path:
    """An export without the files that are not looked at here."""
    return export_all(network, folder, **{"formats": ("onnx",), **options})


def wakened(network: Subnet, classes: int = 3) -> Subnet:
    """The network with outputs that differ from input to input."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter.data, std=0.3 if parameter.dim() > 1 else 1.0)
    return network.eval()


class Plain(Subnet):
    """A linear network for inputs of any shape, or for several."""

    def __init__(self, shape: Any, num_classes: int) -> None:
        super().__init__()
        self.init_args = {"shape": shape, "num_classes": num_classes}
        self.input_shape, self.num_classes = shape, num_classes
        self.several = list(shape) if isinstance(shape, dict) else None
        shapes = list(shape.values()) if isinstance(shape, dict) else [shape]
        self.linear = nn.Linear(sum(int(np.prod(one)) for one in shapes), num_classes)

    def forward(self, x: Any) -> Tensor:
        parts = [x[name] for name in self.several] if self.several else [x]
        out: Tensor = self.linear(torch.cat([part.flatten(1) for part in parts], dim=1))
        return out

    def graphs(self) -> list[ArchGraph]:
        return []


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Images as people have them, and more kinds of files in the first class of the test images."""
    root = messy(tmp_path_factory.mktemp("data") / "my images", count=44)
    unusual(next(path for path in sorted((root / "val").iterdir()) if path.is_dir() and path.name[0] not in "._"))
    data = ImageFolder(root, batch_size=64, image_size=(24, 20))
    data.setup("test")
    return data


def unusual(folder: Path) -> None:
    """All orientations, and kinds of files that are rare."""
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (30, 46, 3), dtype=np.uint8))
    for tag, turn in enumerate(TURNS, 2):
        exif = Image.Exif()
        exif[0x0112] = tag
        picture.transpose(turn).save(folder / f"turned {tag}.png", exif=exif)
        picture.transpose(turn).save(folder / f"turned {tag}.tif", exif=exif)
    grey = picture.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 251
    Image.fromarray((deep / 65535).astype(np.float32)).save(folder / "floats.tif")
    Image.fromarray(deep.astype(np.int32)).save(folder / "integers.tif")
    Image.fromarray(deep).save(folder / "deep.png", transparency=int(deep[3, 4]))
    picture.save(folder / "one colour.png", transparency=picture.getpixel((5, 7)))
    grey.save(folder / "one grey.png", transparency=grey.getpixel((5, 7)))
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png", transparency=3)
    palette = picture.convert("P", palette=Image.Palette.ADAPTIVE).convert("PA")
    palette.putalpha(Image.linear_gradient("L").resize(picture.size))
    palette.save(folder / "palette.tif")
    picture.convert("1").save(folder / "black and white.png")
    picture.save(folder / "first of two.gif", save_all=True, append_images=[picture.transpose(TURNS[1])])


def test_images_become_what_oneshot_makes_of_them(photos: ImageFolder, packages: Path, tmp_path: Path) -> None:
    network = wakened(NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=3, image_size=(24, 20)))
    export = export_subnet(network, tmp_path / "export", **said(photos))
    paths = photos._files["test"][0]
    assert len(paths) > 50
    ours = torch.cat([x for x, _ in photos.test_dataloader()])

    theirs = np.concatenate([found["images"] for found in inputs(packages, export, paths, tmp_path)])

    np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-5)
    without_exif = np.stack([plain(path) for path in paths])
    mean, std = (np.float32(part)[:, None, None] * 255 for part in (photos.mean, photos.std))
    assert abs((without_exif - mean) / std - ours.numpy()).max() > 0.5, "the images are those where it matters"
    with torch.no_grad():
        shares = network(ours).double().softmax(1).numpy()
    lines = predict(packages, export, *paths)
    for path, line, share in zip(paths, lines, shares, strict=True):
        first, *_ = np.argsort(-share)
        assert line.startswith(f"{path}: {photos.classes[first]} ")
        assert float(re.findall(r"([0-9.]+)%", line)[0]) == pytest.approx(100 * share[first], abs=0.06)


def plain(path: Path) -> np.ndarray[Any, Any]:
    """A file as one might read it without care."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((20, 24)), np.float32).transpose(2, 0, 1)


def said(data: Any) -> dict[str, Any]:
    facts = data_facts(data)
    return {name: facts[name] for name in ("mean", "std", "classes", "preprocessing")}


@pytest.mark.parametrize("colour", ["L", "RGB"])
def test_every_mode_of_an_image_is_decoded_alike(colour: str, tmp_path: Path) -> None:
    """In this process, by the functions of the file itself."""
    folder = tmp_path / "images"
    folder.mkdir()
    unusual(folder)
    names: dict[str, Any] = {}
    exec(script_for({"colour": colour}), names)
    channels = {"L": 1, "RGB": 3}[colour]
    for path in sorted(folder.iterdir()):
        with opened(path) as image:
            ours = upright(image).convert("RGB").convert(colour)
        np.testing.assert_array_equal(
            np.asarray(names["opened"](str(path)).convert(colour)), np.asarray(ours), path.name
        )
        how = {"colour": colour, "image_size": [9, 11], "resize": True}
        how["normalisation"] = {"mean": [0.0] * channels, "std": [1.0] * channels}
        found = names["image"](str(path), {"preprocessing": how})["images"][0]
        np.testing.assert_allclose(found * 255, decode(path, (channels, 9, 11)), rtol=0, atol=1e-3)


def script_for(how: dict[str, Any]) -> str:
    said = {"script": "predict.py", "model": "model.onnx", "reads": "image files", "function": "image"}
    return script({"predict": said, "task": {"class_path": "oneshot.tasks.Classification"}, "preprocessing": how})


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_a_network_of_a_front_gets_its_own_resolution(
    photos: ImageFolder, packages: Path, tmp_path: Path, inside: bool
) -> None:
    supernet = MobileNetV3Supernet(
        num_classes=3, image_size=16, widths=(0.25,), depths=(1,), expansions=(2, 3), stem="cifar"
    )
    network = wakened(supernet.extract(supernet.space.sample(0)))
    root = photos._files["test"][0][0].parents[2]
    data = ImageFolder(root, batch_size=64, image_size=24)
    data.setup("test")
    export = export_subnet(network, tmp_path / "export", **said(data), with_preprocessing=inside)
    paths = data._files["test"][0]
    with torch.no_grad():
        ours = torch.cat([load(export)(fitted(network, x)) for x, _ in data.test_dataloader()]).argmax(1)

    lines = predict(packages, export, *paths)

    found = [next(c for c in data.classes if line.startswith(f"{p}: {c} ")) for p, line in zip(paths, lines)]
    same = [data.classes[label] == name for label, name in zip(ours, found, strict=True)]
    assert all(same) if not inside else sum(same) >= len(same) - 1  # resizing may round a level otherwise


def test_images_of_another_size_than_arrays_of_the_training_are_refused(packages: Path, tmp_path: Path) -> None:
    network = wakened(NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=3, image_size=8))
    how = {"source": "MyImages", "colour": "RGB", "resize": None, "image_size": [8, 8], "dtype": "uint8"}
    how["normalisation"] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    export = export_subnet(network, tmp_path / "export", preprocessing=how, mean=[0.5] * 3, std=[0.25] * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for size in (8, 16):
        Image.fromarray(pixels).resize((size, size)).save(tmp_path / f"{size}.png")
    Path(tmp_path / "page.png").write_text("<html>")

    (line,) = predict(packages, export, tmp_path / "8.png")

    x = torch.from_numpy((pixels.transpose(2, 0, 1) / np.float32(255) - 0.5) / 0.25)[None].float()
    with torch.no_grad():
        assert line.startswith(f"{tmp_path}/8.png: output {int(network(x).argmax())} ")
    assert "takes images of 8 x 8 pixels; this one has (16, 16)" in failure(packages, export, tmp_path / "16.png")
    assert "page.png: cannot identify image file" in failure(packages, export, tmp_path / "page.png")
    several = failure(packages, export, tmp_path / "none.png", tmp_path / "8.png", tmp_path / "page.png").splitlines()
    assert len(several) == 2, "the file between them is predicted"
    assert "none.png: [Errno 2] No such file" in several[0] and "page.png: cannot identify" in several[1]
    assert failure(packages, export) == "usage: python predict.py FILE..."


def test_neither_torch_nor_oneshot_can_be_imported_where_the_tests_run_it(packages: Path, tmp_path: Path) -> None:
    for name in ("torch", "oneshot", "onnx", "scipy", "yaml"):
        done = python(packages, f"import {name}", folder=tmp_path)
        assert f"No module named '{name}'" in done.stderr


def test_a_table_is_predicted_row_by_row(packages: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"size": rng.normal(70, 20, 40), "town": np.array(["Bonn", "Kiel, north", "null-ish", "ü"] * 10)}
    columns["rooms"] = np.where(rng.random(40) < 0.1, np.nan, rng.integers(1, 5, 40))
    data = TableData(columns, 3 * columns["size"] + 7, missing="fill", batch_size=4)
    network = Plain(tuple(data.input_shape), 1)
    network.task = data.task
    given = {"size": [66.0, 7.5], "town": ["Kiel, north", "Rome"], "rooms": [3.0, np.nan]}
    x = encode_table(data.preprocessing, given)
    export = export_subnet(network, tmp_path / "export", preprocessing=data.preprocessing)
    rows = tmp_path / "rows.csv"
    rows.write_text('\ufeffrooms,town,size\n3,"Kiel, north",66\n NA ,Rome, 7.5\n', encoding="utf-8")

    lines = predict(packages, export, rows)

    with torch.no_grad():
        expected = network.task.decode(network(torch.from_numpy(x)))[:, 0].tolist()
    assert [line.rpartition(":")[0] for line in lines] == [f"{rows}, sample 1", f"{rows}, sample 2"]
    assert [float(line.split()[-1]) for line in lines] == pytest.approx(expected, rel=1e-4)
    for text, message in (
        ("rooms,town\n3,Bonn\n", "must have a column 'size'"),
        ("rooms,town,size\n3,Bonn,large\n", "could not convert string to float: 'large'"),
        ("rooms,town,size\n", "must have a header and rows"),
    ):
        rows.write_text(text, encoding="utf-8")
        assert message in failure(packages, export, rows)


def test_a_table_without_a_value_is_refused(packages: Path, tmp_path: Path) -> None:
    data = TableData({"size": np.arange(20.0), "town": ["A", "B"] * 10}, np.arange(20.0) / 3, batch_size=4)
    network = Plain(tuple(data.input_shape), 1)
    network.task = data.task
    export = export_subnet(network, tmp_path / "export", preprocessing=data.preprocessing)
    (tmp_path / "rows.csv").write_text("size,town\n1,A\n,B\n")
    assert "row 2 has no value in column 'size'" in failure(packages, export, tmp_path / "rows.csv")


def test_series_and_several_inputs_are_read_from_files_of_numpy(packages: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    series = rng.normal(5, 3, (40, 2, 12)).astype(np.float32)
    data = TimeSeries(series, ["wave", "point", "fist", "rest"] * 10, batch_size=8)
    network = Plain((2, 12), 4)
    export = export_subnet(network, tmp_path / "export", **said(data) | {"mean": None, "std": None})
    np.save(tmp_path / "one.npy", series[0])
    np.save(tmp_path / "many.npy", series[:5].astype(np.float64))
    mean, std = (np.float32(data.preprocessing["normalisation"][name])[:, None] for name in ("mean", "std"))
    with torch.no_grad():
        best = network(torch.from_numpy((series[:5] - mean) / std)).argmax(1)
        assert best.tolist() != network(torch.from_numpy(series[:5])).argmax(1).tolist()
    (one,) = predict(packages, export, tmp_path / "one.npy")
    assert one.startswith(f"{tmp_path / 'one.npy'}: {data.classes[best[0]]} ")
    many = predict(packages, export, tmp_path / "many.npy")
    assert [line.split(": ")[1].split()[0] for line in many] == [data.classes[i] for i in best]
    np.save(tmp_path / "wrong.npy", series[0, :, :5])
    assert "a sample is finite numbers [2, 12]; got an array [2, 5]" in failure(
        packages, export, tmp_path / "wrong.npy"
    )

    both = Plain({"image": (1, 4, 4), "age": (1,)}, 2)
    export = export_subnet(both, tmp_path / "several", classes=["well", "ill"])
    parts = {
        "image": rng.normal(size=(3, 1, 4, 4)).astype(np.float32),
        "age": rng.normal(size=(3, 1)).astype(np.float32),
    }
    np.savez(tmp_path / "patients.npz", **parts)
    lines = predict(packages, export, tmp_path / "patients.npz")
    with torch.no_grad():
        best = both({name: torch.from_numpy(part) for name, part in parts.items()}).argmax(1)
    assert [line.split(": ")[1].split()[0] for line in lines] == [["well", "ill"][i] for i in best]
    np.savez(tmp_path / "patients.npz", image=parts["image"])
    assert "age is not a file in the archive" in failure(packages, export, tmp_path / "patients.npz")


def test_arrays_are_normalised_by_what_the_export_was_given(packages: Path, tmp_path: Path) -> None:
    network = Plain((2, 3, 3), 3)
    export = export_subnet(network, tmp_path / "export", mean=[5.0, -5.0], std=[2.0, 4.0])
    assert ArrayData(np.zeros((8, 2, 3, 3)), [0, 1] * 4).input_shape == (2, 3, 3)
    x = np.random.default_rng(2).normal(size=(2, 3, 3))
    np.save(tmp_path / "x.npy", x)
    (found,) = inputs(packages, export, [tmp_path / "x.npy"], tmp_path)
    np.testing.assert_allclose(
        found["images"][0], (x - np.array([5.0, -5.0])[:, None, None]) / np.array([2, 4])[:, None, None], rtol=1e-5
    )


@pytest.mark.parametrize("task", ["multilabel", "regression", "segmentation", "custom"])
def test_predictions_are_told_as_the_task_has_it(task: str, packages: Path, tmp_path: Path) -> None:
    network = Segmenting((1, 4, 4), 3) if task == "segmentation" else Plain((1, 4, 4), 3)
    if task == "custom":
        from oneshot.tasks import CustomTask

        network.task = CustomTask("torch.nn.HuberLoss", "torchmetrics.regression.PearsonCorrCoef", direction="max")
    elif task == "regression":
        from oneshot.tasks import Regression

        network.task = Regression(mean=[100.0, 0.0, -5.0], std=[10.0, 1.0, 2.0])
    else:
        network.task = task  # type: ignore[assignment]  # a name is one
    export = export_subnet(network, tmp_path / "export", classes=["a", "b", "c"])
    x = np.random.default_rng(3).normal(size=(1, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)

    (line,) = predict(packages, export, tmp_path / "x.npy", folder=tmp_path)

    with torch.no_grad():
        output = network(torch.from_numpy(x)[None])[0].double().numpy()
    told = line.removeprefix(f"{tmp_path / 'x.npy'}: ")
    if task == "multilabel":
        shares = 1 / (1 + np.exp(-output))
        yes = [(name, share) for name, share in zip("abc", shares, strict=True) if share > 0.5]
        assert told == (", ".join(f"{n} {s:.1%}" for n, s in sorted(yes, key=lambda one: -one[1])) or "no label")
        assert len(yes) in (1, 2)
    elif task == "regression":
        values = output * [10, 1, 2] + [100, 0, -5]
        assert [part.split()[0] for part in told.split(", ")] == ["a", "b", "c"]
        assert [float(part.split()[1]) for part in told.split(", ")] == pytest.approx(values, rel=1e-4)
    elif task == "segmentation":
        mask = np.asarray(Image.open(tmp_path / "x.npy.mask.png"))
        np.testing.assert_array_equal(mask, output.argmax(0))
        assert told.endswith("; x.npy.mask.png") and len(np.unique(mask)) > 1
        code = f"sys.argv[0] = {str(export / 'predict.py')!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
        again = python(packages, code, str(tmp_path / "x.npy"), folder=tmp_path)
        assert again.returncode == 1 and "File exists: 'x.npy.mask.png'" in again.stderr
    else:
        np.testing.assert_allclose(json.loads(told), output, rtol=1e-4, atol=1e-6)


class Segmenting(Plain):
    """Gives classes of pixels."""

    def __init__(self, shape: Any, num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.convolution = nn.Conv2d(shape[0], num_classes, 3, padding=1)

    def forward(self, x: Any) -> Tensor:
        out: Tensor = self.convolution(x)
        return out


# Where there is none.


def transformed() -> dict[str, Any]:
    how = {"source": "image file", "colour": "RGB", "image_size": [8, 8], "resize": None, "dtype": "uint8"}
    scale = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return {"preprocessing": {**how, "normalisation": scale, "transforms": ["Grayscale(3)"]}}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"formats": ("torch_export",)}, "runs model.onnx, which was not written", id="no-onnx"),
        pytest.param(transformed(), r"transforms that numpy and Pillow do not have: Grayscale\(3\)", id="transforms"),
        pytest.param({"preprocessing": {"source": "mine"}}, "is said by 'preprocessing', in another way", id="own"),
    ],
)
def test_a_manifest_says_why_there_is_no_script(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    export = export_subnet(Plain((3, 8, 8), 2), tmp_path / "export", **options)
    manifest = read_manifest(export)
    assert manifest is not None and manifest["predict"]["script"] is None
    assert re.search(reason, manifest["predict"]["reason"])
    assert not (export / "predict.py").exists() and "predict.py" not in manifest["files"]
    assert re.search("There is no `predict.py`", (export / "README.md").read_text(encoding="utf-8"))


def test_a_network_of_words_has_no_script_for_its_vocabulary_is_not_in_the_export(tmp_path: Path) -> None:
    takes = {"range": "numbers of words", "dtype": "int64", "shape": ["batch", 7]}
    manifest = {"files": {"model.onnx": {"input": takes}}, "preprocessing": None}
    assert "how a text becomes these is not part" in prediction(manifest, "model.onnx")["reason"]


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.timeout(900)
def test_it_runs_in_a_new_environment_of_three_packages(photos: ImageFolder, tmp_path: Path) -> None:
    network = wakened(NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=3, image_size=(24, 20)))
    export = export_subnet(network, tmp_path / "export", **said(photos))
    moved = tmp_path / "elsewhere" / "a folder"
    shutil.copytree(export, moved)
    venv.create(tmp_path / "venv", with_pip=True)
    own = tmp_path / "venv/bin/python"
    subprocess.run([own, "-m", "pip", "install", "-q", "numpy", "pillow", "onnxruntime"], check=True)
    paths = photos._files["test"][0]
    done = subprocess.run(
        [own, "-W", "error", moved / "predict.py", *paths], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    with torch.no_grad():
        best = torch.cat([network(x) for x, _ in photos.test_dataloader()]).argmax(1).tolist()
    for path, line, label in zip(paths, done.stdout.splitlines(), best, strict=True):
        assert line.startswith(f"{path}: {photos.classes[label]} ")
