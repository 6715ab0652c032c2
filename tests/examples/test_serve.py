"""examples/serve.py: what it answers, to good requests and to all others."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT, call
from trained import CLASSES, photo, save_model

from segkit import load_model

fastapi = pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("python_multipart", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

MAX_BYTES, MAX_PIXELS = 20_000, 100 * 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = save_model(tmp_path_factory.mktemp("serve") / "run/checkpoints/best.pt")
    return load_model(path, device="cpu")


@pytest.fixture
def client(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from serve import create_app

    app = create_app(model, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    with TestClient(app) as opened:
        yield opened


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_a_mask(client: Any, model: Any) -> None:
    answer = client.post("/mask", files={"image": encoded(Image.fromarray(photo(40, 56)))})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer.content)) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        assert np.array_equal(np.asarray(mask), model.predict(photo(40, 56)))


def test_areas(client: Any, model: Any) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side
    image = encoded(Image.fromarray(photo(40, 56)), exif=turned)
    answer = client.post("/areas", files={"image": image})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["height"], found["width"]) == (56, 40)
    assert list(found["areas"]) == CLASSES
    mask = model.predict(Image.open(io.BytesIO(image)))
    for number, name in enumerate(CLASSES):
        pixels = int((mask == number).sum())
        assert found["areas"][name]["pixels"] == pixels
        assert found["areas"][name]["percent"] == pytest.approx(100 * pixels / 2240, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        (lambda: b"", 400, "the image: "),
        (lambda: b"some text", 400, "the image: "),
        (lambda: encoded(Image.fromarray(photo(40, 56)))[:150], 400, "the image: "),
        (lambda: encoded(Image.fromarray(photo(40, 56)), "PDF"), 400, "the image: "),
        (lambda: encoded(Image.new("1", (101, 100))), 413, "has 100 x 101 pixels; expected at "),
        (lambda: bytes(MAX_BYTES + 1), 413, "the request is too large; expected at most 0.01"),
    ],
)
@pytest.mark.parametrize("route", ["/mask", "/areas"])
def test_what_is_no_image(
    route: str, content: Callable[[], bytes], status: int, expected: str, client: Any
) -> None:
    answer = client.post(route, files={"image": content()})
    detail = answer.json()["detail"]
    assert answer.status_code == status, detail
    assert expected in detail
    assert "/tmp" not in detail


def test_a_body_without_length_is_cut_off_too(client: Any) -> None:
    asked = 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(1000):
            asked += 1
            yield bytes(1000)

    head = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/mask", content=pieces(), headers=head)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "given",
    [{}, {"data": {"image": "text"}}, {"files": {"photo": b"x"}}, {"json": {"image": 3}}],
)
def test_a_request_without_an_image(given: dict[str, Any], client: Any) -> None:
    answer = client.post("/mask", **given)
    assert (answer.status_code, answer.json()["detail"][:43]) == (
        422,
        "expected a form with a file in the field im",
    )


def test_a_wrong_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"text")
    result = call(str(ROOT / "examples/serve.py"), "a.pt", cwd=tmp_path)
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
