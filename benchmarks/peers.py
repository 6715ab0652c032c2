"""segkit beside segmentation_models.pytorch: the same work in both, turn by turn in one run.

    python -m pip install -e ".[bench]"
    python benchmarks/peers.py --data CAMVID --out peers.md

CAMVID is a data set in VOC layout with JPEG images; without it the loaders are left out. Two
processes, one for each, live as long as the run. Each part is done by one, then by the other, again
and again, and its CPU seconds and wall seconds are counted; a ratio is the peer's median over
segkit's, so above 1 segkit is faster. The peer's loop is that of its README: float32 images that
the data set normalised, ``loss.backward()``, ``optimizer.step()``. Prints a Markdown table.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

SIDES = ("segkit", "smp")
CLASSES, SIZE, BATCH, STEPS = 11, (352, 480), 8, 1
EVALUATED, FULL = 4, (352, 480)  # smp takes multiples of 16 only
EVERY = 8  # of the images of the loaders: 8 from files
LOSS_CLASSES = (11, 21, 150)
SUMS = {"CE": ("ce",), "CE+dice": ("ce", "dice"), "CE+focal+dice": ("ce", "focal", "dice")}

Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", nargs="+", help="beginnings of the parts to run; default: all")
    parser.add_argument("--data", type=Path, help="data set in VOC layout, for the loaders")
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.data:
            from loader import SIZES, prepare

            for size, _ in SIZES:
                prepare(args.data, Path(folder) / str(size[0]), size, 64)
        data = Path(folder) if args.data else None
        names = [*parts("segkit", data)]
        names = [n for n in names if not args.parts or n.startswith(tuple(args.parts))]
        table = compare(names, args.rounds, data)
    print(table)
    if args.out is not None:
        args.out.write_text(table + "\n", encoding="utf-8")


def compare(names: list[str], rounds: int, data: Path | None) -> str:
    """The table of some parts."""
    sides = {side: Side(side, data) for side in SIDES}
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        + sides["smp"].ask("versions")["versions"],
        "",
        "| part | CPU: peer / segkit | wall: peer / segkit | segkit, CPU s (least to most) | "
        "peer | kept bytes: peer / segkit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        for side in sides.values():
            side.ask(name)  # warm
        found = {side: [] for side in SIDES}
        for _ in range(rounds):
            for side in SIDES:
                found[side].append(sides[side].ask(name))
        lines.append(row(name, *(found[side] for side in SIDES)))
        print(lines[-1], file=sys.stderr, flush=True)
    for side in sides.values():
        side.process.stdin.close()
    return "\n".join(lines)


def row(name: str, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> str:
    def spread(key: str, of: list[dict[str, float]]) -> str:
        values = sorted(one[key] for one in of)
        return f"{median(values):.3f} ({values[0]:.3f} to {values[-1]:.3f})"

    def ratio(key: str) -> str:
        return f"{median(x[key] for x in theirs) / median(x[key] for x in ours):.2f}"

    kept = f"{theirs[0]['kept'] / ours[0]['kept']:.1f}" if ours[0].get("kept") else "-"
    cells = [name, ratio("cpu"), ratio("wall"), spread("cpu", ours), spread("cpu", theirs), kept]
    return f"| {' | '.join(cells)} |"


class Side:
    """A process that does parts when it is asked to."""

    def __init__(self, side: str, data: Path | None) -> None:
        command = [sys.executable, __file__, "--side", side]
        command += ["--data", str(data)] if data else []
        self.process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, name: str) -> dict[str, Any]:
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]


def serve(side: str, data: Path | None) -> None:
    """Answer each name on standard input by what its part took."""
    if side == "segkit":
        from segkit.runtime.device import set_up

        set_up(CPU())
    works: dict[str, Work] = {}
    for line in sys.stdin:
        name = line.strip()
        if name == "versions":
            print(json.dumps({"versions": versions()}), flush=True)
            continue
        if name not in works:
            works[name] = parts(side, data)[name]()
        cpu, wall = cpu_seconds(), time.perf_counter()
        kept = works[name]()
        took = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}
        if isinstance(kept, int):
            took["kept"] = kept
        print(json.dumps(took), flush=True)


def cpu_seconds() -> float:
    """Of this process, and of those that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in used)


