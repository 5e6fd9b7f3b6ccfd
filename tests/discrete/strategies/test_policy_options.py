"""Options that constructors of policies pass on have names and types."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from oneshot.discrete import PPO, REINFORCE, MnasNet
from oneshot.discrete.strategies.ppo import PPOOptions, UnscaledPPOOptions
from oneshot.discrete.strategies.reinforce import REINFORCEOptions


def types(function: Any) -> dict[str, str]:
    """Names and types of what a function takes, as they are written, but the space and ``**kwargs``."""
    found = inspect.signature(function).parameters
    return {name: one.annotation for name, one in found.items() if name not in ("self", "space", "kwargs")}


@pytest.mark.parametrize(("kind", "options"), [(PPO, PPOOptions), (REINFORCE, REINFORCEOptions)])
def test_small_takes_the_options_of_the_class(kind: Any, options: Any) -> None:
    assert inspect.signature(kind.small).parameters["kwargs"].annotation == f"Unpack[{options.__name__}]"
    typed = {name: reference.__forward_arg__ for name, reference in options.__annotations__.items()}
    assert typed == types(kind.__init__)


def test_mnasnet_takes_the_options_of_ppo_but_scalar() -> None:
    for function in (MnasNet.__init__, MnasNet.small):
        assert inspect.signature(function).parameters["kwargs"].annotation == "Unpack[UnscaledPPOOptions]"
    typed = {name: reference.__forward_arg__ for name, reference in UnscaledPPOOptions.__annotations__.items()}
    assert typed == {name: kind for name, kind in types(PPO.__init__).items() if name != "scalar"}
    assert types(MnasNet.small) == types(MnasNet.__init__)
