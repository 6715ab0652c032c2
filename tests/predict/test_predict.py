"""predict.py: images and videos to files, whatever goes wrong with some of them."""

import csv
import os
import runpy
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from processes import run_apart
from scripts import ROOT, Result, call
from trained import CLASSES, photo, save_model

from segkit.data.masks import read_mask
from segkit.errors import ConfigError, DataError
from segkit.inference.model import SegmentationModel, load_model
from segkit.predict import video
from segkit.predict.outputs import PredictionOutputs
from segkit.predict.stopwatch import Stopwatch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("predict") / "run/checkpoints/best.pt").parents[1]


@pytest.fixture(scope="module")
def model(run: Path) -> SegmentationModel:
    return load_model(run, device="cpu")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with images of two sizes in it."""
    for i, name in enumerate(("a.png", "deep/er/b.png", "deep/c.png")):
        path = tmp_path / "here/photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(40, 56 - 8 * (i % 2), seed=i)).save(path)
    return tmp_path / "here"


@pytest.fixture(autouse=True)
def no_early_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the early look at the command line: :func:`segkit.cli.run` looks again."""
    monkeypatch.setattr("segkit.cli.check_command_line", lambda name: None)


def predict(run: Path, source: object, *arguments: str, cwd: Path) -> Result:
    common = (f"checkpoint={run}", f"source={source}", "device=cpu")
    return call("predict.py", *common, *arguments, cwd=cwd)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "areas.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def film(path: Path, count: int = 7, size: tuple[int, int] = (48, 64), fps: float = 12.5) -> Path:
    """A video whose frames get lighter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size[::-1])
    for i in range(count):
        writer.write(photo(*size) // 2 + 15 * (i % 8))
    writer.release()
    return path


def frames(path: Path) -> list[NDArray[np.uint8]]:
    with video.open_video(path) as opened:
        return list(opened.frames())


def test_a_folder_becomes_palette_pngs(run: Path, model: SegmentationModel, here: Path) -> None:
    result = predict(run, "photos", cwd=here)
    assert result.status == 0, result.err
    assert result.out == "3 images predicted; written to predictions\n"
    out = here / "predictions"
    expected = ["areas.csv", "index/a.png", "index/deep/c.png", "index/deep/er/b.png"]
    assert files(out) == expected
    for name in ("a.png", "deep/er/b.png"):
        mask = read_mask(out / "index" / name)
        assert np.array_equal(mask, model.predict(here / "photos" / name))
        with Image.open(out / "index" / name) as image:
            assert image.mode == "P"
            assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    row = rows(out)[0]
    mask = model.predict(here / "photos/a.png")
    assert (row["source"], row["frame"], row["pixels"]) == ("photos/a.png", "", str(40 * 56))
    for i, name in enumerate(CLASSES):
        count = int((mask == i).sum())
        assert int(row[f"{name} pixels"]) == count
        assert float(row[f"{name} percent"]) == pytest.approx(100 * count / (40 * 56), abs=1e-4)


def test_an_overlay_has_a_legend_and_outlines_in_own_colours(
    run: Path, model: SegmentationModel, here: Path
) -> None:
    (here / "colors.yaml").write_text("disk: '#0a141e'\nsquare: [1, 2, 3]\n")
    look = ("palette=colors.yaml", "outlines=true", "opacity=0")
    result = predict(run, "photos/a.png", "write=[overlay,color]", *look, cwd=here)
    assert result.status == 0, result.err
    image, mask = photo(40, 56), model.predict(photo(40, 56))
    palette = np.array([[0, 0, 0], [10, 20, 30], [1, 2, 3]], np.uint8)
    assert np.array_equal(read(here / "predictions/color/a.png"), palette[mask])
    # A border pixel has another class among its neighbours, diagonal ones too.
    padded = np.pad(mask, 1, mode="edge")
    near = [padded[i : i + 40, j : j + 56] != mask for i in range(3) for j in range(3)]
    border = np.any(near, axis=0) & (mask != 0)  # the background stays as it is
    drawn = read(here / "predictions/overlay/a.png")
    assert np.array_equal(drawn[:40, :56], np.where(border[..., None], palette[mask], image))
    legend = drawn[40:]
    assert len(legend) > 12
    shown = {tuple(color) for color in legend.reshape(-1, 3).tolist()}
    assert {tuple(palette[i].tolist()) for i in np.unique(mask) if i} <= shown


def test_a_video_has_one_legend_if_it_is_small(tmp_path: Path) -> None:
    """All frames have one size, whatever they show."""
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[2] = (200, 0, 0), (0, 0, 200)
    outputs = PredictionOutputs(tmp_path, ["overlay"], CLASSES, palette)
    for name, size in (("large", (120, 160)), ("small", (24, 32))):
        with outputs.open_videos(name, 5.0) as write:
            for shown in (0, 1):
                mask = np.full(size, shown, np.uint8)
                write(np.zeros((*size, 3), np.uint8), mask, None)
    large, small = (frames(tmp_path / f"overlay/{name}.mp4") for name in ("large", "small"))
    assert len(large) == len(small) == 2
    assert large[0].shape == large[1].shape
    assert 120 < large[0].shape[0] <= 180
    assert small[0].shape == (24, 32, 3)  # three names would take more than half as much again


def test_everything_that_can_be_written(run: Path, model: SegmentationModel, here: Path) -> None:
    kinds = "write=[index,overlay,color,cutout,probs,index]"
    look = ("opacity=0.25", "legend=false")
    result = predict(run, "photos/a.png", kinds, *look, "out_dir=out", cwd=here)
    assert result.status == 0, result.err
    out = here / "out"
    suffixes = {"probs": "npz"}
    kinds_found = ["color", "cutout", "index", "overlay", "probs"]
    expected = [f"{kind}/a.{suffixes.get(kind, 'png')}" for kind in kinds_found]
    assert files(out) == ["areas.csv", *expected]
    image = photo(40, 56)
    mask = model.predict(image)
    assert 0 < (mask == 0).mean() < 1
    assert np.array_equal(read(out / "color/a.png"), model.palette[mask])
    mixed = np.rint(0.75 * image + 0.25 * model.palette[mask])
    background = (mask == 0)[..., None]
    assert np.array_equal(read(out / "overlay/a.png"), np.where(background, image, mixed))
    cutout = read(out / "cutout/a.png")
    assert np.array_equal(cutout[..., :3], image)
    assert np.array_equal(cutout[..., 3], np.where(mask == 0, 0, 255))
    with np.load(out / "probs/a.npz") as saved:
        assert saved["classes"].tolist() == CLASSES
        assert saved["probs"].dtype == np.float16
        np.testing.assert_allclose(saved["probs"], model.probabilities(image), atol=5e-4)


def test_windows_and_more_looks_are_those_of_the_library(run: Path, here: Path) -> None:
    settings = (
        "tta.flip=true",
        "tta.scales=[1,1.5]",
        "window.size=[32,32]",
        "window.stride=[16,16]",
    )
    result = predict(run, "photos/a.png", *settings, cwd=here)
    assert result.status == 0, result.err
    like = load_model(
        run, device="cpu", flip=True, scales=[1, 1.5], window=(32, 32), stride=(16, 16)
    )
    found = read_mask(here / "predictions/index/a.png")
    assert np.array_equal(found, like.predict(photo(40, 56)))


def test_what_cannot_be_read_is_left_out(run: Path, here: Path) -> None:
    (here / "photos/broken.jpg").write_bytes(b"text")
    (here / "photos/empty.mp4").touch()
    result = predict(run, "photos", cwd=here)
    assert result.status == 1
    assert "left out: photos/broken.jpg: is no image" in result.out
    assert "2 of 5 could not be read or written, the others were predicted" in result.err
    assert "photos/empty.mp4: is empty (0 bytes)" in result.err
    assert "Traceback" not in result.err
    assert len(files(here / "predictions/index")) == 3
    assert len(rows(here / "predictions")) == 3


def test_results_of_an_earlier_run_are_told(run: Path, here: Path) -> None:
    assert predict(run, "photos", "write=[index,color]", cwd=here).status == 0
    assert "earlier" not in predict(run, "photos", "write=[index,color]", cwd=here).out
    (here / "photos/a.png").unlink()
    result = predict(run, "photos", cwd=here)
    assert result.status == 0, result.err
    assert (
        "are still in predictions: 4 in color, index, such as predictions/color/a.png" in result.out
    )
    # The advice is right.
    assert "earlier" not in predict(run, "photos", "out_dir=other", cwd=here).out
    film(here / "film.mp4")
    for _ in range(2):
        result = predict(run, "film.mp4", "write=[index,overlay]", "out_dir=film", cwd=here)
        assert result.status == 0, result.err
        assert "earlier" not in result.out


def test_names_that_collide_overwrite_nothing(run: Path, here: Path) -> None:
    Image.fromarray(photo(24, 24, seed=9)).save(here / "photos/a.jpg")
    assert predict(run, "photos", cwd=here).status == 0
    assert read_mask(here / "predictions/index/a.jpg.png").shape == (24, 24)
    assert read_mask(here / "predictions/index/a.png.png").shape == (40, 56)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("opacity=2 write=[overlay]", "opacity=2.0: expected a number from 0 to 1"),
        ("opacity=0.2", "opacity=0.2: is for write=[overlay]"),
        ("legend=false", "legend=false: is for write=[overlay]"),
        ("write=[color] background=disk", "background=disk: is for write=[overlay] or [cutout]"),
        ("max_frames=3", "max_frames=3: is for a video or camera"),
        ("write=[indx]", "write=['indx']: no such value; did you mean index?"),
        ("write=[]", "write=[]: nothing to write"),
        ("write=[cutout] background=disc", "background=disc is no class; did you mean disk?"),
        ("write=[overlay] background=disc", "background=disc is no class; did you mean disk?"),
        ("source=none", "source=none: no such file or folder"),
        ("out_dir=photos", "the folder of the images; give out_dir=FOLDER, another"),
        (
            "out_dir=photos/a.png",
            "photos/a.png: cannot be written to (File exists); give out_dir=FOLDER, one that can",
        ),
        ("checkpoint=[]", "checkpoint=[]: expected at least one"),
        ("checkpoint=none.pt", "checkpoint=none.pt: no such file or folder"),
        ("windw.size=[2,2]", "windw: no such key; did you mean window?"),
    ],
)
def test_mistakes_end_before_anything_is_written(
    arguments: str, message: str, run: Path, here: Path
) -> None:
    result = predict(run, "photos", *arguments.split(), cwd=here)
    assert result.status == 1
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert not (here / "predictions").exists()


def test_sources_are_never_replaced(run: Path, here: Path) -> None:
    (here / "photos").rename(here / "index")
    before = (here / "index/a.png").read_bytes()
    result = predict(run, "index", "out_dir=.", cwd=here)
    assert result.status == 1
    assert "the results would come to index, where the images are" in result.err
    assert (here / "index/a.png").read_bytes() == before
    assert predict(run, "index", "out_dir=other", cwd=here).status == 0


@pytest.mark.slow
def test_names_that_are_no_text(run: Path, here: Path) -> None:
    (here / "photos/a.png").rename(here / "photos" / os.fsdecode(b"\xe9t\xe9.png"))
    assert predict(run, "photos", cwd=here).status == 0
    assert (here / "predictions/index" / os.fsdecode(b"\xe9t\xe9.png")).exists()
    assert b"\nphotos/\xe9t\xe9.png," in (here / "predictions/areas.csv").read_bytes()


def test_what_cannot_be_written_is_left_out(run: Path, here: Path) -> None:
    (here / "predictions/index/a.png").mkdir(parents=True)
    (here / "photos/c.png").write_bytes((here / "photos/a.png").read_bytes())
    (here / "photos/a.png").rename(here / "photos" / f"{'x' * 250}.png")
    (here / "photos/c.png").rename(here / "photos/a.png")
    result = predict(run, "photos", cwd=here)
    assert result.status == 1
    assert "predictions/index/a.png: cannot be written (Is a directory)" in result.err
    assert f"{'x' * 250}.png: cannot be written (File name too long)" in result.err
    assert "2 of 4 could not be read or written, the others were predicted" in result.err
    assert files(here / "predictions/index") == ["deep/c.png", "deep/er/b.png"]


@pytest.mark.slow
def test_an_upright_video_stays_upright(run: Path, here: Path) -> None:
    """Phones store frames as the sensor sees them, with the turn in the file's head."""
    path = film(here / "clip.mp4", size=(48, 64))
    content = path.read_bytes()
    one, quarter_turn = (1).to_bytes(2, "big") + bytes(2), (-1).to_bytes(2, "big", signed=True)
    upright = one + bytes(12) + one
    assert content.count(upright, content.index(b"tkhd")) >= 1
    start = content.index(upright, content.index(b"tkhd"))
    turned = bytes(4) + one + bytes(4) + quarter_turn + bytes(2) + bytes(4)
    path.write_bytes(content[:start] + turned + content[start + len(turned) :])
    assert predict(run, "clip.mp4", "write=[color,index]", cwd=here).status == 0
    assert read_mask(here / "predictions/index/clip/000001.png").shape == (64, 48)
    assert {f.shape for f in frames(here / "predictions/color/clip.mp4")} == {(64, 48, 3)}


