"""Text for people: lists, paths, suggestions, numbers with a unit."""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path


def join_lines(lines: Iterable[str]) -> str:
    """Several problems as one message: all lines stand under the first, past ``error: ``."""
    return "\n       ".join(lines)


def bullet_list(problems: Sequence[str]) -> str:
    """The problems as an indented list that ends after ten of them."""
    lines = [f"  - {problem}" for problem in problems[:10]]
    if len(problems) > 10:
        lines.append(f"  ... and {len(problems) - 10} more")
    return "\n".join(lines)


def as_seen(text: str) -> str:
    """A text in the one spelling of what it looks like, to find two that look alike."""
    # macOS writes an accent as a character of its own; copied text may hold blanks of no width.
    shown = "".join(one for one in text if unicodedata.category(one) != "Cf")
    return unicodedata.normalize("NFC", shown)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean x? (there are a, b, c)``, or nothing without options."""
    known = sorted(option for option in options if not option.startswith("_"))
    if not known:
        return ""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    more = f", and {len(known) - 24} more" if len(known) > 24 else ""
    listed = f"there are {', '.join(known[:24])}{more}"
    return f"; did you mean {near[0]}? ({listed})" if near else f"; {listed}"


def absent_classes(names: Sequence[str]) -> str:
    """One line in the place of their rows: ``2 classes do not occur: cat, dog``."""
    verb = "class does" if len(names) == 1 else "classes do"
    return f"{len(names)} {verb} not occur: {', '.join(names)}"


def percent(value: float | None) -> str:
    """Six characters: `` 87.31``, or a dash where a score is not defined."""
    return f"{'-':>6}" if value is None else f"{100 * value:6.2f}"


def display_path(path: Path) -> str:
    """A path as people like to read it: from the current folder on, where there is such a way."""
    try:
        return os.path.relpath(path)
    except ValueError:  # Windows: on another drive
        return str(path.absolute())


def throughput(images_per_second: float) -> str:
    """``12.3 images/s``, or ``21.4 s/image`` where that says more."""
    if images_per_second >= 1:
        return f"{images_per_second:.1f} images/s"
    return f"{1 / images_per_second:.1f} s/image"
