"""The `DetrForObjectDetection` of transformers, small and with random weights: the same images, padded to one batch,
give the same features, predictions, losses and gradients.

Its weights reach ours through the names of the authors' own code, which those of transformers are translated to here.
"""

import copy
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d  # noqa: E402

from segjax.models.detr import DETRNetwork, detr  # noqa: E402
from segjax.models.layers.resnet import ResNet  # noqa: E402
from segjax.models.layers.transformer import Transformer  # noqa: E402
from segjax.pretrained import from_torchvision  # noqa: E402
from segjax.pretrained.convert import apply_rules  # noqa: E402
from segjax.pretrained.detr_rules import detr_rules  # noqa: E402
from segjax.types import Model, Variables  # noqa: E402
from tests.parity.conftest import CLASSES, as_batch, as_torch, random_images, random_objects  # noqa: E402
from tests.parity.detectors import relative_errors  # noqa: E402

NAME = "detr_resnet50"
WIDTH, D, HEADS, HIDDEN, QUERIES, LAYERS = 8, 32, 4, 64, 15, 6
SIZES, COUNTS = [(128, 160), (101, 147), (90, 160)], (6, 0, 4)
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BLOCK = r"model\.backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d)\."


class Pair(NamedTuple):
    """One detector twice, and a batch for both."""

    torch: Any
    model: Model
    variables: Variables
    batch: Any
    pixels: Any
    mask: Any
    labels: list[dict[str, Any]]


def authors_name(name: str) -> str | None:
    """What facebookresearch/detr calls a parameter of transformers; None for queries, keys and values, see below."""
    for pattern, make in (
        (r"model\.backbone\.model\.embedder\.embedder\.convolution\.(.*)", r"backbone.0.body.conv1.\1"),
        (r"model\.backbone\.model\.embedder\.embedder\.normalization\.(.*)", r"backbone.0.body.bn1.\1"),
        (r"model\.query_position_embeddings\.(.*)", r"query_embed.\1"),
        (r"model\.input_projection\.(.*)", r"input_proj.\1"),
        (r"model\.decoder\.layernorm\.(.*)", r"transformer.decoder.norm.\1"),
        (r"class_labels_classifier\.(.*)", r"class_embed.\1"),
        (r"bbox_predictor\.(.*)", r"bbox_embed.\1"),
    ):
        if found := re.fullmatch(pattern, name):
            return found.expand(make)
    if found := re.fullmatch(BLOCK + r"(?:layer\.(\d)|(shortcut))\.(convolution|normalization)\.(.*)", name):
        stage, block, layer, shortcut, kind, leaf = found.groups()
        part = {"convolution": "0", "normalization": "1"}[kind] if shortcut else int(layer) + 1
        kind = "downsample." if shortcut else {"convolution": "conv", "normalization": "bn"}[kind]
        return f"backbone.0.body.layer{int(stage) + 1}.{block}.{kind}{part}.{leaf}"
    found = re.fullmatch(r"model\.(encoder|decoder)\.layers\.(\d)\.(.*)\.(weight|bias)", name)
    kind, layer, part, leaf = found.groups()
    norms = ["self_attn_layer_norm", *["encoder_attn_layer_norm"] * (kind == "decoder"), "final_layer_norm"]
    parts = {
        "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
        "self_attn.o_proj": "self_attn.out_proj",
        "encoder_attn.o_proj": "multihead_attn.out_proj",
        **{name: f"norm{i}" for i, name in enumerate(norms, start=1)},
    }
    return f"transformer.{kind}.layers.{layer}.{parts[part]}.{leaf}" if part in parts else None


def as_authors(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of transformers, or gradients by its names, as the authors' code has them: queries, keys and values
    of an attention are made by one matrix there."""
    renamed = {}
    for name, value in state.items():
        ours = authors_name(name)
        if ours is not None:
            renamed[ours] = value
        elif "q_proj" in name:
            whole = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            found = re.fullmatch(r"model\.(.*)\.(self_attn|encoder_attn)\.q_proj\.(weight|bias)", name)
            attention = {"self_attn": "self_attn", "encoder_attn": "multihead_attn"}[found[2]]
            renamed[f"transformer.{found[1]}.{attention}.in_proj_{found[3]}"] = whole
    return renamed


def random_torch_model() -> Any:
    """Small, with the authors' numbers of layers; norms of the backbone and all biases at random."""
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=WIDTH, hidden_sizes=[4 * WIDTH * 2**i for i in range(4)], out_features=["stage4"]
    )
    # `auxiliary_loss` would feed the normalised output of each decoder layer to the next, which the paper does not.
    config = transformers.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_queries=QUERIES, d_model=D,
        encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, num_labels=CLASSES,
    )  # fmt: skip
    detector = transformers.DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            parameter.requires_grad_(True)
            if "layer_norm" in name or "layernorm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.normal_(0, 0.1)
            elif "query_position" in name:
                parameter.normal_(0, 1)
            else:
                # Attention that is far from even, and branches that add a little, or all queries would say the same.
                sharp, branch = "q_proj" in name or "k_proj" in name, "self_attn.o_proj" in name or "fc2" in name
                gain = 2.0 if sharp else 0.1 if branch else 1.5
                parameter.normal_(0, (gain / parameter[0].numel()) ** 0.5)
    return detector


