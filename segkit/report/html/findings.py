"""What a report needs of each image, collected while the images go by."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from segkit.data.arrays import Image
from segkit.metrics import ConfusionMatrix, class_counts
from segkit.metrics.confusion import ratio
from segkit.report.html.object_sizes import ObjectSizes
from segkit.report.html.thumbnails import SIDES, Thumbnail, kept, thumbnail
from segkit.report.image_result import Box, ImageResult
from segkit.report.label_errors import Region, SuspiciousLabels

CROP_SIDE = 256  # of the images of suspicious regions
NO_IMAGE = Thumbnail(0, 0, b"", b"", b"", b"")
SPARE = 4  # times as many of them as are shown: the thresholds are known at the end


@dataclass(frozen=True)
class Card:
    """One image: its scores and its images.

    Attributes:
        name: The image's id.
        miou: Mean IoU of this image alone; None if nothing of it counts.
        accuracy: Share of its pixels that are right.
        iou: Class id and IoU of each class in the target or the prediction.
        lost: Class id and wrong pixels (missed or made up) of each class in the target.
        pixels: What its layers are made of; None once they are made, or if there are to be none.
        image: Its layers, made of what is shown alone.
        groups: Why it is shown: a group's name and the place in it, from 1.
    """

    name: str
    miou: float | None
    accuracy: float | None
    iou: dict[int, float]
    lost: dict[int, int]
    pixels: ImageResult | None = None
    image: Thumbnail = NO_IMAGE
    groups: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Crop:
    """A suspicious region and its surroundings, those in ``window``."""

    region: Region
    window: Box
    pixels: ImageResult | None = None
    image: Thumbnail = NO_IMAGE


class Findings:
    """The worst and the best images, objects by size, and suspicious labels of a split.

    Memory does not grow with the split: pixels are kept of those images only that may be shown, at
    most of ``2 * max_images`` and one more for each class. Images are made at the end.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of the pixels that are not counted.
        palette: RGB of each mask value, uint8 (256, 3).
        max_images: How many images are shown, and how many suspicious regions at most.
    """

    def __init__(
        self, num_classes: int, ignore_index: int, palette: Image, max_images: int = 24
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.palette, self.max_images = palette, max_images
        self.sizes = ObjectSizes(num_classes, ignore_index)
        self.suspicious = SuspiciousLabels(num_classes, ignore_index)
        self.crops: list[Crop] = []
        self.worst: list[Card] = []
        self.best: list[Card] = []
        self.worst_of: dict[int, Card] = {}

    def update(self, result: ImageResult) -> None:
        """Look at one image."""
        self.sizes.update(result.target, result.pred)
        card = self._card(result)
        if card is not None:
            self._add(card)
        found = self.suspicious.update(result)
        if self.crops and len(self.crops) == self._num_crops:
            found = [region for region in found if region.rank < self.crops[-1].region.rank]
        if not found:
            return
        known = {crop.region: crop for crop in self.crops}
        # What is not kept is not cut out either.
        self.crops = [
            known.get(region) or self._crop(region, result)
            for region in self._candidates([*known, *found])
        ]

    def merge(self, other: "Findings") -> None:
        """Add what another process found."""
        self.sizes.merge(other.sizes)
        self.suspicious.merge(other.suspicious)
        crops = {crop.region: crop for crop in (*self.crops, *other.crops)}
        self.crops = [crops[region] for region in self._candidates([*crops])]
        cards = (*other.worst, *other.best, *other.worst_of.values())
        for card in {card.name: card for card in cards}.values():
            self._add(card)

    def cards(self, class_iou: list[float | None]) -> list[Card]:
        """At most ``max_images``, each once, worst first.

        Half of the places go to the worst images and a quarter to the best. The rest shows, for the
        classes with the lowest IoU first, the image in which the class loses most pixels.
        """
        groups: dict[str, dict[str, int]] = {}
        chosen: dict[str, Card] = {}

        def show(cards: Iterable[Card], group: str) -> None:
            for card in cards:
                chosen[card.name] = card
                mine = groups.setdefault(card.name, {})
                mine[group] = 1 + sum(group in places for places in groups.values())

        # Of few images half are the worst: len(self.worst) is their number then.
        show(self.worst[: (min(self.max_images, len(self.worst)) + 1) // 2], "worst")
        best = [card for card in self.best if card.name not in chosen]
        show(best[: self.max_images // 4], "best")
        order = sorted(self.worst_of, key=lambda c: (1.0 if (v := class_iou[c]) is None else v, c))
        for class_id in order:
            card = self.worst_of[class_id]
            if card.name in chosen or len(chosen) < self.max_images:
                show([card], f"class-{class_id}")
        show(
            [c for c in self.worst if c.name not in chosen][: self.max_images - len(chosen)],
            "worst",
        )
        cards = [
            replace(
                card,
                pixels=None,
                image=self._image(card.pixels, SIDES[0]),
                groups=tuple(groups[card.name].items()),
            )
            for card in chosen.values()
        ]
        return sorted(cards, key=_worst)

    def doubted(self) -> list[Crop]:
        """At most ``max_images`` regions whose labels are most probably wrong, worst first.

        One label that is taken for one other class, as in all frames of a video, gets a quarter of
        the places at most as long as others want them.
        """
        doubted = set(self.suspicious.regions())
        crops = [crop for crop in self.crops if crop.region in doubted]
        few = worst_of_each([crop.region for crop in crops], -(-self.max_images // 4))
        chosen = set(few[: self.max_images])
        others = [crop.region for crop in crops if crop.region not in chosen]
        chosen.update(others[: self.max_images - len(chosen)])
        return [
            replace(crop, pixels=None, image=self._image(crop.pixels, CROP_SIDE))
            for crop in crops
            if crop.region in chosen
        ]

    def _image(self, pixels: ImageResult | None, side: int) -> Thumbnail:
        assert pixels is not None
        return thumbnail(pixels, self.palette, self.ignore_index, side)

    def _candidates(self, regions: Sequence[Region]) -> list[Region]:
        """The regions to keep of all that are known, whatever the order they came in."""
        return worst_of_each(regions, self.max_images)[: self._num_crops]

    @property
    def _num_crops(self) -> int:
        return SPARE * self.max_images

    def _card(self, result: ImageResult) -> Card | None:
        """None if there is no place for it anywhere, so that nothing has to be kept of it."""
        matrix = ConfusionMatrix(self.num_classes, self.ignore_index)
        matrix.update(torch.from_numpy(result.pred), torch.from_numpy(result.target))
        hits, support, predicted = class_counts(matrix.matrix).numpy()
        union = support + predicted - hits
        iou = {int(c): float(hits[c] / union[c]) for c in np.flatnonzero(union)}
        lost = {int(c): int(union[c] - hits[c]) for c in np.flatnonzero(support)}
        card = Card(
            result.name,
            sum(iou.values()) / len(iou) if iou else None,
            ratio(int(hits.sum()), int(support.sum())),
            iou,
            lost,
        )
        if card.miou is None or not self.max_images or not self._has_place(card):
            return None
        return replace(card, pixels=kept(result, self.num_classes))

    def _has_place(self, card: Card) -> bool:
        return (
            len(self.worst) < self.max_images
            or _worst(card) < _worst(self.worst[-1])
            or _best(card) < _best(self.best[-1])
            or any(_loses(card, c) < _loses(self.worst_of.get(c), c) for c in card.lost)
        )

    def _add(self, card: Card) -> None:
        self.worst = heapq.nsmallest(self.max_images, [*self.worst, card], key=_worst)
        self.best = heapq.nsmallest(self.max_images, [*self.best, card], key=_best)
        for class_id in card.lost:
            if _loses(card, class_id) < _loses(self.worst_of.get(class_id), class_id):
                self.worst_of[class_id] = card

    def _crop(self, region: Region, result: ImageResult) -> Crop:
        """The region with half its size around it, and at least 32 pixels."""
        box = region.box
        margin = max(32, (box.bottom - box.top) // 2, (box.right - box.left) // 2)
        window = box.grown(margin, result.target.shape)
        part = result.part(window)
        return Crop(region, window, kept(part, self.num_classes, CROP_SIDE))


def worst_of_each(regions: Iterable[Region], count: int) -> list[Region]:
    """At most ``count`` regions of each pair of label and prediction, worst first."""
    seen: Counter[tuple[int, int]] = Counter()
    kept = []
    for region in sorted(regions, key=lambda region: region.rank):
        seen[region.label, region.pred] += 1
        if seen[region.label, region.pred] <= count:
            kept.append(region)
    return kept


def _worst(card: Card) -> tuple[float, str]:
    return (card.miou or 0.0, card.name)


def _best(card: Card) -> tuple[float, str]:
    return (-(card.miou or 0.0), card.name)


def _loses(card: Card | None, class_id: int) -> tuple[int, str]:
    return (1, "") if card is None else (-card.lost[class_id], card.name)
