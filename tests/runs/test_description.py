"""One validator of what a checkpoint says of itself, and of the state that it keeps."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from edits import ODD
from states import METADATA, make_state, take_steps

from segkit.config.slots import OPTIMIZERS, RENAMED
from segkit.errors import CheckpointError
from segkit.runs.checkpoint import read_checkpoint, save_checkpoint
from segkit.runs.description import CHECKS, CheckpointMetadata, described
from segkit.runs.saved_state import check_resumable, check_state

PATH = Path("best.pt")
SCORES = {"miou": 0.5, "mean_accuracy": 0.5, "pixel_accuracy": 0.5, "fw_iou": None}
LISTS = {name: [0.5, None] for name in ("iou", "precision", "recall", "f1")}
BEST_SCORES = SCORES | LISTS | {"support": [5, 0], "num_classes_averaged": 2}


def metadata(**changes: Any) -> dict[str, Any]:
    return asdict(METADATA) | changes


def test_every_entry_has_its_check() -> None:
    assert {f.name for f in fields(CheckpointMetadata)} == CHECKS.keys()


def test_what_was_written_is_read() -> None:
    assert described(PATH, metadata()) == METADATA
    recipe = {"config": {"a": "${b}", "b": {1: None}}, "choices": {"loss": ["ce"]}}
    env = {"data": {"root": "${oc.env:A,${oc.env:B}}/x"}}
    found = described(PATH, metadata(recipe=recipe, config=env, device="cuda:1"))
    assert (found.recipe, found.config) == (recipe, env)


def test_keys_that_had_other_names_are_those_of_today() -> None:
    old = METADATA.config | {"trainer": {"num_pictures": 3, "max_epochs": 2}}
    mine = {"model": {"_target_": "mine.Net", "num_pictures": 5}}  # not ours: stays
    recipe = {"config": old | mine, "choices": {}}
    found = described(PATH, metadata(config=old, recipe=recipe))
    for config in (found.config, found.recipe["config"]):
        assert config["trainer"] == {"num_images": 3, "max_epochs": 2}
    assert found.recipe["config"]["model"] == mine["model"]


def test_own_colours_are_those_of_classes_and_no_file() -> None:
    first = METADATA.classes[0]
    config = METADATA.config | {"palette": {first: [9, 8, 7]}}
    assert described(PATH, metadata(config=config)).colors[0].tolist() == [9, 8, 7]
    for palette in ("/etc/passwd", {"none": [1, 2, 3]}, {first: "rad"}, {first: [1, 2]}, [1]):
        with pytest.raises(CheckpointError, match=r"^best.pt: "):
            described(PATH, metadata(config=METADATA.config | {"palette": palette}))


def test_names_of_segkit_0_1_are_those_of_today() -> None:
    def node(schedule: str, dataset: str) -> dict[str, Any]:
        return {"scheduler": {"_target_": schedule}, "data": {"dataset": {"_target_": dataset}}}

    for before, now in RENAMED.items():
        old, new = (
            node(before, "segkit.data.voc.VOCSegmentation"),
            node(now, "segkit.data.VOCSegmentation"),
        )
        recipe = {"config": {**old, "x": [before]}, "choices": {}}
        found = described(PATH, metadata(config=old, recipe=recipe))
        assert found.config == new
        assert found.recipe == {"config": {**new, "x": [before]}, "choices": {}}
        assert resolve_name(now)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": ["a"]}, "classes in it is 1; expected two or more names of classes"),
        ({"classes": ["a", "a"]}, r"classes in it is ['a', 'a']; expected names that are unique"),
        ({"classes": ["a", 5]}, "classes in it is ['a', 5]; expected two or more names"),
        ({"classes": ["a", " "]}, "expected two or more names"),
        ({"classes": "ab"}, "classes in it is 'ab'; expected two or more names"),
        ({"classes": ["a", "b\ud800"]}, "expected two or more names"),
        ({"classes": ["a", "b\nc"]}, r"classes in it is ['a', 'b\nc']; expected two or more names"),
        ({"palette": [[0, 0, 0]] * 255}, "expected 256 colours of three numbers from 0 to 255"),
        ({"palette": [[0, 0, 256]] * 256}, "expected 256 colours"),
        ({"palette": [[0, 0, True]] * 256}, "expected 256 colours"),
        ({"palette": [[0, 0]] * 256}, "expected 256 colours"),
        ({"ignore_index": -1}, "ignore_index in it is -1; expected a mask value of at least 0"),
        ({"ignore_index": 255.0}, "ignore_index in it is 255.0"),
        ({"mean": []}, "mean in it is []; expected a number from 0 to 1 for each channel"),
        ({"mean": [0.5, 0.5]}, "std in it is [0.25, 0.25, 0.25]; expected as many as mean"),
        ({"mean": [0.5, 0.5, math.nan]}, "mean in it is [0.5, 0.5, nan]"),
        ({"mean": [0.5, 0.5, 10**400]}, "mean in it is "),
        ({"std": [0.5, 0.0, 0.5]}, "std in it is [0.5, 0.0, 0.5]; expected a number above 0, to 1"),
        ({"std": [0.5, math.inf, 0.5]}, "std in it is [0.5, inf, 0.5]"),
        ({"precision": "fp8"}, "precision in it is 'fp8'; expected one of fp32, bf16, fp16"),
        ({"threads": 0}, "threads in it is 0"),
        ({"world_size": True}, "world_size in it is True"),
        ({"device": "nonsense"}, "device in it is 'nonsense'; expected a device of PyTorch"),
        ({"recipe": {"config": {}}}, "recipe lacks choices"),
        ({"recipe": {"config": {}, "choices": []}}, "recipe.choices in it is []"),
        ({"config": []}, "config in it is []; expected named entries"),
        ({"config": {"data": 5}}, "config.data in it is 5; expected named entries"),
        ({"config": {"model": {}}}, "config.model in it is {}; expected a node with _target_"),
        ({"config": {"data": {"val_split": "/x"}}}, "config.data.val_split in it is '/x'"),
        ({"config": {"data": {"train_split": 5}}}, "config.data.train_split in it is 5"),
        ({"config": {"trainer": {"channels_last": 1}}}, "trainer.channels_last in it is 1"),
        ({"config": {"trainer": {"max_epochs": 0}}}, "trainer.max_epochs in it is 0"),
        ({"config": {"a": "${b}"}}, "config.a in it is '${b}'; expected a text, resolved but for"),
        ({"config": {"a": r"\${oc.env:A}"}}, "hides a second interpolation in '"),
        ({"config": {"a": ["???"]}}, "config.a[0] in it is '???'"),
        ({"config": {"a": torch.zeros(2)}}, "config.a in it is a tensor of shape (2,)"),
        ({"config": {"a": {None: 1}}}, "a key of config.a in it is None"),
        ({"config": {"a": 2**63}}, "config.a in it is 9223372036854775808"),
        ({"config": {"data": {"num_classes": 6}}}, "config.data.num_classes in it is 6, and num_c"),
        ({"config": {"data": {"ignore_index": 0}}}, "config.data.ignore_index in it is 0, and"),
        ({"news": 5}, "its description does not fit (it has news)"),
    ],
)
def test_an_entry_that_is_wrong_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError) as info:
        described(PATH, metadata(**changes))
    text = str(info.value)
    assert text.startswith("best.pt: ")
    assert expected in text
    assert len(text.splitlines()) == 1
    assert len(text) < 300
    text.encode()


@pytest.mark.parametrize("name", [f.name for f in fields(CheckpointMetadata)])
def test_no_odd_value_gets_past_in_an_entry(name: str) -> None:
    for odd in ODD:
        try:
            found = described(PATH, metadata(**{name: odd}))
        except CheckpointError:
            continue
        assert type(getattr(found, name)) is type(getattr(METADATA, name)), odd
    entries = metadata()
    del entries[name]
    if name in (
        "threads",
        "device",
        "world_size",
        "recipe",
        "trained_on",
        "pretrained_on",
        "validated_on",
    ):
        described(PATH, entries)
    else:
        with pytest.raises(
            CheckpointError, match=rf"its description does not fit \(it lacks {name}\)"
        ):
            described(PATH, entries)


def test_nests_and_bushes_end() -> None:
    nest: Any = {}
    for _ in range(100):
        nest = {"x": nest}
    bush: Any = [1]
    for _ in range(31):  # 2 ** 31 values, and few bytes
        bush = [bush, bush]
    for config in (nest, {"x": bush}):
        with pytest.raises(CheckpointError, match="config in it is nested too deep or too large"):
            described(PATH, metadata(config=config))


# The state


def full_state() -> dict[str, Any]:
    state = make_state(with_average=True)
    take_steps(state, 2)
    state.monitor.best.update(0.5, 1, BEST_SCORES)
    return state.state_dict()


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """What sets an entry; ``/`` between its names."""

    def change(state: dict[str, Any]) -> None:
        *parents, last = place.split("/")
        node: Any = state
        for name in parents:
            node = node[int(name) if name.isdigit() else name]
        node[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("model", [], "state.model in it is []; expected named tensors"),
        ("model/0.weight", [1.0], "state.model.0.weight in it is [1.0]; expected a tensor"),
        ("epoch", -1, "state.epoch in it is -1; expected a whole number of at least 0"),
        ("step", 1.5, "state.step in it is 1.5"),
        ("images", True, "state.images in it is True"),
        ("seconds", math.nan, "state.seconds in it is nan"),
        ("sums", {"x": 5}, "state.sums in it is {'x': 5}"),
        ("sums", {"x": (1.0, 0)}, "state.sums in it is"),
        ("last_values", {"x": "y"}, "state.last_values in it is"),
        ("best", None, "state.best in it is None"),
        ("best/mode", "most", "state.best.mode in it is 'most'; expected max or min"),
        ("best/score", math.nan, "state.best.score in it is nan"),
        ("best/kept", [(0.5,)], "state.best.kept in it is [(0.5,)]"),
        ("best/more", 5, "the names of state.best in it is"),
        ("best/scores/iou", [0.5], "state.best.scores.iou in it is [0.5]; expected 2 numbers"),
        ("best/scores/support", [0.5, 1], "state.best.scores.support in it is"),
        ("best/scores/miou", "x", "state.best.scores.miou in it is 'x'"),
        ("best/scores", {"miou": 0.5}, "state.best.scores lacks iou, precision"),
        ("average", {}, "state.average lacks model, updates"),
        ("average/updates", None, "state.average.updates in it is None"),
        ("patience", 5, "state.patience in it is 5"),
        ("patience/waited", "x", "state.patience.waited in it is 'x'"),
        ("scaler/scale", 0, "state.scaler.scale in it is 0; expected a number above 0"),
        ("optimizer", 5, "state.optimizer in it is 5"),
        ("optimizer/state/0", [], "state.optimizer.state[0] in it is []"),
        ("optimizer/state/99", {}, "state.optimizer.state[99] in it is 99; expected a parameter"),
        ("optimizer/param_groups", {}, "state.optimizer.param_groups in it is {}"),
        ("optimizer/param_groups/0/params", ["x"], "expected groups of parameters"),
    ],
)
def test_a_part_of_the_state_that_is_wrong_is_named(place: str, value: Any, expected: str) -> None:
    state = copy.deepcopy(full_state())
    check_state(PATH, state, 2)
    check_resumable(PATH, state)
    put(place, value)(state)
    with pytest.raises(CheckpointError) as info:
        check_state(PATH, state, 2)
    assert expected in str(info.value)
    assert str(info.value).startswith("best.pt: ")
    assert len(str(info.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["optimizer", "best", "average", "step", "sums"])
def test_what_a_resume_needs_is_missed(name: str) -> None:
    state = full_state()
    del state[name]
    check_state(PATH, state, 2)  # enough to predict with
    with pytest.raises(CheckpointError, match=f"state lacks {name}; was it edited"):
        check_resumable(PATH, state)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("optimizer/state/0/momentum_buffer", torch.zeros(5), "momentum_buffer of the optimizer"),
        ("optimizer/state/0", {"other": None}, r"the optimizer keeps \['other'\], not \['momentum"),
        ("model/0.weight", torch.zeros(8, 3, 3, 3).int(), "0.weight is torch.int32 in the file"),
        ("average/model/0.bias", torch.zeros(9), "0.bias is 9 in the file, 8 in the model"),
        ("model/more", torch.zeros(9), "Unexpected key"),
    ],
)
def test_a_state_of_another_run_is_refused(place: str, value: Any, expected: str) -> None:
    state = copy.deepcopy(full_state())
    put(place, value)(state)
    check_state(PATH, state, 2)
    with pytest.raises(CheckpointError, match=expected):
        make_state(with_average=True).load_state_dict(state)


@pytest.mark.parametrize("name", [name.rpartition(".")[2] for name in OPTIMIZERS])
def test_a_resume_takes_what_every_listed_optimizer_keeps(name: str) -> None:
    kind = getattr(torch.optim, name)
    known = inspect.signature(kind).parameters
    for settings in ({}, {"momentum": 0.9}, {"amsgrad": True}):
        if not known.keys() >= settings.keys():
            continue
        before, after = make_state(), make_state()
        for state in (before, after):
            state.optimizer = kind(state.model.parameters(), lr=0.1, **settings)
        take_steps(before, 2)
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        take_steps(after, 1)
        assert after.step == 3


def test_the_versions_are_checked(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", make_state(), METADATA, {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    for change in ({"torch": 5}, {"segkit": None}, {"format": True}, {"scores": [1]}):
        torch.save(content | change, tmp_path / "b.pt")
        with pytest.raises(CheckpointError, match=f"{next(iter(change))}"):
            read_checkpoint(tmp_path / "b.pt")
