"""Text on its way to a terminal or log: names of files and classes may come from anywhere.

A terminal obeys what stands behind ESC, and shows what follows a bidirectional mark backwards. So
these are shown as ``\\x1b`` and ``\\u202e``; files keep the true names.
"""

import re
import sys

# C0 but for tab and newline, DEL and C1; marks of direction; ends of lines and paragraphs; halves
# of a character, which are bytes of a file's name that are no UTF-8, and which no stream takes.
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
)
HIDDEN = re.compile(f"[{_HIDDEN}]")
HIDDEN_IN_A_LINE = re.compile(f"[{_HIDDEN}\t\n]")


def visible(text: str) -> str:
    """The text with escapes for what a terminal would obey or hide; lines stay lines."""
    return HIDDEN.sub(_escape, text)


def one_line(name: str) -> str:
    """A name, of a class say, with escapes for ends of lines too: for places that hold one line."""
    return HIDDEN_IN_A_LINE.sub(_escape, name)


def say(text: object = "") -> None:
    """Print to the standard output."""
    print(visible(str(text)))


def say_error(text: object) -> None:
    """Print to the standard error stream."""
    print(visible(str(text)), file=sys.stderr)


def _escape(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode()