def fit_norms(detector: Any, pixels: Any) -> None:
    """Gives each frozen norm the statistics of its input, somewhat off, in the order in which they are called."""

    def fit(norm, inputs):
        (x,) = inputs
        norm.running_mean.copy_(x.mean((0, 2, 3)) + 0.1 * torch.randn_like(norm.running_mean))
        norm.running_var.copy_(x.var((0, 2, 3)) * torch.empty_like(norm.running_var).uniform_(0.7, 1.4) + 1e-3)
        # Branches that add a little to the trunk, as in trained networks: full ones amplify rounding.
        norm.weight.uniform_(0.6, 1.2).mul_(0.2 if norm in last else 1.0)
        norm.bias.normal_(0, 0.2)

    norms = [m for m in detector.modules() if isinstance(m, DetrFrozenBatchNorm2d)]
    last = {m for name, m in detector.named_modules() if name.endswith(".layer.2.normalization")}
    assert len(norms) == 53
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    with torch.no_grad():
        detector.model.backbone.model(pixels)
    for hook in hooks:
        hook.remove()


def spread(layer: Any, deviation: float, run: Any) -> None:
    """Scales and shifts a last layer so that its outputs have mean 0 and this deviation over an image's queries."""
    seen = []
    hook = layer.register_forward_hook(lambda _, __, out: seen.append(out))
    run()
    hook.remove()
    scale = deviation / seen[0].std(1).mean(0)
    layer.weight.mul_(scale[:, None])
    layer.bias.copy_((layer.bias - seen[0].mean((0, 1))) * scale)


@pytest.fixture(scope="module")
def pair():
    """Both, and a batch of three images of different sizes, one of them without objects."""
    rng = np.random.default_rng(1)
    images = random_images(rng, *SIZES)
    objects = [random_objects(rng, size, count) for size, count in zip(SIZES, COUNTS)]
    batch = as_batch(images, objects)
    height, width = batch.images.shape[1:3]
    pixels, mask = torch.zeros(len(images), 3, height, width), torch.zeros(len(images), height, width).long()
    for i, image in enumerate(as_torch(images)):
        h, w = image.shape[1:]
        pixels[i, :, :h, :w] = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        mask[i, :h, :w] = 1
    detector = random_torch_model()
    fit_norms(detector, pixels)
    with torch.no_grad():
        spread(detector.class_labels_classifier, 2.0, lambda: detector(pixels, mask))
        spread(detector.bbox_predictor.layers[-1], 1.2, lambda: detector(pixels, mask))
    labels = [
        {
            "class_labels": torch.from_numpy(of_image.labels.astype(np.int64)),
            "boxes": relative(torch.from_numpy(of_image.boxes).reshape(-1, 4), size),
        }
        for of_image, size in zip(objects, SIZES)
    ]
    network = DETRNetwork(CLASSES, Transformer(LAYERS, LAYERS, HEADS, HIDDEN), QUERIES, D)
    model = detr(CLASSES, backbone=ResNet(50, width=WIDTH, stages=(4,)), network=network)
    variables = from_torchvision(NAME, as_authors(detector.state_dict()))
    return Pair(detector, model, variables, jax.tree.map(jnp.asarray, batch), pixels, mask, labels)


def relative(boxes, size):
    """(cx, cy, w, h) in units of the image's sides."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1) / torch.tensor([*size[::-1], *size[::-1]])


def torch_outputs(pair):
    """(logits, boxes) [layers, b, n, ...] of all decoder layers, as the authors' code has them; the last is checked."""
    seen, decoder = [], pair.torch.model.decoder
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in decoder.layers
    ]
    last = pair.torch(pair.pixels, pair.mask)
    for hook in hooks:
        hook.remove()
    known = decoder.layernorm(torch.stack(seen))
    logits, boxes = pair.torch.class_labels_classifier(known), pair.torch.bbox_predictor(known).sigmoid()
    torch.testing.assert_close(logits[-1], last.logits)
    torch.testing.assert_close(boxes[-1], last.pred_boxes)
    return logits, boxes


