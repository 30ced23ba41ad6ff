"""Our side of generation: one prompt for a batch, or a bank of prompts of which each row names one."""

from __future__ import annotations

from typing import Any

import jax

import jaxprompt as jp
from jaxprompt.models.load import load_tokenizer
from paired.ours import device_peak, language_model, patched, random_rows
from paired.shapes import Case
from paired.turns import Work

TEMPLATE = "{soft:%d} {input}"
_TOKENIZERS = {True: ("nano-gpt2", "gpt2"), False: ("nano-t5", "t5")}


def generation(case: Case) -> Work:
    """A batch with one prompt, read and continued by exactly `target` tokens."""
    model = patched(case, language_model(case))
    params = model.init_params(jax.random.key(1))
    return _generating(case, model, params, random_rows(case, model, for_generation=True))


def mixed(case: Case) -> Work:
    """A batch in which each row is of another task, in one pass."""
    lm = _reading(case)
    bank: Any = jp.PromptBank(lm, {name: (one, TEMPLATE % case.prompt) for name, one in _prompts(case, lm).items()})
    names = list(bank.names)
    batch = bank.encode([names[row % len(names)] for row in range(case.batch)], _texts(case, lm))
    return _generating(case, bank, bank.params, batch)


def single(case: Case) -> Work:
    """The same batch with one task's prompt for all rows, without a bank."""
    lm = _reading(case)
    prompt = next(iter(_prompts(case, lm).values()))
    model = jp.patch(lm, jp.ExportedPrompt(prompt), TEMPLATE % case.prompt)
    return _generating(case, model, model.init_params(jax.random.key(1)), model.encode_text(_texts(case, lm)))


def _reading(case: Case) -> Any:
    return language_model(case, load_tokenizer(*_TOKENIZERS[case.is_causal]))


def _prompts(case: Case, lm: Any) -> dict[str, jp.Injection]:
    method = jp.PromptTuning(case.prompt, init="random")
    keys = jax.random.split(jax.random.key(1), case.prompts)
    return {f"task_{number}": method.export(method.init_params(key, lm), lm) for number, key in enumerate(keys)}


def _texts(case: Case, lm: Any) -> list[str]:
    """Texts of exactly `input` tokens, an encoder-decoder's end of text among them."""
    model = jp.patch(lm, jp.PromptTuning(1), "{input}")
    length = case.input + (0 if model.as_prefix else 1)
    for words in range(1, case.input + 1):
        text = " ".join(["the"] * words)
        if model.encode_text([text]).inputs.shape[1] == length:
            return [text] * case.batch
    raise ValueError(f"no number of words makes {case.input} tokens with the tokenizer of {lm.name}")


def _generating(case: Case, model: Any, params: Any, batch: jp.Batch) -> Work:
    def run(times: int) -> None:
        for _ in range(times):
            ids = jp.generate(
                model,
                params,
                batch,
                min_new_tokens=case.target,
                max_new_tokens=case.target,
                num_beams=case.beams,
            )
            jax.block_until_ready(ids)

    facts = {"jax": jax.__version__, "rows": list(batch.inputs.shape)}
    return Work(run, facts, device_peak(case))
