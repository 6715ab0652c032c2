"""Stop a run anywhere, go on, and it ends with the same bits as one that was never stopped."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_apart
from scripts import ROOT, SMALL, Result, call
from states import assert_same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkit.runs.checkpoint import read_checkpoint
from segkit.runs.folder import locked
from segkit.runs.metrics_log import RunLog
from segkit.training import data, loop
from segkit.training.validation_images import ValidationImages

# Twelve images in three steps, each of two batches; everything on that a state may hold.
RUN = (
    "data.dataset.num_train=12",
    "data.dataset.num_val=3",
    "data.dataset.height=48",
    "data.dataset.width=64",
    "data.check=false",
    "augment=standard",
    "augment.crop_size=[32,32]",
    "augment.copy_paste=0.5",
    "loader.balance=class",
    "model.backbone.width=8",
    "model.aspp_channels=16",
    "model.decoder_channels=16",
    "loader.batch_size=2",
    "loader.num_workers=0",
    "trainer.device=cpu",
    "trainer.max_epochs=2",
    "trainer.accumulate=2",
    "trainer.ema_decay=0.9",
    "trainer.patience=5",
    "trainer.log_every=1",
    "trainer.num_images=1",
)
STEPS = 6
TIMED = ("seconds", "images_per_second", "memory_mib")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("resume") / "here"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # The early check of the command line composes the configuration once more, which takes
        # longer than one of these runs. test_config_table.py tests it.
        patch.setattr("segkit.cli.check_command_line", lambda name: None)
        yield folder


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """A run that was never stopped."""
    return train(home, "whole")


def train(home: Path, name: str, *more: str, status: int = 0) -> Path:
    result = call("train.py", *RUN, f"out_dir={name}", *more, cwd=home)
    assert result.status == status, result.err
    return home / name


def resume(home: Path, name: str, *more: str) -> Result:
    """The line for a cluster script: the whole command once more."""
    result = call("train.py", *RUN, f"out_dir={name}", "resume=auto", *more, cwd=home)
    assert result.status == 0, result.err
    return result


def at_step(patch: pytest.MonkeyPatch, step: int, happens: Callable[[], object]) -> None:
    """Let something happen at the start of an optimizer step, counted from 0."""
    begin = loop.seed_step

    def seed_step(seed: int, at: int, rank: int) -> None:
        if at == step:
            happens()
        begin(seed, at, rank)

    patch.setattr(loop, "seed_step", seed_step)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def stop(home: Path, name: str, step: int, *more: str, number: int = signal.SIGTERM) -> Path:
    """A run that gets a signal in a step; the step is finished and saved."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, send(number))
        train(home, name, *more, status=128 + number)
    assert state_of(home / name)["step"] == step + 1
    return home / name


def kill(home: Path, name: str, *more: str, prepare: Callable[[pytest.MonkeyPatch], None]) -> Path:
    """A run in a process of its own, in which ``prepare`` has laid something deadly."""

    def task(line: Connection) -> None:
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch)
            train(home, name, *more)
        line.send("not killed")

    with run_apart(task) as (_, line), pytest.raises(EOFError):
        assert line.poll(60)
        line.recv()
    return home / name


def state_of(run: Path, name: str = "last.pt") -> dict[str, Any]:
    """What a checkpoint holds, without what the clock says."""
    content = torch.load(run / "checkpoints" / name, weights_only=True)
    state: dict[str, Any] = content["state"]
    del state["seconds"]
    return state


def lines(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text()
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMED}
        for line in text.splitlines()
    ]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.removeprefix("watch/") not in TIMED
    }


def assert_same_run(run: Path, other: Path) -> None:
    """Weights, average, momentum, scores, log and curves, to the last bit."""
    names = {file.name for file in (other / "checkpoints").iterdir()}
    assert {file.name for file in (run / "checkpoints").iterdir()} == names
    for name in names - {"previous.pt"}:
        assert_same(state_of(run, name), state_of(other, name))
    assert lines(run) == lines(other)
    assert curves(run) == curves(other)
    mine, theirs = (json.loads((r / "summary.json").read_text()) for r in (run, other))
    assert mine | {"seconds": 0} == theirs | {"seconds": 0}


def copy(home: Path, run: Path, name: str) -> Path:
    shutil.copytree(run, home / name)
    return home / name


# The same bits


