"""``metrics.csv``: the same as ``metrics.jsonl``, for spreadsheets."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from segkit.runs.metrics_csv import MetricsTable, read_epochs
from segkit.runs.metrics_log import RunLog
from segkit.runtime.log import log_to_console


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_value_that_comes_late_gets_a_column(tmp_path: Path) -> None:
    run_log = RunLog(tmp_path)
    assert not (tmp_path / "metrics.csv").exists()
    run_log.epoch({"epoch": 1, "lr": 0.5})
    assert rows(tmp_path) == [["epoch", "lr"], ["1", "0.5"]]
    run_log.epoch({"epoch": 2, "lr": 0.25, "val/iou/=x": None, "val/miou": float("nan")})
    run_log.epoch({"lr": 0.125, "epoch": 3})
    run_log.close()
    assert rows(tmp_path) == [
        ["epoch", "lr", "val/iou/=x", "val/miou"],
        ["1", "0.5", "", ""],
        ["2", "0.25", "", ""],
        ["3", "0.125", "", ""],
    ]


def test_a_resumed_run_goes_on_where_its_checkpoint_is(tmp_path: Path) -> None:
    run_log = RunLog(tmp_path)
    for epoch in (1, 2, 3):
        run_log.epoch({"epoch": epoch, "lr": epoch / 8})
    run_log.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,0.")  # a kill in the middle of a row
    run_log = RunLog(tmp_path, epoch=2)
    assert rows(tmp_path) == [["epoch", "lr"], ["1", "0.125"], ["2", "0.25"]]
    run_log.epoch({"epoch": 3, "lr": 1})
    run_log.close()
    assert rows(tmp_path)[-1] == ["3", "1"]


def test_a_run_of_before_gets_its_table(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "lr": 2}\n')
    RunLog(tmp_path, epoch=1).close()
    assert rows(tmp_path) == [["epoch", "lr"], ["1", "2"]]


def test_what_cannot_be_written_is_said_once_and_made_up_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_console()
    table = MetricsTable(tmp_path)

    def add(**line: Any) -> None:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        table.add(line)

    add(epoch=1)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    add(epoch=2)
    add(epoch=3)
    out = capsys.readouterr().out
    assert out.count("metrics.csv: not written (Is a directory); metrics.jsonl is\n") == 1
    (tmp_path / "metrics.csv").rmdir()
    add(epoch=4)
    assert rows(tmp_path) == [["epoch"], ["1"], ["2"], ["3"], ["4"]]


def test_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n\xff\n[2]\n{"lr": 1}\n{"epoch": 2')
    assert read_epochs(tmp_path / "metrics.jsonl") == [{"epoch": 1}]
    assert read_epochs(tmp_path / "none.jsonl") == []


def test_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    run_log = RunLog(tmp_path)
    run_log.epoch({"epoch": 1, "val/miou": None})
    run_log.epoch({"epoch": 2, "val/miou": 0.5})
    run_log.close()
    frame = pandas.read_csv(tmp_path / "metrics.csv")
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["val/miou"].isna().tolist() == [True, False]