@pytest.fixture(scope="module")
def steps(pair):
    """(ours, theirs): losses and gradients of their sum. Theirs in double precision: torch's own gradients in single
    precision are off by four hundredths in the backbone."""
    labels = [{**of_image, "boxes": of_image["boxes"].double()} for of_image in pair.labels]
    torch.set_default_dtype(torch.float64)  # positions are made in the default
    try:
        exact = pair._replace(torch=copy.deepcopy(pair.torch).double(), pixels=pair.pixels.double(), labels=labels)
        detector, config = exact.torch, exact.torch.config
        detector.zero_grad()
        logits, boxes = torch_outputs(exact)
        config.auxiliary_loss = True
        total, terms, _ = detector.loss_function(logits[-1], labels, "cpu", boxes[-1], config, logits, boxes)
        total.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    gradients = {name: p.grad.float() for name, p in detector.named_parameters()}
    theirs = {}
    for name, ours, weight in (("loss_ce", "class", 1), ("loss_bbox", "box", 5), ("loss_giou", "giou", 2)):
        theirs[ours] = weight * terms[name].item()
        theirs[f"auxiliary_{ours}"] = weight * sum(terms[f"{name}_{i}"].item() for i in range(LAYERS - 1))
    assert total.item() == pytest.approx(sum(theirs.values()), rel=1e-5)

    # Both without dropout: transformers' is in evaluation mode, and ours is 0.
    still = detr(
        CLASSES,
        backbone=ResNet(50, width=WIDTH, stages=(4,)),
        network=DETRNetwork(CLASSES, Transformer(LAYERS, LAYERS, HEADS, HIDDEN, dropout=0.0), QUERIES, D),
    )

    def loss(params):
        losses, _ = still.losses({**pair.variables, "params": params}, pair.batch, jax.random.key(0))
        return sum(losses.values()), losses

    ours = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(pair.variables["params"]))
    expected = apply_rules(detr_rules(), as_authors(gradients), name="the gradients")["params"]
    return ours, (expected, theirs)


def test_features(pair):
    prepared = jnp.asarray(pair.pixels.permute(0, 2, 3, 1).numpy())
    backbone = ResNet(50, width=WIDTH, stages=(4,))
    own = {name: tree["backbone"] for name, tree in pair.variables.items()}
    (found,) = jax.jit(backbone.apply)(own, prepared)
    with torch.no_grad():
        ((expected, _),) = pair.torch.model.backbone(pair.pixels, pair.mask)
    expected = expected.permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_detections(pair):
    """Of all queries, best first, as transformers' own decoding has them, but cut to the image."""
    with torch.no_grad():
        outputs = pair.torch(pair.pixels, pair.mask)
    scores, labels = outputs.logits.softmax(-1)[..., :-1].max(-1)
    found = jax.device_get(jax.jit(pair.model.predict)(pair.variables, pair.batch.images, pair.batch.sizes))
    assert len(np.unique(found.labels)) > 4
    for i, (height, width) in enumerate(SIZES):
        x, y, w, h = (outputs.pred_boxes[i].numpy() * [width, height, width, height]).T
        boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).clip(0, [width, height, width, height])
        order = np.argsort(-scores[i].numpy(), kind="stable")
        assert found.valid[i].all() and np.ptp(found.scores[i]) > 0.3, "scores must spread"
        np.testing.assert_allclose(found.scores[i], scores[i].numpy()[order], atol=1e-4)
        np.testing.assert_array_equal(found.labels[i], labels[i].numpy()[order])
        np.testing.assert_allclose(found.boxes[i], boxes[order], atol=1e-4 * width)


def test_losses(steps):
    (_, found), (_, expected) = steps
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value > 0.1
        np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


def test_gradients(steps):
    (found, _), (expected, _) = steps
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    errors = relative_errors(found, expected)
    # The first layer's queries look at zeros, which are all alike: what they look at has no gradient.
    first = "['head']['transformer']['decoder0']['self']['in_kernel']"
    errors = {str(path): error for path, error in errors.items()}
    del errors[first]
    unseen = found["head"]["transformer"]["decoder0"]["self"]["in_kernel"]
    assert np.abs(unseen).max() < 1e-4 and np.abs(found["head"]["queries"]).max() > 0.1
    for path, error in errors.items():
        assert error < 1e-2, path
    assert np.median(list(errors.values())) < 1e-3


def test_defaults():
    """Those of transformers' configuration, which are the released model's, but for the dropout of attentions."""
    config, ours = transformers.DetrConfig(), DETRNetwork(91, Transformer())
    assert (config.num_queries, config.d_model) == (ours.queries, ours.width)
    assert config.dropout == ours.transformer.dropout
    for kind in ("encoder", "decoder"):
        assert getattr(config, f"{kind}_layers") == getattr(ours.transformer, f"{kind}_layers")
        assert getattr(config, f"{kind}_attention_heads") == ours.transformer.heads
        assert getattr(config, f"{kind}_ffn_dim") == ours.transformer.hidden
