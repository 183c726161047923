"""What do per-unit gradients cost? The clipped sum beside the plain gradient of the same images.

Question: the sum of clipped gradients of B units with K draws each, on the paper's U-Net at 28
pixels, relative to the plain gradient of the same B·K images in the same micro-batches and, with
``--peers``, to each mode of Opacus (``gradient_peers.py``), in time and in memory. All sides run in
one process, turn by turn, and the fastest turn of each counts.
Bounds on 2 cores: ratio 1.10 at B 8, K 32; 1.35 at B 8, K 8; 2.0 at B 64, K 1; memory at
B 64, K 8 below 4 GB. Goals on a GPU: 1.15 at K 32, 1.5 at K 8 and K 1, ahead of every peer.

    python benchmarks/clipped_gradient.py --device cpu --peers [--json FILE]
    python benchmarks/clipped_gradient.py --batch 8 --multiplicity 8 [--engine layers]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gradient_peers import MODES, opacus_sum
from torch import nn

from sfumato.devices import described, device_of, finish, free_memory, resolve_device
from sfumato.methods.dpdm.diffusion import Denoiser, DenoisingLoss
from sfumato.methods.dpdm.parameterisations import PARAMETERISATIONS
from sfumato.networks import UNet
from sfumato.privacy.gradients.per_example import (
    ENGINES,
    UnitBatch,
    fastest_engine,
    gradient_sum,
    trained,
    units_at_once,
)
from sfumato.privacy.grid import UNIT

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


def taken_gb(work: Callable[[], object], device: torch.device) -> float | None:
    """The most memory that a call adds to what is in use, in GB; None where nothing tells it."""
    if device.type == "cuda":
        free_memory(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before) / 1e9
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what other sides freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
    except (OSError, AttributeError):
        return None
    work()
    return (resident("VmHWM") - before) / 1e9


def resident(name: str) -> int:
    """Bytes of this process that Linux states under ``name``."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


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
    peers: Sequence[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Seconds and gigabytes of each side, and each over the plain gradient's.

    Args:
        network, loss, batch: what gradients are taken of.
        engine: ours; the fastest, measured, by default.
        turns: of which the fastest of each side counts.
        peers: modes of Opacus.
        clock: what counts the seconds.
    """
    engine, device = engine or fastest_engine(network, loss, batch), device_of(network)

    def plain() -> None:
        for part in batch.split(units_at_once(loss)):
            value = loss(network, part.images, part.labels, *part.draws).sum()
            torch.autograd.grad(value, trained(network))

    sides: dict[str, Callable[[], Any]] = {
        "plain": plain,
        "ours": lambda: gradient_sum(network, loss, batch, CLIP_NORM, engine),
    }
    for mode in peers:
        sides[f"opacus {mode}"] = opacus_sum(mode, network, loss, batch, CLIP_NORM)
    expected = sides["ours"]().cpu().double() * (CLIP_NORM / UNIT) if peers else torch.zeros(0)
    for name in list(sides)[2:]:
        difference = float((sides[name]().cpu().double() - expected).norm() / expected.norm())
        # Ghost norms are of single draws.
        assert difference < 1e-2 or (name == "opacus ghost" and loss.multiplicity > 1), name
    gigabytes = {name: taken_gb(side, device) for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            taken[name].append(seconds(side, device, clock))
    least = {name: min(times) for name, times in taken.items()}
    return {
        "batch": len(batch),
        "multiplicity": loss.multiplicity,
        "engine": engine,
        "device": described(device),
        "threads": torch.get_num_threads(),
        "side_s": least,
        "over_plain": {name: least[name] / least["plain"] for name in sides},
        "side_gb": gigabytes,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The ratios over the plain gradient, and the memory that each side took, as Markdown."""
    rows = ["| side | " + " | ".join(f"B {r['batch']}, K {r['multiplicity']}" for r in results)]
    rows.append("|---" * (1 + len(results)))
    for name in results[0]["over_plain"]:
        cells = []
        for result in results:
            memory = result["side_gb"][name]
            shown = "" if memory is None else f" ({memory:.2f} GB)"
            cells.append(f"{result['over_plain'][name]:.2f}{shown}")
        rows.append(f"| {name} | " + " | ".join(cells))
    rows.append("| our engine | " + " | ".join(result["engine"] for result in results))
    return "\n".join(f"{row} |" for row in rows)


def main() -> None:
    """Print each side over the plain gradient."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="B; by default several B with several K")
    parser.add_argument("--multiplicity", type=int, default=8, help="K, with --batch")
    parser.add_argument(
        "--engine", choices=sorted(ENGINES), help="instead of the fastest, measured"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--peers", action="store_true", help="the modes of Opacus too")
    parser.add_argument(
        "--processor", action="store_true", help="processor seconds: on a CPU that others use too"
    )
    parser.add_argument("--bfloat16", action="store_true", help="on all sides")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()

    device, large = resolve_device(options.device), [(2048, 1), (256, 8), (64, 32)]
    small = [(64, 1), (8, 8), (8, 32)]  # whole micro-batches: ours are filled up
    cases = large if device.type == "cuda" else small
    if options.batch:
        cases = [(options.batch, options.multiplicity)]
    clock = time.process_time if options.processor else time.perf_counter
    peers = MODES if options.peers else ()
    results = []
    for units, multiplicity in cases:
        case = setting(units, multiplicity, device, options.bfloat16)
        results.append(measured(*case, options.engine, options.turns, peers, clock))
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
