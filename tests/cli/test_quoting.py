"""Values that are texts stay what was typed, whatever Hydra's grammar would make of them."""

import json
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from scripts import SMALL, call

from segkit.cli.quoting import quote_texts
from segkit.config.schema import SCHEMAS


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("out_dir=2024_01", "out_dir='2024_01'"),
        ("out_dir=2024.10", "out_dir='2024.10'"),
        ("out_dir=1e3", "out_dir='1e3'"),
        ("out_dir=true", "out_dir='true'"),
        ("data.root=~/photos", "data.root='~/photos'"),
        ("data.root=data/IMG (1)", "data.root='data/IMG (1)'"),
        ("data.root=/data/stra\u00dfe", "data.root='/data/stra\u00dfe'"),
        ("data.root=a=b", "data.root='a=b'"),
        # These are texts already, or no texts at all.
        ("out_dir=runs/a", "out_dir=runs/a"),
        ("out_dir=null", "out_dir=null"),
        ("out_dir='2024_01'", "out_dir='2024_01'"),
        ("data.root=${oc.env:DATA}", "data.root=${oc.env:DATA}"),
        ("data.root=one,two", "data.root=one,two"),
        ("data.root=/tmp/x,y", "data.root='/tmp/x,y'"),
        ("data.root=./x,y", "data.root='./x,y'"),
        ("data.train_split=a/1,a/2", "data.train_split=a/1,a/2"),
        ("seed=2024_01", "seed=2024_01"),
        ("trainer.max_epochs=1e3", "trainer.max_epochs=1e3"),
        ("--config-dir=1_0", "--config-dir=1_0"),
        ("-m", "-m"),
    ],
)
def test_what_hydra_is_given(typed: str, passed: str) -> None:
    assert quote_texts(["train.py", typed], SCHEMAS["train"]) == ["train.py", passed]


def test_several_files_or_one() -> None:
    assert quote_texts(["checkpoint=1_0"], SCHEMAS["evaluate"]) == ["checkpoint='1_0'"]
    assert quote_texts(["checkpoint=[a,b]"], SCHEMAS["evaluate"]) == ["checkpoint=[a,b]"]


@pytest.mark.slow
def test_a_run_folder_that_looks_like_a_number(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    result = call("train.py", *SMALL, "trainer.max_epochs=1", "out_dir=2024_01", cwd=here)
    assert result.status == 0, result.err
    assert sorted(path.name for path in here.iterdir()) == ["2024_01", "data"]
    result = call("evaluate.py", "checkpoint=2024_01", "out_dir=7.50", cwd=here)
    assert result.status == 0, result.err
    assert json.loads((here / "7.50" / "metrics.json").read_text())["miou"] is not None


def test_in_a_sweep_a_comma_means_several_values() -> None:
    command = ["train.py", "-m", "out_dir=/tmp/x,/tmp/y"]
    assert quote_texts(command, SCHEMAS["train"]) == command


def test_patterns_and_places_for_a_split_need_no_inner_quotes() -> None:
    texts = {
        "data.images": "set/{split}/x",
        "data.group": r"^(v\d+)_[ab]",
        "data.masks": "m",
    }
    typed = [f"{key}={text}" for key, text in texts.items()]
    parser = OverridesParser.create()
    read = parser.parse_overrides(quote_texts(typed, SCHEMAS["train"]))
    assert {one.key_or_group: one.value() for one in read} == texts
    kept = ["data.images=${oc.env:X}", "data.group='x{1}'"]
    assert quote_texts(kept, SCHEMAS["train"]) == kept
