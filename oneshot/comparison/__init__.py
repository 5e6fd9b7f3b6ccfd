"""Methods against each other: the same space, data and seeds for all, and what the differences are worth."""

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .comparison import Comparison as Comparison
    from .results import Results as Results
    from .results import Run as Run
    from .significance import Difference as Difference
    from .significance import compare_pairs as compare_pairs
    from .significance import holm as holm
    from .trial import Entry as Entry
    from .trial import Setting as Setting

__getattr__, __dir__, __all__ = lazy(__name__)
