"""The key=value arguments of the tools."""

from dataclasses import dataclass
from typing import Any

import pytest

from segkit.cli.arguments import parse, run_tool
from segkit.config.schema import REQUIRED, option
from segkit.errors import ConfigError, DataError


@dataclass
class Example:
    root: str = option(REQUIRED, "a folder", name="data.root")
    pattern: str | None = option(None, "a pattern")
    part: float = option(0.2, "a part", low=0)
    count: int = option(3, "a number", low=1)
    limit: int | None = option(None, "another number")
    how: str = option("fast", "a way", choices=("fast", "slow"))
    names: list[str] = option([], "some names")
    more: Any = option(None, "a mapping")
    map: dict[Any, Any] | None = option(None, "another mapping")
    dry_run: bool = option(False, "only tell")


def test_values_have_their_types() -> None:
    given = parse(
        Example,
        [
            "data.root=my data/x=1",
            r"pattern=^(.*)_\d+$",
            "part=0.25",
            "count=2",
            "names=[a,no]",
            "more={sky: [1,2,3]}",
            "dry_run=true",
            "limit=7",
            "map={0: 1}",
        ],
    )
    assert given == Example(
        "my data/x=1",
        r"^(.*)_\d+$",
        0.25,
        2,
        7,
        "fast",
        ["a", "no"],
        {"sky": [1, 2, 3]},
        {0: 1},
        True,
    )


def test_dashes_are_taken_as_well() -> None:
    given = parse(Example, ["--data.root=x", "--dry-run", "--pattern=null", "--limit=null"])
    assert (given.root, given.dry_run, given.pattern, given.limit) == ("x", True, None, None)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse(
            Example,
            [
                "dat.root=x",
                "part=ten",
                "part=-1",
                "part=nan",
                "count=1.5",
                "how=quick",
                "dry_run=1",
                "names=a",
                "names=[1]",
                "limit=few",
                "map=3",
                "more={",
                "count",
                "pattern=",
            ],
        )
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[:11] == [
        "unknown key dat.root; did you mean data.root?",
        "part=ten: expected a number",
        "part=-1.0: expected at least 0",
        "part=nan: expected a finite number",
        "count=1.5: expected a whole number",
        "how=quick: no such value; there are fast, slow",
        "dry_run=1: expected true or false",
        "names=a: expected a list of texts, [a,b]",
        "names=[1]: expected a list of texts, [a,b]",
        "limit=few: expected a whole number",
        "map=3: expected a mapping, {a: b}",
    ]
    assert lines[11].startswith("more={: cannot be read")
    assert lines[12:] == [
        "count: expected key=value",
        "pattern=: the value is empty",
        "data.root is not set: a folder",
    ]


def test_an_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown key zzz; there are data.root, pattern, part"):
        parse(Example, ["zzz=1", "data.root=x"])


def test_a_tool_ends_with_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    def task(given: Example) -> None:
        if given.root == "bad":
            raise DataError("bad: is bad")
        if given.root == "full":
            raise OSError(28, "No space left on device", "x.png")
        if given.root == "stop":
            raise KeyboardInterrupt
        print(given.root)

    results = [
        run_tool(Example, task, [f"data.root={root}"], "About.")
        for root in ("good", "bad", "full", "stop")
    ]
    assert results == [0, 1, 1, 130]
    captured = capsys.readouterr()
    assert captured.out == "good\n"
    assert captured.err == "error: bad: is bad\nerror: x.png: No space left on device\n"


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(Example, print, ["--help"], "About.") == 0
    assert capsys.readouterr().out.splitlines() == [
        "About.",
        "",
        "keys [default]:",
        "  data.root=... a folder [must be given]",
        "  pattern=... a pattern [null]",
        "  part=... a part [0.2]",
        "  count=... a number [3]",
        "  limit=... another number [null]",
        "  how=... a way (fast, slow) [fast]",
        "  names=... some names [none]",
        "  more=... a mapping [null]",
        "  map=... another mapping [null]",
        "  dry_run=... only tell [false]",
    ]
