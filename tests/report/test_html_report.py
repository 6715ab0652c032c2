"""The report is one file that holds all it needs, of a bounded size, with every name escaped."""

import io
import json
import os
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from report_pages import NAMES, answers, report_data, squares
from scipy import ndimage
from scripts import call
from shared_run import copy_of_run

from segkit.data.masks import voc_palette
from segkit.errors import ConfigError
from segkit.evaluation.comparison import compare
from segkit.report.html import page
from segkit.report.html.findings import Findings
from segkit.report.html.object_sizes import SIDES, ObjectSizes
from segkit.report.html.thumbnails import MAX_BYTES, thumbnail
from segkit.report.image_result import Box, ImageResult

VOID = {"meta", "img", "input", "link", "br"}


class Reader(HTMLParser):
    """Tags, their attributes, and the texts between them; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))  # of SVG

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    page.write_report(path, report_data())
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return Reader(text)


def test_names_are_shown_and_never_run(reader: Reader, text: str) -> None:
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "matrix-data"}, {}]
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    for name in NAMES[:-2]:
        assert reader.texts.count(name) >= 5  # table, matrix, legends, plot
    assert "alert(1)" in text and "<script>alert" not in text


def test_nothing_is_fetched(reader: Reader, text: str) -> None:
    for tag, attributes in reader.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and tag != "a":
                assert (value or "").startswith(("data:image/", "#")), (tag, name, value)
    assert "default-src 'none'" in text and "url(http" not in text and "@import" not in text


def test_ids_are_unique_and_every_reference_has_one(reader: Reader) -> None:
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a.get("href") or a.get("xlink:href") or "" for _, a in reader.tags]
    inside = [link[1:] for link in links if link.startswith("#")]
    assert inside and set(inside) <= set(ids)


def test_everything_can_be_read_aloud(reader: Reader) -> None:
    for tag, attributes in reader.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] in ("img", "group") and attributes["aria-label"]
        if tag == "input":
            assert attributes["aria-label"]


def test_the_matrix_is_there_as_numbers(text: str) -> None:
    found = re.search(r'id="matrix-data">(.*?)</script>', text)
    assert found
    data = json.loads(found[1])
    # Without the class that is nowhere.
    assert data["classes"] == NAMES[:-1]
    assert data["counts"] == [row[:-1] for row in report_data().matrix[:-1]]


def test_classes_that_do_not_occur_share_a_line(reader: Reader, text: str) -> None:
    assert reader.texts.count("1 class does not occur: nowhere") == 1
    assert reader.texts.count("nowhere") == 0  # neither a row, nor a column, nor in a legend
    assert reader.texts.count("never") >= 3  # it is predicted, so it has a row and a column


def test_the_title_names_data_and_run(tmp_path: Path) -> None:
    data = replace(report_data(count=1, max_images=0), dataset="streets", run="<b>")
    page.write_report(tmp_path / "r.html", data)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    miou = f"{100 * data.result['miou']:.1f}"
    assert f"<title>streets val: &lt;b&gt; - mIoU {miou} % - segkit report</title>" in text
    assert "<h1>streets val: &lt;b&gt;</h1>" in text


def test_names_that_are_no_text_are_escaped_and_a_mistake_leaves_the_page_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.html"
    page.write_report(path, replace(report_data(), run=os.fsdecode(b"\xe9")))
    text = path.read_text(encoding="utf-8")
    assert r"\udce9" in text
    monkeypatch.setattr(page, "content", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.write_report(path, report_data())
    assert path.read_text(encoding="utf-8") == text


def test_points_of_plots_have_names(text: str) -> None:
    result = report_data().result
    plots = dict(re.findall(r'<svg.*?aria-label="(.*?)">(.*?)</svg>', text, re.DOTALL))
    point = r'<g class="point" role="img"><title>(.*?)</title><use [^>]*/></g>'
    found = {name: re.findall(point, svg) for name, svg in plots.items()}
    share = 100 * result["support"][3] / sum(result["support"])
    expected = f"\u732b: IoU {100 * result['iou'][3]:.1f} %, {share:.2g} % of the pixels"
    assert found["IoU of each class against how frequent it is"][3] == expected
    sizes = found["objects found and their recall against their size"]
    assert re.fullmatch(
        r"8-16 pixels, \d+ objects: [\d.]+ % of them found \(half of it\)", sizes[0]
    )
    assert sizes[-1].startswith("64-128 pixels, ") and sizes[-1].endswith(
        " % of their pixels right"
    )
    losses = next(names for name, names in found.items() if name.startswith("train/loss, "))
    assert losses[0] == "train/loss, epoch 1: 2 "
    assert losses[-1] == "train/loss/_&lt;b&gt;$, epoch 5: 0.2 "
    assert found["accuracy against confidence"]


@pytest.mark.slow
def test_without_a_run_or_confidences_a_page_is_made(tmp_path: Path) -> None:
    """Saved masks: no history, no configuration, no calibration; and no image is wanted."""
    full = report_data(count=1, max_images=0)
    needed = ("classes", "miou", "iou", "precision", "recall", "f1", "support")
    result = {key: full.result[key] for key in (*needed, "pixel_accuracy", "mean_f1")}
    findings = Findings(len(NAMES), 255, voc_palette(), max_images=0)
    data = page.ReportData(result, full.matrix, full.palette, findings)
    page.write_report(tmp_path / "r.html", data)
    text = (tmp_path / "r.html").read_text()
    assert "<img" not in text and 'id="images"' not in text and 'id="suspicious"' not in text
    Reader(text)


def compared(resamples: int) -> dict[str, Any]:
    """Two models on six images of 10 pixels of class 0 and 10 of class 1, the others are absent.

    The first finds 5 of 10 pixels of class 0 and takes the others for class 1, which it knows; the
    second finds all. So their IoU are 5 / 10 and 10 / 15 against 1 and 1.
    """
    counts = torch.zeros(2, 6, 3, 6, dtype=torch.int64)
    counts[0, :, :, :2] = torch.tensor([[5, 10], [10, 10], [5, 15]])
    counts[1, :, :, :2] = 10
    first = {"miou": (1 / 2 + 2 / 3) / 2, "iou": [1 / 2, 2 / 3, *[None] * 4]}
    second = {"miou": 1.0, "iou": [1.0, 1.0, *[None] * 4]}
    images = [(f"<i>{n}", 0.5) for n in range(3)], [("<i>0", 0.5), ("<i>1", 0.9), ("<i>2", 0.2)]
    found = compare(first, second, (counts[0], counts[1]), images, NAMES, resamples=resamples)
    files = [{"checkpoint": ["a.pt", "b.pt"]}, {"predictions": "masks"}]
    return {"files": files, **found}


@pytest.mark.slow
def test_a_comparison_shows_both_models(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    for resamples in (99, 0):
        page.write_report(path, replace(report_data(), comparison=compared(resamples)))
        text = path.read_text(encoding="utf-8")
        Reader(text)
        section = text.partition('<section id="comparison">')[2].partition("</section>")[0]
        rows = [
            [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
            for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)
        ]
        chances = [["95 % interval", "p"], ["+50.0 to +50.0", "0.031"], ["+33.3 to +33.3", "0.031"]]
        chances += [["+41.7 to +41.7", "0.031"]]  # 2 of 64 swaps
        expected = [
            ["class", "first", "second", "difference"],
            [NAMES[0], "50.0", "100.0", "+50.0"],
            [NAMES[1], "66.7", "100.0", "+33.3"],
            ["mean IoU", "58.3", "100.0", "+41.7"],
        ]
        if resamples:
            expected = [row + more for row, more in zip(expected, chances, strict=True)]
        images = [["<i>1", "50.0", "90.0", "+40.0"], ["<i>2", "50.0", "20.0", "-30.0"]]
        assert f"4 classes do not occur: {', '.join(NAMES[2:])}" in unescape(section)
        assert rows == [*expected, ["image", "first", "second", "difference"], *images]
        assert section.count('class="sure"') == (3 if resamples else 0)
        assert ("Few images, 6: 89 to 96 % of 95 % intervals" in section) is bool(resamples)
        assert "<b>first</b> a.pt + b.pt" in section and "<b>second</b> masks" in section


@pytest.mark.slow
def test_the_head_of_an_ensembles_page(tmp_path: Path) -> None:
    data = report_data()
    facts = {"checkpoint": ["a.pt", "b.pt"], "epoch": [3, 5], "weights": ["ema", None]}
    page.write_report(tmp_path / "r.html", replace(data, result={**data.result, **facts}))
    head = (tmp_path / "r.html").read_text(encoding="utf-8").partition("<dl")[0]
    assert "<b>checkpoint</b> a.pt + b.pt</span>" in head
    assert "<b>epoch</b> 3 + 5</span>" in head
    assert "<b>weights</b> ema + -</span>" in head


def test_without_a_comparison_there_is_no_section(text: str) -> None:
    assert "comparison" not in re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_the_size_is_bounded_even_for_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape, count = (520, 520), 2
    findings = Findings(200, 255, voc_palette(), max_images=count)
    for number in range(count + 1):
        image, target, pred = (
            rng.integers(0, high, (*shape, *more), np.uint8)
            for high, more in ((256, (3,)), (200, ()), (200, ()))
        )
        findings.update(ImageResult(str(number), image, target, pred))
    assert len(findings.cards([0.0] * 200)) == count
    scores: dict[str, Any] = dict.fromkeys(("iou", "precision", "recall", "f1"), [0.1] * 200)
    result = {"classes": [f"class {c}" for c in range(200)], **scores, "support": [5] * 200}
    result |= {"miou": 0.1, "pixel_accuracy": 0.1, "mean_f1": 0.1}
    data = page.ReportData(result, [[1] * 200] * 200, voc_palette(), findings)
    page.write_report(tmp_path / "r.html", data)
    # Base64 makes three bytes to four. The rest is text, most of it of the 200 x 200 matrix.
    assert (tmp_path / "r.html").stat().st_size < count * MAX_BYTES * 4 / 3 + 3e6


def test_a_thumbnail_shows_its_layers() -> None:
    palette = voc_palette()
    target, pred = np.zeros((600, 1000), np.uint8), np.zeros((600, 1000), np.uint8)
    target[:, :100], target[:, 500:], pred[:, 500:600] = 255, 3, 3
    answer = ImageResult("one", palette[target], target, pred)
    made = thumbnail(answer, palette, 255)
    assert (made.width, made.height) == (512, 307)
    assert made.size < MAX_BYTES
    photos = {
        layer: np.asarray(Image.open(io.BytesIO(getattr(made, layer))).convert("RGB"))
        for layer in ("image", "target", "prediction", "errors")
    }
    assert {photo.shape for photo in photos.values()} == {(307, 512, 3)}
    assert photos["target"][5, 400].tolist() == palette[3].tolist()
    assert photos["prediction"][5, 280].tolist() == palette[3].tolist()
    grey = np.unique(photos["errors"][:, :50].reshape(-1, 3), axis=0)
    assert grey.tolist() == [[90] * 3, [160] * 3]  # ignored: stripes
    assert photos["errors"][5, 280].tolist() == [222, 226, 230]
    assert photos["errors"][5, 400].tolist() == [213, 94, 0]
    small = thumbnail(answer.part(Box(0, 0, 8, 6)), palette, 255)
    assert (small.width, small.height) == (6, 8)  # never enlarged


def grades(order: list[int], max_images: int = 8) -> Findings:
    """Images named by their share of wrong pixels in percent, all of class 0 but what is wrong."""
    findings = Findings(3, 255, voc_palette(), max_images)
    for percent in order:
        target, pred = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
        pred.ravel()[:percent] = 1
        image = np.zeros((10, 10, 3), np.uint8)
        findings.update(ImageResult(f"{percent:02}", image, target, pred))
    return findings


def test_the_worst_and_the_best_are_shown_once_each() -> None:
    cards = grades(list(range(1, 31))).cards([0.5, 0.0, None])
    assert [card.name for card in cards] == ["30", "29", "28", "27", "26", "25", "02", "01"]
    groups = {card.name: dict(card.groups) for card in cards}
    assert groups["30"] == {"worst": 1, "class-0": 1}
    assert groups["01"] == {"best": 1} and groups["02"] == {"best": 2}
    assert [groups[str(n)]["worst"] for n in (29, 28, 27, 26, 25)] == [2, 3, 4, 5, 6]


def test_processes_find_the_same_images_as_one() -> None:
    one, first, second = (
        grades(list(range(1, 31))),
        grades([*range(30, 0, -2)]),
        grades([*range(1, 30, 2)]),
    )
    first.merge(second)
    assert first.cards([0.5, 0.0, None]) == one.cards([0.5, 0.0, None])
    assert first.sizes.counts.tolist() == one.sizes.counts.tolist()


def test_the_suspicious_region_of_the_page() -> None:
    [crop] = report_data().findings.doubted()
    assert crop.region.name == "dir/image <1>" and crop.region.box == (40, 40, 60, 70)
    assert crop.window == (8, 8, 92, 102)  # 32 pixels around it


def test_object_sizes_are_those_of_a_literal_loop() -> None:
    rng = np.random.default_rng(3)
    sizes, objects = ObjectSizes(4), []
    for _ in range(4):
        target = squares(rng)
        pred, _, _ = answers(target, 4, rng, wrong=0.4)
        target[:7] = 255
        sizes.update(target, pred)
        for class_id in range(4):
            areas, count = ndimage.label(target == class_id, np.ones((3, 3)))
            for number in range(1, count + 1):
                area = areas == number
                objects.append((class_id, area.sum(), (pred[area] == class_id).sum()))
    for class_id in (None, 0, 1, 2, 3):
        edges = [0, *(side**2 for side in SIDES), 10**9]
        for one, low, high in zip(sizes.bins(class_id), edges, edges[1:], strict=False):
            mine = [
                (pixels, right)
                for c, pixels, right in objects
                if class_id in (None, c) and low <= pixels < high
            ]
            assert one.objects == len(mine)
            if mine:
                assert one.found == sum(2 * hit >= n for n, hit in mine) / len(mine)
                assert one.recall == sum(hit for _, hit in mine) / sum(n for n, _ in mine)


def test_evaluate_writes_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a real run: with its curves and its configuration, and the scores that were written."""
    home = copy_of_run(tmp_path_factory, "plain", "run")
    settings = ("report.write=true", "report.max_images=3", "compare=run/checkpoints/last.pt")
    done = call("evaluate.py", "checkpoint=run", *settings, "loader.num_workers=0", cwd=home)
    assert done.status == 0, done.err
    folder = home / "run/eval/val-best"
    scores = json.loads((folder / "metrics.json").read_text())
    text = (folder / "report.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert (folder / "compare.json").exists() and '<section id="comparison">' in text
    assert f"<title>shapes val: run - mIoU {100 * scores['miou']:.1f} %" in text
    assert "train/loss" in " ".join(reader.texts) and "max_epochs: 2" in text
    assert sum(attributes.get("class") == "card" for _, attributes in reader.tags) == 3
    found = json.loads(re.findall(r'id="matrix-data">(.*?)</script>', text)[0])
    lines = (folder / "confusion_matrix.csv").read_text().splitlines()[1:]
    assert [[int(n) for n in line.split(",")[1:]] for line in lines] == found["counts"]
    assert (folder / "suspicious_labels.csv").read_text().startswith("image,label,prediction,")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"matplotlib and jinja2, not installed.*: python -m pip install matplotlib jinja2",
    ):
        page.check_libraries()