def versions() -> str:
    import segmentation_models_pytorch as smp
    import torch

    import segkit

    return (
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), segkit "
        f"{segkit.__version__}, segmentation_models.pytorch {smp.__version__}"
    )


def parts(side: str, data: Path | None) -> dict[str, Callable[[], Work]]:
    """Name -> what makes ready for a part and returns it."""
    ours = side == "segkit"
    step = our_step if ours else their_step

    def evaluation(everything: bool) -> Work:
        return our_evaluation(everything) if ours else their_evaluation()

    found: dict[str, Callable[[], Work]] = {
        "training step, the same model (smp's DeepLabV3+), CE": lambda: step(same=True),
        "training step, each one's default model and loss": lambda: step(same=False),
        "evaluation, the same model, IoU, F1 and accuracy": lambda: evaluation(False),
        "evaluation, ours with all that evaluate.py measures": lambda: evaluation(True),
        "start-up: a process until its model is made": lambda: start_up(side),
    }
    for size in (8, 1) if data else ():
        found[f"evaluation of files, each one's own; the peer {size} at a time"] = lambda n=size: (  # type: ignore[misc]
            our_files(data / "360") if ours else their_files(data / "360", n)
        )
    for height, kind in ((360, None), (360, "ram"), (960, None), (960, "ram")) if data else ():
        label = f"loader, {height} pixels high" + (
            f", ours with loader.cache={kind}" if kind else ""
        )
        found[label] = lambda h=height, k=kind: load(side, data, h, k)  # type: ignore[misc]
    loss = our_loss if ours else their_loss
    for label, terms in SUMS.items():
        for count in LOSS_CLASSES:
            found[f"loss {label}, {count} classes"] = lambda t=terms, c=count: loss(t, c)
    return found


def CPU() -> Any:
    import torch

    return torch.device("cpu")


def smp_model() -> Any:
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    return smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=CLASSES)


def batch(count: int, size: tuple[int, int]) -> Any:
    import torch

    from segkit.data.loader import Batch

    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=generator)
    cells = (count, 1, size[0] // 32, size[1] // 32)  # of 32 x 32 pixels: masks have few borders
    labels = torch.randint(CLASSES, cells, generator=generator).float()
    target = torch.nn.functional.interpolate(labels, size)[:, 0].to(torch.uint8)
    target[:, :8] = 255
    return Batch(image.permute(0, 3, 1, 2), target, tuple(map(str, range(count))))


def normalize(channels_last: bool) -> Any:
    from segkit.models.normalize import Normalize

    return Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels_last)


def our_step(same: bool) -> Work:
    """Steps of segkit's loop; its default model and loss are those of configs/."""
    import torch

    from segkit.losses import CrossEntropyLoss, DiceLoss, WeightedSum
    from segkit.models import DeepLabV3Plus
    from segkit.models.normalize import memory_order
    from segkit.runtime.device import Precision
    from segkit.schedules import Poly
    from segkit.training.loop import train_one_epoch
    from segkit.training.monitor import Best, Monitor
    from segkit.training.optimizer import make_optimizer, param_groups
    from segkit.training.plan import EpochPlan
    from segkit.training.state import TrainState
    from segkit.training.step import TrainStep

    torch.manual_seed(0)
    model = smp_model() if same else DeepLabV3Plus("mobilenet_v2", CLASSES)
    model = model.to(memory_format=memory_order(True))
    precision = Precision("fp32", CPU())
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    optimizer = make_optimizer(sgd, param_groups(model, 1.0, False, 0.01), precision.device)
    state = TrainState(model, optimizer, precision.grad_scaler(), Monitor(Best("val/miou", "max")))
    loss_fn: Any = CrossEntropyLoss()
    if not same:
        terms = {"ce": loss_fn, "dice": DiceLoss()}
        loss_fn = WeightedSum({name: {"weight": 1.0, "loss": one} for name, one in terms.items()})
    step = TrainStep(loss_fn, normalize(True), precision, Poly())
    given = [batch(BATCH, SIZE)] * STEPS

    def work() -> None:
        state.images = 0
        plan = EpochPlan(epoch=1, max_epochs=9, num_images=STEPS * BATCH, batch_size=BATCH)
        train_one_epoch(state, given, step, plan, on_step=lambda values: None)

    return work


