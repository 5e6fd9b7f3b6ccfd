"""Write a network to files that need nothing of the search, check each by loading it again, and read it back."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import platform
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor

from oneshot._version import __version__
from oneshot.cost.counting.network import count
from oneshot.inputs import json_shape
from oneshot.storage.class_paths import present_path, public_path
from oneshot.storage.faults import machine_fault
from oneshot.storage.interrupts import uninterrupted
from oneshot.storage.limits import BoundedWeights, check_sizes
from oneshot.storage.trust import check_trusted, is_dotted, is_ours
from oneshot.supernets.base import Subnet, example_inputs
from oneshot.supernets.json_files import checked
from oneshot.supernets.own_ops import check_saved_ops, paths_of_ops
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks.task import Task, resolved, task_of

from .card import write_card
from .checked import CheckedFile, own_rounding
from .int8 import INT8_FILE, Int8, write_int8
from .manifest import MANIFEST, read_json_file, read_manifest, recorded_content, write_manifest
from .prediction import write_prediction
from .preprocessing import WithPreprocessing, then_resize
from .programs import FILES as FILES
from .programs import TRACED_BATCH, Format, Programs, with_opsets

SCHEMA_VERSION = 1
PREFIX = "hf://"  # of networks on the Hugging Face Hub
SUBNET, WEIGHTS = "subnet.json", "model.safetensors"
MOST_TOLD = 500  # characters about tensors that do not fit
CHECKED_BATCH = TRACED_BATCH + 1  # different, so that a batch size frozen into a file is found
LIBRARIES = ("torch.", "torchmetrics.")  # whose losses and metrics a task may name unasked
PACKAGES = (
    *("timm", "numpy", "pillow", "safetensors", "pytorch-lightning", "onnx", "onnxscript", "onnxruntime"),
    *("openvino", "executorch"),
)


def export_subnet(
    network: Subnet,
    folder: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    with_preprocessing: bool = False,
    formats: Sequence[Format] = ("torch_export", "onnx"),
    opset: int | None = None,
    int8: Int8 | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``network`` as plain files: all of them, or none.

    These are ``subnet.json`` and ``model.safetensors`` (see :func:`load`), ``model.pt2`` (``torch.export``) and
    ``model.onnx`` for batches of any size, and ``manifest.json`` with all that a user of the network must know, such as
    the largest difference between the outputs of each file, loaded again, and of ``network`` for a fixed random batch.
    ``predict.py`` makes predictions with numpy, Pillow and ONNX Runtime alone, see :mod:`~oneshot.deploy.prediction`;
    ``README.md`` is the model card, see :mod:`~oneshot.deploy.card`.
    Weights are written as float32. ``network`` itself is not changed. The manifest says of every file what it takes.

    Args:
        network: The network, on any device, in any mode. It is exported in eval mode.
        folder: Folder to make.
        mean: Per channel, subtracted from the images the network was trained on. Not part of the exported network.
        std: Per channel, divided by afterwards.
        classes: Class names in the order of the logits.
        metrics: Measured results to keep with the network; a value that is not finite becomes ``null``.
        preprocessing: What was done to the images the network was trained on, ``preprocessing`` of a data module. If
            that leaves them at another size than an elastic network's resolution, the manifest has the second resizing.
        with_preprocessing: Make resizing, cropping and normalising part of ``model.pt2`` and ``model.onnx``. They take
            uint8 ``[B, H, W, C]`` then, upright and opaque: what Pillow decodes, turns and converts.
        formats: Which files to write besides the safetensors: ``model.pt2``, ``model.onnx``, and, with the extras of
            these names, ``model.xml`` with ``model.bin`` for ``openvino``, ``model.pte`` for ``executorch``.
        opset: Version of the ONNX operators, from 18 to 25, for a runtime that knows no later one; by default what the
            installed torch writes. The manifest has it.
        int8: Also write ``model.int8.onnx``, quantised and compared with the network on these samples
            (:func:`~oneshot.deploy.int8.int8_samples`).
        overwrite: Replace an earlier export, once the new one is complete.

    Returns:
        The folder.

    Raises:
        ValueError: If an argument does not fit the network, or its class cannot be built again.
        FileExistsError: If the folder exists and is not to be replaced, or is no earlier export.
        MissingExtraError: If a format is asked for whose extra is not installed.
        Int8LossError: If INT8 loses more of the metric than is allowed.
        RuntimeError: If a file does not reproduce the outputs of the network.
        OSError: If the disk is full, for example.
    """
    programs = Programs(formats, opset)
    if int8 is not None and ("onnx" not in formats or with_preprocessing):
        raise ValueError(
            "INT8 is made of an ONNX file of the network alone, so formats must have 'onnx', and with_preprocessing "
            f"must be False; got formats={list(formats)}, with_preprocessing={with_preprocessing}. Export twice."
        )
    subnet, scale = describe(network), _normalisation(network, mean, std)
    if classes is not None and len(classes) != network.num_classes:
        raise ValueError(f"classes must name each of the {network.num_classes} logits; got {len(classes)}: {classes}.")
    preprocessing = _completed(preprocessing, network, required=with_preprocessing)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "space": subnet["config"] and subnet["config"]["space"],
        "config": subnet["config"],
        "class_path": subnet["network"]["class_path"],
        "input_shape": json_shape(network.input_shape),
        "num_classes": network.num_classes,
        "task": {**network.task.to_dict(), "metric": network.task.metric_name, "direction": network.task.direction},
        "classes": classes and list(classes),
        "normalisation": scale,
        "preprocessing": preprocessing,
        "metrics": {name: float(v) if math.isfinite(v) else None for name, v in (metrics or {}).items()},
        "versions": _versions(),
    }
    with all_or_nothing(Path(folder), overwrite) as new, torch.inference_mode(False), torch.no_grad():
        inside = preprocessing if with_preprocessing else None
        written = manifest | _write_files(network, subnet, new, inside, programs, int8)
        written["files"] = with_opsets(new, written["files"])
        write_manifest(new, write_prediction(new, written, FILES["onnx"]))
        write_card(new)
    return Path(folder)


