"""Hundreds of random command lines: each is accepted, or refused in a readable message of ours."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from segkit.cli import check_command_line, run
from segkit.cli.command import CONFIGS

COMMAND_LINES = 560
LIMIT = 10  # seconds for one command line

VALUES = """
0 1 -1 3 0.5 -0.5 1e-3 1e400 -1e400 nan inf 010 0x10 1_000 99999999999999999999999999999 1e9
12:30:45 true false yes no on off null ~ None ??? auto cpu cuda:0 cuda:x bf16 fp61 min val/miou
val/iou/cat abc 'a b' "a b" 'it\'s' "" '' [] {} [1] [1,2] [1,2,3] [a,b] [null] [[1],[2]]
[0.1,0.2,0.3] [nan,0,1] [5] [null,5] {a:1} {255:1} {a:{b:[1,2]}} {_partial_:true} {_args_:[1]}
{_target_:segkit.losses.DiceLoss} {_target_:segkit.losses.FocalLoss,gamma:x} {_target_:nope.Nope}
{_target_:5} [{_target_:albumentations.HorizontalFlip}]
[{_target_:albumentations.HorizontalFlip,q:1}]
segkit.losses.FocalLoss torch.nn.Identity torch.nn.Conv2d torch.optim.Adam builtins.dict nope
nope.nope . .. / a/b ./x ../x ~/x ${seed} ${nope} ${data.root} ${trainer}
${trainer.max_epochs} ${.x}
${..} ${oc.env:NOPE} ${oc.env:NOPE,3} ${oc.env:HOME} ${oc.create:{a:1}} ${oc.decode:'['}
${oc.nope:1}
${ ${} $ {} }{ ][ [1 {a 'x "x (1) 1,2 a,b choice(1,2) range(1,4) glob(*) int(3) float(3) str(3)
bool(x) sort(3,1) shuffle(1,2) interval(0,1) f(x) a=b 'a=b' a:b a@b %20 # * & | ; ! ? < > $(x) `x`
%s {0} \\ \\ \t \n a\\,b
"""
ODD_VALUES = [
    "",
    " ",
    "a b",
    " 1 ",
    "\t",
    "\n",
    "\0",
    "\x7f",
    "\u00e4",
    "\u65e5\u672c",
    "\U0001f642",
]
CHOICES = "ce focal dice focl [ce,dice] [ce,dicc] [] null none 5 tiny resnet18 nope ../x"
JUNK = [
    "",
    "=",
    "x",
    "=3",
    "a.b.c",
    "seed",
    "seed==3",
    "seed =3",
    "seed= 3",
    "a=b=c",
    "--seed=3",
    "-seed=3",
    "--trainer.max_epochs 3",
    ".seed=3",
    "seed.=3",
    "seed.x=3",
    "trainer..device=cpu",
    "trainer/device=cpu",
    "data.classes[0]=a",
    "augment.train.0=5",
    "augment.train.99=5",
    "loss.terms.ce=null",
    "loss.terms.ce.loss=null",
    "+loss.terms.dice=5",
    "model@x=deeplabv3plus",
    "loss@=ce",
    "@loss=ce",
    "~",
    "+",
    "++",
    "+=3",
    "~=3",
    "+seed=3",
    "~seed=3",
    "~seed=0",
    "seed=1 seed=2",
]


class Hang(BaseException):
    pass


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Every key of a configuration, of its schema and of its components."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        for key in node:
            name = f"{path}.{key}" if path else str(key)
            yield name
            yield from keys_of(node._get_node(key), name)


def one_override(rng: np.random.Generator, keys: list[str], groups: list[str]) -> str:
    def pick(options: Any) -> str:
        return str(options[rng.integers(len(options))])

    kind, key = rng.integers(10), pick(keys)
    value = pick(VALUES.split()) if rng.random() < 0.9 else pick([*ODD_VALUES, "x" * 5000])
    if kind == 0:
        return pick(JUNK)
    if kind == 1:
        return f"{pick(groups)}={pick(CHOICES.split())}"
    if kind == 2:
        return f"~{key}" if rng.random() < 0.7 else f"~{key}={value}"
    if kind == 3:
        return f"{pick(['+', '++'])}{key}{pick(['', 's', '.x'])}={value}"
    if kind == 4:  # a letter is missing, doubled, or another
        place = int(rng.integers(len(key)))
        return f"{key[:place]}{pick(['', 2 * key[place], 'q'])}{key[place + 1 :]}={value}"
    return f"{key}={value}"


def outcome(overrides: list[str], patch: pytest.MonkeyPatch) -> str:
    """``accepted`` or ``refused``; anything else fails."""

    def end(number: int, frame: object) -> None:
        raise Hang(overrides)

    patch.setattr(sys, "argv", ["train.py", *overrides])
    limit = LIMIT if overrides else 10 * LIMIT  # the first one imports all that is slow
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(limit)
    try:
        check_command_line("train")
        run("train", lambda cfg: None)
    except SystemExit as error:
        assert isinstance(error.code, str), error.code
        assert error.code.startswith("error: ")
        assert len(error.code) > 15
        assert "Traceback" not in error.code
        if "\n" not in "".join(overrides):
            assert all(x.startswith("       ") for x in error.code.splitlines()[1:]), error.code
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "accepted"


@pytest.mark.slow
def test_a_command_line_is_accepted_or_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        keys = list(keys_of(compose("train")))
    groups = [p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*") if p.is_dir()]
    assert len(keys) > 60
    assert outcome([], monkeypatch) == "accepted"
    begin = time.perf_counter()
    found: Counter[str] = Counter()
    failures = []
    for number in range(COMMAND_LINES):
        rng = np.random.default_rng([5, number])
        overrides = [one_override(rng, keys, groups) for _ in range(1 + (rng.random() < 0.2))]
        try:
            found[outcome(overrides, monkeypatch)] += 1
        except Exception as error:
            failures.append(f"{overrides}: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - begin
    print(f"{COMMAND_LINES} command lines in {seconds:.1f} s: {dict(found)}")
    assert failures == []
    assert sum(found.values()) == COMMAND_LINES
    assert min(found["accepted"], found["refused"]) > 0.05 * COMMAND_LINES
    assert list(tmp_path.iterdir()) == []


# What a value can be at worst, for a key that is in the schema or an argument of a component
HOSTILE = [
    *(
        "99999999999999999999",
        "1e400",
        "nan",
        "-inf",
        "0.5",
        "-1",
        "2",
        "''",
        "[]",
        "{}",
        "null",
        "true",
    ),
    *(
        "[1,[2]]",
        "[null]",
        "{a:{b:1}}",
        "\u00e4\u65e5",
        "'a\0b'",
        "x" * 3000,
        "9" * 5000,
        "${nope}",
    ),
    *("${oc.env:NOPE}", "${oc.env:HOME}", "'${oc.nope:1}'", "'${oc.select:nope,5}'"),
    *("'${oc.decode:\"[1,2]\"}'", "'${oc.decode:\"[\"}'", "'${oc.create:{a:1}}'"),
    *("'${oc.create:[1,2]}'", "'${oc.dict.keys:data}'"),
]
COMPONENTS = ("data.", "augment.", "optimizer.", "scheduler.", "loss.", "model.")
KNOWN = {
    "data.dataset.root=2": r"data\.dataset\.root=2: expected a text",
    "data.dataset.root=[a]": r"data\.dataset\.root=\['a'\]: expected a text",
    '+experiment=${oc.decode:"[1,2]"}': r"\+experiment=.*: Hydra cannot compose this",
    "optimizer=3": r"optimizer=3: Hydra cannot compose this .* takes the name of a file",
    f"trainer.max_epochs={'9' * 5000}": "a number of thousands of digits",
    f"loss={'x' * 3000}": "loss=x",
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("override", list(KNOWN), ids=range(len(KNOWN)))
def test_what_a_library_stumbles_over_is_said(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", override])
    with pytest.raises(SystemExit, match=KNOWN[override]) as error:
        check_command_line("train")
        run("train", lambda cfg: None)
    assert "CheckJobs" not in str(error.value)
    assert "set_int_max" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.filterwarnings("ignore::UserWarning")  # OmegaConf's own
def test_every_argument_of_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        keys = [key for key in keys_of(compose("train")) if key.startswith(COMPONENTS)]
    keys += [f"augment.train.0.{name}" for name in ("_target_", "p", "scale", "nope")]
    assert len(keys) > 50
    rng = np.random.default_rng(6)
    failures = []
    for key in keys:
        for value in rng.choice(HOSTILE, 4, replace=False):
            try:
                outcome([f"{key}={value}"], monkeypatch)
            except Exception as error:
                failures.append(f"{key}={value[:60]}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
