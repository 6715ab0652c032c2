"""Composing, checking, building and saving the configuration, piece by piece."""

import math
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from segkit.cli.command import CONFIGS
from segkit.config import (
    absolute_paths,
    build,
    build_augment,
    check_class_values,
    check_config,
    fill_class_weights,
    needs_class_counts,
    plain_config,
    rare_class_hint,
    rebuild,
    without_effects,
)
from segkit.config.components import one_target_problem
from segkit.config.problems import check_start, missing_keys
from segkit.config.schema import COMPONENTS, SCHEMAS
from segkit.errors import ConfigError
from segkit.text import did_you_mean

YAMLS = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if path.relative_to(CONFIGS).parts[0] != "hydra"  # need plugins, see test_sweep.py
)


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, list(overrides))


def overrides_for(yaml: str) -> tuple[str, list[str]]:
    """The script that a file belongs to and what chooses it."""
    group, _, choice = yaml.rpartition("/")
    if not group:
        unset = missing_keys(OmegaConf.to_container(composed(name=choice)))
        # evaluate takes saved masks instead, so the key has a default and is missed later.
        needed = {*unset, *(["checkpoint"] if choice == "evaluate" else [])}
        return choice, [f"{key}=." for key in sorted(needed)]
    if choice == "cityscapes":
        return "train", [f"{group}={choice}", "data.images=.", "data.masks=."]
    root = ["data.root=."] if group in ("data", "experiment") and choice != "folders" else []
    return "train", [f"{group}={choice}", *root]


def one_of_each_group() -> list[list[str]]:
    """All files that choices stand in, a few at a time: each time one of each group."""
    groups: dict[str, list[str]] = {}
    for yaml in YAMLS:
        group = yaml.rpartition("/")[0]
        if group not in ("", "experiment"):
            groups.setdefault(group, []).append(yaml)
    return [[yaml for yaml in row if yaml] for row in zip_longest(*groups.values())]


@pytest.mark.parametrize("yamls", one_of_each_group(), ids=" ".join)
def test_files_compose_together(yamls: list[str]) -> None:
    assert_composes("train", [override for yaml in yamls for override in overrides_for(yaml)[1]])


@pytest.mark.quick("[train]", "[evaluate]", "[predict]", "[export]", "experiment/")
@pytest.mark.parametrize("yaml", YAMLS)
def test_every_file_composes_checks_and_builds(yaml: str) -> None:
    assert_composes(*overrides_for(yaml))


def assert_composes(name: str, overrides: list[str]) -> None:
    cfg = composed(*overrides, name=name)
    check_config(cfg, name)  # builds all but data set and pretrained weights
    if name == "train":
        assert callable(build(cfg.data.dataset))
        assert isinstance(build(cfg.loss), nn.Module)
        assert len(build_augment(cfg).steps) == len(cfg.augment.train)
    # Saved and read again it is the same.
    saved = OmegaConf.to_yaml(OmegaConf.create(plain_config(cfg)))
    assert OmegaConf.create(saved) == OmegaConf.create(plain_config(cfg))


def test_every_component_of_a_yaml_is_a_target_node() -> None:
    cfg = composed()
    for name in COMPONENTS:
        assert "_target_" in cfg[name]


def test_every_key_of_the_schema_says_what_it_is_for() -> None:
    def walk(schema: Any) -> None:
        for f in fields(schema):
            if is_dataclass(f.default_factory):
                walk(f.default_factory)
            else:
                assert len(f.metadata["text"]) > 5, f.name

    for schema in SCHEMAS.values():
        walk(schema)


def test_lists_and_mappings_on_the_command_line() -> None:
    cfg = composed("data.label_map={255:1}", "data.classes=[no,'yes']", "data.num_classes=2")
    check_config(cfg, "train")
    plain = plain_config(cfg)
    assert plain["data"]["dataset"]["label_map"] == {255: 1}
    assert plain["data"]["dataset"]["num_classes"] == 2
    dataset = build(cfg.data.dataset).keywords
    assert dataset["label_map"] == {255: 1}
    assert type(dataset["label_map"]) is dict
    assert type(dataset["classes"]) is list


def test_a_sum_of_losses() -> None:
    cfg = composed("loss=[ce,dice]", "loss.terms.dice.weight=0.5")
    check_config(cfg, "train")
    loss = build(cfg.loss)
    assert (loss.names, loss.weights) == (("ce", "dice"), (1.0, 0.5))


def test_a_check_leaves_the_config_as_it_was() -> None:
    cfg = composed("model/backbone=resnet18", "loss.terms.ce.loss.class_weights=balanced")
    before = OmegaConf.to_yaml(cfg)
    check_config(cfg, "train")
    assert OmegaConf.to_yaml(cfg) == before
    assert cfg.model.backbone.weights == "imagenet"


