"""A validation score that falls while the training loss does, which training alone cannot show."""

FAR = 0.7  # of its best value so far; noise of an early epoch is less


class FallWatch:
    """Looks at the mIoU of each validation and the training loss beside it.

    Attributes:
        best: Largest mIoU so far.
        loss: Mean training loss of that epoch.
        epoch: That epoch.
        told: Whether it fell before; that is said once in a run.
    """

    def __init__(self) -> None:
        self.best, self.loss, self.epoch, self.told = -1.0, 0.0, 0, False

    def update(self, miou: float | None, train_loss: float | None, epoch: int) -> str | None:
        """What to add to the epoch's line when the score has fallen far; None otherwise."""
        if miou is None or train_loss is None:
            return None
        if miou >= self.best:
            self.best, self.loss, self.epoch = miou, train_loss, epoch
        elif miou < FAR * self.best and train_loss < self.loss and not self.told:
            self.told = True
            return f"(it was {self.best:.4f} in epoch {self.epoch}, and the loss falls)"
        return None

    def state_dict(self) -> dict[str, float]:
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, float]) -> None:
        vars(self).update(state)
