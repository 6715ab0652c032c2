"""What a document has running in one terminal while it asks it from another."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from scripts import Result

LIMIT = 120  # seconds until it must answer


class Server:
    """The newest server that a document started, on a port that is free.

    Attributes:
        port: Where it listens; None before there is one.
    """

    def __init__(self) -> None:
        self.port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, words: list[str], folder: Path) -> Result:
        """Run a script that takes ``--port``; returns when it answers, or ended too early."""
        self.stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        log = folder / "server.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *words, "--port", str(self.port)],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        ends = time.monotonic() + LIMIT
        while self._process.poll() is None and time.monotonic() < ends:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return Result(0, "", "")
            time.sleep(0.2)
        self.stop()
        return Result(1, "", log.read_text())

    def asked(self, command: str) -> str:
        """A command that asks it, with the port that it has here."""
        return command.replace("http://127.0.0.1:8000/", f"http://127.0.0.1:{self.port}/")

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
