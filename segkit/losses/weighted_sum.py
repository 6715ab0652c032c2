"""Any sum of losses, as the config composes it: ``'loss=[ce,dice]' loss.terms.dice.weight=0.5``."""

from collections.abc import Mapping
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.losses.class_sums import ClassSums
from segkit.losses.fused import can_be_fused, class_sums, fits, unavailable
from segkit.losses.parts import contribution
from segkit.losses.pixels import PixelScores, as_float, check_shapes_and_dtypes, full_precision
from segkit.losses.settings import checked_number


class Term(TypedDict):
    """One named part of the sum."""

    weight: float
    loss: nn.Module


class WeightedSum(nn.Module):
    """``sum of weight * loss`` over named terms that share one softmax.

    Terms made of :class:`PixelLoss` read the same :class:`PixelScores`. Any other module is called
    as ``loss(logits, target)`` with float32 logits and int64 target and has to return a scalar.

    With ``fused=true`` the logits may be smaller than the target: CE, focal, dice and MSE are then
    computed with the bilinear resize in Triton kernels, which keep no map of all classes at the
    target's size. Where a term is no such loss, or the focal terms' gammas differ, all terms get
    the resized logits.

    Args:
        terms: Name -> ``{"weight": number, "loss": module}``; weights at least 0, not all 0.
        fused: true, false, or auto, which is false until a device has shown it equal and faster.

    Attributes:
        last_terms: Name -> scalar of the last call, detached and without its weight. They stay on
            the device, where reading them as numbers would wait for the step to end.
        ignore_index: What the terms agree on; None if no term has one.

    Raises:
        ValueError: For no terms, an empty name, a term of another form, or terms that disagree
            about ``ignore_index``; another ``fused``.
        ConfigError: In a call, where kernels are asked for and cannot run.
    """

    def __init__(self, terms: Mapping[str, Term], fused: bool | str = "auto") -> None:
        super().__init__()
        if not isinstance(fused, bool) and fused != "auto":
            raise ValueError(f"fused must be true, false or auto, got {fused!r}")
        if not isinstance(terms, Mapping):
            raise ValueError(f"terms must be a mapping of names to terms, got {terms!r}")
        if not terms:
            raise ValueError("a weighted sum needs at least one term, got none")
        for name, term in terms.items():
            check_term(name, term)
        self.names = tuple(terms)
        self.weights = tuple(float(term["weight"]) for term in terms.values())
        # A list, because a ModuleDict refuses innocent names such as "type" and "keys".
        self.losses = nn.ModuleList(term["loss"] for term in terms.values())
        if not any(self.weights):
            raise ValueError(f"all weights are 0 (terms: {', '.join(self.names)})")
        self.ignore_index = common_ignore_index(terms)
        # auto: false, until benchmarks/README.md has a device's times.
        self.fused = fused is True
        self.last_terms: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted sum for logits (N, C, H, W) and integer target (N, H, W), a scalar.

        With ``fused=true`` the logits may also be (N, C, h, w), to be resized.
        """
        shape = (logits.shape[0], *logits.shape[2:]) if logits.ndim == 4 else None
        if self.fused and target.ndim == 3 and shape is not None and shape[0] == len(target):
            check_shapes_and_dtypes(logits, target.new_zeros(()).expand(shape))
        else:
            check_shapes_and_dtypes(logits, target)
        with full_precision(logits):
            values = self.values_of_terms(logits, target)
            weighted = [weight * value for weight, value in zip(self.weights, values, strict=True)]
            total = torch.stack(weighted).sum()
        self.last_terms = {n: v.detach() for n, v in zip(self.names, values, strict=True)}
        return total

    def values_of_terms(self, logits: Tensor, target: Tensor) -> list[Tensor]:
        pixels: PixelScores | ClassSums | None = None
        if self.fused and (sums := self.fused_sums(logits, target)) is not None:
            pixels = sums
        else:
            logits, target = as_float(logits), target.long()
            if logits.shape[2:] != target.shape[1:]:
                logits = F.interpolate(
                    logits, size=target.shape[1:], mode="bilinear", align_corners=False
                )
        if pixels is None and self.ignore_index is not None:
            pixels = PixelScores(logits, target, self.ignore_index)
        values = []
        for name, loss in zip(self.names, self.losses, strict=True):
            if isinstance(loss, WeightedSum):
                value = loss(logits, target)
            else:
                value = contribution(loss, logits, target, pixels)
            if not isinstance(value, Tensor) or value.ndim != 0:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"loss term {name!r} must return a scalar tensor, got {shape}")
            values.append(value)
        return values

    def fused_sums(self, logits: Tensor, target: Tensor) -> ClassSums | None:
        """What the terms are read off; None where they need the logits at full size."""
        if (reason := unavailable(logits.device)) is not None:
            raise ConfigError(f"loss.fused=true: {reason}; loss.fused=auto computes the same")
        if self.ignore_index is None or not can_be_fused(list(self.losses)):
            return None
        if not fits(logits, target):
            return None
        return class_sums(logits, target, self.ignore_index, list(self.losses))


def takes_low_resolution(loss_fn: nn.Module) -> bool:
    """Whether a loss resizes the logits itself, so that a model need not."""
    return isinstance(loss_fn, WeightedSum) and loss_fn.fused


def summands(loss: nn.Module, *, weighted: bool = False) -> list[nn.Module]:
    """What a loss is a weighted sum of; of any other itself.

    Args:
        loss: Any.
        weighted: Without terms of weight 0, which nothing learns from.
    """
    if not isinstance(loss, WeightedSum):
        return [loss]
    terms = zip(loss.weights, loss.losses, strict=True)
    counted = [term for weight, term in terms if weight or not weighted]
    return [summand for term in counted for summand in summands(term, weighted=weighted)]


def check_term(name: str, term: Term) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a loss term needs a non-empty name, got {name!r}")
    if not isinstance(term, Mapping) or set(term) != {"weight", "loss"}:
        got = sorted(map(str, term)) if isinstance(term, Mapping) else repr(term)
        raise ValueError(f"loss term {name!r} must have the keys weight and loss, got {got}")
    checked_number(f"weight of loss term {name!r}", term["weight"])
    if not isinstance(term["loss"], nn.Module):
        raise ValueError(f"loss of term {name!r} must be a torch module, got {term['loss']!r}")


def common_ignore_index(terms: Mapping[str, Term]) -> int | None:
    named = {name: getattr(term["loss"], "ignore_index", None) for name, term in terms.items()}
    found: dict[str, int] = {name: index for name, index in named.items() if index is not None}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}: {index}" for name, index in found.items())
        raise ValueError(f"the loss terms must agree about ignore_index, got {listed}")
    return next(iter(found.values()), None)
