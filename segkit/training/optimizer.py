"""Parameters in groups of their own learning rate and weight decay."""

from torch import nn


def param_groups(
    model: nn.Module, backbone_lr_factor: float, decay_norm_and_bias: bool, lr: float
) -> list[dict[str, object]]:
    """Trainable parameters in up to four groups: backbone or not, weight decay or not.

    Norms and biases (all tensors with fewer than two dimensions) have no weight decay unless
    ``decay_norm_and_bias``: shrinking them regularises nothing.
    """
    backbone = {id(p) for p in getattr(model, "backbone", nn.Module()).parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            decays = decay_norm_and_bias or p.ndim > 1
            groups.setdefault((id(p) in backbone, decays), []).append(p)
    result: list[dict[str, object]] = []
    for (in_backbone, decays), params in groups.items():
        factor = backbone_lr_factor if in_backbone else 1.0
        group: dict[str, object] = {"params": params, "lr": lr * factor, "base_lr": lr * factor}
        result.append(group if decays else group | {"weight_decay": 0.0})
    return result