def _write_files(
    network: Subnet,
    subnet: Mapping[str, Any],
    folder: Path,
    preprocessing: Mapping[str, Any] | None,
    programs: Programs,
    int8: Int8 | None,
) -> dict[str, Any]:
    """Write all files but the manifest and check each; returns what the manifest says of them and of the sizes.

    Args:
        network: See :func:`export_subnet`.
        subnet: See :func:`describe`.
        folder: A folder that is there.
        preprocessing: What becomes part of the files.
        programs: Which files to write besides the safetensors.
        int8: See :func:`export_subnet`.
    """
    reference, batch = copy.deepcopy(network).cpu().float().eval(), example_inputs(network, CHECKED_BATCH)
    takes = _takes(network.input_shape, batch)
    (folder / SUBNET).write_text(json.dumps(subnet, indent=2), encoding="utf-8")
    weights = {n: t.clone(memory_format=torch.contiguous_format) for n, t in reference.state_dict().items()}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(weights))  # save_file would make it unreadable to others
    roots = [path.partition(".")[0] for path in code_of(network)]
    rebuilt = load(folder, trust=(type(network).__module__, *roots))
    checked = {WEIGHTS: CheckedFile(takes, [reference(batch)], [rebuilt(batch)])}
    checked |= _programs(reference, rebuilt, preprocessing, folder, batch, programs, takes)

    rounding = lru_cache(lambda: own_rounding(reference, batch))
    about = {
        name: {"max_abs_difference": file.difference(name, rounding), "input": file.takes}
        for name, file in checked.items()
    }
    counts = count(rebuilt, network.input_shape)
    said: dict[str, Any] = {"params": counts.params, "macs": counts.macs, "memory": counts.memory}
    if counts.uncounted:
        said["uncounted"] = list(counts.uncounted)  # macs is a lower bound
    if int8 is not None:  # once the file that it is made of is known to be right
        said["int8"] = facts = write_int8(rebuilt, folder / FILES["onnx"], folder / INT8_FILE, int8)
        about[INT8_FILE] = {"max_abs_difference": facts["max_abs_difference"], "input": takes}
    files: dict[str, Any] = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in sorted(folder.iterdir())
    }
    for name, facts in about.items():
        files[name] |= facts
    return {**said, "files": files}


def _normalisation(
    network: Subnet, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, list[float]] | None:
    scale = {"mean": [float(v) for v in mean or ()], "std": [float(v) for v in std or ()]}
    if mean is None and std is None:
        return None
    channels = None if isinstance(network.input_shape, Mapping) else network.input_shape[0]
    if not len(scale["mean"]) == len(scale["std"]) == channels:
        raise ValueError(
            f"mean and std must come together, one value for each of {channels} channels; got {mean}, {std}."
        )
    return scale


