"""The code in the texts runs as it stands there."""

import pathlib
import re

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{i}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_runs(block):
    names: dict = {}
    exec(block, names)
    if "losses" in names:
        found = names["found"]
        if names["batch"].label_map is not None:
            assert set(names["losses"]) == {"cross_entropy"} and found.logits.shape == (1, 96, 128, 9)
        else:
            assert set(names["losses"]) == {"rpn_objectness", "rpn_box", "class", "box"}
            assert found.boxes.shape == (1, 100, 4)
        assert all(jax.numpy.isfinite(x).all() for x in names["losses"].values())


def test_there_is_code():
    assert len(BLOCKS) >= 2


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
