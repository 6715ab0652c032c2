"""segkit's own training, made as train.py makes it, on a batch that stays on the device."""

import segkit  # isort: skip  # noqa: F401

import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from gpu_parts import Options
from segkit.cli import run
from segkit.config.schema import TrainConfig, to_settings
from segkit.data.loader import Batch
from segkit.models.normalize import memory_order
from segkit.runtime.context import Runtime
from segkit.runtime.determinism import fastest_convolutions, make_deterministic
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.signals import StopSignals
from segkit.training.data import Data, with_classes
from segkit.training.field_of_view import complete_model
from segkit.training.loop import train_one_epoch
from segkit.training.network import build_model, share_batch_norm, trainable
from segkit.training.plan import EpochPlan, epoch_plan
from segkit.training.run import Run
from segkit.training.state import TrainState
from segkit.training.step import TrainStep

CLASSES = 21
TRIO = "loss=[ce,focal,dice]"
NARROW = ("model.backbone.width=8", "model.aspp_channels=16", "model.decoder_channels=16")


def compose(options: Options, *overrides: str) -> DictConfig:
    """What train.py would run with; the separable head, as the peer's."""
    crop = f"augment.crop_size=[{options.size},{options.size}]"
    narrow = NARROW if "model/backbone=tiny" in overrides else ()
    fixed = ("data=voc", "data.root=none", "optimizer.lr=1e-3", "model.separable=true", crop)
    device = f"trainer.device={options.device}"
    batch = f"loader.batch_size={options.batch_size}"
    sys.argv = ["train.py", *fixed, device, batch, *narrow, *overrides]
    found: list[DictConfig] = []
    run("train", found.append)
    return found[0]


def open_runtime(cfg: DictConfig, world: DistributedContext | None = None) -> Runtime:
    """Device and precision of a configuration; closed by its ``stack``."""
    runtime = Runtime(world or DistributedContext(), StopSignals(), ExitStack())
    runtime.compute_on(cfg.trainer.device, cfg.trainer.precision)
    make_deterministic(cfg.trainer.deterministic)
    return runtime


class Training:
    """A run of segkit without files.

    Args:
        options: Sizes and device.
        cfg: The configuration.
        runtime: Its device and processes.
        model: Trained instead of the configuration's.
        data: Splits from files; None: none, and CLASSES classes.

    Attributes:
        cudnn_benchmark: Whether cuDNN tries its algorithms, as train.py lets it for fixed crops.
        values: Means over the last pass by log name.
    """

    def __init__(
        self,
        options: Options,
        cfg: DictConfig,
        runtime: Runtime,
        *,
        model: nn.Module | None = None,
        data: Data | None = None,
    ) -> None:
        self.options, self.runtime = options, runtime
        if data is None:
            cfg = with_classes(cfg, [f"class {i}" for i in range(CLASSES)])
            complete_model(cfg.model, (options.size, options.size))
            settings = to_settings(TrainConfig, cfg)
        else:
            settings = Run(cfg, None, runtime).complete(data)
        self.settings = settings
        torch.manual_seed(settings.seed)
        if model is None:
            self.model, _ = build_model(settings, None, runtime)
        else:
            order = memory_order(settings.trainer.channels_last)
            self.model = model.to(runtime.device).to(memory_format=order)
        self.state = TrainState.start(self.model, settings, runtime.precision)
        self.step = TrainStep.build(settings, runtime)
        share_batch_norm(self.model, settings, runtime)
        self.network = trainable(self.model, self._plan(1), settings, runtime)
        self.cudnn_benchmark = settings.augment.crop_size is not None
        self.values: dict[str, float] = {}

    def _plan(self, images: int) -> EpochPlan:
        size = self.settings.loader.batch_size
        return epoch_plan(self.settings, images, self.state, size, self.runtime.world.size)

    def on(self, batches: Sequence[Batch]) -> None:
        """One step on each of the batches, of equal sizes."""
        self.state.epoch = 0
        self.follow(batches, self._plan(sum(map(len, batches)) * self.runtime.world.size))

    def follow(self, batches: Iterable[Batch], plan: EpochPlan) -> None:
        """An epoch of the loop of train.py."""
        make_deterministic(self.settings.trainer.deterministic)
        with fastest_convolutions(self.cudnn_benchmark):
            self.values = train_one_epoch(
                self.state, batches, self.step, plan, network=self.network
            )
        self.state.finish_epoch()

    def __call__(self, count: int) -> None:
        """So many steps on the resident batch."""
        self.on([resident(self.options)] * count)


_resident: list[Batch] = []


def train(options: Options, *overrides: str, model: nn.Module | None = None) -> Training:
    """A training on the resident batch."""
    cfg = compose(options, *overrides)
    return Training(options, cfg, open_runtime(cfg), model=model)


def resident(options: Options) -> Batch:
    """The batch of this process, on the device."""
    if not _resident:
        image, target = random_images(options.batch_size, (options.size, options.size))
        ids = tuple(map(str, range(len(image))))
        _resident.append(Batch(image, target, ids).to(torch.device(options.device)))
    return _resident[0]


def random_images(
    count: int, size: tuple[int, int], classes: int = CLASSES
) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, H, W) with channels last in memory, as loaded, and uint8 (N, H, W)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=generator)
    target = torch.randint(classes, (count, *size), dtype=torch.uint8, generator=generator)
    target[:, : size[0] // 16] = 255
    return image.permute(0, 3, 1, 2), target