def test_every_value_is_drawn_once_per_step(whole: Path) -> None:
    """What the comparisons below rely on: there are curves, and a state of every kind."""
    drawn = curves(whole)
    assert [step for step, _ in drawn["within_epoch/train/loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in drawn["val/miou"]] == [3, 6]
    state = state_of(whole)
    assert state["average"]["updates"] == STEPS
    assert state["patience"]["best"] is not None
    assert len(state["optimizer"]["state"]) > 20


@pytest.mark.quick("[4-")
@pytest.mark.parametrize(
    ("step", "number", "num_workers", "position"),
    [
        (1, signal.SIGTERM, 0, "after epoch 0 and 8 images of the next"),
        (4, signal.SIGUSR1, 1, "after epoch 1 and 8 images of the next"),
        # The last of all: what is left is a validation.
        (5, signal.SIGINT, 0, "after epoch 1 and 12 images of the next"),
    ],
)
def test_a_signal(
    home: Path, whole: Path, step: int, number: int, num_workers: int, position: str
) -> None:
    workers = f"loader.num_workers={num_workers}"
    name = f"signal_{number}"
    stop(home, name, step, workers, number=number)
    result = resume(home, name, workers)
    assert_same_run(home / name, whole)
    # The same command line changes nothing, and says no more than where the run goes on.
    (said,) = [line for line in result.out.splitlines() if line.startswith("resume: ")]
    assert said.endswith(f"checkpoints/last.pt, {position}, step {step + 1}")
    assert [file.name for file in (home / name).glob("*.yaml")] == ["config.yaml"]


@pytest.mark.slow
def test_a_signal_during_the_validation(home: Path, whole: Path) -> None:
    add = ValidationImages.add

    def add_and_signal(self: ValidationImages, *arguments: Any) -> None:
        add(self, *arguments)
        if self.seen == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ValidationImages, "add", add_and_signal)
        train(home, "validation", status=143)
    state = state_of(home / "validation")
    assert (state["epoch"], state["images"], state["step"]) == (0, 12, 3)
    resume(home, "validation")
    assert_same_run(home / "validation", whole)


@pytest.mark.slow
def test_a_kill_between_two_saves(home: Path, whole: Path) -> None:
    every = "trainer.save_every_steps=2"
    kill(home, "killed", every, prepare=lambda patch: at_step(patch, 5, send(signal.SIGKILL)))
    assert state_of(home / "killed")["step"] == 4
    assert len(lines(home / "killed")) == 1
    resume(home, "killed", every)
    assert_same_run(home / "killed", whole)


@pytest.mark.slow
def test_a_kill_while_saving(home: Path, whole: Path) -> None:
    """Between the two renames, where there is no last.pt."""
    rename = Path.replace

    def die(self: Path, target: Path) -> Path:
        if self.name == ".last.pt.tmp" and (self.parent / "previous.pt").exists():
            os._exit(1)
        return rename(self, target)

    every = "trainer.save_every_steps=1"
    kill(home, "renames", every, prepare=lambda patch: patch.setattr(Path, "replace", die))
    found = {file.name for file in (home / "renames/checkpoints").iterdir()}
    assert found == {".last.pt.tmp", "previous.pt"}
    resume(home, "renames", every)
    assert_same_run(home / "renames", whole)


@pytest.mark.slow
def test_a_kill_before_the_first_save(home: Path, whole: Path) -> None:
    def prepare(patch: pytest.MonkeyPatch) -> None:
        draw = RunLog.scalars

        def draw_at_once(self: RunLog, *arguments: Any) -> None:  # as after two minutes
            draw(self, *arguments)
            self.flush()

        patch.setattr(RunLog, "scalars", draw_at_once)
        at_step(patch, 2, send(signal.SIGKILL))

    kill(home, "early", prepare=prepare)
    assert list((home / "early/checkpoints").iterdir()) == []
    # That of step 1: the values of a step are read while the next one is computed.
    assert len(curves(home / "early")["within_epoch/train/loss"]) == 1
    resume(home, "early")
    assert_same_run(home / "early", whole)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("step", range(STEPS))
def test_any_step(home: Path, whole: Path, step: int, num_workers: int) -> None:
    workers = f"loader.num_workers={num_workers}"
    name = f"any_{step}_{num_workers}"
    stop(home, name, step, workers)
    resume(home, name, workers)
    assert_same_run(home / name, whole)


@pytest.mark.slow
def test_a_stop_after_each_step(home: Path, whole: Path) -> None:
    stop(home, "each", 0)
    for step in range(1, STEPS):
        stop(home, "each", step, "resume=auto")
    resume(home, "each")
    assert_same_run(home / "each", whole)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_kill_in_any_step(home: Path, whole: Path, step: int, num_workers: int) -> None:
    more = ("trainer.save_every_steps=1", f"loader.num_workers={num_workers}")
    name = f"killed_{step}_{num_workers}"
    kill(home, name, *more, prepare=lambda patch: at_step(patch, step, lambda: os._exit(9)))
    resume(home, name, *more)
    assert_same_run(home / name, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 13))
