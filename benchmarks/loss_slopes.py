"""Draw docs/loss_slopes.svg: how hard CE and MSE pull at a pixel, by how wrong it is.

    python benchmarks/loss_slopes.py

The slopes are those of segkit's own losses, by automatic differentiation.
"""

import segkit  # isort: skip  # noqa: F401

from pathlib import Path

import torch
from torch import Tensor

from segkit.losses import CrossEntropyLoss, MSELoss

WIDTH, HEIGHT, LEFT, BOTTOM = 560, 300, 56, 44
COLORS = {"CE": "#0b6bcb", "MSE": "#c2410c"}


def slopes(loss: torch.nn.Module, z: Tensor) -> Tensor:
    """Slope in the logit difference of the true class, for each of its values: float64 (N,)."""
    z = z.clone().requires_grad_()
    logits = torch.stack([z, torch.zeros_like(z)], 1).view(-1, 2, 1, 1)
    target = torch.zeros(1, 1, 1, dtype=torch.int64)
    total = torch.stack([loss(one[None], target) for one in logits]).sum()
    (gradient,) = torch.autograd.grad(total, z)
    return gradient


def svg(curves: dict[str, Tensor], z: Tensor) -> str:
    """Both curves over the logit difference, as an image that needs nothing else."""

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - z[0].item()) / (z[-1].item() - z[0].item())
        return LEFT + across * (WIDTH - LEFT - 16), 16 + y * (HEIGHT - BOTTOM - 16) / -1.0

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for y in (0.0, -0.25, -0.5, -0.75, -1.0):
        x0, y0 = place(z[0].item(), y)
        parts.append(f'<path d="M{x0} {y0}H{WIDTH - 16}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 8}" y="{y0 + 4}" text-anchor="end">{y:g}</text>')
    for x in range(-6, 7, 2):
        x0, _ = place(x, 0)
        label = f'<text x="{x0}" y="{HEIGHT - 26}" text-anchor="middle">{x}</text>'
        parts.append(label)
    for row, (name, values) in enumerate(curves.items()):
        points = " ".join(
            "{:.1f},{:.1f}".format(*place(x, y))
            for x, y in zip(z.tolist(), values.tolist(), strict=True)
        )
        color = COLORS[name]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 70}" y="{HEIGHT - 90 + 18 * row}" fill="{color}">{name}')
        parts.append("</text>")
    caption = "logit difference of the true class (left: sure and wrong); slope of the loss"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">{caption}</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    z = torch.linspace(-6, 6, 121, dtype=torch.float64)
    curves = {"CE": slopes(CrossEntropyLoss(), z), "MSE": slopes(MSELoss(), z)}
    path = Path(__file__).parents[1] / "docs" / "loss_slopes.svg"
    path.write_text(svg(curves, z), encoding="utf-8")
    for p in (0.01, 0.1, 1 / 3, 0.5, 0.9, 0.99):
        at = torch.tensor([p], dtype=torch.float64).logit()
        values = (slopes(loss, at).item() for loss in (CrossEntropyLoss(), MSELoss()))
        print(f"p={p:.4f}  CE {next(values):+.4f}  MSE {next(values):+.4f}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
