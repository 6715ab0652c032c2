"""A trained model as a web service: ``python examples/serve.py runs/mine``.

POST an image as the field ``image`` of a form, as ``curl -F image=@photo.jpg`` does:

- to ``/mask`` for a PNG with palette, whose values are class ids;
- to ``/areas`` for JSON: how many pixels, and what percentage, each class has.

What cannot be used is answered with a sentence in ``detail`` and a status of 400 (no image),
413 (too large) or 422 (no such field).
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

import segkit
from segkit.data.decode import head_size
from segkit.data.masks import write_mask
from segkit.errors import DataError, SegkitError
from segkit.inference.model import SegmentationModel

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
except ImportError as error:
    sys.exit(f"error: {error}: python -m pip install fastapi python-multipart uvicorn")

MAX_BYTES = 20 * 2**20  # of a request
MAX_PIXELS = 25_000_000  # of an image: a small file can hold very many

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def create_app(
    model: SegmentationModel, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> FastAPI:
    """The service.

    Args:
        model: What :func:`segkit.load_model` returns.
        max_bytes: Larger requests are refused before all of them has come.
        max_pixels: Larger images are refused before they are decoded.
    """
    one_at_a_time = threading.Lock()  # an image takes memory, and all cores

    def predict(upload: UploadFile, folder: Path) -> np.ndarray[Any, Any]:
        """The class ids, integer (H, W). From a file, so that all checks of segkit hold."""
        path = folder / "image"
        path.write_bytes(upload.file.read())
        height, width = head_size(path) or (0, 0)
        if height * width > max_pixels:
            raise HTTPException(
                413, f"the image has {height} x {width} pixels; expected at most {max_pixels:,}"
            )
        try:
            with one_at_a_time:
                return model.predict(path)
        except DataError as error:
            detail = str(error).replace(str(path), "the image")
            raise HTTPException(400, detail) from error

    def mask(image: UploadFile) -> Response:
        """A PNG with palette, whose values are class ids."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mask.png"
            write_mask(path, predict(image, Path(folder)), model.palette)
            return Response(path.read_bytes(), media_type="image/png")

    def areas(image: UploadFile) -> dict[str, Any]:
        """How many pixels, and what percentage, each class has."""
        with tempfile.TemporaryDirectory() as folder:
            found = predict(image, Path(folder))
        counts = np.bincount(found.ravel(), minlength=len(model.classes)).tolist()
        return {
            "height": found.shape[0],
            "width": found.shape[1],
            "areas": {
                name: {"pixels": count, "percent": round(100 * count / found.size, 4)}
                for name, count in zip(model.classes, counts, strict=True)
            },
        }

    app = FastAPI(title="segkit", description=__doc__)
    app.add_api_route("/mask", mask, methods=["POST"], response_class=Response)
    app.add_api_route("/areas", areas, methods=["POST"])
    app.add_exception_handler(RequestValidationError, _no_image)
    app.add_middleware(BodyLimit, max_bytes=max_bytes)
    return app


async def _no_image(request: Request, error: Exception) -> JSONResponse:
    detail = "expected a form with a file in the field image, as curl -F image=@photo.jpg sends it"
    return JSONResponse({"detail": detail}, 422)


class BodyLimit:
    """Refuses a request when more of it has come than ``max_bytes``, whatever its head says."""

    def __init__(self, app: Callable[..., Awaitable[None]], max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                limit = f"{self.max_bytes / 2**20:g} MiB"
                raise HTTPException(413, f"the request is too large; expected at most {limit}")
            return message

        await self.app(scope, counted, send)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a run folder, a .pt file, or an exported .onnx file")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        model = segkit.load_model(given.checkpoint, device=given.device)
    except SegkitError as error:
        sys.exit(f"error: {error}")
    if len(model.classes) > 256:
        sys.exit("error: a PNG holds 256 classes, the model has more; answer with another format")
    uvicorn.run(create_app(model), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
