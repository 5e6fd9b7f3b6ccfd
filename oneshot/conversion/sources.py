"""Where networks and their weights come from. Nothing is downloaded, and nothing is unpickled.

A source is a text that builds the same network in every process: ``timm:resnet18`` (``timm.create_model``),
``torchvision:deeplabv3_resnet50`` (``torchvision.models.get_model``), or the path of a function or a class of one's own
that returns an ``nn.Module``, ``mypackage.networks.build``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from oneshot.storage.trust import check_trusted, is_dotted
from oneshot.supernets.json_files import nearest, shorten

TIMM, TORCHVISION = "timm", "torchvision"
# Arguments by which these libraries download, or read files.
READS = {
    TIMM: ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    TORCHVISION: ("weights", "weights_backbone"),
}
SAFETENSORS, PICKLED = (".safetensors",), (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training programs keep the weights in a file, averages first, as timm.models.load_state_dict takes them.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
NESTED = (*AVERAGES, "state_dict", "model_state_dict", "model_state", "model", "network", "net", "params")
WRAPPERS = ("_orig_mod.", "module.")  # torch.compile and DistributedDataParallel, in any order
COUNTER = "num_batches_tracked"  # of batch normalisation, which files of old releases of torch lack
PARTS = ("weight", "bias", "running_mean", "running_var", COUNTER)  # that mean the same under every name
NO_MODULES = (".json", ".yaml", ".ckpt", ".zip", *SAFETENSORS, *PICKLED)  # endings of files
SHOWN = 3  # tensors that an error names


@dataclass(frozen=True)
class LoadedWeights:
    """What :func:`load_weights` did.

    Args:
        tensors: How many tensors have the values of the file.
        file: The file; empty if the weights were given as tensors.
        entry: Where in the file they were: ``"state_dict"``, or empty if it holds nothing else.
        new: Layers that keep their random weights, because they have another number of classes in the file.
        by_order: Whether names were left aside, and the order of the tensors was taken.
        checksum: Of the values, by which a search that is resumed knows that they are the same.
    """

    tensors: int
    file: str = ""
    entry: str = ""
    new: tuple[str, ...] = ()
    by_order: bool = False
    checksum: str = ""

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors of {self.file or 'the weights that were given'}"]
        parts += [f"from its entry {self.entry!r}"] if self.entry else []
        parts += ["taken in their order, whatever their names"] if self.by_order else []
        parts += [f"not {', '.join(self.new)}, which has other classes there and begins anew"] if self.new else []
        return "; ".join(parts)


def build(
    source: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
    trust: Sequence[str] | None = None,
) -> nn.Module:
    """Build the network that a source names, with new random weights.

    Args:
        source: ``timm:NAME``, ``torchvision:NAME``, or the path of a function or a class of one's own.
        arguments: Keyword arguments of the factory, JSON-able.
        num_classes: Number of outputs, given to the factory under this name.
        trust: Where the source was read from a file, the packages besides ``oneshot`` whose code may run; ``None`` if
            the caller names it.

    Returns:
        What the factory returns, on the CPU unless it says otherwise.

    Raises:
        ValueError: If there is no such name, an argument does not fit or cannot be saved, the factory takes no
            ``num_classes``, it is not trusted, or what it returns is no module.

    Example:
        >>> type(build("timm:resnet10t", num_classes=5)).__name__
        'ResNet'
    """
    given = _checked_arguments(source, arguments, num_classes)
    if trust is not None and (path := class_path_of(source)) is not None:
        check_trusted(path, trust, "a network")
    factory = _factory(source)
    if num_classes is not None and "num_classes" not in given:
        if not takes_num_classes(source):
            raise ValueError(
                f"For num_classes={num_classes}, {source} must take an argument num_classes; it takes "
                f"{', '.join(_parameters(factory)) or 'none'}. Name it so, or give arguments={{NAME: {num_classes}}}."
            )
        given["num_classes"] = num_classes
    try:
        network = factory(**given)
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError) as error:
        near, reason = _nearest_argument(factory, given, str(error)), " ".join(str(error).split())[:300]
        raise ValueError(f"{source} must be built with {shorten(given, 200)}, and cannot: {reason}.{near}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{source} must return an nn.Module; it returned a {type(network).__name__}.")
    return network


def class_path_of(source: object) -> str | None:
    """The path of the user's function or class that a source names; ``None`` if it is of a library that we know."""
    return source if is_dotted(source) else None


