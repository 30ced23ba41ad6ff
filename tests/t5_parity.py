"""The same prompted forward and backward pass in transformers' PyTorch T5 and in ours, for each variant of T5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import t5_files

WIDE = {"d_model": 32, "d_kv": 8, "d_ff": 48, "vocab_size": 96, "num_heads": 4}
VARIANTS = {
    # T5 1.0: ReLU, tied head, outputs scaled by d_model^-0.5.
    "t5-1.0": t5_files.TIED | WIDE | {"num_layers": 3, "num_decoder_layers": 3},
    # T5 1.1, its LM-adapted and Flan descendants: gated GELU, own head, heads * d_kv != d_model as in small.
    "t5-1.1-small": t5_files.CONFIG | WIDE | {"num_heads": 3},
    # T5-3B and 11B: heads * d_kv larger than d_model.
    "t5-3b": t5_files.TIED | WIDE | {"d_kv": 16, "num_heads": 6},
    # mT5: T5 1.1 under its own model type and another vocabulary.
    "mt5": t5_files.CONFIG | WIDE | {"model_type": "mt5", "vocab_size": 250},
    # ByT5: bytes, and an encoder three times as deep as the decoder.
    "byt5": t5_files.CONFIG | WIDE | {"vocab_size": 384, "num_layers": 6, "num_decoder_layers": 2},
    # The "efficient" T5s: T5 1.0's parts in other shapes, here with a deeper decoder.
    "t5-efficient": t5_files.TIED | WIDE | {"num_layers": 1, "num_decoder_layers": 4, "d_ff": 16},
    # Buckets and distances other than the defaults, so that far keys share a bucket within the test's length.
    "short-buckets": t5_files.CONFIG | WIDE | {"relative_attention_num_buckets": 6,
                                               "relative_attention_max_distance": 7},
}  # fmt: skip

# How T5X draws each kind of weight: with these, activations and logits are of unit size. (Larger random weights make
# softmaxes so sharp that fp32 itself, in torch against torch in fp64, is off by 1e-4.)
STDDEVS = {
    "SelfAttention.q": lambda E, F, HD, D: (E * D) ** -0.5,
    "EncDecAttention.q": lambda E, F, HD, D: (E * D) ** -0.5,
    "Attention.o": lambda E, F, HD, D: HD**-0.5,
    "relative_attention_bias": lambda E, F, HD, D: 0.5,
    "DenseReluDense.wo": lambda E, F, HD, D: F**-0.5,
    "shared": lambda E, F, HD, D: 1.0,
    "norm": lambda E, F, HD, D: 0.1,
    "": lambda E, F, HD, D: E**-0.5,
}

PROMPT, LENGTH, TARGETS, ROWS = 5, 19, 6, 3


def weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """A checkpoint's tensors from a seed, fp32."""
    rng = np.random.default_rng(seed)
    sizes = (config["d_model"], config["d_ff"], config["num_heads"] * config["d_kv"], config["d_kv"])
    found = {}
    for name, shape in t5_files.shapes(config).items():
        stddev = next(of for part, of in STDDEVS.items() if part in name)(*sizes)
        found[name] = (rng.normal(size=shape) * stddev + ("norm" in name)).astype(np.float32)
    return found


def case(config: dict) -> dict[str, np.ndarray]:
    """Inputs [B, S] padded on the right to different lengths, targets [B, T] and a prompt [P, E]."""
    rng = np.random.default_rng(11)
    lengths = np.array([LENGTH, LENGTH - 7, 4])[:, None]
    real = np.arange(LENGTH) < lengths
    inputs = np.where(real, rng.integers(2, config["vocab_size"], (ROWS, LENGTH)), 0)
    return {
        "inputs": inputs.astype(np.int32),
        "mask": real,
        "targets": rng.integers(2, config["vocab_size"], (ROWS, TARGETS)).astype(np.int32),
        "prompt": rng.normal(size=(PROMPT, config["d_model"])).astype(np.float32),
    }


def torch_pass(directory: Path, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits [B, T, V], and the gradient of the summed cross-entropy with respect to the prompt, by transformers."""
    import torch
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
    tied = json.loads((directory / "config.json").read_text())["tie_word_embeddings"]
    assert tied == torch.equal(model.shared.weight, model.lm_head.weight), "the reference did not tie as its file says"
    prompt = torch.tensor(data["prompt"], requires_grad=True)
    embedded = model.shared(torch.tensor(data["inputs"]).long())
    rows = embedded.shape[0]
    embedded = torch.cat([prompt[None].expand(rows, -1, -1), embedded], dim=1)
    mask = torch.cat([torch.ones(rows, prompt.shape[0]), torch.tensor(data["mask"]).float()], dim=1)
    labels = torch.tensor(data["targets"]).long()
    logits = model(inputs_embeds=embedded, attention_mask=mask, labels=labels).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    return {"logits": logits.detach().numpy(), "gradient": prompt.grad.numpy()}


def our_pass(directory: Path, data: dict[str, np.ndarray], **options) -> dict[str, np.ndarray]:
    """The same by this package."""
    import jax

    import jaxprompt as jp
    from jaxprompt.training.loss import LossConfig, cross_entropy
    from jaxprompt.types import Batch

    lm = jp.load_model(directory, tokenizer=False, **options)
    model = jp.patch(lm, jp.PromptTuning(length=PROMPT, init="random"))
    vocab_size, rows = lm.config.vocab_size, len(data["inputs"])
    slots = np.broadcast_to(vocab_size + np.arange(PROMPT), (rows, PROMPT))
    inputs = np.concatenate([slots, data["inputs"]], axis=1).astype(np.int32)
    segments = np.concatenate([np.ones((rows, PROMPT), bool), data["mask"]], axis=1).astype(np.int32)
    ones = np.ones(data["targets"].shape, np.int32)
    batch = Batch(inputs, segments, data["targets"], ones, ones.astype(np.float32), np.arange(rows))

    def loss(prompt):
        logits = model.apply({"model": lm.params, "prompt": {"embedding": prompt}}, batch)
        _, sums = cross_entropy(logits, batch.targets, batch.target_weights, LossConfig("sum", z_loss=0.0))
        return sums.numerator, logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(data["prompt"])
    return {"logits": np.asarray(logits), "gradient": np.asarray(gradient)}


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """(largest difference of logits scaled to unit size, relative difference of gradients in norm, size of logits)."""
    scale = float(np.std(theirs["logits"]))
    logits = float(np.max(np.abs(ours["logits"] - theirs["logits"]))) / max(scale, 1.0)
    gradient = np.linalg.norm(ours["gradient"] - theirs["gradient"]) / np.linalg.norm(theirs["gradient"])
    return logits, float(gradient), scale
