"""A prompt for a trained T5 on real text, beside PEFT's: accuracy before and after, and the time it took.

    python benchmarks/real_text.py --model=DIR --source=tsv:DIR/rte --source=tsv:DIR/mrpc --output=real_text.json

Both sides see the same batches in the same order, train as many virtual tokens from sampled vocabulary with Adafactor
at the same rate, the model's dropout on, and are scored after the last step by greedy decoding of the same examples;
no checkpoint is picked. Each side runs in a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import time
from typing import Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """What both sides share."""

    model: str
    source: str
    steps: int
    length: int
    batch_size: int
    learning_rate: float
    seed: int
    eval_split: str
    max_eval: int


def data_of(setting: Setting) -> tuple[Any, Any, Any, Any]:
    """The patched model, its task, training batches and the examples to score."""
    import jaxprompt as jp
    from jaxprompt.data.features import encode_examples
    from jaxprompt.data.pipeline import train_batches

    task = jp.load_task(None, setting.source)
    lm = jp.load_model(setting.model, dtype="float32")
    model = jp.patch(lm, jp.PromptTuning(setting.length), task.format.input)
    features = encode_examples(task.examples("train"), model.row_encoder, task.format)
    batches = train_batches(features, batch_size=setting.batch_size, seed=setting.seed, pad_id=lm.config.pad_token_id)
    return model, task, batches, task.examples(setting.eval_split)[: setting.max_eval or None]


def ours(setting: Setting) -> dict[str, Any]:
    """Our side."""
    import jax

    import jaxprompt as jp
    from jaxprompt.evaluation.evaluate import evaluate
    from jaxprompt.prompts.model_tuning import ModelTuning
    from jaxprompt.training.loss import LossConfig
    from jaxprompt.training.optim import OptimConfig, make_optimizer, split_trainable
    from jaxprompt.training.step import init_state, make_train_step
    from jaxprompt.trees import merge

    model, task, batches, examples = data_of(setting)
    scored = {"split": setting.eval_split, "max_examples": len(examples), "batch_size": 32}
    bare = jp.patch(model.lm, ModelTuning(), task.format.input)
    before = evaluate(bare, {"model": model.lm.params}, task, **scored).values
    start = time.perf_counter()
    trainable, frozen = split_trainable(model.init_params(jax.random.key(setting.seed)), model.method.rules)
    config = OptimConfig("adafactor", setting.learning_rate)
    optimizer = make_optimizer(config, model.method.rules, trainable)
    state = init_state(trainable, optimizer, jax.random.key(setting.seed + 1))
    train_step = make_train_step(model, optimizer, LossConfig("tokens", z_loss=0.0))
    for _ in range(setting.steps):
        state, metrics = train_step(state, frozen, next(batches))
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - start
    after = evaluate(model, merge(state.trainable, frozen), task, **scored).values
    return {"before": before, "after": after, "train_s": seconds, "jax": jax.__version__}


def peer(setting: Setting) -> dict[str, Any]:
    """PEFT's side; batches, texts and metrics come from ours, so that nothing but the tuning differs."""
    import numpy as np
    import peft
    import torch
    import transformers

    from jaxprompt.evaluation.metrics import score

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(setting.seed)
    model, task, batches, examples = data_of(setting)
    tokenizer, vocab_size = model.tokenizer, model.config.vocab_size
    base = transformers.T5ForConditionalGeneration.from_pretrained(setting.model, dtype=torch.float32)
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_2_SEQ_LM,
        num_virtual_tokens=setting.length,
        num_transformer_submodules=1,
        prompt_tuning_init="SAMPLE_VOCAB",
    )
    tuned = peft.get_peft_model(base, config)

    def scores() -> dict[str, float]:
        tuned.eval()
        predictions = []
        features = model.template.encode_many(
            [example.fields for example in examples], tokenizer, vocab_size, task.format.max_input_length
        )
        for first in range(0, len(features), 32):
            rows = [ids[setting.length :] for ids in features[first : first + 32]]
            width = max(map(len, rows))
            ids = torch.tensor(np.stack([np.pad(row, (0, width - len(row))) for row in rows])).long()
            with torch.no_grad():
                out = tuned.generate(
                    input_ids=ids, attention_mask=(ids != 0).long(), max_new_tokens=task.format.max_target_length
                )
            predictions += tokenizer.batch_decode(out, skip_special_tokens=True)
        return score(task.format.metrics, predictions, examples, task.format.labels)

    optimizer = transformers.Adafactor(
        [weight for weight in tuned.parameters() if weight.requires_grad],
        lr=setting.learning_rate,
        scale_parameter=False,
        relative_step=False,
    )
    start = time.perf_counter()
    tuned.train()
    for _ in range(setting.steps):
        batch = next(batches)
        labels = torch.tensor(np.where(batch.target_weights > 0, batch.targets, -100)).long()
        inputs = torch.tensor(batch.inputs[:, setting.length :]).long()
        mask = torch.tensor(batch.input_segments[:, setting.length :]).long()
        optimizer.zero_grad()
        tuned(input_ids=inputs, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return {"after": scores(), "train_s": seconds, "torch": torch.__version__, "peft": peft.__version__}


def run_side(side: str, setting: Setting, pipe: Any) -> None:
    """One side, in a process of its own."""
    pipe.send({"ours": ours, "peer": peer}[side](setting))


def main() -> None:
    """Runs all sources and both sides, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a T5's Hugging Face directory")
    parser.add_argument("--source", action="append", required=True, help="a task's source; may be given repeatedly")
    parser.add_argument("--eval_split", action="append", help="for each source; default validation")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_eval", type=int, default=0, help="score the first so many examples; 0: all")
    parser.add_argument("--quick", action="store_true", help="a few steps and examples")
    parser.add_argument("--output", help="a JSON file")
    args = parser.parse_args()
    steps, max_eval = (3, 32) if args.quick else (args.steps, args.max_eval)
    sides = ["ours"] + (["peer"] if importlib.util.find_spec("peft") else [])
    context, report = multiprocessing.get_context("spawn"), {}
    for number, source in enumerate(args.source):
        split = (args.eval_split or ["validation"] * len(args.source))[number]
        setting = Setting(
            args.model, source, steps, args.length, args.batch_size, args.learning_rate, args.seed, split, max_eval
        )
        case: dict[str, Any] = {"setting": dataclasses.asdict(setting)}
        for side in sides:
            near, far = context.Pipe()
            process = context.Process(target=run_side, args=(side, setting, far))
            process.start()
            case[side] = near.recv()
            process.join()
            print(source, side, json.dumps(case[side]), flush=True)
        if len(sides) == 2:
            case["ratio"] = case["ours"]["train_s"] / case["peer"]["train_s"]
            print(f"{source} time ratio {case['ratio']:.2f}", flush=True)
        report[source] = case
    if args.output:
        with open(args.output, "w") as file:
            json.dump({"cases": report}, file, indent=2)


if __name__ == "__main__":
    main()