def test_a_model_whose_weights_come_from_elsewhere() -> None:
    cfg = composed("model/backbone=resnet18", "data.num_classes=3", "model.norm=gn")
    plain = without_effects(cfg.model)
    assert (plain.backbone.weights, cfg.model.backbone.weights) == (None, "imagenet")
    assert build(plain).classifier.out_channels == 3  # what it refers to is still there
    own = OmegaConf.create({"_target_": "torch.nn.Identity"})
    assert without_effects(own) == own


# Paths


def test_relative_paths_start_where_the_user_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").touch()
    weights = ("model/backbone=resnet18", "model.backbone.weights=net.pth")
    cfg = composed("data.root=images", "init_from=run", "out_dir='~/out'", *weights)
    absolute_paths(cfg, "train")
    assert cfg.data.root == str(tmp_path / "images")
    assert cfg.data.dataset.root == cfg.data.root
    assert cfg.init_from == str(tmp_path / "run")
    assert cfg.out_dir == str(Path("~/out").expanduser())
    assert cfg.model.backbone.weights == str(tmp_path / "net.pth")


def test_imagenet_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = composed("model/backbone=resnet18")
    absolute_paths(cfg, "train")
    assert cfg.model.backbone.weights == "imagenet"
    assert cfg.out_dir is None


def test_environment_variables_are_not_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_TEST", "secret")
    cfg = composed("data.root=${oc.env:SEGKIT_TEST}", "data.val_split=${oc.env:NOPE,val}")
    absolute_paths(cfg, "train")
    plain = plain_config(cfg)
    assert cfg.data.root == "secret"
    assert plain["data"]["root"] == "${oc.env:SEGKIT_TEST}"
    assert plain["data"]["dataset"]["root"] == "${oc.env:SEGKIT_TEST}"
    assert OmegaConf.create(plain).data.dataset.root == "secret"
    assert OmegaConf.create(plain).data.val_split == "val"
    assert OmegaConf.create({"x": "${oc.env:SEGKIT_TEST}"}).x == "secret"  # still as before


# Targets


class Own(nn.Identity):
    """A model of the user's own."""


class Part:
    def __init__(
        self,
        size: int,
        factor: float | Tensor = 1.0,
        on: bool = False,
        fill: Any = 0,
        pair: tuple[float, float] | None = None,
    ) -> None:
        if size > 9:
            raise ValueError(f"size must be at most 9, got {size}")


def anything(**settings: Any) -> dict[str, Any]:
    return settings


PART = f"{__name__}.Part"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"size": 1}, []),
        ({"size": 1, "fill": [0, 0], "factor": 2, "on": True}, []),
        ({"_partial_": True}, []),
        ({}, [f"part.size is not set: {PART} needs it"]),
        (
            {"size": 1, "fctor": 2},
            [
                f"part.fctor: {PART} has no such argument; "
                "did you mean factor? (there are factor, fill, on, pair, size)"
            ],
        ),
        ({"size": "x"}, ["part.size=x: expected a number"]),
        ({"size": True}, ["part.size=True: expected a number"]),
        ({"size": 1.0}, ["part.size=1.0: expected a whole number"]),
        ({"size": None}, ["part.size: null is not possible here"]),
        ({"size": 1, "factor": None}, ["part.factor: null is not possible here"]),
        ({"size": 1, "factor": [2]}, ["part.factor=[2]: expected a number"]),
        ({"size": 1, "factor": math.inf}, []),
        ({"size": {"_target_": "len"}}, []),
        ({"size": 1, "pair": None}, []),
        ({"size": 1, "pair": [1, 2]}, []),
        ({"size": 1, "pair": [1]}, ["part.pair=[1]: expected 2 values"]),
        ({"size": 1, "pair": 1}, ["part.pair=1: expected a list, [a,b]"]),
        ({"size": 1, "factor": "x"}, ["part.factor=x: expected a number"]),
        ({"size": 1, "on": "yes"}, ["part.on=yes: expected true or false"]),
    ],
)
def test_arguments_are_checked_by_the_signature(
    arguments: dict[str, Any], expected: list[str]
) -> None:
    assert list(one_target_problem({"_target_": PART, **arguments}, "part")) == expected


def test_what_takes_anything_is_given_anything() -> None:
    node = {"_target_": f"{__name__}.anything", "a": 1}
    assert list(one_target_problem(node, "x")) == []


def test_a_defect_in_a_users_module_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_part.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        list(one_target_problem({"_target_": "broken_part.Loss"}, "loss"))


class Bare(nn.Module):
    """A backbone without what only model.freeze_backbone=low_level asks for."""

    channels, strides = (8, 8), (4, 16)

    def __init__(self, broken: bool = False, **_: Any) -> None:
        super().__init__()
        if broken:
            self.no_such_attribute()


