"""Scores of a network that was not trained, by the names of the proxies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from oneshot.errors import NonFiniteScoreError, NoScoreError
from oneshot.inputs import Inputs, cast, is_inputs, length, mapped, tensors
from oneshot.random_numbers import own_random_numbers
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.json_files import nearest
from oneshot.tasks.task import Task, task_of

from .aznas import AZ_NAS, Expressivity, Progressivity, Trainability
from .base import Batch, Proxy, private_copy
from .counts import Macs, Params
from .meco import Meco
from .naswot import Jacov, Naswot
from .saliency import Fisher, GradNorm, Grasp, Snip
from .swap import RegularisedSwap, Swap
from .synflow import Synflow
from .zen import Zen
from .zico import Zico

KINDS: dict[str, type[Proxy]] = {
    kind.name: kind
    for kind in (
        *(Params, Macs, GradNorm, Snip, Grasp, Fisher, Synflow, Jacov, Naswot, Zen, Zico, Swap, RegularisedSwap, Meco),
        *(Expressivity, Progressivity, Trainability),
    )
}
COMBINED = "az_nas"
DEFAULT = ("params", "macs", "naswot", "synflow")


def score(
    network: nn.Module,
    inputs: Inputs,
    targets: Tensor | None = None,
    names: str | Proxy | Sequence[str | Proxy] = DEFAULT,
    *,
    seed: int = 0,
    task: Task | str | None = None,
    strict: bool = True,
) -> dict[str, float]:
    """Score a network without training it; of every score, more is better.

    The weights are those of the network, which should be fresh ones (``supernet.extract(config, inherit=False)``); zen
    and the parts of AZ-NAS draw their own. Every proxy works on a copy in training mode: weights, gradients, hooks,
    modes, running statistics and all random number generators stay as they are, also if a proxy fails. Hooks of the
    network are copied with it, and run. A score depends
    on the seed, not on which others are asked for. Scores compare for networks that were scored with the same batch and
    resolution only.

    Args:
        network: Any module that gives one tensor ``[B, ...]``.
        inputs: ``[B, *input_shape]``, or several by name; moved to the network's device and type.
        targets: What its task asks for, classes ``[B]``; proxies that take a loss need them.
        names: Names of :data:`KINDS`, or proxies with options of their own, such as ``Zico(batches=4)``.
        seed: Of all that is random: inputs and weights that are drawn, dropout.
        task: Whose loss is taken; by default that of the network, or classification.
        strict: Raise where there is no finite score, or the network lacks what the proxy looks at, such as ReLUs;
            otherwise it is NaN, which means that this proxy has no score for this network, and should rank last.

    Returns:
        ``{name: score}``, in the order of ``names``.

    Raises:
        ValueError: If a name is unknown, inputs or targets do not do, the network cannot be run with them, or gradients
            are switched off.
        NoScoreError: If the network lacks what a proxy looks at. It is a ``ValueError``.
        NonFiniteScoreError: If a score is NaN or infinite. It is a ``NoScoreError``.

    Example:
        >>> from oneshot.supernets import NASBench201Network
        >>> network = NASBench201Network("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
        >>> score(network, torch.zeros(1, 3, 32, 32), names=["params", "macs"])
        {'params': 344346.0, 'macs': 47104640.0}
    """
    found = scores_or_reasons(network, inputs, targets, proxies_of(names), seed=seed, task=task)
    for value in found.values():
        if strict and isinstance(value, NoScoreError):
            raise value
    return {name: math.nan if isinstance(value, NoScoreError) else value for name, value in found.items()}


def scores_or_reasons(
    network: nn.Module,
    inputs: Inputs,
    targets: Tensor | None,
    proxies: Sequence[Proxy],
    *,
    seed: int,
    task: Task | str | None = None,
) -> dict[str, float | NoScoreError]:
    """Scores of a network, or why there is none, by the name of the proxy; see :func:`score`.

    Raises:
        ValueError: If inputs or targets do not do, or gradients are switched off.
    """
    _check_network(network)
    batch = _batch(network, inputs, targets, task)
    return {proxy.name: _one(proxy, network, batch, seed) for proxy in proxies}


def _one(proxy: Proxy, network: nn.Module, batch: Batch, seed: int) -> float | NoScoreError:
    _check_batch(proxy, batch)
    targets = None if batch.targets is None else _copy(batch.targets)  # a copy can be saved for a backward pass
    with own_random_numbers(seed):
        own = private_copy(network, gradients=proxy.needs_gradients)
        try:
            value = float(proxy(own, Batch(mapped(_copy, batch.inputs), targets, batch.task)))
        except NoScoreError as error:
            return error
        except (RuntimeError, IndexError, TypeError) as error:  # of torch or of the network
            raise ValueError(_cannot_run(proxy, network, batch, error)) from error
        except ValueError as error:
            if "more than 1 value per channel" in str(error):  # batch normalisation, which torch does not name
                raise ValueError(_cannot_run(proxy, network, batch, error)) from error
            raise
    if math.isfinite(value):
        return value
    return NonFiniteScoreError(
        f"{proxy.name} must be finite; it is {value} for this {type(network).__name__}, so it says nothing "
        f"about it. {_REASONS.get(proxy.name, _REASON)} strict=False gives NaN, to be ranked last."
    )


def _cannot_run(proxy: Proxy, network: nn.Module, batch: Batch, error: Exception) -> str:
    """The message for inputs that a network cannot be run with, or not in the way of a proxy."""
    said = [f"{name} {_described(part)}".strip() for name, part in _by_name(batch.inputs)]
    ways = ["Check the shape and type of the inputs."]
    if any(not part.is_floating_point() for part in tensors(batch.inputs)):
        ways.append("Inputs that are whole numbers are taken for words; images must be numbers with digits.")
    if batch.targets is not None and proxy.needs_targets:
        said.append(f"targets {_described(batch.targets)}")
        ways.append("Check that the targets are those of the task.")
    if "more than 1 value per channel" in str(error):
        ways = ["Batch normalisation needs several samples: give more, or cut them into fewer parts (zico)."]
    return (
        f"{proxy.name} must be able to run the network; {type(network).__name__} cannot be run by it with "
        f"{', '.join(said)}: {error}. {' '.join(ways)}"
    )


def _by_name(inputs: Inputs) -> list[tuple[str, Tensor]]:
    return list(inputs.items()) if isinstance(inputs, Mapping) else [("inputs", inputs)]


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


_REASON = "Usually no input reaches the output, a weight is not finite, or sums leave the range of the type."
_REASONS = {
    "naswot": "Two samples open the same ReLUs: they are equal, or no input reaches the output.",
    "reg_swap": "The network is too far from mu for its sigma: exp(-(P - mu)^2 / sigma) is 0. Give a larger sigma.",
    "az_trainability": "A block passes its input on as it is, or enlarges the feature maps.",
    "synflow": "The products of weights along paths leave the range of 64 bits, or a weight is not finite.",
}


def proxies_of(
    names: str | Proxy | Sequence[str | Proxy], options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Proxy]:
    """The proxies that names stand for.

    Args:
        names: Names of :data:`KINDS`, or proxies.
        options: Arguments of those that are named, ``{"zico": {"batches": 4}}``.

    Raises:
        ValueError: If a name is unknown or comes twice, or options are of none of them.
    """
    given = [names] if isinstance(names, str | Proxy) else list(names)
    if not given:
        raise ValueError(f"At least one proxy must be named; there are {', '.join(KINDS)}.")
    options, found = dict(options or {}), dict[str, Proxy]()
    for name in given:
        proxy = name if isinstance(name, Proxy) else _named(name, options.pop(str(name), {}))
        if proxy.name in found:
            raise ValueError(f"A proxy must be named once; {proxy.name!r} is there twice.")
        found[proxy.name] = proxy
    if options:
        raise ValueError(
            f"Options must be of proxies that are named, {', '.join(found)}; got options of {next(iter(options))!r}."
            f"{nearest(next(iter(options)), list(found))}"
        )
    return list(found.values())


def _named(name: str, options: Mapping[str, Any]) -> Proxy:
    if name == COMBINED:
        raise ValueError(
            f"az_nas ranks the networks of a set, so one network has none. Score its parts, {', '.join(AZ_NAS)}, of "
            "all networks, and pass these to oneshot.proxies.az_nas."
        )
    if name not in KINDS:
        raise ValueError(
            f"A proxy must be one of {', '.join(KINDS)}; got {name!r}.{nearest(str(name), [*KINDS, COMBINED])}"
        )
    try:
        return KINDS[name](**options)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(KINDS[name])) or "none"  # type: ignore[arg-type]  # dataclasses
        raise ValueError(f"Options of {name} are {known}; got {dict(options)}.") from error


def _check_network(network: nn.Module) -> None:
    if isinstance(network, Supernet):
        raise ValueError(
            "A network of its own must be scored; got a supernet. Score supernet.extract(config, inherit=False)."
        )
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in network.parameters()):
        raise ValueError("All weights must have a shape; some are lazy. Run the network once first.")


def _batch(network: nn.Module, inputs: Inputs, targets: Tensor | None, task: Task | str | None) -> Batch:
    """Inputs and targets as the network reads them."""
    if not is_inputs(inputs):
        raise ValueError(
            f"Inputs must be a tensor [B, ...], or a mapping from names to tensors; got a {type(inputs).__name__}."
        )
    count = length(inputs)
    if count < 1:
        raise ValueError("Inputs must hold at least one sample; got none.")
    if not all(x.isfinite().all() for x in tensors(inputs) if x.is_floating_point()):
        raise ValueError("Inputs must be finite; some are NaN or infinite.")
    of_network = network.task if isinstance(network, Subnet) else "classification"
    task = task_of(of_network if task is None else task)
    like = next((p for p in network.parameters() if p.is_floating_point()), None)
    inputs = inputs if like is None else cast(inputs, like)
    if targets is not None:
        if len(targets) != count:
            raise ValueError(f"There must be a target for each of {count} samples; got {len(targets)} targets.")
        targets = targets if like is None else targets.to(like.device)
        if isinstance(network, Subnet):
            task.check_targets(targets, network.num_classes, count=count)
    return Batch(inputs, targets, task)


def _check_batch(proxy: Proxy, batch: Batch) -> None:
    count = length(batch.inputs)
    if count < proxy.fewest:
        raise ValueError(
            f"{proxy.name} compares samples, so there must be at least {proxy.fewest}; got {count}. Published tables "
            "use 16 to 128."
        )
    if proxy.needs_targets and batch.targets is None:
        raise ValueError(f"{proxy.name} takes the loss of a batch, so it must get targets=; it got none.")
    if proxy.needs_gradients and not torch.is_grad_enabled():
        where = "torch.inference_mode()" if torch.is_inference_mode_enabled() else "torch.no_grad()"
        raise ValueError(
            f"{proxy.name} differentiates, so gradients must be on; this is inside {where}. Call score outside of it. "
            "params, macs, naswot, swap, zen and meco work there."
        )


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone()
