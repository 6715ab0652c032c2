"""Every command of README.md and docs/, run as its reader would run it, but on a small scale."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from doc_commands import (
    CASES,
    DOCUMENTS,
    FILLED,
    NOT_RUN,
    RULES,
    RUN,
    SHOWN,
    STAND_IN,
    Shown,
    commands,
)
from doc_folder import NAMES, make_folder, newest_run, write_shown_files
from doc_server import Server
from scripts import ROOT, Result, call

from segkit.data.decode import read_labels

README = (ROOT / "README.md").read_text(encoding="utf-8")
LIMIT = 300  # seconds for one command in a process of its own
MODULES = {
    "tensorboard": ("-m", "tensorboard.main"),
    "torchrun": ("-m", "torch.distributed.run"),
}


def is_installed(package: str) -> bool:
    """Without an import of more than the packages that it is a part of."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def run(shown: Shown, folder: Path, server: Server) -> Result | None:
    """One command; None where a package is missing that it needs."""
    rule = shown.rule
    assert rule is not None
    if not all(map(is_installed, rule.needs)):
        return None
    filled = server.asked(shown.filled.replace(RUN, newest_run(folder)))
    program, *words = shlex.split(filled)
    words += rule.more
    if rule.serves:
        return server.start(words, folder)
    if program == "curl" and shutil.which("curl") is None:
        return None
    if program == "python" and words[0] == "-m":
        return call(f"{words[1].replace('.', '/')}.py", *words[2:], cwd=folder)
    if program == "python" and not rule.alone:
        return call(str(folder / words[0]), *words[1:], cwd=folder)
    if program == "torchrun" and "--rdzv-backend=c10d" not in words:
        words.insert(0, "--standalone")  # on a port that is free
    start = ["curl", "-sS"] if program == "curl" else [sys.executable, *MODULES.get(program, ())]
    done = subprocess.run(
        [*start, *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder.parent / "cache")},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