def their_step(same: bool) -> Work:
    """Steps of the loop of smp's README; with its default model goes the loss used there."""
    import segmentation_models_pytorch as smp
    import torch

    model = smp_model().train()
    loss_fn: Any = torch.nn.CrossEntropyLoss(ignore_index=255)
    if not same:
        loss_fn = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    given = batch(BATCH, SIZE)
    image, target = normalize(False)(given.image), given.target.long()

    def work() -> None:
        for _ in range(STEPS):
            loss = loss_fn(model(image), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    return work


def our_evaluation(everything: bool) -> Work:
    """What evaluate.py makes of a split: all its measures, or the confusion matrix alone."""
    from segkit.evaluation.measures import Measures
    from segkit.inference.predictions import images, predict_masks
    from segkit.inference.predictor import Inference
    from segkit.metrics import ConfusionMatrix
    from segkit.models.normalize import memory_order
    from segkit.runtime.device import Precision

    model = smp_model().to(memory_format=memory_order(True))
    inference = Inference(model, normalize(True), Precision("fp32", CPU()))
    given = batch(EVALUATED, FULL)

    def matrix_alone() -> None:
        matrix = ConfusionMatrix(CLASSES)
        for image in images([given], inference.precision.device):
            matrix.update(inference(image.image), image.target)
        matrix.compute()

    def work() -> None:
        measures = Measures(CLASSES, 255, trimap_widths=[5])
        for image in predict_masks(inference, [given]):
            measures.update(image)
        measures.scores()

    return work if everything else matrix_alone


def their_stats(pred: Any, truth: Any) -> Any:
    import segmentation_models_pytorch as smp

    return smp.metrics.get_stats(
        pred, truth, mode="multiclass", num_classes=CLASSES, ignore_index=255
    )


def their_evaluation() -> Work:
    """The plain loop with smp's metrics: IoU, F1 and accuracy of each class."""
    import segmentation_models_pytorch as smp
    import torch

    model, given = smp_model().eval(), batch(EVALUATED, FULL)
    image, target = normalize(False)(given.image), given.target.long()

    @torch.no_grad()
    def work() -> None:
        stats = []
        for i in range(EVALUATED):
            pred = model(image[i : i + 1]).softmax(1).argmax(1)
            truth = target[i : i + 1]
            stats.append(their_stats(pred, truth))
        tp, fp, fn, tn = (torch.cat(one) for one in zip(*stats, strict=True))
        for metric in (smp.metrics.iou_score, smp.metrics.f1_score, smp.metrics.accuracy):
            metric(tp, fp, fn, tn, reduction="macro")

    return work


def our_files(root: Path) -> Work:
    """What evaluate.py makes of a split in one process."""
    import torch

    from segkit.data import VOCSegmentation
    from segkit.data.loader import Collate, EvalBatches
    from segkit.evaluation.measures import Measures
    from segkit.inference.predictions import predict_masks
    from segkit.inference.predictor import Inference
    from segkit.models import DeepLabV3Plus
    from segkit.models.normalize import memory_order
    from segkit.runtime.device import Precision

    torch.manual_seed(0)
    model = DeepLabV3Plus("mobilenet_v2", CLASSES).to(memory_format=memory_order(True))
    inference = Inference(model, normalize(True), Precision("fp32", CPU()))
    batches = EvalBatches(
        VOCSegmentation(root, "train"),
        collate=Collate((0, 0, 0), 255),
        batch_size=BATCH,
        num_workers=0,
        device=CPU(),
        world_size=EVERY,
    )

    def work() -> None:
        measures = Measures(CLASSES, 255, trimap_widths=[5])
        for image in predict_masks(inference, iter(batches)):
            measures.update(image)
        measures.scores()
        measures.intervals(0.95)

    return work


def their_files(root: Path, size: int) -> Work:
    """The validation of smp's CamVid example: batches padded to multiples of 32, with a loss."""
    import albumentations as A
    import cv2
    import segmentation_models_pytorch as smp
    import torch
    from loader import Usual

    cv2.setNumThreads(0)
    dataset = Usual(root, A.Compose([A.PadIfNeeded(384, 480, fill_mask=255)]))
    loader = torch.utils.data.DataLoader(
        dataset,  # type: ignore[arg-type]  # it has all that is asked for here
        size,
        sampler=range(0, len(dataset.ids), EVERY),
    )
    model = smp_model().eval()
    constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as it has them of ImageNet
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in constants)
    loss_fn = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255)

    @torch.no_grad()
    def work() -> None:
        stats = []
        for image, mask in loader:
            mask = mask.long()
            logits = model((image - mean) / std).contiguous()
            loss_fn(logits, mask)
            pred = logits.softmax(1).argmax(1)
            stats.append(their_stats(pred, mask))
        tp, fp, fn, tn = (torch.cat(one) for one in zip(*stats, strict=True))
        for reduction in ("micro-imagewise", "micro"):
            smp.metrics.iou_score(tp, fp, fn, tn, reduction=reduction)

    return work