def test_a_video_becomes_a_video(run: Path, model: SegmentationModel, here: Path) -> None:
    film(here / "clip.mp4")
    result = predict(run, "clip.mp4", "write=[overlay,color,index]", "out_dir=out", cwd=here)
    assert result.status == 0, result.err
    originals = frames(here / "clip.mp4")
    for kind in ("overlay", "color"):
        with video.open_video(here / f"out/{kind}/clip.mp4") as opened:
            assert (opened.fps, opened.count) == (12.5, 7)
            assert {f.shape for f in opened.frames()} == {(48, 64, 3)}
    masks = [read_mask(here / f"out/index/clip/{i + 1:06d}.png") for i in range(7)]
    for mask, frame in zip(masks, originals, strict=True):
        assert np.array_equal(mask, model.predict(frame))
    colored = frames(here / "out/color/clip.mp4")[3]  # through a lossy codec
    assert abs(colored.astype(float) - model.palette[masks[3]]).mean() < 25
    assert [row["frame"] for row in rows(here / "out")] == [str(i) for i in range(1, 8)]


@pytest.mark.slow
def test_a_video_alone_gives_an_overlay_and_can_be_cut_short(run: Path, here: Path) -> None:
    film(here / "clip.mp4")
    assert predict(run, "clip.mp4", "max_frames=3", cwd=here).status == 0
    assert files(here / "predictions") == ["areas.csv", "overlay/clip.mp4"]
    assert len(frames(here / "predictions/overlay/clip.mp4")) == 3


