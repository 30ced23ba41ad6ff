import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.prompts.initializers import NAMES, InitConfig, make_initializer, sampled_vocab
from jaxprompt.prompts.store import BaseModel, PromptMeta, save_prompt

V, E = 1792, 3
NUM_PIECES = 1692  # of the nano tokenizer; sentinels have the ids from here on
TABLE = np.random.default_rng(0).normal(size=(V, E)).astype(np.float32)
NUMBERS = np.arange(32128, dtype=np.float32)[:, None]  # a table whose rows tell their own id


def tokens(length, tokenizer=None, table=TABLE, seed=0, **config):
    init = make_initializer(InitConfig(**config), length, tokenizer)
    return np.asarray(init(jax.random.key(seed), jnp.asarray(table)))


# Random and sampled vocabulary


def test_random_is_uniform_within_the_bound():
    for scale in (0.5, 2.0):
        found = tokens(2000, name="random", scale=scale)
        assert found.shape == (2000, E)
        assert found.dtype == np.float32
        assert -scale <= found.min() < -0.99 * scale
        assert 0.99 * scale < found.max() <= scale
        # 6000 draws of standard deviation scale/√3: four standard errors.
        assert abs(found.mean()) < 4 * scale / np.sqrt(3 * found.size)


def test_sampled_vocabulary_is_common_tokens_each_once():
    ids = np.concatenate([sampled_vocab(100, 5000)(jax.random.key(seed), NUMBERS)[:, 0] for seed in range(20)])
    for prompt in ids.reshape(20, 100):
        assert len(set(prompt)) == 100
    assert ids.max() < 5000
    # All of them can come: of 2000 draws some lie in the first and the last hundredth.
    assert ids.min() < 50
    assert ids.max() >= 4950


def test_sampled_vocabulary_repeats_only_where_it_must():
    everything = sampled_vocab(40, 40)(jax.random.key(0), NUMBERS)[:, 0]
    assert sorted(everything) == list(range(40))
    more = sampled_vocab(41, 40)(jax.random.key(0), NUMBERS)[:, 0]
    assert len(more) == 41
    assert max(more) < 40


def test_sampled_vocabulary_leaves_out_sentinels_and_keeps_to_the_table(tokenizer):
    # The nano vocabulary is smaller than the paper's 5,000; all of its pieces can come, its sentinels cannot.
    found = tokens(NUM_PIECES, tokenizer, NUMBERS, name="sampled_vocab")
    assert sorted(found[:, 0]) == list(range(NUM_PIECES))
    assert sampled_vocab(10, 5000)(jax.random.key(0), NUMBERS[:10])[:, 0].max() < 10
    assert tokens(20, tokenizer, NUMBERS, name="sampled_vocab", vocab_limit=20).max() < 20


def test_the_same_key_gives_the_same_prompt(tokenizer):
    for name in ("random", "sampled_vocab", "class_labels", "string"):
        config = {"name": name, "labels": ("True",), "text": "review"}
        one = tokens(30, tokenizer, **config)
        np.testing.assert_array_equal(one, tokens(30, tokenizer, **config))
        assert not np.array_equal(one, tokens(30, tokenizer, **config, seed=1))


# Labels and strings


def mean(tokenizer, word):
    return TABLE[tokenizer.encode(word, add_special_tokens=False)].mean(axis=0)


def test_class_labels_are_means_of_their_subwords_then_sampled_vocabulary(tokenizer):
    labels = ("entailment", "not_entailment", "zyxwv")
    assert max(len(tokenizer.encode(label, add_special_tokens=False)) for label in labels) > 2
    found = tokens(8, tokenizer, name="class_labels", labels=labels)
    np.testing.assert_allclose(found[:3], [mean(tokenizer, label) for label in labels], atol=1e-6)
    rows = {tuple(row): number for number, row in enumerate(TABLE)}
    filler = [rows[tuple(row)] for row in found[3:]]
    assert len(set(filler)) == 5
    assert max(filler) < NUM_PIECES


def test_labels_beyond_the_prompt_are_cut(tokenizer):
    labels = ("positive", "negative", "neutral")
    found = tokens(2, tokenizer, name="class_labels", labels=labels)
    np.testing.assert_allclose(found, [mean(tokenizer, label) for label in labels[:2]], atol=1e-6)


