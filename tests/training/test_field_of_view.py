"""train.py: atrous rates follow what training sees, and what does not fit is said."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scripts import SMALL, Result, call, quick_call

from segkit.inference.loading import load_network
from segkit.runs.checkpoint import read_checkpoint

LARGE = "data.dataset.width=160", "data.dataset.height=96"  # 10 x 6 cells
FEW = "data.dataset.num_train=8", "data.dataset.num_val=2"
ONCE = (*SMALL, *LARGE, *FEW, "trainer.max_epochs=1")
NEVER = "some taps never see the image"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view") / "here"
    folder.mkdir()
    return folder


def train(home: Path, name: str, *arguments: str) -> tuple[Result, dict[str, Any]]:
    result = quick_call(*arguments, f"out_dir={name}", cwd=home)
    assert result.status == 0, result.err
    return result, yaml.safe_load((home / name / "config.yaml").read_text())["model"]


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Result, dict[str, Any]]:
    return train(home, "whole", *ONCE)


def test_the_learning_rates_are_said(home: Path, whole: tuple[Result, dict[str, Any]]) -> None:
    assert "; learning rate 0.003\n" in whole[0].out  # of the shapes, that start at random
    result, _ = train(home, "slow", *ONCE, "trainer.backbone_lr_factor=0.1")
    assert "; learning rate 0.003, 0.0003 for the backbone\n" in result.out


def test_the_rates_follow_whole_images(home: Path, whole: tuple[Result, dict[str, Any]]) -> None:
    result, model = whole
    assert (model["train_crop"], model["atrous_rates"]) == ([96, 160], [1, 2, 3])
    assert "atrous rates 1, 2, 3 at output stride 16, crops of 96 x 160;" in result.out
    assert NEVER not in result.out + result.err
    saved = read_checkpoint(home / "whole")
    assert saved.metadata.config["model"]["atrous_rates"] == [1, 2, 3]
    assert load_network(saved).aspp.branches[3][0].dilation == (3, 3)


def test_the_rates_follow_the_crop_and_the_output_stride(home: Path) -> None:
    own = (
        "augment.train=[{_target_:albumentations.RandomCrop,height:72,width:64}]",  # no crop_size
        "model.output_stride=8",
    )
    _, model = train(home, "crop", *ONCE, *own)
    assert (model["train_crop"], model["atrous_rates"]) == ([72, 64], [1, 3, 4])


def test_the_rates_follow_the_input_scale(home: Path) -> None:
    result, model = train(home, "enlarged", *ONCE, "model.input_scale=2")
    assert (model["train_crop"], model["atrous_rates"]) == ([96, 160], [3, 5, 8])  # 12 cells
    text = "rates 3, 5, 8 at output stride 16 of images enlarged by 2, crops of 96 x 160;"
    assert text in result.out


@pytest.mark.slow
def test_the_rates_follow_the_crop_of_a_recipe(home: Path) -> None:
    crop = ("augment=standard", "augment.crop_size=[64,80]")
    _, model = train(home, "standard", *ONCE, *crop)
    assert (model["train_crop"], model["atrous_rates"]) == ([64, 80], [1, 2, 3])


def test_rates_that_do_not_fit_are_taken_and_said_once(home: Path) -> None:
    result, model = train(home, "unfit", *ONCE, "model.atrous_rates=[2,6,12]")
    assert (model["train_crop"], model["atrous_rates"]) == ([96, 160], [2, 6, 12])
    (line,) = [x for x in (result.out + result.err).splitlines() if NEVER in x]
    assert "(6 of 9 at rate 6, 8 of 9 at rate 12)" in line
    assert "A crop of at least 193 x 193 reaches all" in line
    assert "'model.atrous_rates=[1,2,3]'" in line
    weight = read_checkpoint(home / "unfit").state["model"]["aspp.branches.3.0.weight"]
    assert (weight[:, :, [0, 0, 2, 2], [0, 2, 0, 2]] == 0).all()


def test_a_resume_keeps_the_rates(home: Path, whole: tuple[Result, dict[str, Any]]) -> None:
    more = ("resume=whole", "out_dir=more", "trainer.max_epochs=2", "loader.num_workers=0")
    result = call("train.py", *more, cwd=home)
    assert result.status == 0, result.err
    assert "atrous rates 1, 2, 3 at output stride 16, crops of 96 x 160;" in result.out


@pytest.mark.slow
def test_a_resume_on_smaller_crops_says_that_the_rates_do_not_fit(
    home: Path, whole: tuple[Result, dict[str, Any]]
) -> None:
    more = ("resume=whole", "out_dir=small", "trainer.max_epochs=2", "loader.num_workers=0")
    smaller = "augment.train=[{_target_:albumentations.RandomCrop,height:48,width:48}]"
    result = call("train.py", *more, smaller, cwd=home)
    (line,) = [x for x in (result.out + result.err).splitlines() if NEVER in x]
    assert "in 48 x 48 pixels (3 x 3 cells)" in line
    assert line.endswith("A crop of at least 49 x 49 reaches all")  # the rates cannot change


@pytest.mark.slow
def test_a_run_from_before_the_rates_followed_goes_on_with_its_own(
    home: Path, whole: tuple[Result, dict[str, Any]]
) -> None:
    result, _ = train(home, "old", *ONCE, "model.atrous_rates=[6,12,18]")
    path = home / "old/checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    for config in (content["about"]["config"], content["about"]["recipe"]["config"]):
        del config["model"]["train_crop"]
        config["model"]["atrous_rates"] = None
    torch.save(content, path)
    result = call("train.py", "resume=old", "trainer.max_epochs=2", cwd=home)
    assert result.status == 0, result.err
    assert "atrous rates 6, 12, 18 at output stride 16;" in result.out
    assert load_network(read_checkpoint(path)).aspp.branches[3][0].dilation == (18, 18)


def test_a_backbone_that_nothing_fits_is_not_kept_as_if_it_were_trained(home: Path) -> None:
    """It started at random, with a tenth of the learning rate that the others had."""
    given = ("train.py", *ONCE, "init_from=whole", "model.backbone.width=12", "out_dir=wider")
    result = call(*given, "trainer.freeze_epochs=1", cwd=home)
    assert result.status == 1
    assert not (home / "wider").exists()
    found = re.search(r"as if it were trained: (trainer\.\S+) lets it learn, (\S+) l", result.err)
    assert found, result.err
    result = call(*given, *found.groups(), cwd=home)
    assert result.status == 0, result.err
    assert "learning rate 0.003;" in result.out or "learning rate 0.003\n" in result.out


@pytest.mark.quick("said0", "arguments3")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["model.atrous_rates=[2,3,5]"],
            "init_from: its weights were trained with atrous rates 1, 2, 3 at output stride 16, "
            "crops of 96 x 160; this run has atrous rates 2, 3, 5 at output stride 16, crops of 96 "
            "x 160. Branches of another rate look at other places and have to learn anew; "
            "'model.atrous_rates=[1,2,3]' keeps the rates",
        ),
        (
            ["data.dataset.height=112", "data.root=tall", "model.atrous_rates=[1,2,3]"],
            "init_from: its weights were trained with atrous rates 1, 2, 3 at output stride 16, "
            "crops of 96 x 160; this run trains on 112 x 160",
        ),
        (["model.atrous_rates=[1,2,3]"], None),
        (["model.atrous_rates=[2,4,6]", "model.output_stride=8"], None),  # the same pixels
        (
            ["model.atrous_rates=[1,2,3]", "model.output_stride=8"],
            "init_from: its weights were trained with atrous rates 1, 2, 3 at output stride 16, "
            "crops of 96 x 160; this run has atrous rates 1, 2, 3 at output stride 8, crops of 96 "
            "x 160. Branches of another rate look at other places and have to learn anew; "
            "'model.atrous_rates=[2,4,6]' keeps the rates",
        ),
        (["model.atrous_rates=[2,3,5]", "init_parts=[backbone]"], None),
    ],
)
def test_other_rates_or_crops_of_init_from_are_said(
    arguments: list[str],
    said: str | None,
    home: Path,
    whole: tuple[Result, dict[str, Any]],
    request: pytest.FixtureRequest,
) -> None:
    name = f"from{request.node.callspec.indices['said']}"
    result, _ = train(home, name, *ONCE, "init_from=whole", *arguments)
    lines = [x for x in (result.out + result.err).splitlines() if "init_from: its" in x]
    assert lines == ([] if said is None else [f"warning: {said}"])
