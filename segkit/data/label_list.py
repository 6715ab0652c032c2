"""What ``labels.txt`` says: our list of names, labelme's and CVAT's; every other kind is refused.

A list of another tool that passed for ours would shift every class name by one without a word.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segkit.errors import DataError
from segkit.text import as_seen, join_lines

LONGEST = 200
"""Characters of a name: the patterns below take the square of them in time."""
EXPECTED = "one class name per line, in index order, and nothing else"
# labelme's first two labels; its scripts give them the ids -1, which is stored as 255, and 0.
LABELME = ["__ignore__", "_background_"]
# CVAT writes a head and then name:red,green,blue:parts:actions, where all but the name may lack.
CVAT_HEAD = re.compile(r"#\s*label\s*:\s*color", re.IGNORECASE)
_RGB = r"\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}"
_CVAT = re.compile(rf"(?P<name>.+?)\s*:\s*(?P<rgb>{_RGB})?\s*(:[^:]*)?(:[^:]*)?")
_COLORED = re.compile(rf".+?\s*:\s*{_RGB}\s*(:[^:]*)?(:[^:]*)?")

_GAP = r"\s*[,;:=\t]\s*|\s+"
_NUMBER_FIRST = re.compile(rf"(?P<number>\d+)(?:{_GAP}|[.)]\s*)(?P<name>.*\D.*)")
_NUMBER_LAST = re.compile(rf"(?P<name>.*\D.*?)(?:{_GAP})(?P<number>\d+)")
_TRIPLE = r"\[?\(?\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3}\)?\]?"
_HEAD = re.compile(
    r"(pixel[ _]?value|(class|label|category|train|obj)?[ _]?(id|index|idx|number|no\.?|nr|name)s?|"
    r"class|label|category|code|value|color|colour|r|red)\s*([,;:\t|]|\s).+",
    re.IGNORECASE,
)
# What no name looks like, and what it is then.
_SIGNS = (
    (re.compile(r"#.*|//.*"), "a comment"),
    (re.compile(r"[\[\]{}]+,?|[\[{].*[,:].*|.*[\[{]"), "a piece of JSON or YAML"),
    (re.compile(r"---.*|\.\.\.|- .*|[\w ]+:"), "a piece of YAML"),
    (re.compile(r"""["'].*["'],?|.*,"""), "a piece of JSON"),
    (re.compile(r"<.*>"), "a piece of XML"),
    (re.compile(rf".*\D(?:{_GAP}){_TRIPLE}|{_TRIPLE}(?:{_GAP})\D.*"), "a name with a colour"),
    (re.compile(r".*\S[\s,;:]+#[0-9A-Fa-f]{6}"), "a name with a colour"),
    (re.compile(r".*\t.*"), "a line of a table"),
)


@dataclass(frozen=True)
class LabelList:
    """Class names in index order, and their colours, (red, green, blue), where the file has all."""

    names: list[str]
    colors: list[list[int]] | None = None


def parse_labels(lines: Sequence[str], source: str) -> LabelList:
    """The names in a list of ours, of labelme (``labels.txt``) or of CVAT (``labelmap.txt``).

    Args:
        lines: The file's lines, without outer blanks.
        source: What errors call it.

    Raises:
        DataError: Each line that is no class name, with what to write.
    """
    if any(map(CVAT_HEAD.match, lines)) or (len(lines) > 1 and all(map(_COLORED.fullmatch, lines))):
        return _cvat(lines, source)
    skipped = 0
    if LABELME[0] in lines:
        if list(lines[:2]) != LABELME:
            number = 1 + lines.index(LABELME[0])
            raise DataError(
                f"{source}, line {number}: {LABELME[0]} is labelme's name for the pixels without a "
                f"label, not a class, and stands in line 1 there, before {LABELME[1]}. Delete the "
                f"line; expected {EXPECTED}"
            )
        skipped = 1
    names = list(lines[skipped:])
    problems = list(line_problems(names, source, first=1 + skipped))
    if not problems and (columns := column_problem(names)):
        problems = [f"{source}, line {1 + skipped}: {columns}"]
    if problems:
        more = f"and {len(problems) - 10} more lines" if len(problems) > 10 else ""
        raise DataError(join_lines([*problems[:10], *([more] if more else [])]))
    return LabelList(names)


