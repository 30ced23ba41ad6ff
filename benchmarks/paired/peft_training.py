"""PEFT's side of training: a prompt on transformers' models in PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import torch
import transformers
from transformers import Adafactor, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from paired.shapes import Case, EpochCase
from paired.turns import Work

transformers.logging.set_verbosity_error()


def base_model(case: Case) -> Any:
    """The case's model, of random weights."""
    torch.manual_seed(0)
    raw = {key: value for key, value in case.architecture.items() if key != "model_type"}
    torch.set_default_dtype(getattr(torch, case.dtype))
    try:
        with torch.device(_device(case)):
            if case.is_causal:
                return GPT2LMHeadModel(GPT2Config(**raw))
            base = T5ForConditionalGeneration(T5Config(**raw))
            # Made from a configuration it has a tied head, which no T5 1.1 has.
            base.lm_head = torch.nn.Linear(raw["d_model"], raw["vocab_size"], bias=False)
            return base
    finally:
        torch.set_default_dtype(torch.float32)


def prompt_config(case: Case) -> peft.PromptTuningConfig:
    """A prompt of the case's length."""
    kind = peft.TaskType.CAUSAL_LM if case.is_causal else peft.TaskType.SEQ_2_SEQ_LM
    return peft.PromptTuningConfig(
        task_type=kind, num_virtual_tokens=case.prompt, num_transformer_submodules=1, prompt_tuning_init="RANDOM"
    )


def train_step(case: Case) -> Work:
    """One step on one batch."""
    batch = _random_batch(case)
    run, facts = _trainer(case, lambda: batch)
    return Work(run, facts, device_peak(case))


def epoch(case: EpochCase) -> Work:
    """The next batch of an epoch, padded to its longest row, as transformers' collators do."""
    order = np.random.default_rng(0)
    queue: list[int] = []
    real = total = 0

    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        nonlocal real, total
        inputs = _padded([case.rows[number][0] for number in numbers], 0)
        labels = _padded([case.rows[number][1] for number in numbers], -100)
        mask = _padded([np.ones_like(case.rows[number][0]) for number in numbers], 0)
        slots = case.prompt * len(numbers)
        real, total = real + int(mask.sum()) + slots, total + mask.numel() + slots
        where = _device(case)
        return {"input_ids": inputs.to(where), "attention_mask": mask.to(where), "labels": labels.to(where)}

    def draw() -> dict[str, torch.Tensor]:
        if len(queue) < case.batch:
            queue[:] = order.permutation(len(case.rows)).tolist()
        numbers, queue[:] = queue[: case.batch], queue[case.batch :]
        return batch(numbers)

    steps = len(case.rows) // case.batch
    for _ in range(steps):
        draw()
    run, facts = _trainer(case, draw)
    return Work(run, facts | {"steps": steps, "padding_share": 1 - real / total}, device_peak(case))


def matrix_products(case: Case) -> Work:
    """Products of square matrices, as our side times them."""
    use_all_cores()
    size = 8192 if case.device == "gpu" else 2048
    a, b = (torch.randn(size, size, dtype=getattr(torch, case.dtype), device=_device(case)) for _ in range(2))

    def run(times: int) -> None:
        for _ in range(times):
            torch.matmul(a, b)
        synchronize(case)

    return Work(run, {"flops": 2.0 * size**3, "in": f"torch {torch.__version__}", "size": size})


def versions() -> dict[str, str]:
    """Of what this side is made of."""
    return {"torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__}


def device_peak(case: Case) -> Callable[[], int] | None:
    """What asks the accelerator for the most that it held."""
    return None if case.device == "cpu" else torch.cuda.max_memory_allocated


def synchronize(case: Case) -> None:
    """Waits for the accelerator."""
    if case.device != "cpu":
        torch.cuda.synchronize()


def random_ids(case: Case, length: int) -> torch.Tensor:
    """Random ids, [B, length]."""
    shape = (case.batch, length)
    return torch.randint(3, case.architecture["vocab_size"] - 1, shape, device=_device(case))


def _trainer(
    case: Case, batches: Callable[[], dict[str, torch.Tensor]]
) -> tuple[Callable[[int], None], dict[str, Any]]:
    use_all_cores()
    base = base_model(case)
    model = peft.get_peft_model(base, prompt_config(case)).to(_device(case)).train()
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = Adafactor(trainable, lr=0.3, scale_parameter=False, relative_step=False)
    forward = torch.compile(model) if case.compiled else model

    def run(times: int) -> None:
        losses = []
        for _ in range(times):
            optimizer.zero_grad()
            loss = forward(**batches()).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        synchronize(case)
        if not torch.isfinite(torch.stack(losses)).all():
            raise FloatingPointError(f"a loss is not finite: {losses}")

    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    return run, versions() | {"parameters": frozen}


def _random_batch(case: Case) -> dict[str, torch.Tensor]:
    inputs, targets = random_ids(case, case.input), random_ids(case, case.target)
    labels = targets
    if case.is_causal:  # reads the target too, and learns it alone
        labels = torch.cat([torch.full_like(inputs, -100), targets], dim=1)
        inputs = torch.cat([inputs, targets], dim=1)
    return {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}


def _padded(rows: list[Any], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor(np.stack([np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows])).long()


def _device(case: Case) -> str:
    return "cpu" if case.device == "cpu" else "cuda"


def use_all_cores() -> None:
    """As many threads as there are cores, as jax takes."""
    torch.set_num_threads(os.cpu_count() or 1)
