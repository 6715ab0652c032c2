"""Which device computes, and how numbers and images lie in its memory."""

import re
from dataclasses import dataclass

import torch

from segkit.errors import ConfigError
from segkit.runtime.memory import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, local_rank: int = 0, num_processes: int = 1) -> torch.device:
    """``auto`` is a CUDA device, else Apple's MPS, else the CPU.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        local_rank: Which CUDA device is meant where no number is given.
        num_processes: How many processes share the run, each on a device of its own.

    Raises:
        ConfigError: The device named is not there, or one is named for several processes.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise ConfigError(f"device={name}: expected auto, cpu, cuda, cuda:N or mps")
    device = torch.device(name)
    if device.type == "cuda":
        if device.index is not None and num_processes > 1:
            raise ConfigError(
                f"device={name} is one device, and this run has {num_processes} processes, each on "
                "its own; use cuda, and CUDA_VISIBLE_DEVICES=0,2 to choose among the devices"
            )
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index >= count:
            found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
            raise ConfigError(
                f"device={name}: PyTorch {torch.__version__} sees {found} here; "
                "use cpu, or check the driver with nvidia-smi"
            )
        return device
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device={name}: no MPS device here; use cpu")
    return device


def set_up(device: torch.device) -> None:
    """What a script does for its device; it lasts for the whole process."""
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no device means this one, random numbers too
        # float32 matrices in TF32: 10 bits of mantissa, several times faster
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


@dataclass(frozen=True)
class Precision:
    """Number format of the network's forward pass; weights and losses are always float32.

    Attributes:
        name: fp32, bf16 or fp16.
        device: Where it computes.
    """

    name: str
    device: torch.device

    @classmethod
    def pick(cls, name: str, device: torch.device) -> "Precision":
        """``auto`` is bf16 on CUDA cards that have it, fp16 on older ones, fp32 elsewhere.

        Raises:
            ConfigError: No such precision, or fp16 on the CPU.
        """
        if name == "auto":
            if device.type != "cuda":
                name = "fp32"
            else:
                has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
                name = "bf16" if has_bf16 else "fp16"
        if name not in DTYPES:
            raise ConfigError(f"precision={name}: expected auto, {', '.join(DTYPES)}")
        if name == "fp16" and device.type == "cpu":
            raise ConfigError("precision=fp16 needs a CUDA device; on the CPU use fp32 or bf16")
        return cls(name, device)

    @property
    def reduced(self) -> bool:
        return self.name != "fp32"

    def autocast(self) -> torch.autocast:
        """The context for a forward pass; off for fp32, whatever surrounds it."""
        dtype = DTYPES[self.name] if self.reduced else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.reduced)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss so that small fp16 gradients do not become 0; off for other formats."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
