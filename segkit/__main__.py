"""``segkit train ...``, ``python -m segkit train ...``: every command, from any folder."""

import os
import runpy
import sys
from pathlib import Path

import segkit
from segkit.commands import MODULE, SCRIPTS, TOOLS, called_as
from segkit.console import say, say_error
from segkit.shipped import PACKAGE, script_path
from segkit.text import did_you_mean


def main() -> int:
    """Call the command that the first word names; returns the exit status."""
    program, *words = sys.argv
    name = words[0] if words else "--help"
    if name in ("-V", "--version"):
        say(f"segkit {segkit.__version__}")
        return 0
    if name in ("-h", "--help"):
        say(overview())
        return 0
    if name == "-sc":
        return complete(words)
    if name not in (*SCRIPTS, *TOOLS):
        say_error(f"error: {name}: no such command{did_you_mean(name, [*SCRIPTS, *TOOLS])}")
        return 1
    sys.argv = [program, *words[1:]]
    with called_as(MODULE if Path(program).stem == "__main__" else "segkit"):
        if name in SCRIPTS:
            runpy.run_path(str(script_path(name)), run_name="__main__")
        else:
            runpy.run_module(f"segkit.tools.{name}", run_name="__main__")
    return 0


def complete(words: list[str]) -> int:
    """Answer Hydra's tab completion, which knows programs without commands: docs/python.md."""
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    name, space, rest = rest.lstrip().partition(" ")
    if space and name in SCRIPTS:
        os.environ["COMP_LINE"] = f"{program} {rest}"
        sys.argv = [program, *words]
        runpy.run_path(str(script_path(name)), run_name="__main__")
    elif not space:
        say(" ".join([*SCRIPTS, *TOOLS]))
    return 0


def overview() -> str:
    """All commands, a line each."""
    abouts = SCRIPTS | {name: first_line(name) for name in TOOLS}
    lines = [f"  {name:<10}{about}" for name, about in abouts.items()]
    return "\n".join(
        [
            "segkit COMMAND [key=value ...]",
            "",
            *lines,
            "",
            "segkit COMMAND --help lists its keys; segkit --version",
        ]
    )


def first_line(tool: str) -> str:
    """What a tool says of itself; its import would take seconds."""
    text = (PACKAGE / "tools" / f"{tool}.py").read_text(encoding="utf-8")
    line = text.partition('"""')[2].partition("\n")[0]
    return line[:1].lower() + line[1:].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
