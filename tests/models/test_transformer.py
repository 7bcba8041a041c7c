"""The transformer of DETR against plain NumPy in double precision: positions, attention, both kinds of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers.transformer import Attention, Transformer, sine_positions

WIDTH, HEADS = 16, 4
VALID = np.zeros((2, 3, 5), bool)
VALID[0], VALID[1, :2, :4] = True, True


def positions(height, width, channels):
    """Of an image's own cells (section A.4; the formula of Parmar et al. 2018 in the form of the authors' code)."""
    half = channels // 2
    table = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            for start, place, count in ((0, y, height), (half, x, width)):
                for i in range(half):
                    angle = (place + 1) / (count + 1e-6) * 2 * np.pi / 10000 ** (2 * (i // 2) / half)
                    table[y, x, start + i] = np.cos(angle) if i % 2 else np.sin(angle)
    return table


def test_positions_are_of_the_image_without_padding():
    found = np.asarray(sine_positions(jnp.asarray(VALID), WIDTH))
    assert found.shape == (2, 3, 5, WIDTH) and np.isfinite(found).all()
    np.testing.assert_allclose(found[0], positions(3, 5, WIDTH), atol=2e-6)
    np.testing.assert_allclose(found[1, :2, :4], positions(2, 4, WIDTH), atol=2e-6)
    assert np.isfinite(sine_positions(jnp.zeros((1, 2, 2), bool), 4)).all()
    with pytest.raises(ValueError, match="width of the transformer is 18; it must be a multiple of 4"):
        sine_positions(jnp.asarray(VALID), 18)


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attention(p, queries, keys, values, valid=None):
    """Head by head, token by token."""
    wq, wk, wv = np.split(p["in_kernel"], 3, axis=1)
    bq, bk, bv = np.split(p["in_bias"], 3)
    q, k, v = queries @ wq + bq, keys @ wk + bk, values @ wv + bv
    taken, size = np.zeros_like(q), WIDTH // HEADS
    for b in range(len(q)):
        seen = np.ones(k.shape[1], bool) if valid is None else valid[b]
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            for i in range(q.shape[1]):
                e = np.exp(k[b][seen][:, part] @ q[b, i, part] / np.sqrt(size))
                taken[b, i, part] = (e / e.sum()) @ v[b][seen][:, part]
    return taken @ p["out"]["kernel"] + p["out"]["bias"]


def forward(p, x):
    y = np.maximum(x @ p["expand"]["kernel"] + p["expand"]["bias"], 0)
    return y @ p["project"]["kernel"] + p["project"]["bias"]


def transformer(p, x, valid, queries, encoder, decoder):
    """Norms behind the sums, positions in queries and keys alone."""
    batch, height, width, _ = x.shape
    where = np.zeros_like(x)
    for b in range(batch):
        rows, columns = valid[b, :, 0].sum(), valid[b, 0].sum()
        where[b, :rows, :columns] = positions(rows, columns, WIDTH)
    memory, where, valid = (a.reshape(batch, height * width, *a.shape[3:]) for a in (x, where, valid))
    for i in range(encoder):
        q = p[f"encoder{i}"]
        memory = norm(memory + attention(q["self"], memory + where, memory + where, memory, valid), q["self_norm"])
        memory = norm(memory + forward(q, memory), q["norm"])
    known, outputs = np.zeros((batch, *queries.shape)), []
    for i in range(decoder):
        q, placed = p[f"decoder{i}"], known + queries
        known = norm(known + attention(q["self"], placed, placed, known), q["self_norm"])
        seen = attention(q["cross"], known + queries, memory + where, memory, valid)
        known = norm(known + seen, q["cross_norm"])
        known = norm(known + forward(q, known), q["norm"])
        outputs.append(norm(known, p["norm"]))
    return np.stack(outputs)


@pytest.fixture(scope="module")
def made():
    """(module, random parameters, map, queries)."""
    rng = np.random.default_rng(0)
    module = Transformer(encoder_layers=2, decoder_layers=2, heads=HEADS, hidden=24, dropout=0.3)
    x, queries = rng.normal(size=(2, 3, 5, WIDTH)).astype(np.float32), rng.normal(size=(6, WIDTH)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jnp.asarray(VALID), queries)["params"]
    # Random biases and scales too, which begin as zeros and ones.
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0.1, 0.3, s.shape), jnp.float32), shapes)
    return module, params, jnp.asarray(x), jnp.asarray(queries)


def test_layers_are_the_papers(made):
    module, params, x, queries = made
    found = jax.jit(module.apply)({"params": params}, x, jnp.asarray(VALID), queries)
    assert found.shape == (2, 2, 6, WIDTH)
    double = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x, queries))
    expected = transformer(double[0], double[1], VALID, double[2], 2, 2)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_padding_is_not_seen(made):
    module, params, x, queries = made
    apply = jax.jit(module.apply)
    other = jnp.where(jnp.asarray(VALID)[..., None], x, 100.0)
    first, second = (apply({"params": params}, a, jnp.asarray(VALID), queries) for a in (x, other))
    np.testing.assert_allclose(first, second, atol=1e-5)
    nothing = apply({"params": params}, x, jnp.zeros_like(jnp.asarray(VALID)), queries)
    assert np.isfinite(nothing).all()


def test_dropout_is_of_training_alone(made):
    module, params, x, queries = made
    train = jax.jit(lambda key: module.apply(
        {"params": params}, x, jnp.asarray(VALID), queries, train=True, rngs={"dropout": key}
    ))  # fmt: skip
    first, second, again = (np.asarray(train(jax.random.key(i))) for i in (1, 2, 1))
    assert np.abs(first - second).mean() > 0.05
    np.testing.assert_array_equal(first, again)


def test_attention_drops_weights():
    """Of one key the weight is 1, so that what is left of it in training is 0 or 1 / (1 - dropout)."""
    module = Attention(heads=2, dropout=0.5)
    one = jnp.ones((1, 200, 4)), jnp.ones((1, 1, 4)), jnp.ones((1, 1, 4))
    params = {"in_kernel": jnp.tile(jnp.eye(4), (1, 3)), "in_bias": jnp.zeros(12),
              "out": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}  # fmt: skip
    found = module.apply({"params": params}, *one, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(found)) == {0.0, 2.0} and 0.8 < found.mean() < 1.2
    np.testing.assert_allclose(module.apply({"params": params}, *one), 1.0)


@pytest.mark.parametrize(("options", "message"), [
    ({"heads": 3}, "the width of the transformer is 16; it must be a multiple of its 3 heads"),
    ({"decoder_layers": 0}, "the transformer has 0 decoder layers; it needs one at least"),
])  # fmt: skip
def test_what_does_not_fit_is_a_sentence(options, message):
    module = Transformer(**{"encoder_layers": 1, "decoder_layers": 1, "heads": HEADS, "hidden": 8, **options})
    with pytest.raises(ValueError, match=message):
        given = jnp.zeros((1, 2, 2, WIDTH)), jnp.ones((1, 2, 2), bool), jnp.zeros((3, WIDTH))
        jax.eval_shape(module.init, jax.random.key(0), *given)
