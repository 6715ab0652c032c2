from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from segkit.engine import run_folder
from segkit.engine.run_folder import new_run_folder
from segkit.errors import ConfigError


def test_two_runs_in_one_second_get_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Frozen":
            return cls(2024, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Frozen)
    folders = [new_run_folder(None, "voc") for _ in range(3)]
    stem = "2024-01-02_03-04-05_voc"
    assert [folder.name for folder in folders] == [stem, f"{stem}-1", f"{stem}-2"]
    assert all(folder.is_dir() and folder.parent == tmp_path / "runs" for folder in folders)


@pytest.mark.parametrize("what", ["metrics.jsonl", "checkpoints"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / what).mkdir()
    with pytest.raises(ConfigError, match="holds a run already; give another folder"):
        new_run_folder(str(folder), "voc")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert new_run_folder(str(tmp_path), "voc") == tmp_path
    assert (tmp_path / "checkpoints").is_dir()


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"out_dir=.*run: cannot be written \(Not a directory"):
        new_run_folder(str(tmp_path / "run"), "voc")
