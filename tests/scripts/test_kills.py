"""A few of the kills of ``benchmarks/kills.py``: each resumed run ends with the same bits."""

import sys
from pathlib import Path

import kills
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL"),
]


def test_killed_and_resumed_runs_end_like_one_that_was_left_alone(tmp_path: Path) -> None:
    found = kills.kill_runs(tmp_path, count=4, seed=1)
    assert [kill.differences for kill in found] == [()] * 4
    assert any(kill.saving for kill in found)