class Reader:
    """Follows documents: all commands of one in their order, in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.results: dict[Path, dict[Shown, Result | None]] = {}
        self.server = Server()
        (home / "clone").mkdir()
        make_folder(home / "clone")

    def folder(self, document: Path) -> Path:
        return self.home / document.stem / "here"

    def follow(self, document: Path) -> dict[Shown, Result | None]:
        if document not in self.results:
            folder = self.folder(document)
            shutil.copytree(self.home / "clone", folder)
            write_shown_files(document, folder)
            cases = [shown for shown in CASES if shown.document == document]
            self.results[document] = {shown: run(shown, folder, self.server) for shown in cases}
            self.server.stop()
        return self.results[document]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("docs"))
    yield reader
    reader.server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "shown", CASES, ids=[f"{shown.document.stem}: {shown.written}" for shown in CASES]
)
def test_the_command_works(shown: Shown, reader: Reader) -> None:
    result = reader.follow(shown.document)[shown]
    if result is None:
        assert shown.rule is not None
        pytest.skip(f"needs {' and '.join(shown.rule.needs)}")
    assert result.status == 0, f"{result.out}\n{result.err}"
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_your_own_data_ends_with_masks_and_scores(reader: Reader) -> None:
    results = reader.follow(ROOT / "README.md")
    (check,) = (found for shown, found in results.items() if "segkit.data.check" in shown.written)
    assert check is not None
    assert check.out.endswith("8 pairs in train, 4 pairs in val: fine\n")
    folder = reader.folder(ROOT / "README.md")
    assert any(
        len(list(written.glob("predictions/*.png"))) == 4 and (written / "metrics.json").is_file()
        for written in folder.glob("runs/*/eval/val-best")
    )


@pytest.mark.slow
def test_every_format_is_converted_to_the_same_masks(reader: Reader) -> None:
    document = ROOT / "docs/data.md"
    reader.follow(document)
    masks = [
        read_labels(
            reader.folder(document) / "data" / name / f"SegmentationClass/{NAMES[0]}.png"
        ).tolist()
        for name in ("mine", "coco", "cvat", "binary", "folders", "ids", "polygons")
    ]
    assert all(mask == masks[0] for mask in masks)


@pytest.mark.slow
def test_the_tutorial_ends_with_a_mask_of_the_service(reader: Reader) -> None:
    document = ROOT / "docs/tutorial.md"
    results = reader.follow(document)
    (asked,) = (found for shown, found in results.items() if shown.written.endswith("/areas"))
    if asked is None:
        pytest.skip("needs the extra serve, and curl")
    areas = json.loads(asked.out)["areas"]
    assert list(areas) == ["background", "disk", "square", "triangle"]
    assert sum(area["pixels"] for area in areas.values()) == 120 * 160
    mask = read_labels(reader.folder(document) / "data/mask.png")
    assert mask.shape == (120, 160)
    numbers = np.bincount(mask.ravel(), minlength=4).tolist()
    assert numbers == [area["pixels"] for area in areas.values()]


@pytest.mark.slow
def test_the_image_of_the_slopes_is_the_one_that_is_drawn(reader: Reader) -> None:
    document = ROOT / "docs/losses.md"
    reader.follow(document)
    drawn = (reader.folder(document) / "docs/loss_slopes.svg").read_text()
    assert drawn == (ROOT / "docs/loss_slopes.svg").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_is_known(document: Path) -> None:
    for shown in commands(document):
        if shown in CASES:
            assert shown.rule is not None, f"no rule in doc_commands.py for: {shown.written}"
            left = STAND_IN.search(shown.filled)
            assert left is None, f"FILLED of doc_commands.py has no {left[0]} of: {shown.written}"


def test_nothing_is_excepted_or_filled_in_that_no_document_shows() -> None:
    written = [shown.written for shown in SHOWN]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for command in written), pattern
    for text in FILLED:
        assert any(text in command for command in written), text
    used = {shown.rule for shown in CASES}
    assert [rule.pattern for rule in RULES if rule not in used] == []


def test_commands_are_found_wherever_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `python train.py` or\n\n"
        "    python train.py a=1 \\\n        b=2      # a comment\n"
        "    python train.py; no more\n"
        "    images/  and others\n\n"
        '```bash\n#!/bin/bash\nsrun --x=1 torchrun --nnodes="$N" train.py &\n```\n\n'
        "```python\npython train.py c=3\n```\n"
        "| `CUDA_VISIBLE_DEVICES=0 python train.py\n  d=4 &` | `pip install x` | `python` |\n"
        "    python one.py && python two.py\n"
    )
    assert [shown.written for shown in commands(page)] == [
        "python train.py",
        "python train.py a=1 b=2",
        "python train.py; no more",
        'torchrun --nnodes="$N" train.py',
        "python train.py d=4",
        "pip install x",
        "python one.py",
        "python two.py",
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("http") or (document.parent / link).exists(), link


def test_the_two_commands_are_the_promised_ones() -> None:
    section = README.partition("\n## Two commands\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (python .*?)  ", section, re.MULTILINE)
    assert lines == [
        "python -m pip install -e . && python train.py",
        'python -m pip install -e ".[test]" && python -m pytest',
    ]


def test_nobody_is_told_to_install_a_strangers_project() -> None:
    """Which the name segkit is on the public index."""
    shown = [*ROOT.glob("*.md"), *ROOT.glob("*.py"), *(ROOT / "docs").glob("*.md")]
    for folder, ending in (("configs", "yaml"), ("segkit", "py"), ("segkit", "html")):
        shown += (ROOT / folder).rglob(f"*.{ending}")
    for path in shown:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bsegkit\[|\binstall (?:-\S+ )*[\"']?segkit\b(?!-)", text), path
    page = re.sub(r"\s+", " ", README)
    assert "--index-url https://download.pytorch.org/whl/cpu" in page
    assert "uv pip install" in page


def test_every_key_of_the_table_exists() -> None:
    from hydra import compose, initialize_config_dir

    import segkit.config  # noqa: F401  (registers the schema)

    table = README.partition("## What to change")[2].partition("\n## ")[0]
    assigned = re.findall(r"`'?([a-z_./]+=[^`' ]+)'?", table)
    assert len(assigned) >= 12
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train", overrides=["loss=[ce,dice]", *assigned])


def texts(source: str) -> Iterator[str]:
    """The text constants of a module; ``...`` stands where an f-string puts something in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "..." for v in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_messages_that_are_explained_are_those_that_are_printed() -> None:
    scripts = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    modules = [*scripts, *(ROOT / "segkit").rglob("*.py")]
    printed = [text for path in modules for text in texts(path.read_text(encoding="utf-8"))]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    messages = [quoted for row in rows for quoted in re.findall(r"`(.+?)`", row)]
    assert len(messages) > 20
    for message in messages:
        # What is filled in there: three dots, numbers, what stands in brackets.
        pieces = re.split(r"(?<=\().+?(?=\))|\.\.\.|\b(?:N|nan)\b|<.+?>", message)
        pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
        assert any(pattern.search(text) for text in printed), message
