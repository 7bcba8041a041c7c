"""A patch classifier window by window against the same network made fully convolutional: what sharing features saves.

    python -m benchmarks.sliding_window [--strides 16 8 4 2 1] [--repeats 5] [--out benchmarks/results/NAME.json]
        [--plot docs/sliding_window.png] [--quick]

The network is that of the recipe sliding_window_scenes, the image one scene's size, the parameters random: speed does
not depend on them. Both forms are two programs of one model (`segjax.models.sliding_window`), compiled before they are
timed; their outputs are compared first. Samples are interleaved; the ratio is the windows' time over the convolutional
one's. `--plot` draws what `--out` holds. See docs/sliding_window.md.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import tyro

from benchmarks.machine import command_line, describe_machine
from benchmarks.window_forms import Form, compare, draw, measure_strides, table

CLASSES = 9
"""Of scenes, the background among them."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares two ways to run a patch classifier over an image."""

    strides: tuple[int, ...] = (16, 8, 4, 2, 1)
    """Pixels between windows."""
    size: tuple[int, int] = (128, 160)
    """(height, width) of the image in pixels."""
    repeats: int = 5
    """Samples of each form and stride."""
    out: pathlib.Path | None = None
    """JSON file for the results."""
    plot: pathlib.Path | None = None
    """Picture to draw of the results; without anything measured anew where `--strides` is empty."""
    quick: bool = False
    """A small image and one repeat: shows that everything runs, says nothing about speed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments)
    if options.repeats < 1 or any(stride < 1 for stride in options.strides):
        raise SystemExit(f"--repeats and --strides must be at least 1, got {options.repeats} and {options.strides}.")
    if options.strides:
        report = {"command": command_line("benchmarks.sliding_window", arguments), "machine": describe_machine()}
        report |= {"size": options.size, "results": []}
        measure_strides(options.strides, lambda stride: measure(stride, options), report, options.out)
    elif options.out is not None:
        report = json.loads(options.out.read_text())
    else:
        raise SystemExit("--strides is empty: nothing is measured; name with --out the results to draw.")
    print(f"\n{table(report)}")
    if options.plot is not None:
        draw(report, options.plot)
    return 0


def measure(stride: int, options: Options) -> dict[str, Any]:
    """What is known of a stride."""
    size = (40, 48) if options.quick else options.size
    count = -(-size[0] // stride) * -(-size[1] // stride)
    windows, convolutional = (program(form, stride, size) for form in ("windows", "convolutional"))
    return compare(stride, count, windows, convolutional, repeats=None if options.quick else options.repeats)


def program(form: str, stride: int, size: tuple[int, int]) -> Form:
    """One form: labels the image and waits."""
    import jax
    import jax.numpy as jnp

    from configs.sliding_window_scenes import RECIPE
    from segjax.models.sliding_window import window_count

    system = dataclasses.replace(RECIPE.model, inference=form, stride=stride)
    network = system.network(CLASSES)
    parameters = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, network.patch, network.patch, 3)))
    variables = {"params": {"patch": parameters["params"]}}
    image = jax.random.uniform(jax.random.key(1), (1, *size, 3))
    compiled = jax.jit(lambda *args: system.build(CLASSES).predict(*args).logits)
    compiled = compiled.lower(variables, image, jnp.array([size])).compile()
    if form == "windows":
        # XLA counts the body of a loop once, and here it would be that of a chunk.
        one = jax.jit(network.apply).lower(parameters, jnp.zeros((1, network.patch, network.patch, 3))).compile()
        flops = one.cost_analysis()["flops"] * window_count(size[0], stride) * window_count(size[1], stride)
    else:
        flops = compiled.cost_analysis()["flops"]
    return Form(lambda: jax.block_until_ready(compiled(variables, image, jnp.array([size]))), float(flops))


if __name__ == "__main__":
    sys.exit(main())
