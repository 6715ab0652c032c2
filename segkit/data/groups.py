"""Images that belong together, as frames of one video, and holding some of the groups out."""

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Sequence

from segkit.errors import ConfigError, DataError
from segkit.text import bullet_list


def group_names(ids: Sequence[str], pattern: str | None, key: str = "group") -> list[str]:
    """A name for each id, equal for those that must stay together.

    Args:
        ids: One per image.
        pattern: A regular expression that is searched in the ids: its first group in parentheses,
            or all that matches, is the name. None: each image is a group of its own.
        key: What errors call the pattern.

    Raises:
        ConfigError: It is no regular expression.
        DataError: Ids in which it is not found.
    """
    if pattern is None:
        return list(ids)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what may mean more some day
            expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key}={pattern}: is no regular expression ({error})") from None
    matches = [expression.search(name) for name in ids]
    if lost := [name for name, match in zip(ids, matches, strict=True) if match is None]:
        raise DataError(f"{key}={pattern}: {len(lost)} ids do not match:\n{bullet_list(lost)}")
    return [str(match[1] if expression.groups else match[0]) for match in matches if match]


def held_out(ids: Sequence[str], groups: Sequence[str], part: float, seed: int) -> set[str]:
    """The ids that are not trained on: whole groups that make about ``part`` of the images.

    Groups come in the order of a hash of their names, each is taken if that brings the number of
    images nearer to what is wanted. So images that are added later hardly move the others, which
    a shuffle would do: an old model would be scored on images that it was trained on.

    Raises:
        DataError: There are not two groups, one for each side.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise DataError(
            f"{len(ids)} images in {len(sizes)} group; expected two groups at least, one to train "
            "on and one to hold out"
        )

    def place(group: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{group}".encode("utf-8", "surrogateescape")).digest()

    wanted = part * len(ids)
    order = sorted(sizes, key=place)
    chosen: set[str] = set()
    number = 0
    for group in order:
        if number + sizes[group] / 2 <= wanted and len(chosen) < len(order) - 1:
            chosen.add(group)
            number += sizes[group]
    chosen = chosen or {min(order, key=lambda group: sizes[group])}  # at least one
    return {name for name, group in zip(ids, groups, strict=True) if group in chosen}
