"""What an architecture costs."""

from __future__ import annotations

from .counts import Counts as Counts
from .counts import count as count