def line_problems(names: Sequence[str], source: str, first: int = 1) -> Iterator[str]:
    """What keeps single lines from being class names; ``first`` is the number of the first one."""
    seen: dict[str, tuple[int, str]] = {}
    for number, name in enumerate(names, first):
        where = f"{source}, line {number}"
        if len(name) > LONGEST:
            yield (
                f"{where}: begins with {name[:40]!r} and has {len(name):,} characters; a name has "
                f"{LONGEST} at most; expected {EXPECTED}"
            )
            continue
        found = next((what for sign, what in _SIGNS if sign.fullmatch(name)), None)
        if not name:
            yield (
                f"{where}: class {number - first} has an empty name. Every class needs one: delete "
                "the line, or write the name"
            )
        elif found:
            yield f"{where}: {name[:80]!r} looks like {found}; expected {EXPECTED}"
        elif (plain := as_seen(name)) in seen:
            before, other = seen[plain]
            same = "stands there twice" if other == name else f"looks like {other!a}"
            shown = repr(name) if other == name else ascii(name)
            yield f"{where}: the name {shown} {same}, in line {before} too. Make names unique"
        seen.setdefault(as_seen(name), (number, name))


def column_problem(names: Sequence[str]) -> str | None:
    """What is wrong if the lines hold more than a name each: numbers, or a table with a head."""
    for head in (0, 1):
        rows = names[head:]
        if len(rows) < 2 or (head and not _HEAD.fullmatch(names[0])):
            continue
        for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
            found = [match for row in rows if (match := pattern.fullmatch(row))]
            # lane 1, lane 2, lane 3: there the number is part of the name.
            if len(found) == len(rows) and len({match["name"] for match in found}) == len(rows):
                return (
                    f"{names[0][:80]!r} begins a table with a number in each line; expected "
                    f"{EXPECTED}: sort the lines by their numbers, which must be 0, 1, 2, ... "
                    f"without a gap, and leave {found[0]['name'][:40]!r} of {rows[0][:80]!r}"
                )
    if all(map(str.isdecimal, names)) and [int(name) for name in names] != [*range(len(names))]:
        return f"{names[0]!r} and all that follow are numbers, not their own; expected {EXPECTED}"
    if len(names) == 1 and re.search(r"\S[,;\t]", names[0]):
        return f"{names[0][:80]!r} holds several names in one line; expected {EXPECTED}"
    if len(names) > 1 and _HEAD.fullmatch(names[0]) and "," in names[0]:
        return f"{names[0][:80]!r} looks like the head of a table; expected {EXPECTED}"
    return None


def _cvat(lines: Sequence[str], source: str) -> LabelList:
    """As CVAT reads it: comments and blank lines say nothing, and the others follow one pattern."""
    names: list[str] = []
    colors: list[list[int]] = []
    problems = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        found = _CVAT.fullmatch(line)
        color = [int(value) for value in found["rgb"].split(",")] if found and found["rgb"] else []
        if found is None or max(color, default=0) > 255:
            problems.append(
                f"{source}, line {number}: {line[:80]!r} is not as in CVAT's labelmap.txt; "
                "expected name:red,green,blue:parts:actions, as cat:128,0,0::"
            )
            continue
        if found["name"] in names:
            problems.append(
                f"{source}, line {number}: the name {found['name']!r} stands there twice"
            )
        names.append(found["name"])
        colors += [color] if color else []
    if problems:
        raise DataError(join_lines(problems))
    return LabelList(names, colors if len(colors) == len(names) else None)