def _versions() -> dict[str, str]:
    """Of ourselves, Python and all packages that have a part in an export and are installed."""
    found = {"oneshot": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def load(folder: str | Path, *, trust: Sequence[str] = ()) -> Subnet:
    """Read an exported network. Nothing is unpickled, and Lightning is not needed.

    Args:
        folder: What :func:`export_subnet` wrote; ``subnet.json`` and ``model.safetensors`` are enough. Or
            ``hf://owner/name`` on the Hugging Face Hub, with ``@revision`` behind it if wanted.
        trust: Packages besides ``oneshot`` whose classes may be imported and built.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        ValueError: If a file is missing, damaged, foreign or of another schema version, if its class is not trusted,
            or if the weights are not those of the network.
        MissingExtraError: If it is on the Hub, and huggingface_hub is not installed.
    """
    if str(folder).startswith(PREFIX):
        from .hub import fetched

        folder = fetched(str(folder), only=(SUBNET, WEIGHTS))
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"An exported network must be a folder; there is no folder {folder}. 'oneshot export' makes one."
        )
    path = folder / SUBNET
    data = read_json_file(path)
    if isinstance(data, dict) and data.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(
            f"{path} must have schema version {SCHEMA_VERSION}; it has {data['schema_version']!r}. "
            "Read it with the release that wrote it, or export again."
        )
    try:
        config, class_path, init_args = data["config"], data["network"]["class_path"], data["network"]["init_args"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be a JSON object with 'schema_version', 'config' and 'network' (class_path, init_args); got "
            f"{repr(data)[:120]}. Export again (a bare config is read by oneshot.supernets.load_config)."
        ) from error
    try:
        kind = _network_class(str(class_path), trust)
        for own in paths_of_ops(init_args):
            check_trusted(own, trust, "an operation")
        for own in _factory_of(init_args):
            check_trusted(own, trust, "a network")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        check_sizes(init_args)
        with torch.random.fork_rng(devices=[]), BoundedWeights():  # loading does not shift the caller's random numbers
            net = kind(**init_args)
        architecture = None if config is None else SubnetConfig.from_dict(config)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a {class_path}: {error}") from error
    if architecture is not None:
        if not net.describes(architecture):
            raise ValueError(
                f"{path} must be of one architecture; its 'config' is another than 'init_args' build: "
                f"{str(architecture)[:200]}. It was changed; export again."
            )
        net.config = architecture
    if (task := data.get("task")) is not None:
        try:
            net.task = read_task(task, trust)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    _check_manifest(net, folder)
    _load_weights(net, folder)
    return net.eval()


def describe(network: Subnet) -> dict[str, Any]:
    """What ``subnet.json`` says of ``network``: its architecture, its class, and the arguments that build it again.

    Raises:
        ValueError: If it could not be built again in another process.
    """
    if not isinstance(network, Subnet):
        raise ValueError(f"The network must be a Subnet; got a {type(network).__name__}. Use supernet.extract(config).")
    module, name = type(network).__module__, type(network).__qualname__
    if module == "__main__" or "." in name:
        raise ValueError(f"The class must be importable; {module}.{name} is not. Define it at the top of a module.")
    network.check_saved()
    # A network that was retrained at another resolution or width is no longer of the architecture it came from.
    config = network.config if network.config is not None and network.describes(network.config) else None
    subnet = {
        "schema_version": SCHEMA_VERSION,
        "config": config and config.to_dict(),
        "network": {"class_path": public_path(type(network)), "init_args": network.init_args},
    }
    check_saved_ops(network.init_args)
    if network.task != task_of(type(network).default_task):
        subnet["task"] = network.task.to_dict()
    try:
        json.dumps(subnet)
    except TypeError as error:
        raise ValueError(f"init_args of {name} must be JSON ({error}); got {network.init_args}.") from error
    return subnet


class _Facts(TypedDict, total=False):
    """Entries of a manifest whose types are checked."""

    classes: list[str] | None
    normalisation: dict[str, list[float]] | None


def _check_manifest(net: Subnet, folder: Path) -> None:
    """Check that ``subnet.json`` is as it was written, and that the manifest is of the network it describes."""
    path, manifest = folder / MANIFEST, read_manifest(folder)
    if manifest is None:
        return
    subnet = json.loads(recorded_content(folder, SUBNET))
    ours = {
        "config": subnet["config"],
        "space": subnet["config"] and subnet["config"]["space"],
        "class_path": subnet["network"]["class_path"],
        "input_shape": json_shape(net.input_shape),
        "num_classes": net.num_classes,
    }
    if wrong := [name for name, value in ours.items() if name in manifest and manifest[name] != value]:
        raise ValueError(
            f"{path} must be of the network in {SUBNET}; its {wrong[0]!r} is {str(manifest[wrong[0]])[:80]}, that of "
            f"the network {str(ours[wrong[0]])[:80]}. It was changed; export again."
        )
    checked({name: manifest[name] for name in _Facts.__annotations__ if name in manifest}, _Facts, str(path))
    scale, classes = manifest.get("normalisation"), manifest.get("classes")
    if classes is not None and len(classes) != net.num_classes:
        raise ValueError(f"{path} must name {net.num_classes} classes, or none; it names {len(classes)}. Export again.")
    channels = None if isinstance(net.input_shape, Mapping) else net.input_shape[0]
    if scale is not None and not all(len(scale.get(name, ())) == channels for name in ("mean", "std")):
        raise ValueError(f"{path} must have a mean and a std for each of {channels} channels. Export again.")