def test_frames_of_an_odd_size_lose_nothing(tmp_path: Path) -> None:
    image = photo(47, 63)
    with video.write_video(tmp_path / "odd.mp4", 30000 / 1001) as write:
        for _ in range(3):
            write(image)
    with video.open_video(tmp_path / "odd.mp4") as opened:
        assert opened.fps == pytest.approx(29.97)
        found = list(opened.frames())
    assert [frame.shape for frame in found] == [(48, 64, 3)] * 3
    assert abs(found[0][:47, :63].astype(float) - image).mean() < 12


class Writer:
    """An encoder of H.264 by OpenCV's rules, though the file says MPEG-4 Part 2."""

    def __init__(self, real: Any, opens: bool, shift: int, codecs: list[str]) -> None:
        self.real, self.opens, self.shift, self.codecs = real, opens, shift, codecs

    def fourcc(self, *letters: str) -> str:
        return "".join(letters)

    def __call__(self, path: str, codec: str, fps: float, size: tuple[int, int]) -> "Writer":
        self.codecs.append(codec)
        self.shifts = self.shift if codec == "avc1" else 0
        self.isOpened = lambda: self.opens or codec != "avc1"
        self.file = self.real(path, self.real.fourcc(*"mp4v"), fps, size)
        return self

    def write(self, frame: NDArray[np.uint8]) -> None:
        self.file.write(frame + np.uint8(self.shifts))

    def release(self) -> None:
        self.file.release()