def is_source(text: str) -> bool:
    """Whether a text on a command line names a network to convert, and no file."""
    return text.startswith((f"{TIMM}:", f"{TORCHVISION}:")) or (is_dotted(text) and not text.endswith(NO_MODULES))


def takes_num_classes(source: str) -> bool:
    """Whether the factory of a source takes the number of outputs by the name ``num_classes``."""
    if class_path_of(source) is None:
        return True
    parameters = inspect.signature(_factory(source)).parameters
    return "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def input_shape_of(network: nn.Module) -> tuple[int, ...] | None:
    """C, H, W of the images that a network was made for, if it says so as those of timm do; otherwise ``None``."""
    said = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
    if not isinstance(said, Mapping) or "input_size" not in said:
        return None
    channels, height, width = said["input_size"]
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)  # arguments may say in_chans=1
    sides = getattr(getattr(network, "patch_embed", None), "img_size", None) or (height, width)
    return (channels if first is None else first.in_channels, *(int(side) for side in sides))


def _checked_arguments(source: str, arguments: Mapping[str, Any] | None, num_classes: int | None) -> dict[str, Any]:
    """The arguments as a file keeps them, checked."""
    named: object = {} if arguments is None else arguments
    if not (isinstance(named, Mapping) and all(isinstance(name, str) for name in named)):
        raise ValueError(f"arguments must be keyword arguments by name; got {shorten(arguments)}.")
    given = dict(named)
    try:
        json.dumps(given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"arguments of {source} must be JSON, so that a file can keep them ({error}); got {shorten(given)}. Give "
            "numbers, texts and lists, or write a function of your own that takes none."
        ) from error
    if num_classes is not None and given.get("num_classes", num_classes) != num_classes:
        raise ValueError(
            f"num_classes must be one number; got num_classes={num_classes} and {given['num_classes']} in arguments. "
            "Leave one out."
        )
    library = str(source).partition(":")[0]
    for name in READS.get(library, ()):
        if given.get(name):
            raise ValueError(
                f"A source must build a network from nothing, without a download or a file; got {name}="
                f"{shorten(given[name])} for {source}. Save the weights to a file once, and give weights=FILE."
            )
        given.pop(name, None)
    return given


def _factory(source: str) -> Callable[..., Any]:
    library, colon, name = str(source).partition(":")
    if colon and library == TIMM:
        return _timm_factory(name)
    if colon and library == TORCHVISION:
        return _torchvision_factory(name)
    if class_path_of(source) is None:
        raise ValueError(
            "source must be 'timm:NAME', 'torchvision:NAME' or the path of a function or a class of your own, "
            f"'mypackage.networks.build'; got {shorten(source)}.{_without_library(source)}"
        )
    return _own_factory(source)


def _timm_factory(name: str) -> Callable[..., nn.Module]:
    import timm

    # Before a point stands the architecture, after it which weights; these are not built, but may have other sizes.
    if any(c in name for c in ":/\\") or not timm.is_model(name):
        raise ValueError(f"timm must know the network; it has no {shorten(name)}.{nearest(name, timm.list_models())}")

    def create(**arguments: Any) -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        return network

    return create


