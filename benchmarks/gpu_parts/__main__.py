"""Does the cases of a part: ``python -m gpu_parts MODULE FIRST FILE OPTIONS``; see gpu.py.

FILE gets a line of JSON for what begins, for every row, for what ends, and for an error.
"""

import gc
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from gpu_parts import Options, Unavailable


def main() -> None:
    module, first, file, options = sys.argv[1:]

    def say(kind: str, value: Any = None) -> None:
        with Path(file).open("a", encoding="utf-8") as said:
            said.write(json.dumps([kind, value]) + "\n")

    try:
        cases = importlib.import_module(module).cases(Options(**json.loads(options)))
        for number, (name, rows) in list(enumerate(cases.items()))[int(first) :]:
            say("begin", (number, name))
            try:
                for row in rows():
                    say("row", {"case": name} | row)
            except Unavailable as reason:
                say("row", {"case": name, "note": str(reason)})
            say("end")
            free()
    except BaseException as error:
        say("error", f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        raise


def free() -> None:
    """Memory of the case before is not the next one's."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