def with_backbone(*overrides: str) -> DictConfig:
    target = f"+model.backbone={{_target_:{__name__}.Bare,_partial_:true}}"
    return composed("~model/backbone", target, *overrides)


def test_an_error_of_any_kind_is_one_line() -> None:
    check_config(with_backbone(), "train")
    with pytest.raises(ConfigError, match=r"^model: AttributeError: 'Bare' .* 'low_level_parts'$"):
        check_config(with_backbone("model.freeze_backbone=low_level"), "train")


def test_a_defect_in_a_users_constructor_is_not_hidden() -> None:
    with pytest.raises(AttributeError, match="no_such_attribute"):
        check_config(with_backbone("+model.backbone.broken=true"), "train")


def test_a_run_that_goes_on_needs_no_weights_to_start_from() -> None:
    cfg = composed("model/backbone=resnet18", "model.backbone.weights=gone.pth")
    check_config(cfg, "train")
    with pytest.raises(ConfigError, match=r"weights=gone\.pth: no such file"):
        check_start(cfg)


def test_a_refused_value_names_its_node() -> None:
    cfg = OmegaConf.create({"outer": {"part": {"_target_": PART, "size": 10}}})
    with pytest.raises(ConfigError, match=r"^outer\.part: size must be at most 9, got 10$"):
        build(cfg.outer)


def test_what_a_checkpoint_names_must_be_allowed() -> None:
    node = {"_target_": f"{__name__}.Own"}
    with pytest.raises(ConfigError, match="which is no part of segkit"):
        rebuild(Path("a.pt"), "model", node, [])
    assert isinstance(rebuild(Path("a.pt"), "model", node, [__name__]), Own)
    assert isinstance(
        rebuild(Path("a.pt"), "term", {"_target_": "segkit.losses.DiceLoss"}, []), nn.Module
    )


def test_allowing_a_module_does_not_allow_what_it_imports() -> None:
    with pytest.raises(ConfigError, match="which is no part of segkit"):
        rebuild(Path("a.pt"), "model", {"_target_": f"{__name__}.nn.Identity"}, [__name__])
    with pytest.raises(ConfigError, match="which is no part of segkit"):
        rebuild(Path("a.pt"), "model", {"_target_": f"{__name__}_more.Part"}, [__name__])


# Small parts


def test_missing_keys_are_found_below_lists_and_beside_interpolations() -> None:
    node = {"a": "???", "b": [{"c": "???"}], "d": "${a}", "e": 1}
    assert list(missing_keys(node)) == ["a", "b[0].c"]


def test_did_you_mean() -> None:
    assert did_you_mean("focl", ["focal", "ce"]) == "; did you mean focal? (there are ce, focal)"
    assert did_you_mean("xyz", ["focal", "ce", "_target_"]) == "; there are ce, focal"
    assert did_you_mean("xyz", []) == ""
    assert did_you_mean("xyz", [f"a{i:02}" for i in range(30)]).endswith("a23, and 6 more")


def test_class_weights_by_name() -> None:
    loss = composed("loss=[ce,dice]", "loss.terms.ce.loss.class_weights=balanced").loss
    assert needs_class_counts(loss)
    # balanced: 100 pixels in 2 classes, so 50 / 80 and 50 / 20
    lines = list(fill_class_weights(loss, ["a", "b"], [80, 20]))
    assert lines == ["class weights (balanced): a 0.625, b 2.5"]
    assert loss.terms.ce.loss.class_weights == [0.625, 2.5]
    assert not needs_class_counts(loss)


def test_one_value_per_class() -> None:
    loss = composed("loss=focal", "loss.terms.focal.loss.alpha=[1,2]").loss
    check_class_values(loss, ["a", "b"])
    with pytest.raises(ConfigError, match=r"alpha has 2 values; expected .* 3 classes: a, b, c$"):
        check_class_values(loss, ["a", "b", "c"])


def test_a_hint_for_rare_classes_names_the_key_that_helps() -> None:
    loss = OmegaConf.create(
        {"terms": {"ce": {"loss": {"class_weights": None}}, "mse": {"loss": {"x": 1}}}}
    )
    classes = ["road", "pole", "sign", "absent"]
    hint = rare_class_hint(loss, classes, [9850, 60, 90, 0])
    assert hint == (
        "pole holds 0.60 % of the training pixels (2 classes are below 1 %), and the loss has no "
        "class weights: loss.terms.ce.loss.class_weights=enet makes rare classes count more"
    )
    assert rare_class_hint(loss, classes, [9000, 900, 100, 0]) is None
    assert rare_class_hint(loss, classes, None) is None
    loss.terms.ce.loss.class_weights = [1, 2, 3, 4]
    assert rare_class_hint(loss, classes, [9850, 60, 90, 0]) is None
    assert rare_class_hint(OmegaConf.create({"terms": {}}), classes, [9850, 60, 90, 0]) is None
