"""examples/demo.py: its function, and its page where Gradio is installed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import ROOT
from trained import CLASSES, photo, save_model

from segkit import load_model
from segkit.errors import DataError


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import demo

    return demo


def test_masks_and_shares(demo: Any, tmp_path: Path) -> None:
    model = load_model(save_model(tmp_path / "best.pt"), device="cpu")
    image = photo(40, 56)
    (shown, masks), shares = demo.segment(model, image)
    expected = model.predict(image)
    assert shown is image
    assert [name for _, name in masks] == [CLASSES[i] for i in np.unique(expected)]
    for mask, name in masks:
        assert mask.dtype == np.float32
        assert np.array_equal(mask, expected == CLASSES.index(name))
        assert shares[name] == pytest.approx(float((expected == CLASSES.index(name)).mean()))
    assert sum(shares.values()) == pytest.approx(1)
    with pytest.raises(DataError, match="there is no image"):
        demo.segment(model, None)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio")
def test_the_page(tmp_path: Path) -> None:
    """In a process of its own: Gradio leaves event loops open."""
    save_model(tmp_path / "best.pt")
    code = (
        "import json, demo, segkit; page = demo.build(segkit.load_model('best.pt', device='cpu'));"
        "print(json.dumps([part['type'] for part in page.get_config_file()['components']]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=os.environ
        | {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "examples", ROOT))),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"image", "annotatedimage", "label"} <= set(json.loads(done.stdout.splitlines()[-1]))
