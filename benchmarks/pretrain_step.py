"""A whole pre-training step: clips/s, model FLOP/s and their share of the matrix-product rate.

    python benchmarks/pretrain_step.py [--recipe NAME] [--batch N] [--against-float32] [key=value ...]

A step is what `ajepa pretrain` does once the audio is decoded: log-mel, masks, both encoders, predictor,
gradients, clipping, AdamW, moving average. torch's own counter counts the FLOPs of such a step (matrix
products and attention; each product of an [n, k] with a [k, m] counts 2 n k m). The floor is the time that as
many FLOPs take at the rate of one large product, measured in the same run and in the same precision.
`--against-float32` alternates with the same step in single precision, with the optimiser's plain loop and
torch's own attention. The process keeps the memory that a step frees, for both sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import common
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ajepa.data.crops import Batch
from ajepa.recipes import Recipe, load_recipe
from ajepa.training.devices import make_fabric
from ajepa.training.guard import FiniteGuard
from ajepa.training.optimiser import set_schedules
from ajepa.training.provenance import describe_run
from ajepa.training.run import Run
from ajepa.training.step import clip_gradients, gradients


class Step:
    """Everything of a run except its data: calling it does one step on noise."""

    def __init__(self, recipe: Recipe, plain_optimizer: bool = False) -> None:
        self.count = 0
        fabric = make_fabric(recipe.run)
        fabric.launch()
        self.run = run = Run.set_up(fabric, recipe)
        if plain_optimizer:
            groups = [{**group, "fused": False, "foreach": False} for group in run.optimizer.param_groups]
            run.optimizer = torch.optim.AdamW(groups, fused=False, foreach=False)
            run.stepper = fabric.setup_optimizers(run.optimizer)
        self.guard = FiniteGuard()
        clips = recipe.optim.batch_size // fabric.world_size
        waveform_BS = 0.1 * torch.randn(
            clips, recipe.crop_samples, generator=torch.Generator().manual_seed(0)
        )
        self.batch = Batch(waveform_BS, [""] * clips, [])
        if run.device.type == "cuda":
            self.batch = self.batch.pin_memory()

    def __call__(self) -> None:
        run = self.run
        set_schedules(run.stepper, run.recipe.optim, self.count)
        losses, _ = gradients(run, self.batch, self.count)
        norm = clip_gradients(run)
        value = torch.stack([loss.value.detach() for loss in losses]).sum()
        self.guard.note(self.count, value, norm, self.batch.files)
        run.stepper.step()
        run.stepper.zero_grad(set_to_none=True)
        run.objective.after_step(self.count)
        self.count += 1

    def flops(self) -> int:
        """FLOPs of one step's forward and backward pass on this process.

        Attention uses plain products, since the counter does not know every fused kernel.
        """
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            gradients(self.run, self.batch, 0)
        self.run.stepper.zero_grad(set_to_none=True)
        return counter.get_total_flops()


def one_clip_step(recipe: Recipe) -> Step:
    """A recipe's step on one clip, to count its FLOPs: every clip has the same number of tokens.

    It is not compiled, since the counter does not look into compiled code.
    """
    run = replace(recipe.run, compile="off", activation_checkpointing=False)
    optim = replace(recipe.optim, batch_size=run.devices * run.nodes, accumulate=1)
    return Step(replace(recipe, optim=optim, run=run))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    call: Callable[[], Any], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    synchronise(device)
    start = clock()
    call()
    synchronise(device)
    return clock() - start


def product_rate(
    device: torch.device,
    dtype: torch.dtype,
    repeats: int = 9,
    clock: Callable[[], float] = time.perf_counter,
    sides: tuple[int, int, int] | None = None,
) -> float:
    """FLOP/s of a matrix product as large as a ViT-B's, or larger on a GPU: the median of several runs.

    Args:
        sides: rows, inner size and columns, if others are wanted.
    """
    large = (2048, 3072, 3072) if device.type == "cpu" else (8192, 8192, 8192)
    rows, inner, columns = sides or large
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    times = [seconds_of(lambda: left @ right, device, clock) for _ in range(repeats + 2)][2:]
    return 2 * rows * inner * columns / statistics.median(times)


def measure(
    recipe: Recipe, steps: int, against_float32: bool, sides: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """Median seconds of a step, and the rates computed from them; `sides` are those of `product_rate`."""
    clip_flops = one_clip_step(recipe).flops()
    step = Step(recipe)
    if step.run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.run.device)
    dtype = torch.bfloat16 if recipe.run.precision == "bf16-mixed" else torch.float32
    variants = {"step": step}
    if against_float32:
        single = replace(recipe, run=replace(recipe.run, precision="32-true", compile="off"))
        variants["float32"] = Step(single, plain_optimizer=True)
    times: dict[str, list[float]] = {name: [] for name in variants}
    rates: list[float] = []
    for turn in range(steps + 2):
        for name, variant in variants.items():
            seconds = seconds_of(variant, step.run.device)
            if turn >= 2:
                times[name].append(seconds)
        rates.append(product_rate(step.run.device, dtype, 3, sides=sides))
    seconds = statistics.median(times["step"])
    rate = statistics.median(rates)
    clips = len(step.batch.files) * step.run.fabric.world_size
    flops = clip_flops * len(step.batch.files)
    result: dict[str, Any] = {
        "recipe": recipe.name,
        "clips": clips,
        "crop_seconds": recipe.crop_samples / recipe.front_end.sample_rate,
        "precision": recipe.run.precision,
        "compiled": step.run.compiled,
        "steps": steps,
        "step_seconds": seconds,
        "step_seconds_range": [min(times["step"]), max(times["step"])],
        "clips_per_s": clips / seconds,
        "flops_per_clip": clip_flops,
        "model_flop_per_s": flops / seconds,
        "product_flop_per_s": rate,
        "share_of_floor": flops / seconds / rate,
    }
    if step.run.device.type == "cuda":
        result["peak_memory_gib"] = torch.cuda.max_memory_allocated(step.run.device) / 2**30
    if against_float32:
        result["float32_step_seconds"] = statistics.median(times["float32"])
        result["times_float32"] = result["float32_step_seconds"] / seconds
    return result | {"run": describe_run(step.run.device)}


def show(result: dict[str, Any]) -> None:
    run = result["run"]
    print(f"{run['device']}, {run['threads']} threads, torch {run['torch']}")
    print(
        f"{result['recipe']}: {result['clips']} clips of {result['crop_seconds']:.2f} s, "
        f"{result['precision']}{', compiled' if result['compiled'] else ''}; "
        f"median of {result['steps']} steps"
    )
    low, high = result["step_seconds_range"]
    print(
        f"  {result['clips_per_s']:.4g} clips/s ({result['step_seconds']:.4g} s a step, "
        f"{low:.4g} to {high:.4g})\n"
        f"  {result['flops_per_clip'] / 1e9:.1f} GFLOP a clip: "
        f"{result['model_flop_per_s'] / 1e12:.4g} TFLOP/s, "
        f"{100 * result['share_of_floor']:.0f} % of the product rate "
        f"({result['product_flop_per_s'] / 1e12:.4g} TFLOP/s)"
    )
    if "times_float32" in result:
        print(f"  {result['times_float32']:.2f} times the clips/s of single precision and a plain optimiser")
    if "peak_memory_gib" in result:
        print(f"  peak memory {result['peak_memory_gib']:.1f} GiB")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--recipe", default="ajepa-vit-b-as2m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--against-float32", action="store_true")
    options, overrides = parser.parse_known_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = load_recipe(
        options.recipe,
        [f"optim.batch_size={options.batch}", "optim.steps=100000", "run.precision=bf16-mixed", *overrides],
    )
    result = measure(recipe, options.steps, options.against_float32)
    show(result)
    common.write(result, options.json)


if __name__ == "__main__":
    main()