@pytest.mark.parametrize(
    ("opens", "shift", "codecs"),
    [
        (True, 0, ["avc1", "avc1"]),  # tried, and taken
        (True, 64, ["avc1", "mp4v"]),  # writes other colours
        (False, 0, ["avc1", "mp4v"]),
    ],
)
def test_h264_is_taken_where_it_shows_what_it_was_given(
    opens: bool,
    shift: int,
    codecs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(cv2, "VideoWriter", Writer(cv2.VideoWriter, opens, shift, opened))
    monkeypatch.chdir(tmp_path)
    image = photo(48, 64) // 2
    with (
        caplog.at_level("INFO", "segkit"),
        video.write_video(tmp_path / "out/a film.mp4", 25) as write,
    ):
        for _ in range(3):
            write(image)
    assert opened == codecs
    assert files(tmp_path) == ["out/a film.mp4"]
    found = frames(tmp_path / "out/a film.mp4")
    assert len(found) == 3
    assert abs(found[0].astype(float) - image).mean() < 12
    lines = [
        "out/a film.mp4: browsers do not play it, since OpenCV has no H.264 encoder here. FFmpeg "
        "does: ffmpeg -i 'out/a film.mp4' -c:v libx264 -pix_fmt yuv420p -movflags +faststart "
        "'out/a film.h264.mp4'"
    ]
    assert caplog.messages == lines * (codecs[-1] == "mp4v")


def test_videos_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"text" * 100)
    with pytest.raises(DataError, match=r"text\.mp4: cannot be opened as a video"):
        video.Video(tmp_path / "text.mp4")
    with pytest.raises(DataError, match="no such file"):
        video.Video(tmp_path / "none.mp4")
    with pytest.raises(DataError, match="camera 99: cannot be opened"):
        video.Video(99)


