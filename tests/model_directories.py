"""A directory that pre-training made, as we read it and as transformers' PyTorch model does."""

import jax
import pytest

from jaxprompt.models.load import load_model
from jaxprompt.training.pretrain import corpus_batches


def logits_of_both(directory, corpus, rows):
    """Logits of a validation batch of a T5 by (ours, theirs), at its real target positions."""
    torch = pytest.importorskip("torch")
    import transformers

    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, local_files_only=True).eval()
    ours = load_model(directory)
    batch = next(iter(corpus_batches(ours, corpus, rows, 0)))
    logits = jax.jit(lambda params, batch: ours.module.apply({"params": params}, batch))(ours.params, batch)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch.inputs, dtype=torch.long),
            attention_mask=torch.tensor(batch.input_segments, dtype=torch.long),
            labels=torch.tensor(batch.targets, dtype=torch.long),
        ).logits.numpy()
    real = batch.target_weights > 0
    return jax.device_get(logits)[real], expected[real]