def _load_weights(net: Subnet, folder: Path) -> None:
    path, content = folder / WEIGHTS, recorded_content(folder, WEIGHTS)
    try:
        net.load_state_dict(safetensors.torch.load(content))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or a truncated one ({error}). Export again.") from error
    except RuntimeError as error:  # names missing and unexpected tensors and those of another shape
        told = " ".join(str(error).split())
        told = told if len(told) <= MOST_TOLD else f"{told[:MOST_TOLD]}..."
        raise ValueError(f"{path} holds the weights of another network than {SUBNET} beside it: {told}") from error


def _network_class(class_path: str, trust: Sequence[str]) -> type[Subnet]:
    class_path = present_path(class_path)
    module, _, name = class_path.rpartition(".")
    ours = class_path.startswith("oneshot.")
    check_trusted(class_path, trust, "a network")
    if ours and not is_ours(class_path):  # checked before anything is imported
        raise ValueError(f"{class_path} cannot be imported: No module of oneshot defines it. Export again.")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{class_path} cannot be imported: {error}. Install what defines it.") from error
    if not (isinstance(found, type) and issubclass(found, Subnet)):
        raise ValueError(f"The class of an exported network must be a Subnet; {class_path} is none. Export again.")
    return found


def code_of(network: Subnet) -> list[str]:
    """Class paths of what loading an exported network imports: its class, operations, factory and task."""
    task, own = network.task.to_dict(), [*paths_of_ops(network.init_args), *_factory_of(network.init_args)]
    paths = [public_path(type(network)), *own, task["class_path"], *_named(task)]
    return [path for path in paths if not path.startswith(LIBRARIES)]


def _factory_of(init_args: object) -> list[str]:
    """The path of the user's function that builds a converted network again, see :mod:`oneshot.conversion.sources`."""
    source = init_args.get("source") if isinstance(init_args, Mapping) else None
    return [source] if is_dotted(source) else []


def _named(task: Mapping[str, Any]) -> list[str]:
    """Class paths among the options of a task."""
    options = dict(task["init_args"])
    return [str(options[name]) for name in ("loss", "metric", "decode") if "." in str(options.get(name))]


def read_task(said: Any, trust: Sequence[str] = ()) -> Task:
    """Build the task that a file names.

    Args:
        said: Its ``class_path`` and ``init_args``.
        trust: Packages besides ``oneshot``, torch and torchmetrics whose classes may be imported.

    Raises:
        ValueError: If it is no task, or not trusted.
    """
    try:
        class_path, options, named = str(said["class_path"]), dict(said["init_args"]), _named(said)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'task' must have class_path and init_args; got {repr(said)[:120]}. Export again.") from error
    for path in (class_path, *named):
        if not path.startswith(LIBRARIES):
            check_trusted(path, trust, "a task")
    kind = resolved(class_path, "The class of a task")
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"The class of a task must be a Task; {class_path} is none. Export again.")
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"{class_path} must be built with {options}, and cannot: {error}.") from error


def _completed(preprocessing: Mapping[str, Any] | None, network: Subnet, *, required: bool) -> dict[str, Any] | None:
    """Complete the preprocessing for the manifest by the second resizing, if there is one."""
    if preprocessing is None:
        if required:
            raise ValueError(
                "To take decoded images, it must be known how they are prepared; the data have no "
                "preprocessing. Export without it, or give export_subnet(preprocessing=...)."
            )
        return None
    if isinstance(network.input_shape, Mapping):
        return dict(preprocessing)
    done, size = dict(preprocessing), list(network.input_shape[1:])
    done.pop("then_resize", None)
    given = done.get("image_size")
    if given is not None and list(given) != size:
        if not network.has_resolutions:
            raise ValueError(
                f"The preprocessing must make images of the {size} pixels that the network takes; that "
                f"of the data makes {list(given)}. Pass the preprocessing of the data it was trained on."
            )
        done["then_resize"] = then_resize(size)
    return done


