"""What source=... stands for, and how the results are called."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import ConfigError
from segkit.predict.sources import find_sources, name_results
from segkit.runtime.log import log_to_console

OUT = Path("elsewhere")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(source: str | Path, out: Path = OUT) -> list[str]:
    return [one.name for one in find_sources(str(source), out)]


def test_a_folder_is_searched_to_its_end(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a.jpg", "x/y/c.tiff", "x/d.mp4", "x/text.txt", "._a.jpg", ".g/e.png")
    assert names(tmp_path) == ["a", "b", "x/d", "x/y/c"]
    found = find_sources(str(tmp_path), OUT)
    assert [one.is_video for one in found] == [False, False, True, False]
    assert found[3].path == tmp_path / "x/y/c.tiff"


def test_results_of_an_earlier_run_are_no_sources(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/index/a.png", "other/out/b.png")
    assert names(tmp_path, tmp_path / "out") == ["a", "other/out/b"]
    with pytest.raises(ConfigError, match="the folder of the images; give out_dir="):
        names(tmp_path, tmp_path)


def test_what_earlier_runs_wrote_elsewhere_is_no_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks used to be taken for photographs, and to stand in areas.csv beside them."""
    log_to_console()
    touch(tmp_path, "a.jpg", "old/areas.csv", "old/index/a.png", "old/probs/b.npz", "old/c.jpg")
    touch(tmp_path, "runs/x/config.yaml", "runs/x/metrics.jsonl", "runs/x/checkpoints/last.pt")
    touch(tmp_path, "runs/x/plots/inputs.png", "index/d.jpg", "runs/e.jpg")
    assert names(tmp_path) == ["a", "index/d", "old/c", "runs/e"]
    assert capsys.readouterr().out == (
        f"left out: index, probs in {tmp_path}/old, results of an earlier run\n"
        f"left out: {tmp_path}/runs/x, a run\n"
    )
    assert names(tmp_path / "old/index") == ["a"]  # said so


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/x/b.jpg", "disk/c.jpg", "out/index/d.png")
    for link, target in {
        "photos/more": "disk",
        "photos/x/up": "photos",
        "disk/again": "disk",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "photos/results").symlink_to(tmp_path / "out", target_is_directory=True)
    assert names(tmp_path / "photos", tmp_path / "out") == ["a", "more/c", "x/b"]


def test_results_never_come_where_the_images_are(tmp_path: Path) -> None:
    touch(tmp_path, "index/deep/a.png", "photos/a.png")
    for source in ("index", "index/deep/a.png", "**/*.png"):
        with pytest.raises(ConfigError, match=r"the results would come to .*, where the images"):
            names(tmp_path / source, tmp_path)
    assert names(tmp_path / "photos", tmp_path) == ["a"]
    assert names(tmp_path / "index", tmp_path / "out") == ["deep/a"]


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "a.jfif", "clip.MOV", "c[1].png")
    assert names(tmp_path / "a.jfif") == ["a"]
    assert names(tmp_path / "c[1].png") == ["c[1]"]
    (video,) = find_sources(str(tmp_path / "clip.MOV"), OUT)
    assert video.is_video


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "one/a.jpg", "two/a.jpg", "two/deep/b.jpg", "two/c.txt", "d.jpg")
    assert names(tmp_path / "*/*.jpg") == ["one/a", "two/a"]
    assert names(tmp_path / "two/**/*.jpg") == ["a", "deep/b"]
    assert names(tmp_path / "t?o/*") == ["two/a", "two/c"]  # named, so it is tried
    monkeypatch.chdir(tmp_path)
    assert names("*.jpg") == ["d"]
    assert names("one/*.jpg") == ["a"]


def test_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (camera,) = find_sources("1", OUT)
    assert (camera.path, camera.name, camera.is_video) == (1, "camera-1", True)
    touch(tmp_path, "1/a.png")
    assert names("1") == ["a"]


@pytest.mark.parametrize("source", ["none.jpg", "none/*.jpg", "-1"])
def test_nothing_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder, and no pattern"):
        names(source)
    touch(tmp_path, "empty/text.txt")
    with pytest.raises(ConfigError, match=r"source=empty: no image and no video .*jpg"):
        names("empty")


def test_names_that_would_collide_keep_their_suffix() -> None:
    home = Path("h")
    files = [home / name for name in ("a.jpg", "a.png", "b.jpg", "c/a.jpg", "B.PNG")]
    found = [one.name for one in name_results(files, home)]
    assert found == ["a.jpg", "a.png", "b.jpg", "c/a", "B.PNG"]
    files = [home / name for name in ("a.jpg", "a.png", "a.jpg.png")]
    assert [one.name for one in name_results(files, home)] == ["a.jpg", "a.png", "a.jpg.png"]
    files = [home / name for name in ("clip.mp4", "clip/000001.png")]
    assert [one.name for one in name_results(files, home)] == ["clip.mp4", "clip/000001"]


STEMS = ("a", "a.jpg", "a.png", "a.jpg.png", "a.mp4")
NAMES = [
    f"{home}{stem}.{suffix}"
    for home in ("", "a/", "a.jpg/")
    for stem in STEMS
    for suffix in ("jpg", "PNG", "mp4")
]


@settings(max_examples=60)
@given(st.sets(st.sampled_from(NAMES)))
def test_no_two_results_have_one_name(some: set[str]) -> None:
    files = [Path("h") / name for name in sorted(some)]
    found = [one.name.casefold() for one in name_results(files, Path("h"))]
    assert len(set(found)) == len(files)


@pytest.mark.parametrize("source", ["20240131123045", "9" * 20, "\u0663"])
def test_a_folder_named_by_a_date_is_no_camera(source: str) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_sources(source, Path("out"))
