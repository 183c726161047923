"""What do per-unit gradients cost? The clipped sum beside the plain gradient of the same images.

Question: the sum of clipped gradients of B units with K draws each, on the paper's U-Net at 28
pixels, relative to the plain gradient of the same B·K images in the same micro-batches, and to
Opacus' hooks. All sides run in one process, turn by turn, and the fastest turn of each counts.
Bounds on 2 cores: ratio 1.10 at B 8, K 32; 1.35 at B 8, K 8; 2.0 at B 32, K 1; peak memory at
B 64, K 8 below 4 GB.

    python benchmarks/clipped_gradient.py --batch 8 --multiplicity 8 [--engine layers] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfumato.devices import device_of, finish, resolve_device
from sfumato.methods.dpdm.diffusion import Denoiser, DenoisingLoss
from sfumato.methods.dpdm.parameterisations import PARAMETERISATIONS
from sfumato.networks import UNet
from sfumato.privacy.clipping import UNIT
from sfumato.privacy.gradients.layers import flatten
from sfumato.privacy.gradients.per_example import (
    ENGINES,
    UnitBatch,
    fastest_engine,
    gradient_sum,
    trained,
    units_at_once,
)

CLIP_NORM = 1.0


def seconds(
    work: Callable[[], object],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one call by ``clock``, until ``device`` has done all of it."""
    started = clock()
    work()
    finish(device)
    return clock() - started


class Contiguous(nn.Module):
    """The same network on plain tensors: Opacus 1.6 gives wrong gradients for ``channels_last``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        output: Tensor = self.network(x.contiguous(), *rest)
        return output


def opacus_sum(network: nn.Module, loss: DenoisingLoss, batch: UnitBatch) -> Callable[[], Tensor]:
    """The same clipped sum by Opacus' hooks, micro-batch by micro-batch."""
    from opacus import GradSampleModule

    wrapped = GradSampleModule(Contiguous(network), batch_first=True, loss_reduction="sum")

    def run() -> Tensor:
        total = batch.images.new_zeros(
            sum(p.numel() for p in trained(network)), dtype=torch.float32
        )
        for part in batch.split(units_at_once(loss)):
            wrapped.zero_grad(set_to_none=True)
            loss(wrapped, part.images, part.labels, *part.draws).sum().backward()
            parts = [
                flatten(p.grad_sample.view(len(part), -1, *p.shape).sum(dim=1), 1)
                for p in wrapped.parameters()
            ]
            rows = torch.cat(parts, dim=1)
            norms = rows.norm(dim=1)
            total += (CLIP_NORM / norms.clamp(min=CLIP_NORM)) @ rows
            for p in wrapped.parameters():
                p.grad_sample = None
        return total

    return run


def random_units(
    loss: DenoisingLoss, shape: tuple[int, ...], classes: int, units: int, device: torch.device
) -> UnitBatch:
    """So many public units of noise, images of ``shape`` [c, h, w], with their draws."""
    return UnitBatch(
        torch.randint(0, 256, (units, *shape), dtype=torch.uint8, device=device),
        torch.randint(0, classes, (units,), device=device),
        loss.draws(units, torch.Generator(device).manual_seed(0)),
    )


def setting(
    units: int, multiplicity: int, device: torch.device, bfloat16: bool = False
) -> tuple[nn.Module, DenoisingLoss, UnitBatch]:
    """The paper's U-Net at 28 pixels on ``device``, its loss, and random units."""
    torch.manual_seed(0)
    network = UNet(28, 1, 10).to(device).to(memory_format=torch.channels_last)
    loss = DenoisingLoss(Denoiser(network, PARAMETERISATIONS["edm"], bfloat16), multiplicity, 0.1)
    return network, loss, random_units(loss, (1, 28, 28), 10, units, device)


def measured(
    network: nn.Module,
    loss: DenoisingLoss,
    batch: UnitBatch,
    engine: str | None = None,
    turns: int = 5,
    opacus: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float | str]:
    """Seconds of each side, the fastest of ``turns``, and their ratios; see the module's text."""
    engine, device = engine or fastest_engine(network, loss, batch), device_of(network)

    def ours() -> Tensor:
        return gradient_sum(network, loss, batch, CLIP_NORM, engine)

    def plain() -> None:
        for part in batch.split(units_at_once(loss)):
            value = loss(network, part.images, part.labels, *part.draws).sum()
            torch.autograd.grad(value, trained(network))

    sides: dict[str, Callable[[], object]] = {"ours_s": ours, "plain_s": plain}
    expected = ours()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if opacus:
        theirs = opacus_sum(network, loss, batch)
        ours_again = expected.cpu().double() * (CLIP_NORM / UNIT)
        difference = float((theirs().cpu().double() - ours_again).norm() / ours_again.norm())
        assert difference < 1e-2, f"Opacus gives another sum: {difference}"
        sides["opacus_s"] = theirs
    times = {
        name: min(seconds(side, device, clock) for _ in range(turns))
        for name, side in sides.items()
    }
    result = {
        "batch": len(batch),
        "multiplicity": loss.multiplicity,
        "engine": engine,
        "threads": torch.get_num_threads(),
        **times,
        "ours_over_plain": times["ours_s"] / times["plain_s"],
        "peak_rss_gb": peak,
    }
    if "opacus_s" in times:
        result["opacus_over_ours"] = times["opacus_s"] / times["ours_s"]
    return result


def main() -> None:
    """Print the seconds of each side and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--multiplicity", type=int, default=8)
    parser.add_argument(
        "--engine", choices=sorted(ENGINES), help="instead of the fastest, measured"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--no-opacus", action="store_true")
    parser.add_argument(
        "--processor", action="store_true", help="processor seconds: on a CPU that others use too"
    )
    parser.add_argument("--bfloat16", action="store_true", help="in all three sides")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    device = resolve_device(options.device)
    units = setting(options.batch, options.multiplicity, device, options.bfloat16)
    clock = time.process_time if options.processor else time.perf_counter
    result = measured(*units, options.engine, options.turns, not options.no_opacus, clock)
    print(json.dumps(result) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
