"""What the ladder of regions, from sliding windows to Faster R-CNN, shows: stages of training, proposals, disk."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.ladder_plot import BLUE, GREY, plain_logarithms
from benchmarks.ladder_programs import Program
from benchmarks.ladder_table import ABSENT, Row, failures, milliseconds, score, shown, spread
from benchmarks.ladder_training import describe_stages
from benchmarks.table import format_seconds, format_table
from benchmarks.timing import summarize
from configs.base import Recipe
from configs.detectors import RegionDetector
from segjax.data.proposals import ProposalFile, read_proposals
from train.selective_search import Search, Searcher

PROPOSALS = "proposals"
"""The program that proposes regions of an image by selective search."""
IMAGES = 16
"""Images that it is timed on, the first of the validation images."""
ORANGE = "#d55e00"


def describe(recipe: Recipe) -> dict[str, Any]:
    """What a finished run of the recipe says of itself: seconds of each stage, regions an image, MiB on disk, and
    whether its proposals come from a file."""
    file = recipe.run / "stages.json"
    disk = json.loads(file.read_text()).get("disk_mib") if file.exists() else None
    own = {"disk_mib": disk, "regions": regions(recipe), "reads_proposals": bool(recipe.data.proposals[1])}
    return {"stages": describe_stages(recipe), **own}


def regions(recipe: Recipe) -> float | None:
    """Regions that are looked at in an image: windows, proposals of a network, or the mean of a file's."""
    scores = recipe.run / "results_val.json"
    if scores.exists() and (windows := json.loads(scores.read_text()).get("windows_per_image")):
        return windows
    if file := recipe.data.proposals[1]:
        source = recipe.data.source("val")
        proposed = ProposalFile(recipe.data.root / file, source)
        counts = [len(proposed(i)[0]) for i in range(len(source))]
        return float(np.mean(np.minimum(counts, recipe.data.proposal_count)))
    if isinstance(recipe.model, RegionDetector) and recipe.model.system == "faster_rcnn":
        return recipe.model.rpn.proposals[1]
    return None


def programs(recipe: Recipe) -> dict[str, Program]:
    """The selective search that made the recipe's file of proposals, as a program; none where anything else made it.

    It costs the same however many of its boxes a recipe then uses.
    """
    file = recipe.data.proposals[1]
    search = Search.that_made(read_proposals(recipe.data.root / file).made_by) if file else None
    if search is None:
        return {}
    source = recipe.data.source("val")
    searcher, images = Searcher(source, search), [source.image(i) for i in range(min(IMAGES, len(source)))]

    def run() -> None:
        for index, image in enumerate(images):
            searcher.search(index, image)

    return {PROPOSALS: Program(run, {"images": len(images)})}


def table(rows: Sequence[Row], scores: Mapping[str, str]) -> str:
    """A Markdown table in the ladder's order, which is the story's; what failed is named below."""
    header = (
        "system",
        *scores,
        "regions an image",
        "network",
        PROPOSALS,
        "together",
        "training, by stage",
        "disk, MiB",
    )
    return "\n\n".join([format_table(header, [_cells(row, scores) for row in rows]), *failures(rows)])


def _cells(row: Row, scores: Mapping[str, str]) -> list[str]:
    return [
        row["name"],
        *(shown(score(row, name), "{:.3f}") for name in scores.values()),
        shown(row.get("regions"), "{:.0f}"),
        spread(milliseconds(row, "inference")),
        spread(milliseconds(row, PROPOSALS)) if reads_proposals(row) else "none",
        ABSENT if (total := whole(row)) is None else format_seconds(total / 1e3),
        stages(row),
        shown(row.get("disk_mib"), "{:.0f}"),
    ]


def stages(row: Row) -> str:
    """The minutes of each stage, "fine-tuning 3.1 + features 0.8 min"."""
    seconds = {name: stage["seconds"] for name, stage in row.get("stages", {}).items()}
    if not seconds:
        return shown(row.get("trained", {}).get("seconds"), "{:.1f} min", 1 / 60)
    return " + ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items()) + " min"


def reads_proposals(row: Row) -> bool:
    """Whether proposals come from a file, be it that making them was timed or not."""
    return bool(row.get("reads_proposals") or milliseconds(row, PROPOSALS))


def whole(row: Row) -> float | None:
    """Milliseconds of an image, its proposals included; None where either was not timed."""
    network, proposals = milliseconds(row, "inference"), milliseconds(row, PROPOSALS)
    if not network or (reads_proposals(row) and not proposals):
        return None
    return summarize(network).median + (summarize(proposals).median if proposals else 0.0)


def plot(rows: Sequence[Row], path: pathlib.Path, *, title: str, heading: str, name: str) -> bool:
    """Draws the time of an image, without and with proposals, system under system. False, and no file, without times.

    Args:
      heading: what the score beside each system is called; `name`: where it stands in the rows.
    """
    timed = [row for row in rows if milliseconds(row, "inference")]
    if not timed:
        return False
    figure = Figure(figsize=(8.2, 1.4 + 0.5 * len(timed)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(len(timed))
    network = np.array([summarize(milliseconds(row, "inference")).median for row in timed])
    # Where making the proposals was not timed, the network alone is shown.
    together = np.array([whole(row) or alone for row, alone in zip(timed, network)])
    added = together > network
    axes.hlines(places[added], network[added], together[added], color=GREY, linewidth=1.5, zorder=1)
    axes.scatter(together[added], places[added], color=ORANGE, s=55, zorder=3, label="with selective search")
    axes.scatter(network, places, color=BLUE, s=55, zorder=3, label="network")
    for place, row, right in zip(places, timed, together):
        value = score(row, name)
        text = ABSENT if value is None or math.isnan(value) else f"{heading} {value:.3f}"
        axes.annotate(text, (right, place), (9, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(places, [row["name"] for row in timed])
    axes.set_ylim(len(timed) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(network.min() / 1.6, together.max() * 2.6)
    plain_logarithms(axes, together.max() / network.min())
    axes.set_xlabel("inference, ms per image (one image at a time)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True
