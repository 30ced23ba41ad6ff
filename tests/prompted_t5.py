"""A tiny random T5 under a fixed kind of injection, and a batch for it: what tests of generation share."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data.row_encoder import RowEncoder
from jaxprompt.data.template import Template
from jaxprompt.models.t5 import T5
from jaxprompt.models.t5_config import T5Config
from jaxprompt.trees import flatten, unflatten
from jaxprompt.types import Batch, Injection

# Few ids and an untied head, so that a random model ends some rows early and some never.
CONFIG = T5Config(
    vocab_size=12, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=4,
    feed_forward_activation="gelu_new", is_gated=True, tied_head=False, scale_decoder_outputs=False,
)  # fmt: skip
PROMPT_LENGTH = 3
STACKS = ("encoder", "decoder", "cross")


class Prompted:
    """A T5 with a fixed kind of injection, as a patched model presents it."""

    tokenizer = None
    template = Template.parse("{input}")

    def __init__(self, kind, config=CONFIG):
        self.config, self.module, self.kind, self.traces = config, T5(config), kind, 0
        self.mesh = None
        self.forward = jax.jit(self.apply)

    @property
    def row_encoder(self):
        return RowEncoder(self.template, self.tokenizer, self.config.vocab_size, self.config.eos_token_id)

    @property
    def target_start(self):
        return self.row_encoder.target_start

    def target_ids(self, texts):
        return self.row_encoder.target_ids(texts)

    def init_params(self, seed):
        ids, rng = jnp.ones((1, 2), jnp.int32), np.random.default_rng(seed)
        shapes = jax.eval_shape(self.module.init, jax.random.key(0), Batch(ids, ids, ids, ids, ids, ids))["params"]
        # Larger than T5's own initialisation, under which a model repeats one token for ever.
        fresh = lambda path, x: (path.endswith("scale") + rng.normal(0, 0.4, x.shape)).astype(np.float32)  # noqa: E731
        model = unflatten({path: fresh(path, x) for path, x in flatten(shapes).items()})
        kv_shape = (2, 2, PROMPT_LENGTH, CONFIG.num_heads, CONFIG.d_kv)
        prompt = {stack: rng.normal(size=kv_shape).astype(np.float32) for stack in STACKS}
        prompt["tokens"] = rng.normal(size=(PROMPT_LENGTH, CONFIG.d_model)).astype(np.float32)
        return {"model": model, "prompt": prompt}

    def injection(self, params):
        prompt = params["prompt"]
        if self.kind == "kv":
            return Injection(kv={stack: (prompt[stack][0], prompt[stack][1]) for stack in STACKS})
        return Injection(tokens=prompt["tokens"]) if self.kind == "tokens" else None

    def apply(self, params, batch):
        return self.module.apply({"params": params["model"]}, batch, self.injection(params))

    def for_programs(self, params):
        return params

    def prefill(self, params, batch, max_length):
        self.traces += 1
        args = {"params": params["model"]}, batch, self.injection(params)
        return self.module.apply(*args, max_length=max_length, method="prefill")

    def decode_step(self, params, tokens, cache):
        return self.module.apply({"params": params["model"]}, tokens, cache, method="decode_step")


def padded_batch(rows=6, length=7, slots=0):
    """Rows of different lengths, padded on the right, with the prompt's slots in front."""
    ids = np.random.default_rng(7).integers(2, CONFIG.vocab_size, (rows, length))
    real = np.arange(length) < 1 + np.arange(rows)[:, None] % length
    ids = np.where(real, ids, CONFIG.pad_token_id)
    virtual = np.broadcast_to(CONFIG.vocab_size + np.arange(slots), (rows, slots))
    inputs = np.concatenate([virtual, ids], axis=1).astype(np.int32)
    segments = np.concatenate([virtual > 0, real], axis=1).astype(np.int32)
    nothing = np.zeros((rows, 1), np.int32)
    return Batch(inputs, segments, nothing, nothing, nothing.astype(np.float32), np.arange(rows))
