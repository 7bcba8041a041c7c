"""A detector of windows, each cropped and classified by itself against all of them at once: what OverFeat saves.

    python -m benchmarks.window_detection [--strides 16 8 4 2] [--repeats 5] [--out benchmarks/results/NAME.json]
        [--plot docs/NAME.png] [--quick]

The network and the nine levels of its pyramid are those of the recipe overfeat_scenes, the image one scene's size, the
parameters random. Timed is what leads to the logits of all windows of one image, the resizing of the image included;
decoding is the same for both. Windows are cropped `--chunk` at a time. Outputs are compared first, samples interleaved;
the ratio is the windows' time over the dense form's. Operations are counted by XLA, those of resizing among them.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import tyro

from benchmarks.machine import command_line, describe_machine
from benchmarks.window_forms import Form, compare, draw, measure_strides, table

CLASSES = 8
"""Of scenes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares two ways to run a classifier over the windows of an image's pyramid."""

    strides: tuple[int, ...] = (16, 8, 4, 2)
    """Pixels between windows, of the levels."""
    size: tuple[int, int] = (128, 160)
    """(height, width) of the image in pixels."""
    chunk: int = 64
    """Windows that are classified at the same time, of those one by one."""
    repeats: int = 5
    """Samples of each form and stride."""
    out: pathlib.Path | None = None
    """JSON file for the results."""
    plot: pathlib.Path | None = None
    """Picture to draw of the results."""
    quick: bool = False
    """A small image and one repeat: shows that everything runs, says nothing about speed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments)
    if min(options.repeats, options.chunk, *options.strides) < 1 or not options.strides:
        raise SystemExit("--repeats, --chunk and all of --strides must be at least 1, and there must be a stride.")
    report = {"command": command_line("benchmarks.window_detection", arguments), "machine": describe_machine()}
    report |= {"size": options.size, "chunk": options.chunk, "results": []}
    measure_strides(options.strides, lambda stride: measure(stride, options), report, options.out)
    print(f"\n{table(report)}")
    if options.plot is not None:
        draw(report, options.plot)
    return 0


def measure(stride: int, options: Options) -> dict[str, Any]:
    """What is known of a stride, with the number of windows of each level."""
    size = (32, 40) if options.quick else options.size
    counts, windows, dense = programs(stride, size, options.chunk)
    result = compare(stride, sum(counts), windows, dense, repeats=None if options.quick else options.repeats)
    return {**result, "windows_by_level": counts}


def programs(stride: int, size: tuple[int, int], chunk: int) -> tuple[tuple[int, ...], Form, Form]:
    """(windows of each level, window by window, dense) of an image of `size`."""
    import jax
    import jax.numpy as jnp

    from configs.overfeat_scenes import RECIPE
    from segjax.ops.windows import count_windows

    model = dataclasses.replace(RECIPE.model, stride=stride)
    features, head = model.networks(CLASSES)
    image = jax.random.uniform(jax.random.key(1), (1, *size, 3))

    def init(key):
        maps, own = features.init_with_output(key, image)
        return own, head.init(key, maps)

    variables = jax.jit(init)(jax.random.key(0))
    counts = count_windows(size, model.layout())
    chunks = jnp.pad(jnp.arange(sum(counts), dtype=jnp.int32), (0, -sum(counts) % chunk)).reshape(-1, 1, chunk)

    def of_chunk(variables, image, indices):
        maps = features.apply(variables[0], image, windows=indices)
        return head.apply(variables[1], maps, alone=True).logits[:, 0]

    def by_windows(variables, image):
        logits = jax.lax.map(lambda indices: of_chunk(variables, image, indices), chunks)
        return logits.reshape(-1, logits.shape[-1])[: sum(counts)]

    def dense(variables, image):
        return head.apply(variables[1], features.apply(variables[0], image)).logits[0]

    forms = []
    for form in (by_windows, dense):
        compiled = jax.jit(form).lower(variables, image).compile()
        run = lambda compiled=compiled: jax.block_until_ready(compiled(variables, image))  # noqa: E731
        forms.append(Form(run, float(compiled.cost_analysis()["flops"])))
    # XLA counts the body of a loop once, and of the windows it is that of a chunk.
    one = jax.jit(of_chunk).lower(variables, image, chunks[0]).compile().cost_analysis()["flops"]
    return counts, forms[0]._replace(flops=float(one) / chunk * sum(counts)), forms[1]


if __name__ == "__main__":
    sys.exit(main())