def test_videos_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.mp4").write_bytes(b"text" * 100)
    with (
        pytest.raises(DataError, match="cannot be written"),
        video.write_video(tmp_path / "text.mp4/a.mp4", 25) as write,
    ):
        write(photo())
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False, raising=False)
    with (
        pytest.raises(DataError, match=r"none: no video can be written there"),
        video.write_video(tmp_path / "none/a.mp4", 25) as write,
    ):
        write(photo())
    assert files(tmp_path) == ["text.mp4"]


class Capture:
    """A camera, or a file that promises more frames than it has."""

    def __init__(self, count: float, frames: int) -> None:
        self.count, self.left = count, frames

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: self.count}[what]

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, photo(48, 64)

    def release(self) -> None:
        self.left = -1


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[object, Capture]]:
    """What is opened instead of the sources that are named in it."""
    known: dict[object, Capture] = {}
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: known.get(path) or real(path))
    yield known


@pytest.mark.slow
def test_a_video_that_ends_early_is_said_so(
    run: Path, here: Path, captured: dict[object, Capture]
) -> None:
    (here / "clip.mp4").write_text("some")
    captured["clip.mp4"] = Capture(count=100, frames=4)
    result = predict(run, "clip.mp4", cwd=here)
    assert result.status == 1
    assert "only 4 of its 100 frames can be decoded; what was written ends there" in result.err
    assert len(frames(here / "predictions/overlay/clip.mp4")) == 4
    captured["clip.mp4"] = Capture(count=-1, frames=0)
    result = predict(run, "clip.mp4", "out_dir=other", cwd=here)
    assert "clip.mp4: holds no frame that can be decoded" in result.err
    assert files(here / "other") == ["areas.csv"]


