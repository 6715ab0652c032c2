"""The pages show every tool, with keys that it has; test_docs.py runs them."""

import re
import shlex
from importlib import import_module

from doc_commands import commands
from scripts import ROOT

from segkit.cli.arguments import parse

PAGES = ("data.md", "export.md", "recipes.md")
WRITTEN = [shown.written for page in PAGES for shown in commands(ROOT / "docs" / page)]
OF_BROWSE = ("images", "epochs", "out")  # its other keys are those of train.py


def test_every_tool_is_shown() -> None:
    tools = {
        path.stem for path in (ROOT / "segkit/tools").glob("*.py") if "__main__" in path.read_text()
    }
    shown = {tool for command in WRITTEN for tool in re.findall(r"segkit\.tools\.(\w+)", command)}
    assert shown == {"browse", "convert", "download", "model", "split", "stats", "tile"}
    assert tools == shown | {"check"}  # which the pages call segkit.data.check


def test_every_key_that_is_named_exists() -> None:
    for command in WRITTEN:
        words = shlex.split(command)
        if len(words) > 3 and words[2].startswith("segkit.tools."):
            given = words[3:]
            if words[2].endswith(".browse"):
                given = [word for word in given if word.partition("=")[0] in OF_BROWSE]
            parse(import_module(words[2]).Request, given)