def test_a_kill_at_any_rename(home: Path, whole: Path, number: int) -> None:
    """Checkpoints, the best beside the last, and the log are all put into place by renames."""
    rename, count = Path.replace, 0

    def die(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            os._exit(1)
        return rename(self, target)

    name, more = f"rename_{number}", ("trainer.save_every_steps=1", "trainer.keep_best=2")
    train_whole = home / "whole_kept"
    if not train_whole.exists():
        train(home, train_whole.name, *more)
    kill(home, name, *more, prepare=lambda patch: patch.setattr(Path, "replace", die))
    resume(home, name, *more)
    assert_same_run(home / name, train_whole)


# Where it goes on


@pytest.fixture(scope="module")
def stopped(home: Path, whole: Path) -> Path:
    """Stopped in the second epoch: previous.pt is the end of the first."""
    return stop(home, "stopped", 4)


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    home: Path, whole: Path, stopped: Path
) -> None:
    last = copy(home, stopped, "damaged") / "checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    result = resume(home, "damaged")
    assert f"warning: {last}: cut off or damaged" in result.out
    assert "previous.pt is taken instead, at step 3" in result.out
    assert_same_run(home / "damaged", whole)


def test_damaged_checkpoints_only_are_an_error(home: Path, stopped: Path) -> None:
    run = copy(home, stopped, "hopeless")
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-1000])
    before = files(run)
    result = call("train.py", *RUN, "out_dir=hopeless", "resume=auto", cwd=home)
    assert result.status == 1
    assert "hopeless: none of its 3 checkpoints can be read; start anew in" in result.err
    assert len(result.err.splitlines()) == 1
    assert files(run) == before


