"""Which logged value decides what is best, and when a run is over."""

from omegaconf import DictConfig

from segkit.config import did_you_mean
from segkit.config.schema import less_is_better
from segkit.engine.checkpoint import Checkpoint
from segkit.engine.early_stopping import Patience
from segkit.engine.log import log
from segkit.engine.state import Best
from segkit.errors import ConfigError
from segkit.metrics import ConfusionMatrix
from segkit.report.tables import scalar_scores


def make_best(cfg: DictConfig) -> Best:
    """The search for the best value of ``trainer.monitor``; unknown names are refused here."""
    return Best(*_checked(cfg, cfg.trainer.monitor, "monitor"))


def make_patience(cfg: DictConfig) -> Patience | None:
    """What ends the run before its last epoch, if that is wanted."""
    monitor = cfg.trainer.patience_monitor or cfg.trainer.monitor
    monitor, mode = _checked(cfg, monitor, "patience_monitor")
    if cfg.trainer.patience is None:
        return None
    return Patience(monitor, mode, cfg.trainer.patience, cfg.trainer.min_delta)


def is_over(cfg: DictConfig, epoch: int, patience: Patience | None) -> bool:
    """Whether no epoch comes after this one."""
    return epoch >= cfg.trainer.max_epochs or (patience is not None and patience.exhausted)


def is_finished(cfg: DictConfig, saved: Checkpoint) -> bool:
    """Whether a saved run has nothing left to train; says so."""
    patience = make_patience(cfg)
    if patience is not None and saved.state["patience"]:
        patience.load_state_dict(saved.state["patience"])
    epoch = saved.state["epoch"]
    if not is_over(cfg, epoch, patience):
        return False
    way = "trainer.max_epochs" if epoch >= cfg.trainer.max_epochs else "trainer.patience"
    log.info("%s has finished after epoch %d; a larger %s goes on", saved.path, epoch, way)
    return True


def _checked(cfg: DictConfig, monitor: str, key: str) -> tuple[str, str]:
    """The name, and whether more (``max``) or less (``min``) of it is better."""
    classes = list(cfg.data.classes)
    scores = ConfusionMatrix(len(classes)).compute()
    terms = [f"train/loss/{name}" for name in cfg.loss.get("terms", [])]
    names = ["train/loss", *terms, "val/loss", *scalar_scores(scores, classes, "val/")]
    if cfg.trainer.ema_decay is not None:
        names += ["val_raw/loss", "val_raw/miou"]
    if monitor not in names:
        raise ConfigError(
            f"trainer.{key}={monitor}: no such logged value{did_you_mean(monitor, names)}"
        )
    mode = cfg.trainer.monitor_mode if monitor == cfg.trainer.monitor else "auto"
    return monitor, ("min" if less_is_better(monitor) else "max") if mode == "auto" else mode
