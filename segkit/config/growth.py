"""How large a configuration becomes when its interpolations are replaced by what they mean."""

import re
from collections.abc import Iterator
from typing import Any

LARGEST = 1_000_000  # characters and values; a configuration of ours has a few thousand
# Keys end at these; in a key itself a comma may stand, between arguments it separates them.
WORDS = (re.compile(r"[^\s${}:'\"()\\]+"), re.compile(r"[^\s${}:'\"()\\,=]+"))
ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")
ANY_KEY = re.compile(r"\$\{[.\s\[]*\$\{")  # whose name is itself computed


def grows(config: Any) -> bool:
    """Whether it may become far larger than it is, as where ten keys each name the next ten times.

    Measured without making it: every word in an interpolation that is a key counts as large as
    what stands there.
    """
    sizes: dict[int, float] = {}

    def size(node: Any, parents: tuple[Any, ...]) -> float:
        if isinstance(node, dict | list):
            if id(node) not in sizes:
                sizes[id(node)] = float("inf")  # what contains itself has no end
                children = node.values() if isinstance(node, dict) else node
                inner = (*parents, node)
                sizes[id(node)] = 1 + sum(size(child, inner) for child in children)
            return sizes[id(node)]
        if not isinstance(node, str) or "${" not in node:
            return 1 + (len(node) if isinstance(node, str) else 0)
        place = (id(parents[-1]), node)
        if place not in texts:
            texts[place] = float("inf")
            if not ANY_KEY.search(node):
                texts[place] = len(node) + sum(size(*found) for found in _named(node, parents))
        return texts[place]

    texts: dict[tuple[int, str], float] = {}
    try:
        return size(config, ()) > LARGEST
    except RecursionError:
        return True


def _named(text: str, parents: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The nodes that words of a text name, and what they stand in."""
    count = 1
    while count:
        text, count = ENVIRONMENT.subn("", text)
    for word in {word: None for words in WORDS for word in words.findall(text)}:
        dots = len(word) - len(word.lstrip("."))
        # Absolute, or from the mapping that the text stands in, and one further up for each dot.
        path = parents[:1] if not dots else parents[: max(1, len(parents) + 1 - dots)]
        for key in re.split(r"[.\[\]]+", word.strip(".[]")):
            holder = path[-1]
            if isinstance(holder, list) and key.isdigit() and int(key) < len(holder):
                path = (*path, holder[int(key)])
            elif isinstance(holder, dict) and key in holder:
                path = (*path, holder[key])
            elif isinstance(holder, dict) and key.isdigit() and int(key) in holder:
                path = (*path, holder[int(key)])
            else:
                break
        else:
            # As often as it is named
            yield from [(path[-1], path[:-1])] * text.count(word)
