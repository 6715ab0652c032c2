"""What a run says of its memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.runtime.memory import peak_memory_mib

CPU = torch.device("cpu")
CHILD = """
import segkit, torch
from segkit.runtime.memory import peak_memory_mib
print(peak_memory_mib(torch.device("cpu")))
"""


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = peak_memory_mib(CPU)
    block = np.ones(int(before + 200) * 2**17)  # MiB of float64
    del block
    assert peak_memory_mib(CPU) >= before + 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_not_that_of_the_program_that_started_this_one() -> None:
    block = np.ones(2**30 // 8)  # what the system calls the peak of a child begins with this
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert block[-1] == 1
    assert 100 < float(done.stdout) < 1000
