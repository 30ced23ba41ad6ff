"""Answers to the lines of a file, each by the prompt that it names, in the order of the lines.

Lines are taken a window at a time. Within one, those that the same program answers share batches, whatever their
prompts, and lie by length, so that little is padded. Windows begin at the same lines whenever a process starts, so that
one that goes on where another was killed makes the very same batches, and so the same answers to the last bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from etils import epath

from jaxprompt.processes import count as process_count
from jaxprompt.processes import is_main
from jaxprompt.serving.ahead import ahead
from jaxprompt.serving.answer_config import AnswerConfig
from jaxprompt.serving.input_lines import STANDARD, InputLines
from jaxprompt.serving.journal import Journal
from jaxprompt.serving.throughput import Counts, Throughput
from jaxprompt.serving.windows import WindowWork

if TYPE_CHECKING:
    from jaxprompt.serving.bank import PromptBank


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """How a file is answered.

    Attributes:
        batch_size: rows at once.
        window: lines that are read, grouped and written together; a kill costs no more than what one of them takes.
        record_errors: whether a line that cannot be answered gets an `error` in place of a prediction, and the rest
            goes on; else it ends the work.
        scores: whether each answer comes with its log likelihood in nats; that of beam search is divided by
            length ** length_penalty.

    Raises:
        ValueError: a number out of its range.
    """

    batch_size: int = 32
    window: int = 1024
    record_errors: bool = False
    scores: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("batch_size", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def predict_file(
    bank: PromptBank,
    input: str | epath.PathLike,
    output: str | epath.PathLike,
    answers: Mapping[str, AnswerConfig],
    config: PredictConfig | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Answers every line of a file, on from where an earlier call was stopped; see `read_request` for what lines hold.

    Args:
        bank: the prompts that lines may name, and their model.
        input: a path, a `gs://` address, or `-` for the standard input.
        output: one JSON object for each line that is not blank, in their order: what the line held besides its texts,
            and `prediction`. The same places as for the input; beside a file lies `….summary.json`.
        answers: how to answer for each of the bank's prompts, by name; from `answer_configs`.
        config: the options.
        identity: what tells this model and these prompts from others, as plain values: the same output is not gone on
            with if it differs.
        progress: whether to show on the standard error how it goes.

    Returns:
        What was counted (see `Counts`), with rates and the share of padding.

    Raises:
        ValueError: a line that cannot be answered (`RequestError`) unless they are recorded, prompts without a way to
            answer, or an output that belongs to another input or other settings.
        OSError: a place cannot be read or written, or the output holds something else.
    """
    config = config or PredictConfig()
    if set(answers) != set(bank.names):
        raise ValueError(f"the bank has the prompts {sorted(bank.names)}, but there are answers for {sorted(answers)}")
    if str(input) == STANDARD and process_count() > 1:
        raise ValueError("several processes cannot read one standard input; give --input a file that all of them see")
    # Not how many rows and lines are taken at once: a process that ran out of memory may go on with fewer.
    settings = {
        "prompts": {
            name: {"template": bank.templates[name], **dataclasses.asdict(answers[name])} for name in bank.names
        },
        "scores": config.scores,
        **(identity or {}),
    }
    work = WindowWork(
        bank, answers, batch_size=config.batch_size, record_errors=config.record_errors, scores=config.scores
    )
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(Journal(output, settings))
        lines = stack.enter_context(InputLines(input, journal.position))
        show = progress and is_main()
        earlier = Counts.from_dict(journal.counts)
        throughput = Throughput(earlier, journal.position.bytes, lines.total_bytes, shown=show)
        stack.enter_context(throughput)
        windows = (work.prepare(window, lines.name) for window in lines.windows(config.window))
        for window in stack.enter_context(ahead(windows)):
            written = [json.dumps(answer, ensure_ascii=False) for answer in work.answer(window, throughput)]
            throughput.window(window.end.bytes)
            journal.add(written, window.end, throughput.counts.to_dict())
        # A call that finds nothing left to do leaves the counts as they are.
        counts = throughput.counts if throughput.counts.lines > earlier.lines else earlier
        journal.finish(counts.to_dict())
    return counts.to_dict()
