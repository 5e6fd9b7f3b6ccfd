"""Differentiable and one-shot neural architecture search on PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout that is not installed, supernets/ and callbacks/ lie beside this folder instead of in it.
if not (Path(__file__).parent / "supernets").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from .base import BilevelSearch as BilevelSearch
    from .base import SearchModule as SearchModule
    from .export import export_subnet as export_subnet
    from .export import load as load
    from .language import RetrainLanguage as RetrainLanguage
    from .methods.darts import DARTS as DARTS
    from .retrain import Retrain as Retrain

# Imported on first use, so that `import oneshot` and `oneshot --help` cost nothing.
_WHERE = {
    "BilevelSearch": "base",
    "DARTS": "methods.darts",
    "Retrain": "retrain",
    "RetrainLanguage": "language",
    "SearchModule": "base",
    "export_subnet": "export",
    "load": "export",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
