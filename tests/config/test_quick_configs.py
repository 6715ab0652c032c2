"""What tests compose is what a script composes: their short cuts change nothing."""

import copy
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError
from scripts import call, spawn


def test_a_copy_is_equal_and_apart() -> None:
    cfg = OmegaConf.create({"a": {"b": [1, {"c": "${a.d}"}], "d": 2}, "e": "???", "f": None})
    OmegaConf.set_struct(cfg.a, True)
    whole, part = copy.deepcopy(cfg), copy.deepcopy(cfg.a)
    assert isinstance(whole, DictConfig)
    assert whole == cfg
    assert whole.a.b[1]._get_parent() is whole.a.b
    assert whole.a.b[1].c == 2
    assert part._get_parent() is cfg  # as OmegaConf has it
    whole.a.b[1].c, part.d = 3, 4
    assert (cfg.a.b[1].c, cfg.a.d) == (2, 2)
    OmegaConf.set_struct(cfg.a, False)
    with pytest.raises(ConfigAttributeError):
        whole.a.new = 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["experiment=camvid", "loss=[ce,dice]", "seed=3"]])
def test_a_process_of_its_own_composes_the_same(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    command = ("train.py", "--cfg", "job", *arguments)
    own = spawn(*command, cwd=tmp_path / "here")
    assert own.status == 0, own.err
    assert call(*command, cwd=tmp_path / "here").out == own.out
