"""What the fused kernels would move and keep on a GPU, counted; and that they compile for one."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.losses import CrossEntropyLoss, DiceLoss, FocalLoss, WeightedSum, fused, weighted_sum

IMAGES, CLASSES, SIZE = 16, 21, 512


def nbytes(values: Any) -> int:
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    return sum(map(nbytes, values)) if isinstance(values, (tuple, list)) else 0


class Traffic(TorchDispatchMode):
    """Counts every tensor that an operation reads or writes, once per operation."""

    moved = largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, nbytes(result))
        if not func.is_view and "empty" not in func.name():
            self.moved += nbytes(args) + nbytes(result)
        return result


def test_bytes_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("segkit.losses.fused_kernels", reason="Triton is not installed")
    traffic = Traffic()

    class Counted:
        """In the place of a kernel: counts its tensors, each read or written once."""

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def launch(*args: Any, **constants: int) -> None:
                traffic.moved += nbytes(args)

            return launch

    for name in ("forward_kernel", "slopes_kernel", "gather_kernel"):
        monkeypatch.setattr(kernels, name, Counted())
    monkeypatch.setattr(weighted_sum, "unavailable", lambda device: None)
    # Tensors without memory know no autocast.
    monkeypatch.setattr(weighted_sum, "full_precision", lambda logits: nullcontext())
    terms = {"ce": CrossEntropyLoss(), "focal": FocalLoss(), "dice": DiceLoss()}
    named = {name: {"weight": 1.0, "loss": loss} for name, loss in terms.items()}
    loss = WeightedSum(named, fused=True)
    shape = (IMAGES, CLASSES, SIZE // 4, SIZE // 4)
    low = torch.empty(shape, dtype=torch.bfloat16, device="meta").requires_grad_()
    target = torch.empty((IMAGES, SIZE, SIZE), dtype=torch.uint8, device="meta")
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with traffic:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss(low, target)
        value.backward()
    assert low.grad is not None
    assert nbytes(kept) <= 5e6 * IMAGES  # logits, target, and two floats a pixel
    assert traffic.moved <= 20e6 * IMAGES
    # No map of all classes at the size of the target, of one byte even.
    assert traffic.largest < IMAGES * CLASSES * SIZE * SIZE


@pytest.mark.slow
def test_nothing_is_spilled_on_sm_90(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    if not (tools / "cuobjdump").exists():
        pytest.skip("this Triton ships no cuobjdump, which reads what a kernel uses")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(vars_of_launch()), str(tmp_path)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-4000:]
    for name in ("forward_kernel", "slopes_kernel", "gather_kernel"):
        command = [tools / "cuobjdump", "-res-usage", tmp_path / f"{name}.cubin"]
        used = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert " STACK:0 " in used, used  # spilled registers would lie on the stack
        assert " LOCAL:0 " in used, used


def vars_of_launch() -> dict[str, int]:
    return {"block": fused.BLOCK, "gather": fused.GATHER_BLOCK, "classes": fused.CLASSES}


COMPILE = """
import json, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver
from segkit.losses import fused_kernels

class Device:  # in the place of the driver, which looks for a real one
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device=0):
        return 0

driver.set_active(Device())
sizes = json.loads(sys.argv[1])
pixel = {"BLOCK": sizes["block"], "CB": sizes["classes"]}
gather = {"KY": 9, "KX": 9, "BLOCK": sizes["gather"], "CB": sizes["classes"]}
for name, constants in (
    ("forward_kernel", pixel), ("slopes_kernel", pixel), ("gather_kernel", gather)
):
    kernel = getattr(fused_kernels, name)
    types = {"low": "*bf16", "grad": "*bf16", "target": "*u8", "ry": "fp32", "rx": "fp32"}
    types["gamma"] = "fp32"
    numbers = set("C H W h w sn sc sh sw ignore".split())
    signature = {
        arg: types.get(arg, "i32" if arg in numbers else "*fp32") for arg in kernel.arg_names
    }
    signature |= {constant: "constexpr" for constant in constants}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    Path(sys.argv[2], f"{name}.cubin").write_bytes(compiled.asm["cubin"])
"""
