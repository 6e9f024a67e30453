"""Trains pytorch/examples' DCGAN, unchanged, for so many processor seconds, and writes samples.

`python -m benchmarks.peers.dcgan MAIN.py IMAGES OUTPUT SECONDS SEED SAMPLES HALFLIFE [its own options]`; HALFLIFE is
that of an average of the generator in images seen, 0: none.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.peers.clock import TimeUp, save_uint8, stop_after


def main() -> None:
    script, images, output, seconds, seed, samples, halflife, *options = sys.argv[1:]
    folder = Path(output)
    folder.mkdir(parents=True)
    sys.argv = [script, "--dataset", "folder", "--dataroot", images, "--outf", f"{folder}-files", "--manualSeed", seed,
                "--workers", "0", "--niter", "1000000", *options]  # fmt: skip
    program: dict[str, Any] = {"__name__": "__main__"}
    average: dict[str, torch.Tensor] = {}
    steps = 0

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal steps
        if optimizer is not program.get("optimizerG"):
            return
        steps += 1
        weights = program["netG"].state_dict()
        if float(halflife):
            share = 1 - 0.5 ** (program["opt"].batchSize / float(halflife))
            for name, weight in weights.items():
                is_first = name not in average or not weight.is_floating_point()
                average[name] = weight.clone() if is_first else average[name].lerp_(weight, share)

    register_optimizer_step_post_hook(after_step)
    stop_after(float(seconds))
    with suppress(TimeUp):
        exec(compile(Path(script).read_text(), script, "exec"), program)
    generator = program["netG"]
    if average:
        generator.load_state_dict(average)
    with torch.no_grad():  # in training mode, as its own samples are drawn
        parts = [generator(torch.randn(50, program["nz"], 1, 1)) for _ in range(int(samples) // 50)]
    save_uint8(torch.cat(parts) / 2 + 0.5, folder)
    print(f"images_seen={steps * program['opt'].batchSize}")


if __name__ == "__main__":
    main()
