"""A bank of prompts: every row of a mixed batch is what it is alone, with its own prompt."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401
from tiny_families import batch_for, lms  # noqa: F401

import jaxprompt as jp
from jaxprompt import sharding
from jaxprompt.evaluation.decodable import check_room
from jaxprompt.prompts.stacks import stack_depths
from jaxprompt.prompts.store import BaseModel, PromptMeta, PromptMismatch

EXACT = {"rtol": 1e-5, "atol": 1e-5}
NEW = 4

# Of different lengths, so that every row of a batch is padded differently.
ROWS = {
    "first": "the river was cold",
    "longer": "a house",
    "between": {"left": "the king and the town", "right": "was old"},
    "prefix": "the sea was warm and the road was long and old",
    "part": "a town and a road",
    "bare": {"text": "the house"},
    "broken": "the town",
}
TARGETS = ["cold", "warm and old", "long", "yes", "no", "a river", "old"]
CHOICES = [["yes", "no"], ["cold", "warm and old"], ["old"], ["a", "river", "town"], ["long", "a"]]


def prompts_for(lm, seed=0):
    """{name: (injection, template)}: virtual tokens, prefixes and no prompt, of different lengths and places."""
    cfg, rng = lm.config, np.random.default_rng(seed)
    depths = stack_depths(cfg)

    def tokens(length):
        return jp.Injection(rng.normal(size=(length, cfg.d_model)).astype(np.float32))

    def prefix(length, *stacks, **places):
        shapes = {stack: (depths[stack], length, cfg.num_heads, cfg.d_kv) for stack in stacks}
        pairs = {stack: rng.normal(size=(2, *shape)).astype(np.float32) for stack, shape in shapes.items()}
        return jp.Injection(kv={stack: (pair[0], pair[1]) for stack, pair in pairs.items()}, **places)

    causal = cfg.is_causal
    broken = prefix(3, *depths)
    return {
        "first": (tokens(3), None),
        "longer": (tokens(6), "{soft:6} question: {input} answer:"),
        "between": (tokens(5), "{left} {soft:5} {right}" if causal else "{soft:2} {left} {soft:3} {right}"),
        "prefix": (prefix(4, *depths, offset=4 * causal), "{input}"),
        "part": (prefix(2, "decoder" if causal else "cross", infix=causal), "{input}"),
        "bare": (jp.Injection(), "question: {text}"),
        # What it holds must not reach rows that have it beside them, but hidden.
        "broken": (dataclasses.replace(broken, kv=jax.tree.map(lambda array: array + np.inf, broken.kv)), "{input}"),
    }


class Counting(jp.PromptBank):
    """A bank that counts how often generation is traced."""

    traces = 0

    def for_programs(self, params):
        return params

    def prefill(self, params, batch, max_length):
        self.traces += 1
        return super().prefill(params, batch, max_length)

    @functools.cached_property
    def logits(self):
        """`apply`, compiled once for a shape."""
        return functools.partial(jax.jit(self.apply), self.params)


@pytest.fixture(scope="module")
def banks(lms):  # noqa: F811
    # The tiny GPT-2's end of text is the real one's, which its few embeddings do not reach.
    gpt2 = lms["gpt2"]
    config = dataclasses.replace(gpt2.config, eos_token_id=1, pad_token_id=0)
    gpt2 = dataclasses.replace(gpt2, config=config, tokenizer=lms["t5"].tokenizer)
    return {lm.family: Counting(lm, prompts_for(lm)) for lm in (lms["t5"], gpt2)}


@pytest.fixture(params=["t5", "gpt2"])
def bank(request, banks):
    return banks[request.param]


def alone(bank, name):
    """The prompt on a patched model of its own, with its params."""
    injection, template = prompts_for(bank.lm)[name]
    model = jp.patch(bank.lm, jp.ExportedPrompt(injection), template)
    return model, model.init_params(jax.random.key(0))


def mixed(bank, names, **options):
    return bank.encode(names, [ROWS[name] for name in names], **options)


def log_likelihoods(bank, names, ids):
    """Of given ids behind each row, [B, T], by one pass over everything."""
    batch = mixed(bank, names)
    contexts = [row[real > 0].tolist() for row, real in zip(batch.inputs, batch.input_segments, strict=True)]
    whole = batch_for(bank.lm, contexts, ids.tolist()).replace(prompts=batch.prompts)
    logits = bank.logits(whole)
    return np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), ids[..., None], axis=-1)[..., 0], logits


def test_every_row_has_the_logits_that_it_has_alone(bank):
    batch = mixed(bank, bank.names, targets=TARGETS)
    logits = np.asarray(bank.logits(batch))
    for row, name in list(enumerate(bank.names))[1:-1]:
        model, params = alone(bank, name)
        own = model.encode_text([ROWS[name]], targets=[TARGETS[row]])
        expected = np.asarray(jax.jit(model.apply)(params, own))[0]
        np.testing.assert_array_equal(batch.targets[row, : len(expected)], own.targets[0])
        np.testing.assert_allclose(logits[row, : len(expected)], expected, **EXACT)
    assert np.isnan(logits[-1]).any()


def test_every_row_decodes_as_it_does_alone(bank):
    names = ["prefix", "bare", "first", "part", "between"]
    batch = mixed(bank, names)
    greedy = np.asarray(jp.generate(bank, bank.params, batch, max_new_tokens=NEW, eos_id=-1))
    _, logits = log_likelihoods(bank, names, greedy)
    np.testing.assert_array_equal(greedy, np.argmax(logits, axis=-1))
    assert len({tuple(row) for row in greedy.tolist()}) > 3, "the random model is too plain to test with"

    search = {"max_new_tokens": NEW, "num_beams": 3, "eos_id": -1, "length_penalty": 0.0}
    beams, scores = jp.generate_scored(bank, bank.params, batch, **search)
    likelihoods, _ = log_likelihoods(bank, names, np.asarray(beams[:, 0]))
    np.testing.assert_allclose(scores[:, 0], likelihoods.sum(-1), **EXACT)
    model, params = alone(bank, "prefix")
    own = jp.generate_scored(model, params, model.encode_text([ROWS["prefix"]]), **search)
    np.testing.assert_array_equal(beams[0], own.ids[0])
    np.testing.assert_allclose(scores[0], own.scores[0], **EXACT)

    traces, others = bank.traces, mixed(bank, [*names[2:], *names[:2]])
    assert others.inputs.shape == batch.inputs.shape
    again = jp.generate(bank, bank.params, others, max_new_tokens=NEW, eos_id=-1)
    np.testing.assert_array_equal(again, np.roll(greedy, -2, axis=0))
    assert bank.traces == traces, "other prompts of the bank made it compile anew"


def test_every_row_ranks_its_own_choices(banks):
    bank = banks["t5"]
    names = ["part", "first", "bare", "prefix", "longer"]
    ids = bank.choice_ids(names, CHOICES)
    assert ids.shape[:2] == (5, 3)
    np.testing.assert_array_equal(ids[2, 1:], ids[2, [0, 0]])
    ranked = np.asarray(jp.rank_choices(bank, bank.params, mixed(bank, names), ids))
    for row in (0, 3):
        model, params = alone(bank, names[row])
        own = jp.rank_choices(model, params, model.encode_text([ROWS[names[row]]]), CHOICES[row])
        np.testing.assert_allclose(ranked[row, : len(CHOICES[row])], own[0], **EXACT)


def test_a_bank_on_a_mesh(banks):
    lm, mesh = banks["gpt2"].lm, sharding.make_mesh(2, 2, devices=jax.devices())
    spread = dataclasses.replace(
        lm, module=lm.module.clone(mesh=mesh), params=sharding.replicate(lm.params, mesh), mesh=mesh
    )
    prompts = {name: prompt for name, prompt in prompts_for(lm).items() if name != "broken"}
    bank = jp.PromptBank(spread, prompts)
    keys = bank.params["prompt"]["kv"]["decoder"]["keys"]
    assert keys.sharding.shard_shape(keys.shape)[3] * 2 == keys.shape[3], "heads are split as the model's are"
    batch = mixed(bank, bank.names, targets=TARGETS[:6])
    found = jax.jit(bank.apply)(bank.params, sharding.place_rows(batch, mesh))
    np.testing.assert_allclose(found, banks["gpt2"].logits(batch), **EXACT)


def test_what_lies_on_the_device(banks):
    t5, gpt2 = (banks[family].params["prompt"] for family in ("t5", "gpt2"))
    assert t5["tokens"].shape[0] == 3 + 6 + 5, "T5's virtual tokens stand in the rows"
    assert gpt2["tokens"].shape[0] == 5, "what stands first in a causal model has been read"
    assert {stack: of["keys"].shape[1:3] for stack, of in t5["kv"].items()} == {
        "encoder": (3, 4), "decoder": (3, 4), "cross": (4, 4)
    }  # fmt: skip
    assert gpt2["kv"]["decoder"]["lengths"].tolist() == [3, 6, 0, 4, 2, 0, 3]
    np.testing.assert_array_equal(banks["gpt2"].prefix_length, [3, 6, 0, 4, 0, 0, 0])
    # Prompts that are all alike need no masks.
    lm = banks["t5"].lm
    prefix = prompts_for(lm)["prefix"]
    plain = jp.PromptBank(lm, {"a": prefix, "b": prefix}).params["prompt"]
    assert plain.keys() == {"kv"}
    assert all(of.keys() == {"keys", "values", "entries"} for of in plain["kv"].values())


def test_prompts_are_loaded_by_name(tmp_path, banks):
    lm, prompts = banks["t5"].lm, prompts_for(banks["t5"].lm)
    meta = PromptMeta("prompt_tuning", BaseModel.of(lm), "{soft:3} {input}", ("yes", "no"), task="rte")
    jp.save_prompt(tmp_path / "a", prompts["first"][0], meta)
    jp.save_prompt(tmp_path / "b", prompts["prefix"][0], dataclasses.replace(meta, template="{input}"))
    where = {"one": tmp_path / "a", "two": tmp_path / "b"}
    bank = jp.PromptBank.load(lm, where, templates={"two": "review: {text}"})
    assert bank.names == ("one", "two")
    assert bank.templates == {"one": "{soft:3} {input}", "two": "review: {text}"}
    assert bank.metas["one"] == meta
    assert bank.encode(["two", "one"], [{"text": "a house"}, "a town"]).prompts.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"template of 'tow', but no such prompt.*did you mean 'two'"):
        jp.PromptBank.load(lm, where, templates={"tow": "{input}"})
    with pytest.raises(PromptMismatch, match="trained on"):
        jp.PromptBank.load(banks["gpt2"].lm, where)


def test_what_a_bank_refuses(banks):
    bank, lm = banks["t5"], banks["t5"].lm
    with pytest.raises(ValueError, match=r"no prompt 'frist' in this bank.*did you mean 'first'"):
        bank.encode(["frist"], ["a house"])
    with pytest.raises(ValueError, match=r"row 1 names the prompt 'between', .* needs the fields \['left', 'right'\]"):
        bank.encode(["first", "between"], ["a house", "a town"])
    with pytest.raises(ValueError, match="got 1 names of prompts for 2 rows"):
        bank.encode(["first"], ["a house", "a town"])
    with pytest.raises(TypeError, match="single string"):
        bank.encode("first", ["a house"])
    with pytest.raises(ValueError, match="targets are a list with a text for each of the 1 rows"):
        bank.encode(["first"], ["a house"], targets=["a", "b"])
    with pytest.raises(ValueError, match="'first' has no choices"):
        bank.choice_ids(["first"], [[]])
    with pytest.raises(ValueError, match="does not say which prompt each row has"):
        bank.apply(bank.params, mixed(bank, ["first"], targets=["a"]).replace(prompts=None))
    with pytest.raises(ValueError, match="at least one prompt"):
        jp.PromptBank(lm, {})
    with pytest.raises(PromptMismatch, match=r"prompt 'x': the prompt's tokens has shape \(3, 5\)"):
        jp.PromptBank(lm, {"x": (jp.Injection(np.zeros((3, 5), np.float32)), None)})
    with pytest.raises(ValueError, match=r"prompt 'x': template .* holds 2 virtual tokens, the method gives 3"):
        jp.PromptBank(lm, {"x": (prompts_for(lm)["first"][0], "{soft:2} {input}")})


def test_prompts_may_write_targets_differently(banks):
    lm, first = banks["t5"].lm, prompts_for(banks["t5"].lm)["first"][0]
    bank = jp.PromptBank(lm, {"plain": (first, None), "mask": (first, "{soft:3} {input} {target:sentinel}")})
    with pytest.raises(ValueError, match=r"'plain' and 'mask' write targets differently .*; use PromptBank.choice_ids"):
        bank.target_ids(["yes"])
    with pytest.raises(ValueError, match=r"use PromptBank.to_texts"):
        _ = bank.target_start
    plain, mask = bank.choice_ids(["plain", "mask"], [["a river"], ["a river"]])[:, 0].tolist()
    assert plain[-1] == -1
    assert mask[1:] == plain[:-1]
    assert bank.to_texts(["mask", "plain"], np.array([mask, [*plain[:-1], 0]])) == ["a river", "a river"]
    assert banks["t5"].target_ids(["a river"]) == [plain[:-1]]


def test_room_is_counted_with_each_rows_own_prompt(banks):
    bank = banks["gpt2"]
    long = mixed(bank, ["bare", "prefix"])
    positions, fits = bank.config.max_positions, long.replace(inputs=np.ones((2, 61)), input_segments=np.ones((2, 61)))
    fits.input_segments[1, 57:] = 0
    check_room(bank, fits, positions - 61 + 1)
    with pytest.raises(ValueError, match="a row of 61 tokens, a prompt of 4 in front and 4 new tokens"):
        check_room(bank, fits.replace(prompts=long.prompts[::-1]), 4)
