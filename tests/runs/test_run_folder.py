"""One folder for each run, and one run for each folder."""

import os
import signal
import time
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from processes import run_apart

from segkit.errors import ConfigError
from segkit.runs import folder as run_folder
from segkit.runs.folder import LOCK, forget, locked, make_run_folder, refuse_used


def test_two_runs_in_one_second_get_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Frozen":
            return cls(2024, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Frozen)
    folders = [make_run_folder(None, "voc") for _ in range(3)]
    stem = "2024-01-02_03-04-05_voc"
    assert [folder.name for folder in folders] == [stem, f"{stem}-1", f"{stem}-2"]
    assert all((folder / "checkpoints").is_dir() for folder in folders)
    assert all(folder.parent == tmp_path / "runs" for folder in folders)


@pytest.mark.parametrize("what", ["metrics.jsonl", "checkpoints", "config.yaml"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, what: str) -> None:
    refuse_used(None)
    refuse_used(str(tmp_path / "new"))
    refuse_used(str(tmp_path))
    (tmp_path / what).mkdir()
    with pytest.raises(ConfigError, match=r"holds a run already; add resume=auto to go on with it"):
        refuse_used(str(tmp_path))


def test_only_what_a_run_wrote_is_deleted_with_it(tmp_path: Path) -> None:
    """Ctrl-C before the first step took a folder of plots that had been there before."""
    for name in ("plots/mine.png", "wandb/mine", "train.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = {path.name for path in tmp_path.iterdir()}
    make_run_folder(str(tmp_path), "voc")
    (tmp_path / "tensorboard").mkdir()
    for name in ("plots/first.png", "tensorboard/events", "config.yaml"):
        (tmp_path / name).touch()
    forget(tmp_path, before)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "plots/mine.png").exists() and (tmp_path / "wandb/mine").exists()
    new = make_run_folder(str(tmp_path / "new"), "voc")
    (new / "config.yaml").touch()
    forget(new, None)
    assert not new.exists()


def test_the_folder_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        assert make_run_folder(str(tmp_path), "voc") == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"out_dir=.*run: cannot be written \(Not a directory"):
        make_run_folder(str(tmp_path / "run"), "voc")


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        message = rf"another run is writing there \(process {os.getpid()} on \S+\); wait for it"
        with pytest.raises(ConfigError, match=message), locked(tmp_path):
            pass
    with locked(tmp_path):  # free again
        pass


def test_a_folder_is_free_when_its_run_was_killed(tmp_path: Path) -> None:
    def hold(line: Connection) -> None:
        with locked(tmp_path):
            line.send("held")
            line.recv()

    with run_apart(hold) as (pid, line):
        assert line.recv() == "held"
        with pytest.raises(ConfigError, match=f"process {pid} on"), locked(tmp_path):
            pass
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            line.recv()  # it is going, and the system closes its files one after another
        wait_for_lock(tmp_path)
        with locked(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def wait_for_lock(folder: Path) -> None:
    for _ in range(100):
        try:
            with locked(folder):
                return
        except ConfigError:
            time.sleep(0.05)


def test_a_file_system_without_locks_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def unknown(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot be written \(No such file or directory\)"),
        locked(tmp_path / "nothing"),
    ):
        pass
