"""Answers the lines of a JSON-lines file, each by the saved prompt that it names, many prompts in one batch.

    python launch/predict.py --prompt=rte=runs/rte/prompt --prompt=boolq=runs/boolq/prompt \
        --input=questions.jsonl --output=answers.jsonl

A line is {"prompt": "rte", "input": {"premise": "…", "hypothesis": "…"}, "id": 7}, with the fields of the prompt's
template, or a text where that has but one: {"prompt": "sst2", "input": "…"}. Without `input` the fields are keys of the
line itself, and with a single --prompt no line has to name it, so that a task's own files can be answered as they are.
Each line becomes one of the output, in order: its other keys, and `prediction`. docs/serving.md has the details.

The same command again goes on where it was stopped or killed; answers.jsonl.summary.json says how far it came, and in
the end how fast it was. With --input=- and --output=- it reads and writes the standard streams.
"""

import json
import sys
from collections.abc import Sequence

from absl import app, flags

from jaxprompt.cli import no_arguments, session

PROMPT = flags.DEFINE_multi_string("prompt", None, "NAME=DIRECTORY of a saved prompt; once for each prompt.")
TEMPLATE = flags.DEFINE_multi_string("template", [], "NAME=TEMPLATE, where a prompt is to read its input otherwise.")
INPUT = flags.DEFINE_string("input", None, "The JSON-lines file, or - for the standard input.")
OUTPUT = flags.DEFINE_string("output", None, "Where answers go, or - for the standard output.")
MODEL = flags.DEFINE_string("model", "", "The model's directory or hub name, if not the one the prompts name.")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "Where the tokenizer is, if not with the model.")
MESH_MODEL = flags.DEFINE_integer("mesh_model", 1, "Parts that the model is split into, as mesh.model.", lower_bound=1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of weights and computation.")
QUANTIZE = flags.DEFINE_enum("quantize", "", ["", "int8"], "Hold the layers' matrices as integers; empty: in --dtype.")
METHOD = flags.DEFINE_list(
    "method", ["greedy"], "greedy, beam, or rank (the labels that a prompt was saved with, or a line's own `choices`); "
    "for one prompt NAME=METHOD. Several separated by commas.",
)  # fmt: skip
MAX_NEW = flags.DEFINE_list("max_new_tokens", [], "Tokens of an answer; or NAME=TOKENS. By default as its task has it.")
MAX_INPUT = flags.DEFINE_list(
    "max_input_length", [], "Tokens of text kept; or NAME=TOKENS. By default as for its task."
)
NUM_BEAMS = flags.DEFINE_integer("num_beams", 5, "For the method beam.", lower_bound=2)
LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 1.0, "For the method beam: exponent of the length.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Rows at once.", lower_bound=1)
WINDOW = flags.DEFINE_integer("window", 1024, "Lines read, grouped by length and written together.", lower_bound=1)
ON_ERROR = flags.DEFINE_enum(
    "on_error", "stop", ["stop", "record"], "At a line that cannot be answered: end, or write an `error` and go on."
)
SCORES = flags.DEFINE_bool("scores", False, "Write each answer's log likelihood (nats), too.")
PROGRESS = flags.DEFINE_bool("progress", True, "Show on the standard error how it goes.")
CACHE = flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs for the next start (XDG_CACHE_HOME).")
TRACEBACK = flags.DEFINE_bool("traceback", False, "On an error, show where it was raised.")


def main(arguments: Sequence[str]) -> None:
    """Loads model and prompts, answers the lines, says how fast that was."""
    no_arguments(arguments)
    with session(traceback=TRACEBACK.value, compilation_cache=CACHE.value) as speaks:
        import jaxprompt as jp
        from jaxprompt.serving.answer_config import answer_configs, per_prompt
        from jaxprompt.serving.bank import PromptBank
        from jaxprompt.serving.predict import PredictConfig, predict_file
        from jaxprompt.serving.saved_prompts import common_model, identities, named
        from jaxprompt.sharding import make_mesh

        directories = named(PROMPT.value, "--prompt")
        name, saved = MODEL.value or common_model(directories), identities(directories)
        lm = jp.load_model(
            name,
            dtype=DTYPE.value,
            tokenizer=TOKENIZER.value or True,
            mesh=make_mesh(model=MESH_MODEL.value),
            quantize=QUANTIZE.value,
        )
        bank = PromptBank.load(lm, directories, templates=named(TEMPLATE.value, "--template"))
        answers = answer_configs(
            bank,
            method=per_prompt(METHOD.value, bank.names, "--method"),
            max_new_tokens=per_prompt(MAX_NEW.value, bank.names, "--max_new_tokens", int),
            max_input_length=per_prompt(MAX_INPUT.value, bank.names, "--max_input_length", int),
            num_beams=NUM_BEAMS.value,
            length_penalty=LENGTH_PENALTY.value,
        )
        identity = {"model": lm.fingerprint, "dtype": DTYPE.value, "quantize": QUANTIZE.value, **saved}
        config = PredictConfig(BATCH_SIZE.value, WINDOW.value, ON_ERROR.value == "record", SCORES.value)
        counts = predict_file(
            bank, INPUT.value, OUTPUT.value, answers, config, identity=identity, progress=PROGRESS.value
        )
        if speaks:
            print(json.dumps(counts), file=sys.stderr)


if __name__ == "__main__":
    flags.mark_flags_as_required(["prompt", "input", "output"])
    app.run(main)
