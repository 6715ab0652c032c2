"""argv -> one composed, checked configuration; one message per mistake.

The only reader of Hydra's command line. Importing this package does not import torch, so that a
mistake in a key ends a run at once.
"""

from segkit.cli.command import check_command_line, run
from segkit.cli.typed import typed_overrides

__all__ = ["check_command_line", "run", "typed_overrides"]
