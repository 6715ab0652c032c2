"""One pass over the validation split, and what TensorBoard shows of it."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config.schema import TrainConfig
from segkit.data.loader import Batch, EvalBatches
from segkit.inference.predictions import images
from segkit.inference.predictor import Inference, Size, pair
from segkit.losses import BCELoss, loss_in_strips
from segkit.losses.weighted_sum import summands
from segkit.metrics import ConfusionMatrix, PRCurves, rarest_classes
from segkit.report.tables import scalar_scores
from segkit.runtime.finite import gentler
from segkit.runtime.log import log, progress
from segkit.training.data import Data
from segkit.training.recorder import Recorder
from segkit.training.state import TrainState
from segkit.training.step import TrainStep
from segkit.training.validation_images import ValidationImages


@dataclass(frozen=True)
class Prediction:
    """One image of a validation, on the device.

    Attributes:
        batch: The image alone, N = 1.
        logits: float32 (1, C, H, W), of which softmax makes probabilities.
        pred: Class ids, int64 (1, H, W).
    """

    batch: Batch
    logits: Tensor
    pred: Tensor


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    step: TrainStep,
    *,
    num_classes: int,
    ignore_index: int,
    window: Size | None = None,
    stride: Size | None = None,
    on_image: Callable[[Prediction], None] | None = None,
) -> tuple[ConfusionMatrix, float | None, list[str]]:
    """One confusion matrix over all pixels of all images, and the mean of the images' losses.

    And the names of the images whose logits hold NaN or infinity: if there are any, the matrix is
    empty, and the loss None.

    Each image with a label counts once in the loss, so that it does not depend on the batch size.
    With several processes each brings its share of the images (see :class:`EvalBatches`), and all
    get the numbers that one process would have found, to the last bit. With a window (see
    :class:`Inference`) the loss is that of the windows' mean probabilities.
    """
    inference = Inference(
        model,
        step.normalize,
        step.precision,
        window=window,
        stride=stride,
        window_key="val.window.size",
        sigmoid=all(isinstance(one, BCELoss) for one in summands(step.loss_fn, weighted=True)),
    )
    matrix = ConfusionMatrix(num_classes, ignore_index)
    values: list[Tensor] = []  # of each image: its loss, and whether its logits are finite
    names: list[str] = []
    for one in images(batches, step.precision.device):
        finite: list[Tensor] = []
        logits, target = inference(one.image, finite=finite), one.target.long()
        # max, not argmax: the same ids, seven times faster on the CPU
        image = Prediction(one, inference.comparable(logits), logits.max(1).indices)
        matrix.update(image.pred, target)
        loss = loss_in_strips(step.loss_fn, logits, target)
        labelled = (target != ignore_index).any()
        values.append(torch.stack([loss, torch.stack(finite).all().to(loss), labelled.to(loss)]))
        names += one.ids
        if on_image is not None:
            on_image(image)
    numbers = torch.stack(values).tolist() if values else []
    every = step.world.gather_interleaved(list(zip(names, numbers, strict=True)))
    matrix = step.world.sum_matrix(matrix)
    if bad := [name for name, (_, finite, _) in every if not finite]:
        return ConfusionMatrix(num_classes, ignore_index), None, bad
    losses = [loss for _, (loss, _, labelled) in every if labelled]
    defined = losses and all(map(math.isfinite, losses))
    return matrix, math.fsum(losses) / len(losses) if defined else None, []


class Validation:
    """Scores the weights of a run; see :meth:`run`.

    Args:
        settings: The configuration.
        data: Both splits.
        batches: Those of the validation split.
        step: From a batch to its loss.
        recorder: Where images and curves go.
    """

    def __init__(
        self,
        settings: TrainConfig,
        data: Data,
        batches: EvalBatches,
        step: TrainStep,
        recorder: Recorder,
    ) -> None:
        self.settings, self.data, self.batches = settings, data, batches
        self.recorder, self.world = recorder, step.world
        self.precision = step.precision.name
        self.evaluate: Callable[..., Any] = partial(
            evaluate,
            step=step,
            num_classes=len(data.classes),
            ignore_index=settings.data.ignore_index,
            window=pair(settings.val.window.size),
            stride=pair(settings.val.window.stride),
        )
        self.images = ValidationImages(
            data.classes,
            recorder.colors,
            settings.data.ignore_index,
            size=len(range(0, len(data.val), self.world.size)),
            count=settings.trainer.num_images if self.world.is_main else 0,
        )

    def run(self, state: TrainState) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Values by log name, and all scores, of the weights that the run goes by.

        Those are the average if the run keeps one. The raw weights are then scored as well, under
        ``val_raw/``. Where logits hold NaN or infinity all are None, and ``val/not_finite`` says
        for how many images.

        Raises:
            Stopped: A signal asked any of the processes to stop; the state is saved, and a resumed
                run begins with this validation.
        """
        # The average's too: it follows the statistics of its own process, and that of process 0 is
        # the one that is saved.
        for model in (state.model, *([state.average.model] if state.average else [])):
            self.world.broadcast_buffers(model)
        self.images.start()
        # What the data check counted are the pixels that are validated.
        pixels, num_curves = self.data.val_pixels, self.settings.trainer.num_pr_curves
        self.curves = PRCurves(
            len(self.data.classes),
            self.settings.data.ignore_index,
            classes=None if pixels is None else rarest_classes(pixels, num_curves),
        )
        values: dict[str, float | None] = {}
        shown = progress(self._batches(), "validation", len(self.batches))
        model = state.model if state.average is None else state.average.model
        matrix, loss, bad = self.evaluate(model, shown, on_image=partial(self._on_image, state))
        if bad:
            values["val/not_finite"] = float(len(bad))
            others = f" and {len(bad) - 1} more images" if len(bad) > 1 else ""
            log.warning(
                "warning: the network computes NaN or infinity for %s%s, so this validation has no "
                "scores and is not the best; the training has diverged. Try %s",
                bad[0],
                others,
                gentler(self.precision),
            )
        if state.average is not None:
            raw, raw_loss, _ = self.evaluate(state.model, self._batches())
            values |= {"val_raw/loss": raw_loss, "val_raw/miou": raw.compute()["miou"]}
        scores = dict(matrix.compute())
        if self.world.is_main:
            self._draw(matrix, state)
        self._draw_curves(scores["support"], state.step)
        return values | {"val/loss": loss} | scalar_scores(
            scores, self.data.classes, "val/"
        ), scores

    def _batches(self) -> Iterator[Batch]:
        """Those of the split; after each load of images all processes look whether to stop."""
        num_images, in_every_process = 0, len(self.data.val) // self.world.size
        for batch in self.batches:
            yield batch
            num_images += len(batch)
            # By images: a load is several batches where their sizes differ. And only as long as
            # every process has some: one may have an image more than another.
            is_load = num_images % self.batches.batch_size == 0
            if (
                is_load
                and num_images <= in_every_process
                and self.recorder.runtime.stop_requested()
            ):
                self.recorder.save({}, stop=True)

    def _on_image(self, state: TrainState, image: Prediction) -> None:
        self.images.add(image.batch, image.pred, partial(self._write, state.step))
        if self.settings.trainer.num_pr_curves:
            self.curves.update(image.logits, image.batch.target)
        if self.settings.trainer.histograms and image.batch.ids[0] == self.data.val.ids[0]:
            for name, logits in zip(self.data.classes, image.logits[0], strict=True):
                self.recorder.run_log.histogram(f"logits/{name}", logits, state.step)

    def _draw(self, matrix: ConfusionMatrix, state: TrainState) -> None:
        """The confusion matrix, and for the run folder the images on one sheet."""
        title = f"epoch {state.epoch + 1}: image, mask (striped: no label), prediction"
        drawn, sheet = self.images.confusion(matrix), self.images.sheet(title)
        self._write(state.step, "val_images/confusion_matrix", drawn)
        self.recorder.plots.image("confusion_matrix.png", drawn)
        if sheet is not None:
            self.recorder.plots.image("validation_images.png", sheet)

    def _draw_curves(self, support: list[int], step: int) -> None:
        """Precision against recall of the rarest classes that there are."""
        count = self.settings.trainer.num_pr_curves
        if not count:
            return
        self.curves.counts = self.world.all_reduce_sum(self.curves.counts.cpu())
        counted = [n if c in self.curves.classes else 0 for c, n in enumerate(support)]
        for class_id in rarest_classes(counted, count):
            name = f"val/pr/{self.data.classes[class_id]}"
            self.recorder.run_log.pr_curve(name, self.curves.curve(class_id), step)

    def _write(self, step: int, name: str, image: Any) -> None:
        self.recorder.run_log.image(name, image, step)
