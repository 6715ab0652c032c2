"""What a script would run with, without running it."""

import sys

import pytest
from omegaconf import DictConfig

from segkit.cli import check_command_line, run


def config(script: str, *arguments: str, early: bool = False) -> DictConfig | str:
    """What a script would run with, after all checks but those of the data; or what it says.

    Args:
        script: Its name.
        arguments: Of the command.
        early: With the first look at the command line, which makes most checks twice.
    """
    found: list[DictConfig] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *arguments])
        patch.setattr(sys, "path", list(sys.path))
        try:
            if early:
                check_command_line(script)
            run(script, found.append)
        except SystemExit as end:
            return str(end.code)
    return found[-1]
