"""An epoch from files: whether the loader keeps up with the device."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from gpu_parts import Cases, Options, Row, Unavailable
from gpu_parts.measure import synchronize
from gpu_parts.training import Training, compose, open_runtime
from segkit.data.dataset import SegmentationDataset
from segkit.training.batches import open_batches
from segkit.training.data import load_data
from segkit.training.pace import Pace
from segkit.training.plan import epoch_plan

IMAGES = 2400  # of an epoch


def cases(options: Options) -> Cases:
    kinds = ((0, "null"), (1, "ram")) if options.quick else tuple(
        [(workers, "null") for workers in (4, 8, 14)] + [(14, "ram")]
    )  # fmt: skip
    return {
        f"{workers} workers, cache={cache}": partial(epoch, options, workers, cache)
        for workers, cache in kinds
    }


class Repeated:
    """A data set with each of its images several times, so that an epoch is long enough."""

    def __init__(self, dataset: SegmentationDataset, times: int) -> None:
        self.dataset, self.classes = dataset, dataset.classes
        self.ids = [f"{name}_{i}" for i in range(times) for name in dataset.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Any:
        return self.dataset.read(index % len(self.dataset))


def epoch(options: Options, workers: int, cache: str) -> Iterator[Row]:
    if options.data is None:
        raise Unavailable("no --data")
    cfg = compose(
        options,
        f"model/backbone={options.backbones[0]}",
        f"trainer.precision={options.precisions[0]}",
        "loss=[ce,dice]",
        f"data.root='{options.data}'",
        f"loader.num_workers={workers}",
        f"loader.cache={cache}",
    )
    runtime = open_runtime(cfg)
    with runtime.stack:
        data = load_data(cfg, None, runtime)
        times = 1 if options.quick else -(-IMAGES // len(data.train))
        data = replace(data, train=Repeated(data.train, times))
        training = Training(options, cfg, runtime, data=data)
        settings, state = training.settings, training.state
        train_batches, _ = open_batches(data, settings, options.batch_size, runtime)
        plan = epoch_plan(settings, len(data.train), state, options.batch_size, 1)
        batches = train_batches.of(plan)
        training.on([next(batches)] * 3)  # warm
        for _ in range(3 * workers):  # what was loaded meanwhile does not count
            next(batches)
        begun = time.perf_counter()
        count = sum(len(batch) for batch in batches)
        alone = count / (time.perf_counter() - begun)
        pace = Pace()
        training.follow(pace.follow(train_batches.of(plan), plan), plan)
        synchronize(options)
    yield {
        "loader alone, images/s": alone,
        "training, images/s": training.values["images_per_second"],
        "waiting %": 100 * pace.waiting,
        "images": plan.images_per_epoch,
    }
