"""Text of a stranger as a terminal may show it."""

from __future__ import annotations

import unicodedata

_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode's controls (escape sequences begin with one), formats (some turn the direction of all that follows),
surrogates (which no terminal's encoding can write), private characters, separators of lines and paragraphs."""


def printable(text: object, *, lines: bool = False) -> str:
    r"""`text` with what a terminal would obey or could not show written as escapes: `\x1b[2J` for ESC [2J.

    Args:
        text: anything; its `str` is taken.
        lines: whether line breaks are kept, for text that is several lines on purpose.
    """
    return "".join(
        each if (each == "\n" and lines) or unicodedata.category(each) not in _UNSEEN else _escaped(each)
        for each in str(text)
    )


def printable_json(text: str) -> str:
    r"""JSON text in which such characters are JSON escapes: it stays the same value, and encodes as UTF-8."""
    return "".join(
        each
        if each == "\n" or unicodedata.category(each) not in _UNSEEN or ord(each) > 0xFFFF
        else f"\\u{ord(each):04x}"
        for each in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    width = 2 if code < 0x100 else 4 if code < 0x10000 else 8
    return named.get(character) or f"\\{'xuU'[(width > 2) + (width > 4)]}{code:0{width}x}"
