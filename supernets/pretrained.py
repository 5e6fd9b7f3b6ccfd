"""Pretrained weights for elastic supernets: what fits of a timm model, and the layout of once-for-all's checkpoints.

Nothing is downloaded here. Names are those of timm (huggingface/pytorch-image-models, ``mobilenetv3.py``, ``resnet.py``
and ``vision_transformer.py``) and of both generations of mit-han-lab/once-for-all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .elastic_resnet import ElasticResNetSupernet
from .elastic_transformer import EPS as EPS_OF_TRANSFORMERS
from .elastic_transformer import ElasticQKV
from .mobilenetv3 import MobileNetV3Supernet
from .vit import Pool, ViTBlock, ViTNetwork, ViTSupernet

EPS = 1e-5  # of our batch normalisation
COUNTER = "num_batches_tracked"  # a tensor of batch normalisation that not every checkpoint has

_TIMM_FIRST = {"conv_dw": "depthwise.conv", "bn1": "depthwise.bn", "conv_pw": "project.conv", "bn2": "project.bn"}
_TIMM_BLOCK = {
    "conv_pw": "expand.conv",
    "bn1": "expand.bn",
    "conv_dw": "depthwise.conv",
    "bn2": "depthwise.bn",
    "se.conv_reduce": "se.reduce",
    "se.conv_expand": "se.expand",
    "conv_pwl": "project.conv",
    "bn3": "project.bn",
}
_TIMM_MOBILENETV3 = {
    "conv_stem": "stem.conv",
    "bn1": "stem.bn",
    **{f"blocks.0.0.{theirs}": f"first.{ours}" for theirs, ours in _TIMM_FIRST.items()},
    "blocks.6.0.conv": "expand.conv",
    "blocks.6.0.bn1": "expand.bn",
    "conv_head": "mix",
    "classifier": "classifier",
}
_TIMM_RESNET = {
    "conv1.0": "stem.0.conv",
    "conv1.1": "stem.0.bn",
    "conv1.3": "stem.1.conv",
    "conv1.4": "stem.1.bn",
    "conv1.6": "stem.2.conv",
    "bn1": "stem.2.bn",
    "fc": "classifier",
}
_TIMM_BOTTLENECK = {
    **{f"conv{i}": f"conv{i}.conv" for i in (1, 2, 3)},
    **{f"bn{i}": f"conv{i}.bn" for i in (1, 2, 3)},
    "downsample.1": "shortcut.conv",
    "downsample.2": "shortcut.bn",
}
_OFA = {
    "first_conv.conv": "stem.conv",
    "first_conv.bn": "stem.bn",
    "final_expand_layer.conv": "expand.conv",
    "final_expand_layer.bn": "expand.bn",
    "feature_mix_layer.conv": "mix",
    "classifier.linear": "classifier",
}
_OFA_BLOCK = {
    "inverted_bottleneck.conv": "expand.conv",
    "inverted_bottleneck.bn": "expand.bn",
    "depth_conv.conv": "depthwise.conv",
    "depth_conv.bn": "depthwise.bn",
    "depth_conv.se.fc.reduce": "se.reduce",
    "depth_conv.se.fc.expand": "se.expand",
    "point_linear.conv": "project.conv",
    "point_linear.bn": "project.bn",
}


@dataclass(frozen=True)
class Loaded:
    """What :func:`load_timm` did.

    Args:
        loaded: Tensors of the supernet that have new values.
        missing: Tensors of the supernet that keep theirs.
        unused: Tensors of the model that have no place, or another shape.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def load_timm(
    supernet: MobileNetV3Supernet | ElasticResNetSupernet | ViTSupernet | ViTNetwork,
    model: nn.Module | Mapping[str, Tensor],
) -> Loaded:
    """Load what fits of a timm model into the largest network of a supernet.

    A MobileNetV3-Large, or a ResNet-D of bottlenecks, which has no shortcut in its stem. Its layers are the first ones
    of each stage; a tensor is taken if the shape is the same. Build the supernet with the kernels and expansions of the
    model, and width 1, for more to fit. Of a ``state_dict()`` nobody can tell how the model pads and normalises; timm's
    ``tf_`` models do so in another way and are refused as modules only.

    Of a vision transformer (``vit_tiny_patch16_224``, ``deit_small_patch16_224``) all is loaded, but for a classifier
    of other classes or none. An architecture of the supernet must compute what the model does: with the same embedding
    dimension, blocks, patches and image, ``relative_position=False``, and ``pool="token"`` if the model reads its class
    token. Larger architectures have its weights as a part of theirs. A :class:`~.vit.ViTNetwork` can be given, too.

    Args:
        supernet: Its weights change in place.
        model: A timm model, or its ``state_dict()``.

    Returns:
        Which tensors were loaded, and which were not.

    Raises:
        ValueError: If the model is built in another way. The supernet is unchanged.
    """
    if isinstance(supernet, ViTSupernet | ViTNetwork):
        return _load_timm_vit(supernet, model)
    resnet = isinstance(supernet, ElasticResNetSupernet)
    known = "resnet50d" if resnet else "mobilenetv3_large_100"
    if isinstance(supernet, ElasticResNetSupernet) and supernet.stem_shortcut and not _has_small_stem(supernet):
        raise ValueError(
            f"The stem of a timm {known} has no shortcut, that of this supernet has one, so it would compute something "
            f"else. Build it anew: {type(supernet).__name__}(stem_shortcut=False)."
        )
    source, own = dict(model.state_dict() if isinstance(model, nn.Module) else model), supernet.state_dict()
    fixed = _whatever_the_blocks(supernet)
    fitting: dict[str, Tensor] = {}
    unused: list[str] = []
    strange = [f"{name} ({what})" for name, what in _unlike_ours(model)] if isinstance(model, nn.Module) else []
    for name, tensor in source.items():
        ours = _from_timm(name, resnet=resnet)
        if ours in own and own[ours].shape == tensor.shape:
            fitting[ours] = tensor
        else:
            unused.append(name)
            if ours not in own and name != "conv_head.bias" and not _left_out(ours, supernet):
                strange.append(f"{name} (no place)")
    strange += [f"{name} (none, or of another shape)" for name in fixed if name not in fitting]
    if strange:
        raise ValueError(
            f"Weights of {type(supernet).__name__} come from a timm {known}, or one of other depths or widths that is "
            f"built alike; what differs is {', '.join(strange[:3])}{' and more' if len(strange) > 3 else ''}. Load "
            "that model, into a supernet of its width, or convert the names."
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return Loaded(tuple(sorted(fitting)), tuple(sorted(own.keys() - fitting.keys())), tuple(unused))


def _whatever_the_blocks(supernet: MobileNetV3Supernet | ElasticResNetSupernet) -> list[str]:
    """Tensors whose shapes are those of the model, whatever kernels, expansions and depths there are."""
    last = "conv3" if isinstance(supernet, ElasticResNetSupernet) else "project"
    stages = [f"stages.{i}.0.{last}.bn.weight" for i in range(len(supernet.stages))]
    if isinstance(supernet, MobileNetV3Supernet):
        return ["stem.bn.weight", *stages, "expand.bn.weight"]
    return stages if _has_small_stem(supernet) else [*(f"stem.{i}.bn.weight" for i in range(3)), *stages]


def _has_small_stem(supernet: ElasticResNetSupernet) -> bool:
    return len(supernet.stem) == 1


def _left_out(name: str, supernet: MobileNetV3Supernet | ElasticResNetSupernet) -> bool:
    """Whether the supernet has less of what this tensor belongs to: fewer layers in its stage, a small stem."""
    if name.startswith("stem."):
        return isinstance(supernet, ElasticResNetSupernet) and _has_small_stem(supernet)
    found, stages = re.match(r"stages\.(\d+)\.(\d+)\.", name), supernet.space.stages
    return found is not None and int(found[1]) < len(stages) and int(found[2]) >= stages[int(found[1])].rows


def _unlike_ours(model: nn.Module) -> list[tuple[str, str]]:
    """Layers that compute something else than ours with the same weights, and why."""
    found: list[tuple[str, str]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.eps != EPS:
            found.append((name, f"eps {layer.eps:g}, not {EPS:g}"))
        if isinstance(layer, nn.Conv2d) and layer.padding != tuple(k // 2 for k in layer.kernel_size):
            found.append((name, f"padding {layer.padding} of a kernel {layer.kernel_size}"))
    return found


def _from_timm(name: str, *, resnet: bool) -> str:
    module, _, tensor = name.rpartition(".")
    fixed, block, pattern, offset = (
        (_TIMM_RESNET, _TIMM_BOTTLENECK, r"layer(\d+)\.(\d+)\.(.+)", 1)
        if resnet
        else (_TIMM_MOBILENETV3, _TIMM_BLOCK, r"blocks\.(\d+)\.(\d+)\.(.+)", 1)
    )
    if module in fixed:
        return f"{fixed[module]}.{tensor}"
    found = re.fullmatch(pattern, module)
    if found is None or found[3] not in block:
        return ""
    return f"stages.{int(found[1]) - offset}.{found[2]}.{block[found[3]]}.{tensor}"


def _load_timm_vit(target: ViTSupernet | ViTNetwork, model: nn.Module | Mapping[str, Tensor]) -> Loaded:
    """See :func:`load_timm`."""
    theirs = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    source = {_from_timm_vit(name): tensor for name, tensor in theirs.items()}
    settings = target.settings if isinstance(target, ViTSupernet) else dict(target.init_args)
    strange = _unlike_our_vit(model, settings["pool"], settings["head_dim"]) if isinstance(model, nn.Module) else []
    if settings["relative_position"]:
        strange.append("relative positions (timm's have none: build yours with relative_position=False)")
    twin = _vit_of(source, {**settings, "relative_position": False}) if not strange else None
    if twin is not None:
        strange = _misfits(twin, source, target)
    elif not strange:
        strange.append(f"the layers (there must be a class token, and blocks with heads of {settings['head_dim']})")
    if twin is None or strange:
        raise ValueError(
            f"Weights of {type(target).__name__} come from a timm VisionTransformer of an architecture that it has; "
            f"what differs is {', '.join(strange[:3])}{' and more' if len(strange) > 3 else ''}. Load another model, "
            "or build yours like it."
        )
    own, kept = dict(target.named_modules()), twin.state_dict()
    loaded = [name for name in kept if name in source and source[name].shape == kept[name].shape]
    with torch.no_grad():
        for name in loaded:
            module, _, part = name.rpartition(".")
            layer, value = own[module], source[name]
            if isinstance(layer, ElasticQKV):
                layer.set_part(part, value)
            else:
                layer.get_parameter(part)[tuple(slice(size) for size in value.shape)].copy_(value)
    missing = target.state_dict().keys() - set(loaded)
    unused = (name for name in theirs if _from_timm_vit(name) not in loaded)
    return Loaded(tuple(sorted(loaded)), tuple(sorted(missing)), tuple(unused))


def _from_timm_vit(name: str) -> str:
    for theirs, ours in (("patch_embed.proj.", "patch_embed."), ("blocks.", "stages.0."), (".mlp.", ".")):
        name = name.replace(theirs, ours)
    return name


def _vit_of(source: Mapping[str, Tensor], settings: Mapping[str, Any]) -> ViTNetwork | None:
    """The network that has these weights, without memory for its own; ``None`` if they are of no such network."""
    token = source.get("cls_token")
    blocks: list[str] = []
    while (first := source.get(f"stages.0.{len(blocks)}.fc1.weight")) is not None:
        qkv = source.get(f"stages.0.{len(blocks)}.attn.qkv.weight", torch.empty(0))
        heads, rest = divmod(len(qkv), 3 * settings["head_dim"])
        if rest or not heads:
            return None
        blocks.append(str(ViTBlock(heads, first.shape[0] / first.shape[1])))
    if token is None or not blocks:
        return None
    with torch.device("meta"):
        return ViTNetwork(**{**settings, "blocks": blocks, "embed_dim": token.shape[-1]})


def _misfits(twin: ViTNetwork, source: Mapping[str, Tensor], target: ViTSupernet | ViTNetwork) -> list[str]:
    """Why these weights are of no architecture of ``target``."""
    own, found = twin.state_dict(), list[str]()
    for name in dict.fromkeys([*source, *own]):
        if name in ("head.weight", "head.bias"):  # of other classes, or none
            continue
        if name not in own:
            found.append(f"{name} (no place)")
        elif name not in source:
            found.append(f"{name} (none)")
        elif source[name].shape != own[name].shape:
            found.append(f"{name} ({list(source[name].shape)}, not {list(own[name].shape)})")
    arch = twin.arch
    told = f"{len(arch.stages[0])} blocks such as {arch.stages[0][0]!r}, embedding dimension {arch.width:g}"
    if isinstance(target, ViTNetwork):
        return found if arch == target.arch else [f"the architecture ({told})", *found]
    try:
        target.space.config(arch)
    except ValueError:
        return [f"the architecture ({told}), which its space has not", *found]
    return found


def _unlike_our_vit(model: nn.Module, pool: Pool, head_dim: int) -> list[str]:
    """Parts that compute something else than ours with the same weights, and why."""
    found: list[str] = []
    for name, layer in model.named_modules():
        if name.endswith(".attn") and getattr(layer, "head_dim", head_dim) != head_dim:
            found.append(f"{name}.num_heads ({layer.num_heads} of {layer.head_dim}, not {head_dim})")
        if isinstance(layer, nn.LayerNorm) and layer.eps != EPS_OF_TRANSFORMERS:
            found.append(f"{name} (eps {layer.eps:g}, not {EPS_OF_TRANSFORMERS:g})")
        if name.endswith("mlp.act") and not (isinstance(layer, nn.GELU) and layer.approximate == "none"):
            found.append(f"{name} ({layer}, not GELU)")
    theirs = getattr(model, "global_pool", "token")
    if theirs != {"token": "token", "average": "avg"}[pool]:
        found.append(f"pooling ({theirs!r}; yours has pool={pool!r})")
    return found


def convert_ofa(checkpoint: Mapping[str, Any], supernet: MobileNetV3Supernet) -> dict[str, Tensor]:
    """Weights of a once-for-all MobileNetV3 supernet under our names: ``supernet.load_state_dict(convert_ofa(...))``.

    Both generations of the layout are read, with ``blocks.N.mobile_inverted_conv`` and with ``blocks.N.conv``, and also
    a file that holds them as ``state_dict``. The published ``ofa_mbv3_d234_e346_k357_w1.0`` is
    ``MobileNetV3Supernet()``; its resolutions have no weights.

    Args:
        checkpoint: What ``torch.load(path, weights_only=True)`` gives.
        supernet: Says which tensors there must be. It is not changed.

    Returns:
        A ``state_dict`` of ``supernet``, not copied.

    Raises:
        ValueError: If a tensor is missing, is left over or has another shape; all of them are named.
    """
    source = checkpoint.get("state_dict", checkpoint)
    own = supernet.state_dict()
    rows = supernet.space.stages[0].rows
    found: dict[str, Tensor] = {}
    problems: list[str] = []
    for name, tensor in source.items():
        ours = _from_ofa(name, rows)
        if ours not in own:
            problems.append(f"{name} has no place")
        elif own[ours].shape != tensor.shape:
            problems.append(f"{name} is {list(tensor.shape)}, needed is {list(own[ours].shape)}")
        else:
            found[ours] = tensor
    for name, tensor in own.items():
        if name.endswith(COUNTER):
            found.setdefault(name, torch.zeros_like(tensor))
        elif name not in found:
            problems.append(f"{name} is missing")
    if problems:
        raise ValueError(
            f"The checkpoint is not that of a once-for-all supernet like this {type(supernet).__name__}: "
            f"{'; '.join(problems)}. Build the supernet with its depths, kernels, expansions and width, and with "
            "kernel_transform=False if it has no 7to5_matrix."
        )
    return found


def _from_ofa(name: str, rows: int) -> str:
    """Our name of a tensor; ``rows`` is the most layers of a stage."""
    module, _, tensor = name.rpartition(".")
    for twice, once in ((".conv.conv", ".conv"), (".bn.bn", ".bn"), (".linear.linear", ".linear")):
        if module.endswith(twice):  # elastic layers hold a plain one
            module = module.removesuffix(twice) + once
    if module in _OFA:
        return f"{_OFA[module]}.{tensor}"
    found = re.fullmatch(r"blocks\.(\d+)\.(?:mobile_inverted_conv|conv)\.(.+)", module)
    if found is None or found[2] not in _OFA_BLOCK:
        return ""
    tensor = re.sub(r"^(\d+to\d+)_matrix$", r"matrices.\1", tensor)
    index = int(found[1])
    place = "first" if index == 0 else f"stages.{(index - 1) // rows}.{(index - 1) % rows}"
    return f"{place}.{_OFA_BLOCK[found[2]]}.{tensor}"