def _torchvision_factory(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder, list_models

    if name not in list_models():
        raise ValueError(f"torchvision must know the network; it has no {shorten(name)}.{nearest(name, list_models())}")
    builder = get_model_builder(name)
    none = {argument: None for argument in READS[TORCHVISION] if argument in inspect.signature(builder).parameters}

    def create(**arguments: Any) -> nn.Module:
        network: nn.Module = builder(**none, **arguments)
        return network

    return create


def _own_factory(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    if module == "__main__":
        raise ValueError(
            f"A source must be importable in another process; {path} is of the script that runs. Define it in a module."
        )
    try:
        found = getattr(import_module(module), name)
    except AttributeError as error:
        known = [other for other in vars(import_module(module)) if not other.startswith("_")]
        raise ValueError(f"{path} cannot be imported: {error}.{nearest(name, known)}") from error
    except ImportError as error:
        raise ValueError(
            f"{path} cannot be imported: {error}. Install what defines it, or begin in the folder of its file."
        ) from error
    if not callable(found) or isinstance(found, nn.Module):
        raise ValueError(
            f"A source must be a function or a class that returns an nn.Module; {path} is a {type(found).__name__}."
        )
    factory: Callable[..., Any] = found
    return factory


def _without_library(source: object) -> str:
    """The source that is meant by the bare name of a network."""
    import timm
    from torchvision.models import list_models

    name = str(source)
    if timm.is_model(name):
        return f" Did you mean 'timm:{name}'?"
    return f" Did you mean 'torchvision:{name}'?" if name in list_models() else ""


def _parameters(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _nearest_argument(factory: Callable[..., Any], given: Mapping[str, Any], message: str) -> str:
    """The nearest argument of the factory, if it is one of its own that it does not know."""
    unknown = next((name for name in given if repr(name) in message and "unexpected keyword" in message), None)
    return nearest(unknown, _parameters(factory)) if unknown is not None else ""


def load_weights(
    network: nn.Module,
    weights: str | Path | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    weights_by_order: bool = False,
) -> LoadedWeights:
    """Load the weights of a file into a network: all of them, or none.

    Files of training programs hold more: the weights may lie in an entry (``state_dict``, ``model``, ...; a moving
    average comes first), and all names may begin with the same word (``module.``, ``model.``).

    Args:
        network: Its weights change in place.
        weights: A ``.safetensors`` file, a file of ``torch.save`` (``.pth``, ``.pt``, ``.bin``, ``.ckpt``) that holds
            nothing but tensors and plain values, or tensors by name.
        num_classes: That the network was built for. Layers that have these outputs, and another number of them in the
            file, keep their weights.
        weights_by_order: Take tensors in their order, whatever their names. There must be as many, with the same
            shapes in the same order.

    Returns:
        What was loaded.

    Raises:
        ValueError: If the file is damaged or holds pickled objects, or the weights are those of another network; how
            many tensors are missing, have no place or another shape is said.
        FileNotFoundError: If there is no file.
    """
    file = "" if isinstance(weights, Mapping) else str(weights)
    content = weights if isinstance(weights, Mapping) else _read(Path(weights))
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    try:
        entry, given = _tensors(content)
        given = _by_order(given, own) if weights_by_order else _without_prefix(given, own)
        new = _new_layers(given, own, num_classes)
        _check_fit(given, own, new, by_order=weights_by_order)
        kept = {name: tensor for name, tensor in given.items() if name.rpartition(".")[0] not in new}
        _check_values(kept)
    except ValueError as error:
        raise ValueError(f"{file or 'weights'}: {error}") from error
    network.load_state_dict(kept, strict=False)  # checked above, by name and shape
    return LoadedWeights(len(kept), file, entry, new, weights_by_order, _checksum(kept))


def _checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, the first 16 digits."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> object:
    """What a file of weights holds."""
    if "://" in str(path) or str(path).startswith(("http:", "https:")):
        raise ValueError(f"weights must be a file of this machine; nothing is downloaded. Save {path} first.")
    if path.suffix not in (*SAFETENSORS, *PICKLED):
        endings = ", ".join((*SAFETENSORS, *PICKLED))
        raise ValueError(f"A file of weights must end in one of {endings}; got {path}.")
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} must be a file of weights; it is a folder, or a pipe.")
        raise FileNotFoundError(f"There is no file of weights {path}, seen from {Path.cwd()}.")
    try:
        if path.suffix in SAFETENSORS:
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other formats than its own, which it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} must hold tensors and plain values; it is damaged, or holds other objects, which would have to be "
            "unpickled. Where you trust it, save its weights alone: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)."
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} must be a file of weights; it is damaged, or something else: {reason}.") from error


