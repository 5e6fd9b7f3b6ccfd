"""Numbers as text: short ones for people, and bounds that hold."""

from __future__ import annotations

import math

SCALES = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from which number on, what to divide by, and the letter


def scale_of(largest: float) -> tuple[float, str]:
    """What to divide numbers by so that they are short, and the letter for it.

    Args:
        largest: The largest of them that are to be read beside each other.

    Example:
        >>> scale_of(4e6), scale_of(1234.0)
        ((1000000.0, 'M'), (1.0, ''))
    """
    return next(((factor, letter) for least, factor, letter in SCALES if abs(largest) >= least), (1.0, ""))


def short(value: float) -> str:
    """Format to 4 digits, with a letter for thousands, millions or billions.

    Example:
        >>> short(12_345.0), short(0.25), short(3_300_000)
        ('12.35 k', '0.25', '3.3 M')
    """
    factor, letter = scale_of(value)
    return f"{value / factor:.4g} {letter}".rstrip()


def rounded_up(value: float) -> str:
    """Format to 4 digits, rounded up, so that the text is a valid upper bound.

    Example:
        >>> rounded_up(183241.2), rounded_up(0.25), rounded_up(-1.23456)
        ('1.833e+05', '0.25', '-1.234')
    """
    if not value or not math.isfinite(value):
        return f"{value:g}"
    text = f"{value:.4g}"
    if float(text) >= value:
        return text
    return f"{float(text) + 10.0 ** (math.floor(math.log10(abs(value))) - 3):.4g}"
