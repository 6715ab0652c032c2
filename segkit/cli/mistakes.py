"""Errors that are no defect of the program, in one line; they may come from anywhere."""

import errno
import re
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf.errors import OmegaConfBaseException

from segkit.config.explain import explain, null_choices, short
from segkit.errors import SegkitError
from segkit.text import join_lines

# The disk is full, read-only or broken, or there are too many open files.
DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE}


def plain_text(error: Exception, name: str) -> str | None:
    """The line, or None for a defect, whose traceback says where it is."""
    if isinstance(error, SegkitError):
        return str(error)
    if isinstance(error, OmegaConfBaseException):
        return explain(error, name)
    if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
        return f"{error.filename or 'a file'}: {error.strerror}"
    if "torch" not in sys.modules:
        return None
    from segkit.data.workers import loader_failure
    from segkit.runtime.distributed import peer_failure
    from segkit.runtime.memory import is_out_of_memory

    if failure := loader_failure(error):
        return str(failure)
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        said = str(error).partition("\n")[0]
        return (
            "out of memory: use a smaller model/backbone, smaller images, or a device with more "
            f"free memory ({said})"
        )
    return peer_failure(error)


def stumbled(error: Exception, words: Sequence[str]) -> str:
    """What to say where Hydra cannot even compose the configuration, and does not know why."""
    overrides = [x for x in words if "=" in x and not x.startswith("-")]
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        digits = [x for x in overrides if re.search(r"\d{4000}", x)]
        return f"{' '.join(map(short, digits))}: a number of thousands of digits"
    if known := list(null_choices(OverridesParser.create().parse_overrides(overrides))):
        return join_lines(known)
    groups = [x for x in overrides if "${" in x and "." not in x.partition("=")[0]]
    blamed = " ".join(map(short, groups or overrides)) or "the configuration"
    reason = short(" ".join(str(error).split()))
    return (
        f"{blamed}: Hydra cannot compose this ({type(error).__name__}"
        f"{f': {reason}' if reason else ''}); a group takes the name of a file, as text"
    )
