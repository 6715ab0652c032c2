"""Errors that a user can act on. The scripts print them as one message and exit with status 1."""


class SegkitError(ValueError):
    """Something the user gave is wrong; says what, where, what was expected, the way out."""


class ConfigError(SegkitError):
    """A key, type or value of the configuration."""


class DataError(SegkitError):
    """A file or folder of the data set."""


class CheckpointError(SegkitError):
    """A file of weights or a checkpoint."""


class TrainingError(SegkitError):
    """The run itself: a non-finite loss, a precision that computes wrong gradients."""


class MainProcessError(SegkitError):
    """Process 0 failed and says why itself; the others get this and may end without a word."""
