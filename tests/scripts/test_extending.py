"""docs/extending.md does what it says: its own files, in a folder of a user, are trained with."""

import json
import re
from pathlib import Path

import pytest
from scripts import ROOT, SMALL_RUN, Result, spawn

DOCUMENT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL))
(COMMAND,) = re.findall(r"python (train\.py --config-dir .*)", DOCUMENT)
RUN = [argument for argument in SMALL_RUN if "backbone" not in argument]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extending") / "here"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> Result:
    script, *arguments = COMMAND.split()
    return spawn(script, *arguments, *RUN, "loader.batch_size=4", "out_dir=run", cwd=home)


def test_the_document_shows_four_parts_of_two_files_each() -> None:
    assert len(FILES) == 8


@pytest.mark.slow
def test_all_four_are_trained_with(home: Path, trained: Result) -> None:
    assert trained.status == 0, trained.err
    log = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4]
    assert all(line["train/loss/hardest"] > 0 for line in log)
    assert all("val/iou/bright" in line for line in log)
    assert "my_transforms.Noise" in (home / "run/config.yaml").read_text()


def test_what_a_data_set_does_not_read_is_refused(home: Path) -> None:
    """It was taken, and its error recommended again."""
    for given in ("data.label_map={5: ignore}", "data.range=[0,100]", "data.colormap=voc"):
        result = spawn(*COMMAND.split(), *RUN, given, "out_dir=none", cwd=home)
        assert result.status == 1
        assert re.match(r"error: data\.\w+=.*: this data set takes none; leave it out", result.err)
        assert not (home / "none").exists()


@pytest.mark.slow
def test_a_checkpoint_may_only_name_what_the_user_allows(home: Path, trained: Result) -> None:
    refused = spawn("evaluate.py", "checkpoint=run", cwd=home, PYTHONPROFILEIMPORTTIME="1")
    lines = [line for line in refused.err.splitlines() if not line.startswith("import time:")]
    assert refused.status == 1
    assert len(lines) == 1
    assert "my_data.Stripes, which is no part of segkit" in lines[0]
    assert "add 'allow=[my_data]'" in lines[0]
    assert "| my_data" not in refused.err  # not even imported

    (allow,) = re.findall(r"'(allow=\[.*\])'", DOCUMENT)
    allowed = spawn("evaluate.py", "checkpoint=run", allow, cwd=home)
    assert allowed.status == 0, allowed.err
    scores = json.loads((home / "run/eval/val-best/metrics.json").read_text())
    summary = json.loads((home / "run/summary.json").read_text())
    assert scores["miou"] == summary["best_score"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("loss.terms.hardest.loss.fraction=2", "loss.terms.hardest.loss: fraction must be above 0"),
        (
            "+loss.terms.hardest.loss.fracton=0.1",
            "my_losses.HardestLoss has no such argument; did you",
        ),
    ],
)
def test_a_users_part_is_checked_like_ours(argument: str, expected: str, home: Path) -> None:
    script, *arguments = COMMAND.split()
    result = spawn(script, *arguments, argument, "out_dir=refused", cwd=home)
    assert result.status == 1
    assert expected in result.err
    assert len(result.err.splitlines()) == 1
    assert not (home / "refused").exists()
