"""Names of files and classes on a terminal, in logs, and in tables that spreadsheets open."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.cli.arguments import run_tool
from segkit.console import one_line, visible
from segkit.errors import DataError
from segkit.evaluation.outputs import write_scores
from segkit.files import write_csv
from segkit.predict.outputs import Areas
from segkit.report.color_key import color_key
from segkit.report.images import confusion_image
from segkit.runs.metrics_log import RunLog
from segkit.runtime.log import log, log_to_console, log_to_file
from segkit.tools.split import Request, split

HOSTILE = {
    "\x1b[2J": r"\x1b[2J",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b2J": r"\x9b2J",
    "a\rb": r"a\rb",
    "a\x08\x00\x7f": r"a\x08\x00\x7f",
    "\u202eevil\u2066": r"\u202eevil\u2066",
    "a\u2028b\x85": r"a\u2028b\x85",
    "\udcff": r"\udcff",
    "caf\u00e9 \u65e5\u672c \U0001f642\u200d": "caf\u00e9 \u65e5\u672c \U0001f642\u200d",
    "a\tb\nc": "a\tb\nc",
}


@pytest.mark.parametrize("text", list(HOSTILE))
def test_what_a_terminal_would_obey_is_shown(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visible(text) == HOSTILE[text]
    assert one_line(text) == HOSTILE[text].replace("\t", r"\t").replace("\n", r"\n")
    log_to_console()
    log.info("1 %s", text)
    log_to_file(tmp_path / "train.log")
    log.warning("2 %s", text)
    said = capsys.readouterr().out
    assert said == f"1 {HOSTILE[text]}\n2 {HOSTILE[text]}\n"
    logging.shutdown([])
    written = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert f"INFO 1 {HOSTILE[text]}\n" in written
    assert f"WARNING 2 {HOSTILE[text]}\n" in written
    log_to_console()


def test_tools_and_their_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def task(given: Request) -> None:
        raise DataError("\x1b[2J: is bad")

    assert run_tool(Request, task, ["data.root=x"], "About.") == 1
    assert capsys.readouterr().err == "error: \\x1b[2J: is bad\n"
    assert run_tool(Request, task, ["x\x1b[2J=1"], "About.") == 1
    assert "\x1b" not in capsys.readouterr().err


def test_a_tool_on_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "a\x1b[2J"
    for folder in ("SegmentationClass", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "labels.txt").write_text("back\x1b[31m\ncat\u202e\n", encoding="utf-8")
    for name in ("x\x1b[2J", "y", "z"):
        for folder in ("SegmentationClass", "JPEGImages"):
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / folder / f"{name}.png")
    assert run_tool(Request, split, [f"data.root={root}", "val=0.4"], "") == 0
    said = capsys.readouterr().out
    assert r"back\x1b[31m" in said
    assert "\x1b" not in said
    assert "\u202e" not in said
    lists = [(root / f"ImageSets/Segmentation/{part}.txt").read_text() for part in ("train", "val")]
    assert "x\x1b[2J" in "".join(lists).splitlines()  # files keep the true name


def test_images_and_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [*HOSTILE]
    size = len(classes)
    colors = np.zeros((256, 3), np.uint8)
    assert color_key(classes, colors[:size], 400).shape[1] == 400
    assert confusion_image(np.eye(size, dtype=int).tolist(), classes).ndim == 3
    run_log = RunLog(tmp_path)
    taken: list[object] = []
    monkeypatch.setattr(run_log.writer, "add_text", lambda *values: taken.extend(values))
    monkeypatch.setattr(run_log.writer, "add_scalar", lambda *values: taken.extend(values))
    run_log.text("config", "a\x1b[2J\nb")
    run_log.scalars({"val/iou/\x1b[2J": 0.5}, 1)
    run_log.close()
    assert taken == ["config", "    a\\x1b[2J\n    b", r"val_iou/\x1b[2J", 0.5, 1]


FORMULAS = {
    '=HYPERLINK("http://x","y")': '\'=HYPERLINK("http://x","y")',
    "=cmd()|x": "'=cmd()|x",
    "+1+1": "'+1+1",
    "-1+1": "'-1+1",
    "@SUM(1)": "'@SUM(1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r=1",
    "\n=1": "'\n=1",
    "-": "'-",
    "-0.5": "-0.5",
    "+3": "+3",
    "-1e-05": "-1e-05",
    "cat": "cat",
    "a=b": "a=b",
}


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_texts_are_no_formulas_and_numbers_stay(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", list(FORMULAS), [[-0.5, None, 3, "\udcff"], list(FORMULAS)])
    head, numbers, row = cells(tmp_path / "x.csv")
    assert head == row == list(FORMULAS.values())
    assert numbers == ["-0.5", "", "3", "\udcff"]


def test_every_table_goes_that_way(tmp_path: Path) -> None:
    classes = list(FORMULAS)
    size = len(classes)
    images = [[name, 1, None, 0.5, *[0.5] * size] for name in classes]
    write_scores(tmp_path, {}, np.eye(size, dtype=int).tolist(), images, classes)
    assert [row[0] for row in cells(tmp_path / "per_image.csv")[1:]] == [*FORMULAS.values()]
    table = cells(tmp_path / "confusion_matrix.csv")
    assert table[0][1:] == [row[0] for row in table[1:]] == [*FORMULAS.values()]
    with Areas(tmp_path / "areas.csv", classes) as areas:
        for name in classes:
            areas.add(name, np.zeros((2, 2), np.uint8))
    head, *rows = cells(tmp_path / "areas.csv")
    assert [row[0] for row in rows] == [*FORMULAS.values()]
    assert all(name[0] not in "=@\t\r\n" for name in head)
    assert rows[0][3:5] == ["4", "100.0000"]


def test_no_other_file_writes_csv() -> None:
    root = Path(__file__).parents[1]
    sources = [*(root / "segkit").rglob("*.py"), *root.glob("*.py")]
    assert [p.name for p in sources if "csv.writer" in p.read_text()] == ["files.py"]
    tools = [p for p in (root / "segkit").rglob("*.py") if p.name != "console.py"]
    plain = [p.name for p in tools if " print(" in p.read_text()]
    assert plain == ["command.py"]  # which makes what it prints visible itself
