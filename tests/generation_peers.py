"""Tiny random models in transformers and in ours, whose texts end early, late or never; and runs of both."""

import numpy as np
import pytest
import t5_files
from prompted_t5 import padded_batch

from jaxprompt.models.load import load_model

VOCAB, PAD, EOS = 14, 0, 1
NEW, ROWS = 8, 8
# Weights under which texts end at many lengths, and every option of beam search decides about some.
SEEDS = {"t5": (8, 42, 50), "gpt2": (7, 23, 52)}


class Bare:
    """A model without prompt, as a patched model presents it."""

    tokenizer, prefix_length, target_start = None, 0, ()

    def __init__(self, lm):
        self.config, self.module = lm.config, lm.module
        self.mesh = None

    def for_programs(self, params):
        return params

    def prefill(self, params, batch, max_length):
        return self.module.apply({"params": params["model"]}, batch, None, max_length=max_length, method="prefill")

    def decode_step(self, params, tokens, cache):
        return self.module.apply({"params": params["model"]}, tokens, cache, method="decode_step")


class Peers:
    """One architecture with several weights in both worlds, and a batch: the models differ in weights alone.

    Attributes:
        model: ours.
        params: ours, one tree for each of the weights.
        batch: rows of different lengths; a causal model's are padded on the left, as transformers wants them.
    """

    def __init__(self, family, directory):
        transformers = pytest.importorskip("transformers")
        self.family, self.theirs, self.params, self.batch = family, [], [], padded_batch(rows=ROWS)
        for seed in SEEDS[family]:
            path = {"t5": write_t5, "gpt2": write_gpt2}[family](directory / str(seed), seed)
            kind = {"t5": "T5ForConditionalGeneration", "gpt2": "GPT2LMHeadModel"}[family]
            self.theirs.append(getattr(transformers, kind).from_pretrained(path).eval())
            lm = load_model(path, tokenizer=False)
            self.params.append({"model": lm.params, "prompt": {}})
        self.model = Bare(lm)
        if family == "gpt2":
            self.batch = padded_on_the_left(self.batch)

    def transformers_generate(self, number, **options):
        """(new ids [B, R, T], behind whose end stands padding, scores [B, R] or None) by transformers."""
        import torch

        # Tensors this small are not worth more threads, least of all on busy cores.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with torch.no_grad():
            found = self.theirs[number].generate(
                input_ids=torch.tensor(self.batch.inputs).long(),
                attention_mask=torch.tensor(self.batch.input_segments),
                **{"do_sample": False, "max_new_tokens": NEW, "eos_token_id": EOS, "pad_token_id": PAD} | options,
                return_dict_in_generate=True,
                output_scores=True,
            )
        torch.set_num_threads(threads)
        given = 1 if self.family == "t5" else self.batch.inputs.shape[1]
        ids = found.sequences.numpy()[:, given:]
        ids = np.pad(ids, ((0, 0), (0, options.get("max_new_tokens", NEW) - ids.shape[1])))
        # Where padding is id 0, transformers' beam search fills up with the end of text.
        after_end = np.cumsum(ids == EOS, axis=1) - (ids == EOS) > 0
        ids = np.where(after_end, PAD, ids).reshape(ROWS, -1, ids.shape[1])
        scores = getattr(found, "sequences_scores", None)
        return ids, None if scores is None else scores.numpy().reshape(ROWS, -1)


def write_t5(directory, seed):
    config = t5_files.CONFIG | {"vocab_size": VOCAB, "num_layers": 1, "num_decoder_layers": 1}
    return t5_files.write(directory, config, t5_files.tensors(config, seed))


def write_gpt2(directory, seed):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=24, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    theirs, rng = transformers.GPT2LMHeadModel(config), np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.copy_(torch.tensor(rng.normal("ln_" in name and name.endswith("weight"), 0.3, weight.shape)))
    theirs.save_pretrained(directory)
    return directory


def padded_on_the_left(batch):
    """The same rows, their padding in front."""
    order = np.argsort(batch.input_segments, axis=1, kind="stable")
    put = lambda array: np.take_along_axis(array, order, axis=1)  # noqa: E731
    return batch.replace(inputs=put(batch.inputs), input_segments=put(batch.input_segments))


def lengths(ids):
    """Tokens of each text, its end included."""
    return np.where((ids == EOS).any(-1), (ids == EOS).argmax(-1) + 1, ids.shape[-1])
