import jax
import numpy as np
import pytest
from prompted_t5 import CONFIG, PROMPT_LENGTH, Prompted, padded_batch

from jaxprompt.evaluation.ranking import choice_ids, rank_choices

SHARED = np.array([[3, 4, 1], [5, 1, -1], [6, -1, -1], [3, 4, 7]], np.int32)


def by_full_forward(model, params, batch, choices):
    """The reference: one whole forward pass a choice. Log likelihoods of single tokens, [B, C, T], 0 at padding."""
    scores = np.zeros(choices.shape)
    for number in range(choices.shape[1]):
        real = choices[:, number] >= 0
        targets = np.where(real, choices[:, number], CONFIG.pad_token_id)
        logits = model.forward(params, batch.replace(targets=targets, target_segments=real.astype(np.int32)))
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        scores[:, number] = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0] * real
    return scores


@pytest.mark.parametrize("kind", ["none", "tokens", "kv"])
def test_scores_are_those_of_full_forward_passes(kind):
    model = Prompted(kind)
    params = model.init_params(0)
    batch = padded_batch(slots=PROMPT_LENGTH if kind == "tokens" else 0)
    shared = np.broadcast_to(SHARED, (6, *SHARED.shape))
    own = np.where(shared > 1, (shared + np.arange(6)[:, None, None]) % 10 + 2, shared)
    for choices, per_row in ((SHARED, shared), (own, own)):
        expected = by_full_forward(model, params, batch, per_row)
        scores = rank_choices(model, params, batch, choices)
        np.testing.assert_allclose(scores, expected.sum(-1), rtol=1e-5, atol=1e-5)
        means = rank_choices(model, params, batch, choices, mean=True)
        np.testing.assert_allclose(means, expected.sum(-1) / (per_row >= 0).sum(-1), rtol=1e-5, atol=1e-5)
    assert model.traces == 1


def test_single_tokens_share_one_distribution():
    model = Prompted("none")
    params, batch = model.init_params(1), padded_batch()
    scores = rank_choices(model, params, batch, np.arange(CONFIG.vocab_size)[:, None])
    np.testing.assert_allclose(np.exp(scores).sum(-1), np.ones(6), rtol=1e-5)


class Letters:
    """A tokenizer that numbers letters from 2."""

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(letter) - ord("a") + 2 for letter in text] for text in texts]}


def test_texts_are_choices_too():
    model = Prompted("none")
    model.tokenizer = Letters()
    np.testing.assert_array_equal(choice_ids(model, ["bc", "d"]), [[3, 4, 1], [5, 1, -1]])
    params, batch = model.init_params(0), padded_batch()
    by_text = rank_choices(model, params, batch, ["bc", "d"])
    np.testing.assert_array_equal(by_text, rank_choices(model, params, batch, SHARED[:2]))
    with pytest.raises(ValueError, match="at least one choice"):
        rank_choices(model, params, batch, [])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (np.array([3, 1]), "shape"),
        (np.zeros((5, 2, 3), int), "B = 6"),
        (np.array([[-1, -1], [3, 1]]), "at least one token"),
        (np.array([[3, -1, 1]]), "behind its tokens"),
    ],
)
def test_bad_choices_are_refused(choices, message):
    model = Prompted("none")
    with pytest.raises(ValueError, match=message):
        rank_choices(model, {}, padded_batch(), choices)
