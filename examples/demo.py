"""A trained model in the browser, to try it by hand: ``python examples/demo.py runs/mine``.

Needs Gradio: ``python -m pip install gradio``. Only this computer can reach the page.
"""

import argparse
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import segkit
from segkit.errors import DataError, SegkitError
from segkit.inference.model import SegmentationModel

Annotated = tuple[NDArray[np.uint8], list[tuple[NDArray[np.float32], str]]]


def segment(
    model: SegmentationModel, image: NDArray[np.uint8] | None
) -> tuple[Annotated, dict[str, float]]:
    """An image with a mask for each class on it, and each class's share of the pixels.

    Args:
        model: What :func:`segkit.load_model` returns.
        image: uint8 (H, W, 3) RGB.

    Returns:
        The image with (mask float32 (H, W) of 0 and 1, name) of each class that is there, which
        is what Gradio's AnnotatedImage shows; and the shares, 0 to 1, by name.

    Raises:
        DataError: There is no image.
    """
    if image is None:
        raise DataError("there is no image; drop one into the field, or take one of your files")
    found = model.predict(image)
    masks = [(found == index).astype(np.float32) for index in range(len(model.classes))]
    named = list(zip(masks, model.classes, strict=True))
    shares = {name: float(mask.mean()) for mask, name in named}
    return (image, [(mask, name) for mask, name in named if mask.any()]), shares


def build(model: SegmentationModel) -> Any:
    """The page: an object of Gradio, whose ``launch()`` serves it."""
    import gradio as gr

    def answer(image: NDArray[np.uint8] | None) -> tuple[Annotated, dict[str, float]]:
        try:
            return segment(model, image)
        except SegkitError as error:
            raise gr.Error(str(error)) from error

    palette = model.palette[: len(model.classes)].tolist()
    colors = {
        name: "#{:02x}{:02x}{:02x}".format(*color)
        for name, color in zip(model.classes, palette, strict=False)
    }
    return gr.Interface(
        answer,
        gr.Image(type="numpy", image_mode="RGB", label="image"),
        [gr.AnnotatedImage(color_map=colors, label="classes"), gr.Label(label="share of pixels")],
        title="segkit",
        flagging_mode="never",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a run folder, a .pt file, or an exported .onnx file")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        page = build(segkit.load_model(given.checkpoint, device=given.device))
    except ImportError as error:
        sys.exit(f"error: {error}: python -m pip install gradio")
    except SegkitError as error:
        sys.exit(f"error: {error}")
    page.launch(server_name="127.0.0.1", server_port=given.port)


if __name__ == "__main__":
    main()
