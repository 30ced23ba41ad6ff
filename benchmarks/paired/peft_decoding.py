"""PEFT's side of generation: one prompt for a batch, or an adapter a task, of which one can be active at a time."""

from __future__ import annotations

from typing import Any

import peft
import torch

from paired.peft_training import (
    base_model,
    device_peak,
    prompt_config,
    random_ids,
    synchronize,
    use_all_cores,
    versions,
)
from paired.shapes import Case
from paired.turns import Work


def generation(case: Case) -> Work:
    """A batch with one prompt, read and continued by exactly `target` tokens."""
    model = peft.get_peft_model(_base(case), prompt_config(case)).eval()
    inputs = random_ids(case, case.input)

    def run(times: int) -> None:
        for _ in range(times):
            _generate(model, inputs, case)
        synchronize(case)

    return Work(run, versions(), device_peak(case))


def switching(case: Case) -> Work:
    """A batch in which each row is of another task: for each its adapter is made the active one, and reads its rows."""
    model = peft.get_peft_model(_base(case), prompt_config(case), adapter_name="task_0")
    for number in range(1, case.prompts):
        model.add_adapter(f"task_{number}", prompt_config(case))
    model.eval()
    inputs = random_ids(case, case.input)

    def run(times: int) -> None:
        for _ in range(times):
            for number in range(case.prompts):
                model.set_adapter(f"task_{number}")
                _generate(model, inputs[number :: case.prompts], case)
        synchronize(case)

    return Work(run, versions(), device_peak(case))


def _base(case: Case) -> Any:
    use_all_cores()
    base = base_model(case)
    base.generation_config.pad_token_id = base.config.eos_token_id if case.is_causal else 0
    return base


def _generate(model: Any, inputs: torch.Tensor, case: Case) -> torch.Tensor:
    with torch.no_grad():
        found = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            min_new_tokens=case.target,
            max_new_tokens=case.target,
            num_beams=case.beams,
            do_sample=False,
        )
    # A T5's begins with its start token; a GPT-2's may repeat the input.
    if found.shape[1] not in (case.target, case.target + 1, case.target + inputs.shape[1]):
        raise ValueError(
            f"PEFT generated ids of shape {tuple(found.shape)}, but {case.target} new tokens were asked for"
        )
    return found