START = {
    "segkit": """
import segkit
from segkit.training.loop import train_one_epoch
from segkit.data.augment import Augment
from segkit.models import DeepLabV3Plus
DeepLabV3Plus("mobilenet_v2", 11)
""",
    "smp": """
import albumentations, cv2, torch
import segmentation_models_pytorch as smp
smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=11)
""",
}


def start_up(side: str) -> Work:
    """A process that imports what a training needs, and makes a model."""
    return lambda: subprocess.run([sys.executable, "-c", START[side]], check=True) and None


def load(side: str, data: Path | None, height: int, cache: str | None) -> Work:
    """Four batches of 8 from files, with the transforms of augment=standard; see loader.py."""
    from loader import SIZES, our_batches, same_transforms, usual_batches

    assert data is not None
    (crop,) = (crop for size, crop in SIZES if size[0] == height)
    if side == "segkit":
        from segkit.data.augment import one_thread

        one_thread()
        batches = our_batches(data / str(height), crop, 8, cache)
    else:
        import cv2

        cv2.setNumThreads(0)
        batches = usual_batches(data / str(height), same_transforms(crop), 8)
    return lambda: [next(batches) for _ in range(4)] and None


def loss_inputs(count: int) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    size = (4 if count < 100 else 1, count, 288, 352)  # crops of experiment=camvid
    logits = torch.randn(size, generator=generator).requires_grad_()
    target = torch.randint(count, (size[0], *size[2:]), generator=generator)
    target[:, :8] = 255
    return logits, target


def timed_loss(loss_fn: Callable[[Any, Any], Any], count: int) -> Work:
    from loss_speed import kept_bytes

    logits, target = loss_inputs(count)
    kept = kept_bytes(loss_fn, logits, target)  # once: counting takes time of its own

    def work() -> int:
        logits.grad = None
        loss_fn(logits, target).backward()
        return kept

    return work


def our_loss(terms: tuple[str, ...], count: int) -> Work:
    from segkit.losses import CrossEntropyLoss, DiceLoss, FocalLoss, WeightedSum

    kinds: dict[str, Any] = {"ce": CrossEntropyLoss, "focal": FocalLoss, "dice": DiceLoss}
    return timed_loss(
        WeightedSum({name: {"weight": 1.0, "loss": kinds[name]()} for name in terms}), count
    )


def their_loss(terms: tuple[str, ...], count: int) -> Work:
    import segmentation_models_pytorch as smp
    import torch

    kinds: dict[str, Any] = {
        "ce": torch.nn.CrossEntropyLoss(ignore_index=255),
        "focal": smp.losses.FocalLoss("multiclass", ignore_index=255),
        "dice": smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255),
    }
    return timed_loss(
        lambda logits, target: sum(kinds[name](logits, target) for name in terms), count
    )


if __name__ == "__main__":
    main()
