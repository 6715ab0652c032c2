"""Predictions for the images of a split, and what a validation makes of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segkit.data.loader import Batch, to_device
from segkit.inference.predictor import Inference
from segkit.metrics.best_class import best_and_exps
from segkit.metrics.counting import row_strips

NUMBERS = 2**20  # scores that are looked at together, so that what that needs stays small


@dataclass(frozen=True)
class PredictedMask:
    """One image of an evaluation, on the device: what can be kept of an image of any size.

    Attributes:
        batch: The image alone, N = 1.
        pred: Class ids, integer (1, H, W); small ones, since images may be large.
        confidence: Probability of these ids, float32 (1, H, W); None where it is not known.
        label_confidence: Probability of the target's ids, likewise; of no meaning where ignored.
    """

    batch: Batch
    pred: Tensor
    confidence: Tensor | None = None
    label_confidence: Tensor | None = None


def images(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The images of the batches one by one, on the device."""
    for batch in to_device(batches, device):
        for i, name in enumerate(batch.ids):
            part = slice(i, i + 1)
            yield replace(batch, image=batch.image[part], target=batch.target[part], ids=(name,))


@torch.no_grad()
def predict_masks(inference: Inference, batches: Iterable[Batch]) -> Iterator[PredictedMask]:
    """What a model makes of every image at its own size.

    The scores of all classes are in memory only for the rows that ``inference`` computes together.

    Raises:
        CheckpointError: Logits of an image are not finite; nothing is yielded for it.
    """
    for one in images(batches, inference.precision.device):
        shape = one.target.shape
        pred = torch.empty(shape, dtype=torch.int16, device=one.image.device)
        confidence = torch.empty(shape, dtype=torch.float32, device=one.image.device)
        label_confidence = torch.empty_like(confidence)
        for band, scores in inference.row_blocks(one.image, one.ids[0]):
            for rows in row_strips(band, shape[2] * scores.shape[1], NUMBERS):
                part = scores[:, :, rows.start - band.start : rows.stop - band.start]
                part = inference.comparable(part)
                pred[:, rows], exps = best_and_exps(part)
                total = exps.sum(1)
                confidence[:, rows] = total.reciprocal()
                # Ids that are no class are those of ignored pixels, or Measures will refuse them.
                labels = one.target[:, rows].long().clamp_(0, part.shape[1] - 1)
                label_confidence[:, rows] = exps.gather(1, labels[:, None])[:, 0].div_(total)
        yield PredictedMask(one, pred, confidence, label_confidence)
