"""Signals that ask a run to stop: noted, said once, passed on the second time."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from scripts import ROOT, SMALL, quick_call

from segkit.runs.checkpoint import read_checkpoint
from segkit.runtime import signals
from segkit.runtime.signals import StopSignals, exit_code
from segkit.training.validation_images import ValidationImages

needs_usr1 = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here")


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    return clock


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in signals.REQUESTS + signals.WARNINGS]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_said_once(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        signal.raise_signal(number)  # at once: torchrun's copy of the same request
        assert stop.received == number
    assert capfd.readouterr().err == (
        f"{number.name}: the step in progress is finished and saved; a second one stops at once\n"
    )


@needs_usr1
def test_a_warning_never_stops_at_once(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
            clock.now += 10
        assert stop.received == signal.SIGUSR1
    text = "SIGUSR1: the step in progress is finished and saved\n"
    assert capfd.readouterr().err == text


def test_a_second_interrupt_stops_at_once(clock: Clock) -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        clock.now += signals.SAME_REQUEST
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.received == signal.SIGINT


def test_a_second_request_to_end_stops_at_once(clock: Clock) -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        clock.now += signals.SAME_REQUEST
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    assert stop.received == signal.SIGINT


@needs_usr1
def test_after_a_warning_the_first_request_still_waits(clock: Clock) -> None:
    """Slurm warns, and asks while the run is saving."""
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        clock.now += 60
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGUSR1
        clock.now += 60
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)


def test_handlers_are_put_back_also_after_an_error() -> None:
    before = handlers()
    with pytest.raises(ZeroDivisionError), StopSignals():
        assert handlers() != before
        raise ZeroDivisionError
    assert handlers() == before


def test_another_thread_changes_nothing() -> None:
    before, inside = handlers(), []

    def work() -> None:
        with StopSignals() as stop:
            inside.append((handlers(), stop.received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, None)]
    assert handlers() == before


def test_exit_codes() -> None:
    assert exit_code(signal.SIGINT) == 130
    assert exit_code(signal.SIGTERM) == 143


def run(body: str, number: int) -> subprocess.CompletedProcess[str]:
    """Start a script, send it a signal once it says so, and wait for its end."""
    script = "import os, signal, sys, time\nfrom segkit.runtime.signals import *\n" + body
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


LOOP = """
with StopSignals() as stop:
    print("ready", flush=True)
    while stop.received is None:
        time.sleep(0.01)
    print("saved")
    raise SystemExit(exit_code(stop.received))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process instead")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_process_finishes_and_ends_with_the_conventional_status(name: str) -> None:
    number = signal.Signals[name]
    done = run(LOOP, number)
    assert (done.returncode, done.stdout) == (128 + number, "saved\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{name}: the step in progress is finished")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_leaves_the_signal_to_its_parent() -> None:
    body = """
with StopSignals() as stop:
    if os.fork() == 0:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        os._exit(stop.received is not None)
    print("ready", flush=True)
    _, status = os.wait()
    while stop.received is None:
        time.sleep(0.01)
    raise SystemExit(status)
"""
    done = run(body, signal.SIGUSR1)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="no pipes to inherit")
def test_a_closed_standard_error_is_no_obstacle() -> None:
    assert run("os.close(2)\n" + LOOP, signal.SIGTERM).returncode == 143


@pytest.mark.slow
def test_a_signal_between_the_two_passes_of_a_validation_with_an_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with the last image of the average; the raw weights are not scored then."""
    add = ValidationImages.add
    num_images = 6

    def add_and_signal(self: ValidationImages, *arguments: Any) -> None:
        add(self, *arguments)
        if self.seen == num_images:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ValidationImages, "add", add_and_signal)
    (tmp_path / "here").mkdir()
    # Loads of four: after the last two of the six images there is no other look before the end.
    more = ("loader.batch_size=4", "trainer.ema_decay=0.9", "out_dir=run")
    result = quick_call(*SMALL, *more, cwd=tmp_path / "here")
    assert result.status == 128 + signal.SIGTERM
    run = tmp_path / "here" / "run"
    state = read_checkpoint(run / "checkpoints" / "last.pt").state
    assert (state["epoch"], state["images"], state["step"]) == (0, 24, 6)
    assert not (run / "metrics.jsonl").exists()
