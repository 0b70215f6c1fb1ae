"""One of two devices that share the batches of `batches()`: python shared_norm_device.py RANK FOLDER."""

import sys
from pathlib import Path

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn

from anyshot.nets.shared_norm import share_norms

SHARES = {"equal": (3, 3), "unequal": (5, 2), "far from zero": (3, 3), "one image each": (1, 1)}


class Alone(nn.Module):
    """A norm that sees the parts of a batch one by one."""

    normalised_alone = True

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.cat([self.norm(part) for part in rows.split(4)])


def network() -> nn.Module:
    """All sorts of norms; the last but one is frozen."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False),
        BatchNormAct2d(3, act_layer=nn.SiLU), nn.BatchNorm2d(3, momentum=None, affine=False),
        nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 3), nn.BatchNorm1d(3),
    )  # fmt: skip
    for number, parameter in enumerate(made.parameters()):
        nn.init.normal_(parameter, mean=1.0, std=0.5) if number % 2 else nn.init.normal_(parameter)
    made[6].eval().requires_grad_(False)
    return made


def batch(name: str) -> tuple[Tensor, Tensor]:
    """Images (N, 2, 5, 5) and the slopes (N, 3) of the loss in the outputs."""
    generator = torch.Generator().manual_seed(len(name))
    count = sum(SHARES[name])
    images = torch.randn(count, 2, 5, 5, generator=generator)
    if name == "far from zero":
        images += 30
    return images, torch.randn(count, 3, generator=generator)


def run(model: nn.Module, images: Tensor, slopes: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics after two steps on the same images."""
    images.requires_grad_()
    first = model(images)
    (first * slopes).sum().backward()
    model(images)
    found = {"outputs": first.detach(), "images": images.grad}
    found |= {f"slope of {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
    found |= {name: value.clone() for name, value in model.named_buffers()}
    model.eval()
    return found | {"afterwards": model(images.detach()).detach()}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    results: dict[str, object] = {}
    for name, shares in SHARES.items():
        images, slopes = (both.split(list(shares))[rank].clone() for both in batch(name))
        model = network()
        kinds = [type(module) for module in model.modules()]
        with share_norms(model):
            found = run(model, images, slopes)
        for key, value in found.items():
            if key.startswith("slope of"):
                distributed.all_reduce(value)
        results[name] = found
        assert [type(module) for module in model.modules()] == kinds
    torch.manual_seed(1)
    alone, rows = Alone(), torch.randn(8, 3)
    with share_norms(alone):
        results["alone"] = {"outputs": alone(rows[4 * rank : 4 * rank + 4]).detach()}
    low = torch.randn(4, 3, 5, 5).bfloat16()
    with share_norms(norm := nn.BatchNorm2d(3)):
        results["bfloat16"] = run(norm, low[2 * rank : 2 * rank + 2].clone(), torch.tensor(2.0))
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
