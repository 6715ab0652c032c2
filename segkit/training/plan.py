"""What each epoch of a run does: its images, the size of its steps, what is trained in it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from segkit.config.schema import TrainConfig, first_late_epoch
from segkit.data.sampler import step_starts
from segkit.schedules import Schedule
from segkit.training.state import TrainState


@dataclass(frozen=True)
class EpochPlan:
    """One epoch.

    Attributes:
        epoch: Its number, from 1.
        max_epochs: Length of the run.
        num_images: Size of the training split.
        batch_size: Images per batch and process.
        num_processes: Processes that share each step.
        accumulate: Batches whose gradients make one step.
        start: Images of the epoch that all processes together have used already.
        freeze_epochs: First epochs of the run that leave the backbone as it is.
        batch_size_key: The setting that ``batch_size`` comes from.
        crop_size_key: The one that the size of all images comes from; None: they have any size.
        validates: Whether a validation follows.
    """

    epoch: int
    max_epochs: int
    num_images: int
    batch_size: int
    num_processes: int = 1
    accumulate: int = 1
    start: int = 0
    freeze_epochs: int = 0
    batch_size_key: str = "loader.batch_size"
    crop_size_key: str | None = None
    validates: bool = True

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return self.epoch <= self.freeze_epochs

    @property
    def unfreezes(self) -> bool:
        """Whether this is the first epoch that trains a backbone that was frozen."""
        return self.epoch == self.freeze_epochs + 1

    @property
    def global_batch_size(self) -> int:
        """Images that all processes use at once."""
        return self.batch_size * self.num_processes

    @property
    def images_per_step(self) -> int:
        """Of all processes and accumulated batches."""
        return self.global_batch_size * self.accumulate

    @property
    def images_per_epoch(self) -> int:
        """Images that a whole epoch uses; see :class:`~segkit.data.sampler.EpochBatchSampler`."""
        return step_starts(self.num_images, 0, self.global_batch_size).stop

    @property
    def num_batches(self) -> int:
        """Batches of each process that are left of the epoch."""
        return len(step_starts(self.num_images, self.start, self.global_batch_size))

    @property
    def or_next(self) -> "EpochPlan":
        """The next epoch where nothing is left of this one: the one whose batches come first."""
        return self if self.num_batches else replace(self, epoch=self.epoch + 1, start=0)

    def images_after(self, num_batches: int) -> int:
        """Images of the epoch that all processes have used after so many batches from ``start``."""
        last = step_starts(self.num_images, self.start, self.global_batch_size).stop
        return min(self.start + num_batches * self.global_batch_size, last)

    def lr_factor(self, schedule: Schedule, images: int) -> float:
        """Factor of the learning rate after ``images`` of this epoch.

        The position is that in the data, not the number of steps, so that it goes on smoothly where
        the batch size or the number of processes changes within a run.
        """
        steps_per_epoch = -(-self.images_per_epoch // self.images_per_step)
        step = (self.epoch - 1) * steps_per_epoch + images // self.images_per_step
        return schedule.factor(step, self.max_epochs * steps_per_epoch, steps_per_epoch)


def epoch_plan(
    settings: TrainConfig, num_images: int, state: TrainState, batch_size: int, num_processes: int
) -> EpochPlan:
    """The epoch that comes next.

    Args:
        settings: The configuration.
        num_images: Size of the training split.
        state: Where the run stands.
        batch_size: Images per batch and process of the epochs that train everything.
        num_processes: Processes that share each step.
    """
    trainer, augment, epoch = settings.trainer, settings.augment, state.epoch + 1
    late = epoch >= first_late_epoch(settings)
    crop_size = augment.late_crop_size if late else augment.crop_size
    crop_size_key = "augment.late_crop_size" if late else "augment.crop_size"
    frozen_size = settings.loader.freeze_batch_size if epoch <= trainer.freeze_epochs else None
    return EpochPlan(
        epoch=epoch,
        max_epochs=trainer.max_epochs,
        num_images=num_images,
        batch_size=frozen_size or batch_size,
        num_processes=num_processes,
        accumulate=trainer.accumulate,
        start=state.images,
        freeze_epochs=trainer.freeze_epochs,
        batch_size_key="loader.freeze_batch_size" if frozen_size else "loader.batch_size",
        crop_size_key=None if crop_size is None else crop_size_key,
        validates=epoch % trainer.val_every == 0 or epoch == trainer.max_epochs,
    )


def epoch_plans(
    settings: TrainConfig, num_images: int, state: TrainState, batch_size: int, num_processes: int
) -> Iterator[EpochPlan]:
    """Of each epoch until the run is over, made when it begins; see :func:`epoch_plan`."""
    while not state.monitor.is_over(state.epoch, settings.trainer.max_epochs):
        yield epoch_plan(settings, num_images, state, batch_size, num_processes)
