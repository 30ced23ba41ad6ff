"""Neighbours, clusters, labels and similarities against scikit-learn, scipy and what was planted."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

import jaxprompt as jp
from jaxprompt.interpretation import nearest
from jaxprompt.interpretation.clusters import Clusters, clusters, compare, random_clusters, shared_neighbours
from jaxprompt.interpretation.labels import LabelNeighbours, LabelsFound, find_labels, labels_by_init
from jaxprompt.interpretation.nearest import METRICS, nearest_tokens
from jaxprompt.interpretation.similarity import (
    average_tokens,
    closest_sources,
    per_token,
    prompt_rows,
    token_similarities,
)
from jaxprompt.interpretation.vocabulary import Vocabulary
from jaxprompt.types import Injection

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(300, 12)).astype(np.float32)
PROMPT = (3 * RNG.normal(size=(7, 12))).astype(np.float32)


# Neighbours


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [7, 8192])
def test_neighbours_are_those_of_scikit_learn(metric, rows, monkeypatch):
    monkeypatch.setattr(nearest, "_ROWS", rows)
    monkeypatch.setattr(nearest, "_QUERIES", 3)
    found = nearest_tokens(PROMPT, TABLE, 9, metric)
    peer = NearestNeighbors(n_neighbors=9, metric=metric, algorithm="brute").fit(TABLE.astype(np.float64))
    distances, ids = peer.kneighbors(PROMPT.astype(np.float64))
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.values, 1 - distances if metric == "cosine" else distances, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_come_in_the_order_of_their_ids(metric, monkeypatch):
    monkeypatch.setattr(nearest, "_ROWS", 16)
    table = TABLE.copy()
    table[[3, 40, 41, 200, 299]] = table[100]
    found = nearest_tokens(table[100:101], table, 6, metric)
    assert found.ids[0].tolist() == [3, 40, 41, 100, 200, 299]
    # The very same vector is at no distance, which fp32 would not show.
    np.testing.assert_allclose(found.values[0], 1 if metric == "cosine" else 0, atol=1e-15)


def test_a_long_prompt_token_does_not_blur_distances():
    prompt = 1e4 * TABLE[:1] / np.linalg.norm(TABLE[0])
    distances = np.linalg.norm(TABLE.astype(np.float64) - prompt.astype(np.float64), axis=1)
    found = nearest_tokens(prompt, TABLE, 5, "euclidean")
    assert found.ids[0].tolist() == np.argsort(distances)[:5].tolist()


def test_a_vector_of_zeros_is_as_near_to_all():
    table = np.concatenate([np.zeros((1, 12), np.float32), TABLE])
    found = nearest_tokens(np.zeros((1, 12)), table, 3)
    assert (found.ids.tolist(), found.values.tolist()) == ([[0, 1, 2]], [[0, 0, 0]])


def test_the_table_may_be_bfloat16_and_small():
    table = jnp.asarray(TABLE[:4], jnp.bfloat16)
    found = nearest_tokens(PROMPT, table, 4)
    cosines = cosine_similarity(PROMPT, np.asarray(table, np.float64))
    np.testing.assert_array_equal(found.ids, np.argsort(-cosines, axis=1))
    np.testing.assert_allclose(found.values, -np.sort(-cosines, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": PROMPT[:, :5]}, r"shape \(7, 5\), the embedding table \(300, 12\)"),
        ({"prompt": PROMPT[0]}, r"shape \(12,\)"),
        ({"k": 301}, "k is 301; expected 1 to 300"),
        ({"k": 0}, "k is 0"),
        ({"metric": "cosin"}, r"'cosin'; known: \['cosine', 'euclidean'\]"),
        ({"prompt": np.full((1, 12), np.nan)}, "not finite"),
    ],
)
def test_what_has_no_neighbours_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        nearest_tokens(**{"prompt": PROMPT, "table": TABLE} | changes)


# Clusters


def test_tightness_is_the_mean_cosine_of_pairs_of_neighbours():
    found = clusters(PROMPT, TABLE, 5)
    ids = nearest_tokens(PROMPT, TABLE, 5).ids
    for tightness, rows in zip(found.tightness, TABLE[ids], strict=True):
        cosines = cosine_similarity(rows.astype(np.float64))
        assert tightness == pytest.approx(cosines[~np.eye(5, dtype=bool)].mean(), abs=1e-9)
    np.testing.assert_allclose(found.nearest, cosine_similarity(PROMPT, TABLE).max(axis=1), atol=1e-6)


def test_planted_clusters_are_found_and_chance_is_not():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, 32))
    planted = (centres[:, None] + 0.2 * rng.normal(size=(40, 6, 32))).reshape(-1, 32)
    table = np.concatenate([planted, rng.normal(size=(2000, 32))]).astype(np.float32)
    random = random_clusters(table, 300, seed=3)
    assert list(random) == ["any direction", "embedding space", "vocabulary tokens"]
    own = clusters(100 * centres[:20], table)
    assert own.tightness.mean() == pytest.approx(1 / (1 + 0.2**2), abs=0.01), "what two copies have in common"
    tight = compare(own, random["any direction"])
    assert tight.z > 3
    assert tight.percentile > 0.95
    # Two samples of one kind differ by their standard error, here 1/15 of a deviation.
    chance = compare(random_clusters(table, 300, seed=4)["any direction"], random["any direction"])
    assert abs(chance.z) < 0.3
    assert abs(chance.percentile - 0.5) < 0.09
    again = random_clusters(table, 300, seed=3)
    assert all(np.array_equal(of.tightness, again[name].tightness) for name, of in random.items())


def test_words_alone_are_tighter_than_vectors_and_not_than_words():
    table = np.random.default_rng(2).normal(size=(2000, 32)).astype(np.float32)
    random, prompt = random_clusters(table, 300, seed=5), clusters(3 * table[:200], table)
    np.testing.assert_allclose(random["vocabulary tokens"].nearest, 1, atol=1e-12)
    # Nothing belongs together in this table, but a word is the neighbour of all its neighbours.
    assert compare(prompt, random["any direction"]).z > 2
    assert abs(compare(prompt, random["vocabulary tokens"]).z) < 0.3


def test_comparison_of_equals():
    same = Clusters(np.full(4, 0.5), np.ones(4))
    assert compare(same, same) == compare(Clusters(same.tightness[:1], same.nearest[:1]), same)
    assert (compare(same, same).z, compare(same, same).percentile) == (None, 0.5)


def test_shared_nearest_neighbours():
    ids = np.array([[5, 1], [7, 5], [5, 2], [9, 5], [7, 1], [5, 3]])
    assert shared_neighbours(ids) == {5: (0, 2, 5), 7: (1, 4)}
    assert list(shared_neighbours(ids)) == [5, 7]


# Words and labels


def test_tokens_are_readable(tokenizer):
    vocabulary = Vocabulary("nano", TABLE, tokenizer)
    ids = {piece: number for piece, number in tokenizer.get_vocab().items()}
    assert vocabulary.text(ids["▁the"]) == "␣the"
    assert vocabulary.text(ids["<extra_id_5>"]) == "<extra_id_5>"
    assert vocabulary.text(len(tokenizer) + 3) == f"row {len(tokenizer) + 3}"
    assert Vocabulary("none", TABLE, None).text(4) == "row 4"
    assert vocabulary.ids("☃") == ()
    assert Vocabulary("none", TABLE, None).ids("the") == ()


def test_bytes_are_readable():
    transformers = pytest.importorskip("transformers")
    byte_level = transformers.AutoTokenizer.from_pretrained(jp.__path__[0] + "/assets/nano-gpt2", local_files_only=True)
    vocabulary, ids = Vocabulary("nano", TABLE, byte_level), byte_level.get_vocab()
    assert vocabulary.text(ids["ĠHe"]) == "␣He"
    assert vocabulary.text(ids["Ċ"]) == "⏎"
    # All 256 bytes have a token; those of UTF-8 characters of several bytes are no text alone.
    shown = {vocabulary.text(ids[letter]) for letter in byte_level.backend_tokenizer.pre_tokenizer.alphabet()}
    assert len(shown) == 256
    assert {"<C3>", "<A9>", "<FF>", "A", "~"} <= shown


def test_labels_are_found_where_they_were_put(tokenizer):
    table = RNG.normal(size=(len(tokenizer), 24)).astype(np.float32)
    vocabulary = Vocabulary("nano", table, tokenizer)
    labels = ("not_entailment", "yes", "☃", "no")
    words = [vocabulary.ids(label) for label in labels]
    assert (len(words[0]) > 1, len(words[1]), words[2]) == (True, 1, ())
    prompt = np.concatenate([
        [table[list(words[0])].mean(axis=0)],  # slot 0 has its label, 1 and 3 have not, and 4 to 6 have the second
        table[[40, 41, 42]], 2 * table[[words[1][0]] * 3] + 0.01,
    ])  # fmt: skip
    found = find_labels(prompt, nearest_tokens(prompt, table, 10), vocabulary, labels, "class_labels")
    assert [label.label for label in found.labels] == ["not_entailment", "yes", "no"]
    assert [label.kept for label in found.labels] == [True, False, False]
    assert {0} <= set(found.labels[0].slots)
    assert found.labels[0].whole_slots[0] == 0
    assert {4, 5, 6} <= set(found.labels[1].slots) == set(found.labels[1].whole_slots)
    distinct = len({token for word in words for token in word})
    expected = scipy.stats.hypergeom.sf(0, len(tokenizer), distinct, 10)
    assert found.chance == pytest.approx(expected, rel=1e-9)
    other = find_labels(prompt, nearest_tokens(prompt, table, 10), vocabulary, labels, "random")
    assert [label.kept for label in other.labels] == [None] * 3


def test_labels_by_init():
    kept = LabelNeighbours("yes", (4,), (0,), (0,), True)
    lost = LabelNeighbours("no", (5,), (), (), False)
    spread = LabelNeighbours("yes", (4,), (1, 2, 3), (1,), None)
    found = [
        LabelsFound("class_labels", 4, (kept, lost), 0.1),
        LabelsFound("random", 4, (spread, lost), 0.1),
        LabelsFound("random", 12, (), 0.0),  # without labels it says nothing of them
    ]
    assert labels_by_init(found) == {
        "class_labels": {"prompts": 1, "tokens": 4, "prompts_with_label": 1.0, "tokens_with_label": 0.25,
                         "labels_found": 0.5, "tokens_per_label": 1.0, "kept": 0.5, "chance": pytest.approx(0.1)},
        "random": {"prompts": 1, "tokens": 4, "prompts_with_label": 1.0, "tokens_with_label": 0.75,
                   "labels_found": 0.5, "tokens_per_label": 3.0, "kept": 0.0, "chance": pytest.approx(0.1)},
    }  # fmt: skip


# Similarity


def test_both_measures_are_spots():
    one, other = RNG.normal(size=(5, 8)), RNG.normal(size=(3, 8)) + 0.5
    means = one.mean(axis=0, keepdims=True), other.mean(axis=0, keepdims=True)
    assert average_tokens(one, other) == pytest.approx(cosine_similarity(*means)[0, 0], abs=1e-12)
    assert per_token(one, other) == pytest.approx(cosine_similarity(one, other).mean(), abs=1e-12)
    np.testing.assert_allclose(token_similarities(one), cosine_similarity(one), atol=1e-12)
    assert average_tokens(one, one) == pytest.approx(1)
    assert per_token(one, one) < 0.9
    assert per_token(one, 0 * other) == 0


def test_the_closest_source_comes_first():
    target = RNG.normal(size=(4, 16)) + 1
    sources = {"far": -target, "near": target + 0.1 * RNG.normal(size=(4, 16)), "between": RNG.normal(size=(6, 16)) + 1}
    for measure in ("per_token", "average_tokens"):
        ranked = closest_sources(target, sources, measure)
        assert [source.name for source in ranked] == ["near", "between", "far"]
    assert ranked[0].average_tokens == average_tokens(target, sources["near"])
    twins = closest_sources(target, {"b": target, "a": target})
    assert [source.name for source in twins] == ["b", "a"]
    for wrong, message in (({}, "no sources"), ({"x": target[:, :3]}, r"source x has shape \(4, 3\)")):
        with pytest.raises(ValueError, match=message):
            closest_sources(target, wrong)
    with pytest.raises(ValueError, match="'cosine'; known"):
        closest_sources(target, sources, "cosine")


def test_a_prefix_is_one_vector_a_position():
    arrays = RNG.normal(size=(4, 2, 3, 2, 5))  # [L, P, H, D] = [2, 3, 2, 5]
    rows = prompt_rows(Injection(kv={"encoder": (arrays[0], arrays[1]), "decoder": (arrays[2], arrays[3])}))
    assert rows.shape == (3, 80)
    np.testing.assert_array_equal(rows[1], np.concatenate([arrays[of, :, 1].ravel() for of in (2, 3, 0, 1)]))
    with pytest.raises(ValueError, match="neither"):
        prompt_rows(Injection())
    with pytest.raises(ValueError, match=r"\[P, E\]"):
        prompt_rows(Injection(tokens=np.zeros((2, 3, 4))))


def test_norms_of_the_vocabulary():
    vocabulary = Vocabulary.of(types.SimpleNamespace(name="m", embedding_table=jnp.asarray(TABLE), tokenizer=None))
    np.testing.assert_allclose(vocabulary.norms, np.linalg.norm(TABLE, axis=1), rtol=1e-6)
