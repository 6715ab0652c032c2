"""segkit.load_model: the same masks whatever the image comes as, and from several threads."""

import doctest
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scripts import call
from trained import CLASSES, photo, save_model

import segkit
from segkit.config.schema import InferenceOptions
from segkit.data.decode import read_image
from segkit.data.masks import read_mask
from segkit.errors import CheckpointError, ConfigError, DataError
from segkit.inference.loading import KEYS, asks_for_each_class, load_network, usual_window
from segkit.inference.model import SegmentationModel, load_model
from segkit.inference.onnx_network import ExportedCheckpoint, export_metadata
from segkit.runs.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "run/checkpoints/best.pt")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> SegmentationModel:
    return load_model(checkpoint, device="cpu")


def test_the_mask_is_that_of_the_network(checkpoint: Path, model: SegmentationModel) -> None:
    image = photo()
    network = load_network(read_checkpoint(checkpoint)).double().eval()
    mean, std = (np.array(v) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    normalized = torch.from_numpy((image / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        probs = network(normalized).softmax(1)[0].numpy()
    mask = model.predict(image)
    assert (mask.shape, mask.dtype) == (image.shape[:2], np.uint8)
    assert len(np.unique(mask)) > 1
    second, first = np.sort(probs, axis=0)[-2:]
    sure = first - second > 1e-4
    assert sure.mean() > 0.99
    assert np.array_equal(mask[sure], probs.argmax(0)[sure])
    found = model.probabilities(image)
    assert (found.shape, found.dtype) == ((3, *image.shape[:2]), np.float32)
    np.testing.assert_allclose(found, probs, atol=1e-4)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_it_knows_its_classes_and_colours(model: SegmentationModel) -> None:
    assert model.classes == CLASSES
    assert model.palette.shape == (256, 3)
    assert model.palette[1].tolist() == [128, 0, 0]


def test_every_kind_of_image_gives_the_same_mask(model: SegmentationModel, tmp_path: Path) -> None:
    image = photo()
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = model.predict(image)
    read_only = image.copy()
    read_only.setflags(write=False)
    kinds: list[Any] = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(image),
        Image.open(tmp_path / "a.png"),
        read_only,
        image[::-1][::-1],
        np.asfortranarray(image),
    ]
    for kind in kinds:
        assert np.array_equal(model.predict(kind), expected)
    for one in model.predict(kinds[:3]):
        assert np.array_equal(one, expected)
    assert [p.shape for p in model.probabilities((image, image[:30]))] == [(3, 40, 56), (3, 30, 56)]
    assert model.predict([]) == []


def test_grey_images_are_repeated(model: SegmentationModel) -> None:
    grey = photo()[..., 0]
    expected = model.predict(np.dstack([grey, grey, grey]))
    assert np.array_equal(model.predict(grey), expected)
    assert np.array_equal(model.predict(Image.fromarray(grey)), expected)


def test_the_range_of_the_training_holds_for_all_that_is_given(tmp_path: Path) -> None:
    config = {"data": {"range": [100.0, 4195.0]}}
    path = save_model(tmp_path / "run/checkpoints/best.pt", config=config)
    model = load_model(path, device="cpu")
    image = photo()
    stored = np.uint16((image[..., 0].astype(int) * 4095 + 127) // 255 + 100)
    expected = model.compute(np.repeat(image[..., :1], 3, axis=2))[0]
    Image.fromarray(stored).save(tmp_path / "a.png")
    for kind in (tmp_path / "a.png", Image.open(tmp_path / "a.png"), stored):
        assert np.array_equal(model.predict(kind), expected)
    for eight_bits in (image, Image.fromarray(image)):
        with pytest.raises(DataError, match=r"the image: data\.range is \[100, 4195\].* 0 to 255"):
            model.predict(eight_bits)
    result = call(
        "predict.py", "checkpoint=run", "source=a.png", "out_dir=out", "device=cpu", cwd=tmp_path
    )
    assert result.status == 0, result.err
    assert np.array_equal(read_mask(tmp_path / "out/index/a.png"), expected)


def test_an_export_tells_the_range(tmp_path: Path) -> None:
    path = save_model(tmp_path / "best.pt", config={"data": {"range": [0.0, 4095.0]}})
    facts = export_metadata(read_checkpoint(path), preprocessing=False, precision="fp32", opset=18)
    assert json.loads(facts["config"])["data"]["range"] == [0.0, 4095.0]


def test_models_of_other_ranges_are_no_ensemble(tmp_path: Path) -> None:
    paths = [
        save_model(tmp_path / name / "best.pt", config={"data": {"range": value}})
        for name, value in {"a": [0, 255], "b": [0, 4095]}.items()
    ]
    with pytest.raises(ConfigError, match=r"b/best\.pt is no ensemble with .*data\.range"):
        load_model(paths, device="cpu")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied_to_pillows_images_too(
    orientation: int, model: SegmentationModel, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(photo()).save(path, exif=exif)
    expected = model.predict(read_image(path))
    assert expected.shape == ((40, 56) if orientation < 5 else (56, 40))
    assert np.array_equal(model.predict(path), expected)
    assert np.array_equal(model.predict(Image.open(path)), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (33, 65)])
def test_any_size(size: tuple[int, int], model: SegmentationModel) -> None:
    assert model.predict(photo(*size)).shape == size


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_other_arrays_are_refused(image: NDArray[Any], model: SegmentationModel) -> None:
    with pytest.raises(DataError, match=r"an array of .*; expected uint8 \(H, W, 3\)"):
        model.predict(image)


@pytest.mark.parametrize("image", [None, torch.zeros(3, 4, 4), 7])
def test_other_objects_are_refused(image: Any, model: SegmentationModel) -> None:
    with pytest.raises(DataError, match=f"the image is a {type(image).__name__}; expected a path"):
        model.predict(image)


def test_files_that_are_no_images_are_named(model: SegmentationModel, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"a\.png: is no image"):
        model.predict(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"b\.png: no such file"):
        model.predict(tmp_path / "b.png")
    Image.fromarray(photo(200, 200)).save(tmp_path / "c.jpg")
    content = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "c.jpg").write_bytes(content[: len(content) // 2])
    with (
        Image.open(tmp_path / "c.jpg") as cut,
        pytest.raises(DataError, match="the image: cannot be decoded"),
    ):
        model.predict(cut)


def test_threads_find_what_one_finds(model: SegmentationModel) -> None:
    images = [photo(40 + 8 * (i % 3), 56, seed=i) for i in range(12)]
    expected = [model.probabilities(image) for image in images]
    masks = [model.predict(image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            assert all(map(np.array_equal, pool.map(model.predict, images), masks))
            found = pool.map(model.probabilities, images)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_windows_and_more_looks(checkpoint: Path, model: SegmentationModel) -> None:
    image = photo(96, 120)
    plain = model.probabilities(image)
    whole = load_model(checkpoint, device="cpu", window=(96, 120))
    np.testing.assert_allclose(whole.probabilities(image), plain, atol=1e-5)
    small = load_model(checkpoint, device="cpu", window=(64, 64), stride=(32, 32))
    assert not np.allclose(small.probabilities(image), plain, atol=1e-3)
    np.testing.assert_allclose(small.probabilities(image).sum(0), 1, atol=1e-5)
    assert np.array_equal(small.predict(image), small.probabilities(image).argmax(0))
    both = load_model(checkpoint, device="cpu", flip=True)
    mirrored = model.probabilities(np.ascontiguousarray(image[:, ::-1]))[..., ::-1]
    np.testing.assert_allclose(both.probabilities(image), (plain + mirrored) / 2, atol=1e-5)
    scaled = load_model(checkpoint, device="cpu", scales=[0.5, 1.0])
    assert not np.allclose(scaled.probabilities(image), plain, atol=1e-3)


def test_weights_precision_and_ensembles(tmp_path: Path) -> None:
    path = save_model(tmp_path / "average.pt", with_average=True)
    image = photo()
    found = {w: load_model(path, device="cpu", weights=w).probabilities(image) for w in WEIGHTS}
    assert np.array_equal(found["auto"], found["ema"])
    assert not np.allclose(found["auto"], found["raw"], atol=0.1)
    other = save_model(tmp_path / "other.pt", seed=1)
    second = load_model(other, device="cpu").probabilities(image)
    both = load_model([path, str(other)], device="cpu").probabilities(image)
    np.testing.assert_allclose(both, (found["ema"] + second) / 2, atol=1e-5)
    reduced = load_model(path, device="cpu", precision="bf16").probabilities(image)
    assert 1e-5 < abs(reduced - found["ema"]).max() < 0.2


WEIGHTS = ("auto", "ema", "raw")


@pytest.mark.parametrize(
    ("saved", "trained_on", "expected"),
    [
        ("fp16", "cuda:0", "fp32"),
        ("bf16", "cuda:0", "fp32"),
        ("fp32", "cuda:0", "fp32"),
        ("bf16", "cpu", "bf16"),
    ],
)
def test_fewer_bits_stay_on_the_device_that_they_are_for(
    saved: str, trained_on: str, expected: str, tmp_path: Path
) -> None:
    path = save_model(tmp_path / "run.pt", precision=saved, device=trained_on)
    assert load_model(path, device="cpu").inference.precision.name == expected
    if saved == "fp16":
        with pytest.raises(ConfigError, match="precision=fp16 needs a CUDA device"):
            load_model(path, device="cpu", precision="fp16")


def test_what_cannot_be_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pt: no such file or folder"):
        load_model(tmp_path / "none.pt")
    with pytest.raises(ConfigError, match=r"checkpoint=\[\]: expected at least one"):
        load_model([])
    with pytest.raises(ConfigError, match="weights=emma: no such value; did you mean ema"):
        load_model(checkpoint, weights="emma")
    with pytest.raises(CheckpointError, match="kept no average"):
        load_model(checkpoint, weights="ema", device="cpu")
    with pytest.raises(ConfigError, match="window"):
        load_model(checkpoint, window=(0, 4), device="cpu")
    with pytest.raises(ConfigError, match="stride"):
        load_model(checkpoint, stride=(4, 4), device="cpu")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        load_model(tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("checkpoint", 5, "checkpoint=5: expected a list"),
        ("checkpoint", [5], "checkpoint=5: expected a path"),
        ("window", 512, "window=512: expected a list or a tuple"),
        ("window", (32.0, 32.0), r"window\[0\]=32\.0: expected a whole number"),
        ("stride", 8, "stride=8: expected a list"),
        ("scales", 1.0, r"scales=1\.0: expected a list"),
        ("scales", ["wide"], r"scales\[0\]=wide: expected a number"),
        ("scales", [0], r"scales=\[0\.0\]: expected a number above 0"),
        ("flip", 3, r"flip=3: expected True or False"),
        ("flip", None, r"flip=None: expected True or False"),
        ("window", (0, 4), r"window=\[0, 4\]: expected at least 1"),
        ("stride", (4, 4), r"stride is set and window is not: give both or neither"),
        ("allow", "my_models", "allow='my_models': expected a list"),
    ],
)
def test_values_of_another_kind_are_refused(
    name: str, value: Any, expected: str, checkpoint: Path
) -> None:
    with pytest.raises(ConfigError, match=f"^{expected}"):
        load_model(**{"checkpoint": checkpoint, "device": "cpu", name: value})


def test_a_run_folder_is_enough(checkpoint: Path, model: SegmentationModel) -> None:
    found = load_model(checkpoint.parents[1], device="cpu")
    assert np.array_equal(found.predict(photo()), model.predict(photo()))


def test_the_package_offers_it() -> None:
    assert segkit.load_model is load_model
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        segkit.load_modle  # noqa: B018


@pytest.mark.slow
def test_it_loads_nothing_that_only_training_needs() -> None:
    code = (
        "import sys; from segkit import load_model; assert 'torch' in sys.modules; "
        "assert not {'albumentations', 'cv2', 'tensorboard'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_examples_of_the_docs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.pt").symlink_to(checkpoint)
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    page = str(ROOT / "docs/predict.md")
    failed, tried = doctest.testfile(page, module_relative=False, encoding="utf-8")
    assert failed == 0
    assert tried >= 12


BCE, CE = ({"_target_": f"segkit.losses.{name}"} for name in ("BCELoss", "CrossEntropyLoss"))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BCE, True),
        (CE, False),
        ({"_target_": "x", "terms": {"bce": {"weight": 1.0, "loss": BCE}}}, True),
        ({"terms": {"a": {"weight": 1.0, "loss": BCE}, "b": {"weight": 1.0, "loss": CE}}}, False),
        ({"terms": {"a": {"weight": 1.0, "loss": BCE}, "b": {"weight": 0, "loss": CE}}}, True),
        ({"terms": {"a": 5}}, False),
        (None, False),
        ("bce", False),
    ],
)
def test_a_checkpoint_tells_what_its_logits_are(loss: Any, expected: bool) -> None:
    metadata: Any = SimpleNamespace(config={"loss": loss})
    assert asks_for_each_class(metadata) is expected


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ([64, 96], {}, ((64, 96), (16, 24))),  # the run's own windows: its stride too
        ([32, 48], {}, ((64, 96), None)),
        ([64, 96], {"stride": [8, 8]}, ((64, 96), (8, 8))),
    ],
)
def test_a_file_of_one_size_is_scored_as_its_run_was(
    saved: list[int], given: dict[str, Any], expected: Any
) -> None:
    metadata: Any = SimpleNamespace(window={"size": saved, "stride": [16, 24]})
    network: Any = SimpleNamespace(size=(64, 96))
    one = ExportedCheckpoint(Path("a.onnx"), {}, metadata, {}, network=network)
    assert usual_window([one], InferenceOptions(device="cpu", **given), KEYS) == expected