def _tensors(found: object) -> tuple[str, dict[str, Tensor]]:
    """The entry of a file that holds the weights, and these."""
    entries = [("", found)]
    while entries:
        entry, inner = entries.pop(0)
        if not isinstance(inner, Mapping):
            continue
        if any(isinstance(value, Tensor) for value in inner.values()):
            return entry, {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
        entries = [(f"{entry}.{name}".lstrip("."), inner[name]) for name in NESTED if name in inner] + entries
    what = f"a mapping of {', '.join(map(repr, list(found)[:SHOWN]))}" if isinstance(found, Mapping) else ""
    raise ValueError(
        "There must be tensors by name, alone or in an entry such as 'state_dict'; there is "
        f"{what or f'a {type(found).__name__}'}. Save network.state_dict()."
    )


def _without_prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network has them: without what wrappers put before them, or a word that is before all of them.

    What a training keeps beside the network, under other words, is left out.
    """
    if given.keys() & own.keys():
        return dict(given)
    cleaned = {_unwrapped(name): tensor for name, tensor in given.items()}
    if cleaned.keys() & own.keys():
        return cleaned
    first = next((name for name in own if not name.endswith(COUNTER)), "")
    for name in cleaned:
        prefix = name.removesuffix(f".{first}") + "."
        inner = {_unwrapped(n.removeprefix(prefix)): t for n, t in cleaned.items() if n.startswith(prefix)}
        if name.endswith(f".{first}") and sum(n in own for n in inner) > len(own) // 2:
            return inner
    return cleaned


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _by_order(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of the network, taken in their order."""
    if len(given) != len(own):
        raise ValueError(
            "To be taken in their order, the tensors must be as many as those of the network; they are "
            f"{len(given)}, not {len(own)}. They are of another network."
        )
    for theirs, ours in zip(given, own, strict=True):
        parts = [name.rpartition(".")[2] for name in (theirs, ours)]
        if parts[0] != parts[1] and all(part in PARTS for part in parts):
            raise ValueError(
                f"To be taken in their order, tensors must mean the same; {theirs} would be {ours}. They are of "
                "another network, or in another order."
            )
    return dict(zip(own, given.values(), strict=True))


def _new_layers(given: Mapping[str, Tensor], own: Mapping[str, Tensor], num_classes: int | None) -> tuple[str, ...]:
    """Layers with ``num_classes`` outputs which have another number of them in the file, and are alike otherwise."""
    found = dict[str, None]()
    for name, tensor in own.items() if num_classes is not None else ():
        if name in given and _other_outputs(given[name], tensor) and len(tensor) == num_classes:
            found[name.rpartition(".")[0]] = None
    return tuple(found)


def _other_outputs(theirs: Tensor, ours: Tensor) -> bool:
    """Whether two tensors of layers differ in the number of outputs, and in nothing else."""
    return bool(theirs.dim() and ours.dim()) and theirs.shape[1:] == ours.shape[1:] and len(theirs) != len(ours)


def _check_fit(given: Mapping[str, Tensor], own: Mapping[str, Tensor], new: Sequence[str], *, by_order: bool) -> None:
    """Check that weights are those of the network, but for layers that begin anew."""
    places = {tensor.data_ptr() for name, tensor in own.items() if name in given} - {0}  # of tensors tied to others
    missing = [
        name
        for name, tensor in own.items()
        if name not in given and not name.endswith(COUNTER) and tensor.data_ptr() not in places
    ]
    surplus = [name for name in given if name not in own]
    misfits = [
        name
        for name, tensor in own.items()
        if name in given and not _alike(given[name], tensor) and name.rpartition(".")[0] not in new
    ]
    if not (missing or surplus or misfits):
        return
    other = [f"{name}, {_said(given[name])} instead of {_said(own[name])}" for name in misfits]
    told = [
        f"{len(names)} {what} ({'; '.join(names[:SHOWN])}{'; ...' if len(names) > SHOWN else ''})"
        for names, what in (
            (missing, f"of its {len(own)} tensors missing"),
            (surplus, "without a place in it"),
            (other, "of another shape"),
        )
        if names
    ]
    way = "Name the source and the arguments that they were trained with"
    if missing and surplus and not by_order and _same_shapes(given.values(), own.values()):
        way = "The shapes are the same in the same order; if it is the same network, say weights_by_order=True"
    elif not (missing or surplus) and all(_other_outputs(given[name], own[name]) for name in misfits):
        way += "; if only the number of classes differs, give num_classes=, the number that you want"
    raise ValueError(f"The weights must be those of the network; there are {', '.join(told)}. {way}.")


def _alike(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.shape == ours.shape and theirs.dtype.is_floating_point == ours.dtype.is_floating_point


def _same_shapes(theirs: Iterable[Tensor], ours: Iterable[Tensor]) -> bool:
    return [tensor.shape for tensor in theirs] == [tensor.shape for tensor in ours]


def _said(tensor: Tensor) -> str:
    kind = "" if tensor.dtype.is_floating_point else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _check_values(given: Mapping[str, Tensor]) -> None:
    bad = [name for name, tensor in given.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise ValueError(
            f"Weights must be finite; those of {len(bad)} tensors are not ({', '.join(bad[:SHOWN])}). Take an earlier "
            "checkpoint."
        )
