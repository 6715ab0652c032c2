"""ONNX files in fewer bits, by onnxruntime's own tools."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor


def reduce_precision(path: Path, precision: str, images: Iterable[Tensor]) -> None:
    """Rewrite an ONNX file in place.

    - ``fp16``: weights and arithmetic, where onnxruntime has it; input and output stay float32.
    - ``int8_dynamic``: convolutions; the range of each input is found while it computes, over the
      whole batch.
    - ``int8_static``: convolutions with their ReLUs; the ranges come from ``images``. The weights
      have 7 bits, one scale per channel: with 8, sums overflow on CPUs before AVX-512 VNNI,
      silently.

    Args:
        path: The file.
        precision: One of these, or fp32, which changes nothing.
        images: What the network takes, (1, 3, H, W) each; used by ``int8_static`` alone.
    """
    if precision == "fp32":
        return
    with _quiet():
        _reduce(path, precision, images)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the tools give about one another, and weights too small for fp16."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reduce(path: Path, precision: str, images: Iterable[Tensor]) -> None:
    if precision == "fp16":
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
        return
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = path.with_suffix(".prepared.onnx")
    try:
        quant_pre_process(path, model, skip_symbolic_shape=True)  # BatchNorm into convolutions
        if precision == "int8_dynamic":
            # The CPU has integer convolutions for unsigned weights only.
            kind = quantization.QuantType.QUInt8
            quantization.quantize_dynamic(model, path, ["Conv"], weight_type=kind)
        else:
            quantization.quantize_static(
                model,
                path,
                _Images(path, images),
                quant_format=quantization.QuantFormat.QDQ,
                # With ReLU and ReLU6, no bits are spent on what those cut off.
                op_types_to_quantize=["Conv", "Relu", "Clip"],
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        model.unlink(missing_ok=True)


class _Images:
    """The images in the form that onnxruntime's calibration asks for."""

    def __init__(self, path: Path, images: Iterable[Tensor]) -> None:
        import onnx

        self.name = onnx.load(path).graph.input[0].name
        self.images = iter(images)

    def get_next(self) -> dict[str, object] | None:
        image = next(self.images, None)
        return None if image is None else {self.name: image.numpy()}