@pytest.mark.slow
def test_a_camera(run: Path, here: Path, captured: dict[object, Capture]) -> None:
    captured[0] = Capture(count=-1, frames=1000)
    result = predict(run, 0, "max_frames=4", cwd=here)
    assert result.status == 0, result.err
    found = frames(here / "predictions/overlay/camera-0.mp4")
    # Its video keeps the time that passed, so the number of frames depends on the machine.
    assert len(found) >= 1
    assert len(rows(here / "predictions")) == 4


@pytest.mark.slow
def test_the_benchmark(run: Path, here: Path) -> None:
    result = predict(run, "photos", "benchmark=true", cwd=here)
    assert result.status == 0, result.err
    assert "prediction alone, 51 times after a warm-up (cpu, fp32, 1 threads): p50 " in result.out
    assert "images/s\nbeside it, per image (p50): read " in result.out


def test_percentiles() -> None:
    watch = Stopwatch()
    watch.seconds["predict"] = [i / 1000 for i in range(1, 102)]
    found = watch.summary("predict")
    assert (found["count"], found["p50"], found["p90"], found["p99"]) == (101, 0.051, 0.091, 0.1)
    assert found["images_per_second"] == pytest.approx(1 / 0.051)
    with pytest.raises(RuntimeError), watch("read"):
        raise RuntimeError
    assert not watch.seconds["read"]
    assert watch.text("here").endswith("beside it, per image (p50): ")


def test_more_classes_than_a_palette_holds(tmp_path: Path) -> None:
    names = [str(i) for i in range(300)]
    palette = np.zeros((256, 3), np.uint8)
    with pytest.raises(ConfigError, match="holds 256 classes, the model has 300"):
        PredictionOutputs(tmp_path, None, names, palette)
    PredictionOutputs(tmp_path, ["probs"], names, palette)


@pytest.mark.parametrize("source", ["photos", pytest.param("clip.mp4", marks=pytest.mark.slow)])
def test_an_interrupt_leaves_whole_files(source: str, run: Path, here: Path) -> None:
    """Ctrl-C in a process of its own, as soon as something is written."""
    for i in range(200):
        Image.fromarray(photo(64, 64, seed=i)).save(here / f"photos/{i}.png")
    if source == "clip.mp4":
        film(here / source, count=2000)
    arguments = (f"checkpoint={run}", f"source={source}", "device=cpu", "write=[index,overlay]")

    def task(line: Connection) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        line.send(call("predict.py", *arguments, cwd=here))

    out = here / "predictions"
    with run_apart(task) as (pid, line):
        while not line.poll() and not list(out.rglob("*.png")):
            time.sleep(0.01)
        os.kill(pid, signal.SIGINT)
        assert line.poll(120)
        result = line.recv()
    text, error = result.out, result.err
    assert result.status == 130, error
    assert "stopped; " in text
    assert "Traceback" not in error
    done = files(out)
    assert "areas.csv" in done
    assert not [name for name in done if Path(name).name.startswith(".")]
    photos = [read(out / name) for name in done if name.endswith(".png")]
    assert 0 < len(photos) < 400
    assert "overlay/clip.mp4" not in done
    assert len(rows(out)) == int(text.split("stopped; ")[1].split()[0])


def test_importing_the_script_does_nothing() -> None:
    assert callable(runpy.run_path(str(ROOT / "predict.py"))["predict"])
