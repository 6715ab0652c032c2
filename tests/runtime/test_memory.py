"""What a run says of its memory."""

import subprocess
import sys
from mmap import PAGESIZE, mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import result_of

from segkit.runtime.memory import peak_memory_mib

CHILD = """
import segkit, torch
import numpy as np
from segkit.runtime.memory import peak_memory_mib
before = peak_memory_mib(torch.device("cpu"))
block = np.ones(int(before + 200) * 2**17)  # MiB of float64
del block
print(before, peak_memory_mib(torch.device("cpu")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    def peaks() -> tuple[float, float]:
        before = peak_memory_mib(torch.device("cpu"))
        with mmap(-1, 100 * 2**20) as block:  # apart from what Python has at hand
            for start in range(0, len(block), PAGESIZE):
                block[start] = 1
        return before, peak_memory_mib(torch.device("cpu"))

    before, after = result_of(peaks)
    assert before > 100
    assert after >= before + 50


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_that_of_the_process_alone_and_stays_when_memory_is_given_back() -> None:
    block = np.ones(2**30 // 8)  # what the system calls the peak of a child begins with this
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert block[-1] == 1
    before, after = map(float, done.stdout.split())
    assert 100 < before < 1000
    assert after >= before + 200