def _takes(shape: Any, batch: Any) -> dict[str, Any]:
    """What a file of a network takes that is like the network."""
    if isinstance(batch, Mapping):
        return {"inputs": {name: _takes(shape[name], part) for name, part in batch.items()}}
    words = not batch.is_floating_point()
    layout = {4: "NCDHW", 3: "NCHW", 2: "NCT"}.get(len(shape), "NT" if words else "NF")
    return {
        "layout": layout,
        "shape": ["batch", *shape],
        "dtype": str(batch.dtype).removeprefix("torch."),
        "range": "numbers of words" if words else "normalised",
    }


def _programs(
    reference: Subnet,
    rebuilt: Subnet,
    preprocessing: Mapping[str, Any] | None,
    folder: Path,
    batch: Any,
    programs: Programs,
    takes: dict[str, Any],
) -> dict[str, CheckedFile]:
    """Write the other files, with the preprocessing inside if there is one, to compare them with ``reference``."""
    if preprocessing is None or not programs.formats:
        wanted = [reference(batch)] if programs.formats else []
        outputs = programs.write(rebuilt, folder, [batch])
    else:
        whole, program = WithPreprocessing(reference, preprocessing), WithPreprocessing(rebuilt, preprocessing)
        batches, takes = _decoded(whole, batch.shape[1]), _takes_images(whole, batch.shape[1])
        wanted = [whole(images) for images in batches]
        outputs = programs.write(program.eval(), folder, batches, sizes=whole.resizes)
    return {name: CheckedFile(takes, wanted, got) for name, got in outputs.items()}


def _takes_images(program: WithPreprocessing, channels: int) -> dict[str, Any]:
    """What a file takes that has the preprocessing inside."""
    size: list[str | int] = ["height", "width"] if program.resizes else [program.height, program.width]
    inside = ["resize", "crop"] if program.resizes else []
    return {
        "layout": "NHWC",
        "shape": ["batch", *size, channels],
        "dtype": "uint8",
        "range": [0, 255],
        "inside": [*inside, "normalisation", *(["then_resize"] if program.resizes_again else [])],
        "exact": not program.resizes
        or "where Pillow makes its vertical pass first, pixels differ from its by at most one of 255 levels",
    }


def _decoded(program: WithPreprocessing, channels: int) -> list[Tensor]:
    """Images of several sizes to compare files with, uint8 ``[B, H, W, C]``, checked to be resized as Pillow does."""
    generator = torch.Generator().manual_seed(0)
    height, width = program.height, program.width
    sizes = [(height, width)]
    if program.resizes:
        sizes = [(2 * height + 3, 3 * width + 1), (height + 1, max(2, width // 2)), (height, 2 * width)]
    batches = [
        torch.randint(256, (CHECKED_BATCH, *size, channels), generator=generator, dtype=torch.uint8) for size in sizes
    ]
    for images in batches if program.resizes else []:
        difference = (program.pixels(images) - _by_pillow(images, (width, height))).abs().max().item()
        if difference > 1:
            raise RuntimeError(
                f"Images must be resized as Pillow resizes them, but for rounding; they differ by {difference:g} of "
                "255 levels. Export without the preprocessing."
            )
    return batches


def _by_pillow(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``[B, H, W, C]`` resized to cover a size, cropped at the centre, ``[B, C, H, W]``."""
    pictures = [Image.fromarray(image.squeeze(2).numpy() if image.shape[2] == 1 else image.numpy()) for image in images]
    fitted = [np.atleast_3d(np.asarray(ImageOps.fit(p, size, Image.Resampling.BILINEAR))) for p in pictures]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).float()


@contextlib.contextmanager
def all_or_nothing(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder beside ``folder`` to write into, which takes its place when the block succeeds."""
    folder = folder.resolve()  # replaces the folder that a link points to, not the link
    if folder.exists() and not overwrite:
        raise FileExistsError(
            f"The folder of an export must not exist; {folder} exists. Replace it: overwrite=True (--overwrite)."
        )
    if folder.exists() and not (folder / SUBNET).is_file():
        raise FileExistsError(
            f"A folder to overwrite must be an export; {folder} holds something else. Name another folder."
        )
    before = "the earlier export is as it was" if folder.exists() else "nothing of it is left"
    new, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        new.mkdir(parents=True)
        yield new
        for path in new.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except Exception as error:  # torch and ONNX raise errors of many kinds where a disk is full
        if (why := machine_fault(error)) is None:
            raise
        raise OSError(f"{folder} cannot be written: {why}. Export again when there is room; {before}.") from error
    finally:
        with uninterrupted():
            if old.exists() and not folder.exists():
                old.rename(folder)
            for rest in (new, old):
                shutil.rmtree(rest, ignore_errors=True)
