"""Escaping of external text (names, files, messages) for terminals, Markdown and CSV.

Text is escaped on output only, so that names are unchanged inside the program.
"""

from __future__ import annotations

import re
from typing import Any

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters; tab and line feed are left to the caller
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction of writing
    "\u2028\u2029\ufeff\ud800-\udfff\U000e0000-\U000e007f]"  # separators, byte-order mark, surrogates, tags
)
_LINES = re.compile("[\t\n]")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?(inf(inity)?|nan|\d+\.?\d*(e[-+]?\d+)?|\.\d+(e[-+]?\d+)?)", re.IGNORECASE)
_QUOTED = re.compile(r"''*[=+\-@\t\r]")
_MARKDOWN = re.compile(r"[\\`*<|]|\](?=[(\[:])|&(?=#?\w+;)|^(?=[#>~]|[-+] |\d+[.)] )")


def code_point(character: str) -> str:
    r"""Return a character as ``\\uXXXX``, which JSON and Python read as that character."""
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Return text with characters that control a terminal or change the writing direction as ``\\uXXXX``.

    ``one_line``: also tab and line feed.
    """
    text = _ACTING.sub(lambda found: code_point(found[0]), text)
    return _LINES.sub(lambda found: code_point(found[0]), text) if one_line else text


def printable_tree(value: Any) -> Any:
    """Return JSON values with all text, including keys, ``printable`` on one line."""
    if isinstance(value, str):
        return printable(value, one_line=True)
    if isinstance(value, dict):
        return {printable_tree(key): printable_tree(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(printable_tree(inner) for inner in value) if type(value) in {list, tuple} else value
    return value


def csv_text(value: Any) -> Any:
    """Return a cell that spreadsheets do not interpret as a formula, by an apostrophe in front of such text.

    Numbers, also as text, are unchanged. ``csv_read`` is the inverse, except for escaped control characters.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    value = printable(value)
    return f"'{value}" if _FORMULA.match(value) else value


def csv_read(value: Any) -> Any:
    """Return the original text of a cell of ``csv_text``."""
    return value[1:] if isinstance(value, str) and _QUOTED.match(value) else value


def markdown(text: str) -> str:
    """Return one line of Markdown that shows the text literally."""
    line = " ".join(printable(text).split())
    return _MARKDOWN.sub(_as_markdown, line)


def _as_markdown(found: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}")