@pytest.mark.parametrize("length", [3, 40])
def test_a_string_gives_one_token_a_slot(tokenizer, length):
    text = "premise: it rains. hypothesis: it is wet."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert 3 < len(ids) < 40
    found = tokens(length, tokenizer, name="string", text=text)
    assert found.shape == (length, E)
    np.testing.assert_array_equal(found[: len(ids)], TABLE[ids[:length]])


def test_means_of_a_bfloat16_table_are_taken_in_fp32(tokenizer):
    table = jnp.asarray(TABLE, jnp.bfloat16)
    found = tokens(1, tokenizer, table, name="class_labels", labels=("not_entailment",))
    ids = tokenizer.encode("not_entailment", add_special_tokens=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], np.asarray(table.astype(jnp.float32))[ids].mean(axis=0), atol=1e-6)


def test_initializers_can_be_vmapped(tokenizer):
    init = make_initializer(InitConfig("class_labels", labels=("True", "False")), 6, tokenizer)
    keys = jax.random.split(jax.random.key(0), 3)
    table = jnp.asarray(TABLE)
    prompts = jax.jit(jax.vmap(init, in_axes=(0, None)))(keys, table)
    assert prompts.shape == (3, 6, E)
    for prompt, key in zip(prompts, keys, strict=True):
        np.testing.assert_allclose(prompt, init(key, table), atol=1e-6)


# Stored prompts


@pytest.fixture
def stored(tmp_path):
    """A function from an initializer's name to a path that holds a prompt [4, E], and the prompt."""
    prompt = np.random.default_rng(1).normal(size=(4, E)).astype(np.float32)

    def write(name):
        path = tmp_path / name
        if name == "npy":
            with path.open("wb") as file:  # the original release's have no suffix
                np.save(file, prompt)
        else:
            base = BaseModel("some/model", "t5", "0123", E, V)
            save_prompt(path, jp.Injection(prompt), PromptMeta("prompt_tuning", base))
        return str(path), prompt

    return write


@pytest.mark.parametrize("name", ["saved", "npy"])
def test_a_stored_prompt_is_taken_as_it_is(stored, name):
    path, prompt = stored(name)
    np.testing.assert_array_equal(tokens(4, name=name, path=path), prompt)


@pytest.mark.parametrize("name", ["saved", "npy"])
@pytest.mark.parametrize(("length", "width"), [(5, E), (4, E + 1)])
def test_a_stored_prompt_of_another_shape_is_refused(stored, name, length, width):
    path, _ = stored(name)
    with pytest.raises(ValueError, match=rf"shape \(4, {E}\), this run needs \({length}, {width}\)"):
        tokens(length, table=np.zeros((V, width)), name=name, path=path)


def test_a_stored_prompt_without_virtual_tokens_is_refused(tmp_path):
    kv = {"decoder": (np.zeros((1, 4, 2, 3)), np.zeros((1, 4, 2, 3)))}
    save_prompt(tmp_path, jp.Injection(kv=kv), PromptMeta("prefix_tuning", BaseModel("m", "t5", "0123", E, V)))
    with pytest.raises(ValueError, match="no virtual tokens"):
        tokens(4, name="saved", path=str(tmp_path))


# Errors


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "class_label", "labels": ("True",)}, "did you mean 'class_labels'"),
        ({"name": "xyzzy"}, r"'xyzzy'; known: \['random', .*'npy'\]$"),
        ({"name": "class_labels"}, "needs labels"),
        ({"name": "class_labels", "labels": ("True", "")}, "label '' is no tokens"),
        ({"name": "class_labels", "labels": ("True", "☃")}, "label '☃' is the unknown token"),
        ({"name": "string"}, r"needs prompt\.text"),
        ({"name": "string", "text": "☃"}, "text '☃' is the unknown token"),
        ({"name": "saved"}, r"'saved' needs prompt\.path"),
        ({"name": "npy"}, r"'npy' needs prompt\.path"),
    ],
)
def test_what_is_missing_or_unknown_is_named(tokenizer, config, message):
    with pytest.raises(ValueError, match=message):
        make_initializer(InitConfig(**config), 4, tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_tokenizer(stored, name):
    if name in ("random", "saved", "npy"):
        assert tokens(4, name=name, path=stored(name)[0] if name != "random" else "").shape == (4, E)
    else:
        with pytest.raises(ValueError, match=f"{name}.*needs the model's tokenizer"):
            make_initializer(InitConfig(name, labels=("True",), text="True"), 4, None)


@pytest.mark.parametrize("name", ["saved", "npy"])
def test_a_path_that_is_not_there(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make_initializer(InitConfig(name, path=str(tmp_path / "nowhere")), 4, None)