def files(run: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


@pytest.mark.slow
def test_another_folder_branches_off(home: Path, whole: Path, stopped: Path) -> None:
    before = files(stopped)
    checkpoint = "resume=stopped/checkpoints/last.pt"
    result = call("train.py", checkpoint, "out_dir=branch", cwd=home)
    assert result.status == 0, result.err
    assert_same(state_of(home / "branch"), state_of(whole))
    assert lines(home / "branch") == lines(whole)[1:]
    assert (home / "branch/config.yaml").exists()
    assert files(stopped) == before


def test_the_best_is_that_of_the_branch(home: Path) -> None:
    """Going on from an earlier epoch in place used to leave the ``best.pt`` of a later one."""
    run = train(home, "climbs", "trainer.keep_best=2", "trainer.monitor=train/loss")
    assert read_checkpoint(run).state["epoch"] == 2
    first = "resume=climbs/checkpoints/epoch_1.pt"
    before = files(run)
    assert "best.pt, which would stay the best of this run" in refusal(home, first)
    assert files(run) == before
    result = call("train.py", first, "out_dir=branched", "optimizer.lr=1e-12", cwd=home)
    assert result.status == 0, result.err
    last = read_checkpoint(home / "branched/checkpoints/last.pt").state
    found = read_checkpoint(home / "branched").state
    assert (found["epoch"], found["images"]) == (last["best"]["epoch"], 0)
    assert found["best"]["score"] == last["best"]["score"]


def test_a_finished_run_says_so_and_stays_as_it_is(home: Path, whole: Path) -> None:
    run = copy(home, whole, "finished")
    before = files(run)
    result = resume(home, "finished")
    assert "finished/checkpoints/last.pt has finished after epoch 2" in result.out
    assert f"next: python {ROOT}/evaluate.py checkpoint=finished" in result.out
    assert files(run) == before


def test_a_finished_run_learns_nothing_from_other_values(home: Path, whole: Path) -> None:
    """They used to be shown as taken, and the old scores as theirs."""
    run = copy(home, whole, "at_the_end")
    before = files(run)
    message = refusal(home, "resume=at_the_end", "optimizer.lr=0.1", "loader.batch_size=4")
    assert "has finished after epoch 2, and optimizer.lr=0.1, loader.batch_size=4 would" in message
    assert files(run) == before
    result = call("train.py", "resume=at_the_end", "trainer.log_every=3", cwd=home)
    assert result.status == 0, result.err
    longer = ("resume=at_the_end", "optimizer.lr=0.1", "trainer.max_epochs=3")
    assert call("train.py", *longer, cwd=home).status == 0


def test_the_name_of_other_class_weights_is_another_value(home: Path) -> None:
    """The checkpoint holds numbers, and any name used to pass for that of these."""
    key = "loss.terms.ce.loss.class_weights"
    given = ("loss=ce", "trainer.max_epochs=1")
    train(home, "named", *given, f"{key}=enet")
    again = call("train.py", "resume=named", f"{key}=enet", cwd=home)
    assert "named/checkpoints/last.pt has finished after epoch 1" in again.out
    assert f"{key}=balanced would change nothing" in refusal(
        home, "resume=named", f"{key}=balanced"
    )
    train(home, "plain", *given)
    assert f"{key}=enet would change nothing" in refusal(home, "resume=plain", f"{key}=enet")
    train(home, "by_loss", *given, "trainer.monitor=val/loss", f"{key}=enet")
    more = ("resume=by_loss", "trainer.max_epochs=2")
    two = "trainer.monitor=val/loss would compare the values of two losses"
    assert two in refusal(home, *more, f"{key}=balanced")
    assert call("train.py", *more, f"{key}=enet", cwd=home).status == 0
    longer = ("resume=named", "trainer.max_epochs=2")
    assert call("train.py", *longer, f"{key}=enet", cwd=home).status == 0
    assert f"{key}=balanced would" in refusal(
        home, "resume=named", f"{key}=balanced"
    )  # still known


@pytest.mark.slow
def test_a_finished_run_leaves_nothing_in_a_new_folder(home: Path, whole: Path) -> None:
    result = call("train.py", "resume=whole/checkpoints/last.pt", "out_dir=nothing_new", cwd=home)
    assert result.status == 0, result.err
    assert "whole/checkpoints/last.pt has finished after epoch 2" in result.out
    assert not (home / "nothing_new").exists()


def test_another_number_format_is_tried_first(home: Path, whole: Path) -> None:
    copy(home, whole, "in_bf16")
    command = ("resume=in_bf16", "trainer.precision=bf16", "trainer.max_epochs=3")
    result = call("train.py", *command, cwd=home)
    assert result.status == 0, result.err
    assert "bf16 agrees with float32 on the first batch" in result.out
    again = call("train.py", "resume=in_bf16", "trainer.max_epochs=4", cwd=home)
    assert "epoch 4/4" in again.out
    assert "agrees with" not in again.out


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("more", [(), ("trainer.max_epochs=1",)])
def test_another_number_format_is_tried_before_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """Nothing was left of the epoch, so there was no batch to try it with."""

    def killed(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("segkit.training.validation.Validation.run", killed)
        with pytest.raises(Killed):
            call(
                "train.py", *SMALL, "trainer.save_every_steps=3", *more, "out_dir=run", cwd=tmp_path
            )
    result = call("train.py", "resume=run", "trainer.precision=bf16", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "bf16 agrees with float32 on the first batch" in result.out


@pytest.mark.slow
def test_a_longer_run_goes_on_with_its_own_schedule(home: Path, whole: Path) -> None:
    copy(home, whole, "longer")
    result = resume(home, "longer", "trainer.max_epochs=3")
    assert "resume: trainer.max_epochs 2 -> 3" in result.out
    assert "the schedule ends after epoch 3 now, not 2" in result.out
    assert lines(home / "longer")[:2] == lines(whole)
    # 9 steps, of which round(0.5 * 3) warm up; the last is step 8, counted from 0.
    assert lines(home / "longer")[2]["lr"] == pytest.approx(3e-3 * (1 - (8 - 2) / (9 - 2)) ** 0.9)
    assert (home / "longer/config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    assert "max_epochs: 3" in (home / "longer/config-from-step-6.yaml").read_text()
    points = curves(home / "longer")
    said = re.search(r"the next step has ([\d.]+) of the learning rate", result.out)
    assert said is not None
    assert float(said[1]) == pytest.approx(dict(points["within_epoch/lr"])[7] / 3e-3, abs=1e-4)
    drawn = {tag: [step for step, _ in values] for tag, values in points.items()}
    assert drawn["within_epoch/train/loss"] == list(range(1, 10))
    assert all(len({*steps}) == len(steps) for steps in drawn.values())


@pytest.mark.slow
def test_early_stopping_counts_across_a_resume(home: Path, whole: Path) -> None:
    # Nothing is ever 10 better than the first epoch, so the third is the last.
    patience = ("trainer.patience=2", "trainer.min_delta=10", "trainer.max_epochs=6")
    stop(home, "patience", 7, *patience)
    resume(home, "patience", *patience)
    assert [line["epoch"] for line in lines(home / "patience")] == [1, 2, 3]
    result = resume(home, "patience", *patience)
    assert "has finished after epoch 3; a larger trainer.patience goes on" in result.out


@pytest.mark.slow
def test_overrides_are_applied_and_shown(home: Path, stopped: Path) -> None:
    run = copy(home, stopped, "changed")
    result = call("train.py", "resume=changed", "optimizer.lr=0.1", "loss=focal", cwd=home)
    assert result.status == 0, result.err
    assert "resume: optimizer.lr 0.003 -> 0.1" in result.out
    assert "resume: loss.terms.focal None -> " in result.out
    first, second = lines(run)
    assert "train/loss/focal" in second
    assert "train/loss/focal" not in first
    # Five of six steps are done, of which the second half of the first epoch's warmed up.
    assert second["lr"] == pytest.approx(0.1 * (1 - (5 - 2) / (6 - 2)) ** 0.9)
    assert "lr: 0.1" in (run / "config-from-step-5.yaml").read_text()
    # What was exchanged once can be exchanged again.
    resume(home, "changed", "trainer.max_epochs=3", "loss=ce")
    assert [f"train/loss/{name}" in lines(run)[2] for name in ("ce", "focal")] == [True, False]


# What is refused


def refusal(home: Path, *arguments: str) -> str:
    result = call("train.py", *arguments, cwd=home)
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    return result.err


@pytest.mark.quick("val/iou/cta", "a=b=c")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model.aspp_channels=8", "model.aspp_channels=8 cannot change in a resumed run"),
        ("a=b=c", "a=b=c: expected key=value"),
        ("trainer.monitor=val/iou/cta", "val/iou/cta: no such logged value"),
    ],
)
def test_a_mistake_changes_nothing(home: Path, stopped: Path, given: str, expected: str) -> None:
    before = files(stopped)
    message = refusal(home, "resume=stopped", given)
    assert expected in message
    assert len(message.splitlines()) == 1
    assert files(stopped) == before


def test_a_folder_that_is_in_use_is_refused(home: Path, stopped: Path) -> None:
    before = files(stopped)
    assert "add resume=auto to go on with it" in refusal(home, *RUN, "out_dir=stopped")
    other = ("resume=stopped/checkpoints/last.pt", "out_dir=whole")
    assert "whole: holds a run already" in refusal(home, *other)
    with locked(stopped):
        message = refusal(home, *RUN, "out_dir=stopped", "resume=auto")
        assert "another run is writing there (process " in message
    assert files(stopped) == before


@pytest.mark.slow
def test_a_new_folder_that_is_in_use_is_refused(home: Path, whole: Path) -> None:
    (home / "taken").mkdir()
    with locked(home / "taken"):
        message = refusal(home, *RUN, "out_dir=taken")
    assert "another run is writing there (process " in message


def test_a_run_that_another_one_has_overtaken_is_refused(
    home: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both began with resume=auto and no folder; the other trains while this one checks files."""
    load = data.load_data

    def late(*arguments: Any) -> data.Data:
        copy(home, whole, "overtaken")
        return load(*arguments)

    monkeypatch.setattr(data, "load_data", late)
    message = refusal(home, *RUN, "out_dir=overtaken", "resume=auto")
    assert "overtaken: another run has written checkpoints there meanwhile" in message
    assert files(home / "overtaken") == files(whole)


@pytest.mark.slow
def test_data_with_other_classes_is_refused(home: Path, stopped: Path) -> None:
    shutil.copytree(home / "data/shapes", home / "other")
    names = (home / "other/labels.txt").read_text().splitlines()
    (home / "other/labels.txt").write_text("\n".join([*names[:-1], "moon"]) + "\n")
    assert "holds the classes" in refusal(home, "resume=stopped", "data.root=other")

    content = torch.load(stopped / "checkpoints/last.pt", weights_only=True)
    content["about"]["classes"][-1] = "moon"
    torch.save(content, home / "moon.pt")
    message = refusal(home, "resume=moon.pt", "out_dir=moon")
    assert "moon.pt knows the classes" in message
    assert "use init_from instead of resume" in message


# What long trainings need


@pytest.mark.slow
def test_the_best_epochs_keep_their_checkpoints(home: Path, whole: Path) -> None:
    more = ("trainer.keep_best=2", "trainer.max_epochs=3")
    run = stop(home, "kept", 5, *more)
    resume(home, "kept", *more)
    order = sorted(lines(run), key=lambda line: (-line["val/miou"], line["epoch"]))
    kept = {f"epoch_{line['epoch']}.pt" for line in order[:2]}
    found = {file.name for file in (run / "checkpoints").iterdir()}
    assert found == {"last.pt", "previous.pt", "best.pt", *kept}
    for line in order[:2]:
        assert state_of(run, f"epoch_{line['epoch']}.pt")["epoch"] == line["epoch"]
    assert state_of(run, "best.pt")["epoch"] == order[0]["epoch"]


def backbone(run: Path, name: str) -> dict[str, torch.Tensor]:
    weights = state_of(run, name)["model"]
    return {name: value for name, value in weights.items() if name.startswith("backbone.")}


@pytest.mark.slow
def test_a_backbone_that_is_frozen_at_first(home: Path, whole: Path) -> None:
    more = ("trainer.freeze_epochs=1", "loader.freeze_batch_size=4", "trainer.keep_best=2")
    run = train(home, "frozen", *more)
    # Three batches of four make a step of two and one of one; then come six of two in three steps.
    assert [line["step"] for line in lines(run)] == [2, 5]
    stop(home, "thawed", 0, *more)
    early = backbone(home / "thawed", "last.pt")
    assert_same(early, backbone(run, "epoch_1.pt"))
    changed = backbone(run, "epoch_2.pt")
    assert not any(
        torch.equal(early[name], changed[name])
        for name in early
        if not name.endswith("num_batches_tracked")
    )
    head = [state_of(run, f"epoch_{n}.pt")["model"]["classifier.weight"] for n in (1, 2)]
    assert not torch.equal(state_of(home / "thawed")["model"]["classifier.weight"], head[0])
    assert not torch.equal(*head)
    # Across the border, and once more behind it.
    stop(home, "thawed", 3, *more, "resume=auto")
    resume(home, "thawed", *more)
    assert_same_run(home / "thawed", run)


def fail_to_save(patch: pytest.MonkeyPatch, times: int) -> None:
    """The disk is full, for so many times."""
    save, left = torch.save, times

    def full(content: object, file: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(28, "No space left on device")
        save(content, file)

    patch.setattr(torch, "save", full)


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(home: Path, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_to_save(patch, 1)
        train(home, "full_once")
    log = (home / "full_once/train.log").read_text()
    assert log.count("No space left on device") == 1
    found, expected = state_of(home / "full_once"), state_of(whole)
    # Only an epoch that has a file can be the best.
    assert found.pop("best")["epoch"] == state_of(home / "full_once", "best.pt")["epoch"] == 2
    del expected["best"]
    assert_same(found, expected)
    assert lines(home / "full_once") == lines(whole)


@pytest.mark.slow
@pytest.mark.quick("[4-")
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, "full_stop_1 holds no checkpoint, and the run begins anew"),
        (4, "resume=full_stop_4 goes on from step 3, not 5"),
    ],
)
def test_a_stop_that_cannot_be_saved_says_where_the_run_goes_on(
    home: Path, step: int, expected: str
) -> None:
    def full() -> None:
        fail_to_save(patch, 1)
        send(signal.SIGTERM)()

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, full)
        train(home, f"full_stop_{step}", status=143)
    log = (home / f"full_stop_{step}/train.log").read_text()
    assert "No space left on device" in log
    assert "Training goes on" not in log
    assert log.endswith(f"stopped by signal 15; {expected}\n")


@pytest.mark.slow
def test_a_disk_that_stays_full(home: Path, whole: Path) -> None:
    """The training is done and logged, and the exit status tells that its result is lost."""
    with pytest.MonkeyPatch.context() as patch:
        fail_to_save(patch, 100)
        result = call("train.py", *RUN, "out_dir=full", cwd=home)
    assert result.status == 1
    assert "could not be written (No space left on device; is the disk full?)" in result.err
    assert len(result.err.splitlines()) == 1
    assert lines(home / "full") == lines(whole)
    assert list((home / "full/checkpoints").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_stops_the_run_if_that_is_wanted(home: Path, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_to_save(patch, 1)
        train(home, "full_stop", "trainer.on_save_error=stop", status=1)
    assert len(lines(home / "full_stop")) == 1
    resume(home, "full_stop", "trainer.on_save_error=stop")
    assert_same(state_of(home / "full_stop"), state_of(whole))
