"""How segkit is called, and how it names its other commands."""

import runpy
import sys
from pathlib import Path

import pytest
from scripts import ROOT, call

import segkit
from segkit.__main__ import main
from segkit.cli.arguments import run_tool
from segkit.cli.help import in_the_users_words, key_lines, script_help
from segkit.commands import MODULE, SCRIPTS, TOOL, TOOLS, called_as, command
from segkit.config.schema import SCHEMAS
from segkit.shipped import CONFIGS, script_path
from segkit.tools import split

LOSSES = ("bce", "ce", "dice", "focal", "lovasz", "mse", "topk", "tversky")


@pytest.mark.parametrize(
    ("program", "other", "named"),
    [
        ("train.py", "evaluate", "python evaluate.py"),
        ("../seg kit/train.py", "evaluate", "python '../seg kit/evaluate.py'"),
        ("train.py", "split", "python -m segkit.tools.split"),
        ("segkit", "evaluate", "segkit evaluate"),
        ("segkit", "check", "segkit check"),
        (MODULE, "evaluate", "python -m segkit evaluate"),
        (TOOL, "check", "python -m segkit.data.check"),
        (TOOL, "train", "python -m segkit train"),
        ("/usr/bin/pytest", "train", "python -m segkit train"),
    ],
)
def test_others_are_named_as_the_user_called_this_one(program: str, other: str, named: str) -> None:
    with called_as(program):
        assert command(other) == named


def test_what_the_user_typed_counts() -> None:
    with called_as("segkit"), called_as("/site-packages/segkit/scripts/train.py"):
        assert command("evaluate") == "segkit evaluate"
    with called_as(MODULE):
        assert command("evaluate") == "python -m segkit evaluate"


def segkit_command(monkeypatch: pytest.MonkeyPatch, *words: str, program: str = "segkit") -> int:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", *words])
    try:
        return main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def test_every_command_of_the_overview_is_there() -> None:
    assert all(script_path(name).is_file() for name in SCRIPTS)
    there = {path.stem for path in (ROOT / "segkit/tools").glob("*.py")}
    entries = {n for n in there if "__main__" in (ROOT / f"segkit/tools/{n}.py").read_text()}
    assert {*TOOLS} == entries
    assert CONFIGS == ROOT / "configs"


@pytest.mark.parametrize("flag", ["--help", "-h", None])
def test_the_overview(
    flag: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segkit_command(monkeypatch, *([flag] if flag else [])) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == [
        *SCRIPTS,
        *TOOLS,
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_version_is_segkits(name: str, tmp_path: Path) -> None:
    result = call(f"{name}.py", "--version", cwd=tmp_path)
    assert (result.status, result.out) == (0, f"segkit {segkit.__version__}\n")


def test_the_version_of_the_command_and_of_a_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segkit_command(monkeypatch, "--version") == 0
    assert run_tool(split.Request, split.split, ["--version"], "About.") == 0
    assert capsys.readouterr().out == f"segkit {segkit.__version__}\n" * 2


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("segkit ", {*SCRIPTS, *TOOLS}),
        ("segkit tr", {*SCRIPTS, *TOOLS}),  # the shell takes those that begin so
        ("segkit train loss=", {f"loss={name}" for name in LOSSES}),
        ("segkit train trainer.max", {"trainer.max_epochs="}),
        ("segkit export for", {"format="}),
        ("segkit split val", set()),
    ],
)
def test_the_shells_completion(
    line: str,
    offered: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert segkit_command(monkeypatch, "-sc", "query=bash") == 0
    assert {*capsys.readouterr().out.split()} == offered


def test_an_unknown_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segkit_command(monkeypatch, "trian") == 1
    assert capsys.readouterr().err.startswith("error: trian: no such command; did you mean train?")


@pytest.mark.parametrize(
    ("program", "start"), [("segkit", "segkit"), ("__main__.py", "python -m segkit")]
)
def test_a_script_by_the_command(
    program: str,
    start: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert segkit_command(monkeypatch, "evaluate", "--help", program=program) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Score a checkpoint: {start} evaluate checkpoint=RUN_OR_FILE")
    assert f"Or saved masks: {start} evaluate predictions=FOLDER" in out


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_for_people(name: str) -> None:
    """Every key with a word about it; no group that the script does not take."""
    text = script_help(name, [])
    for line in key_lines(SCHEMAS[name], ("model", "loss", "optimizer", "scheduler")):
        key, _, about = " ".join(line.split()).partition("=... ")
        assert f"  {key}=..." in text
        assert len(about) > 8, key
    assert ("groups" in text) == (name == "train")
    assert max(map(len, text.splitlines())) <= 110


def test_help_lists_files_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/mine.yaml").touch()
    line = f"  loss: {', '.join(sorted([*LOSSES, 'mine']))} [ce,dice]\n"
    assert line in script_help("train", ["--config-dir", str(tmp_path)])
    assert line in script_help("train", [f"--config-dir={tmp_path}"])
    assert line not in script_help("train", [])


def test_commands_within_a_text() -> None:
    text = "python train.py or python -m segkit.data.check a=b, python -m segkit.tools.stats"
    with called_as("segkit"):
        assert in_the_users_words(text) == "segkit train or segkit check a=b, segkit stats"


def test_python_m_segkit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["-m", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "segkit/__main__.py"), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"segkit {segkit.__version__}\n"
