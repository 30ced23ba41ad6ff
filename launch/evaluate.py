"""Scores saved prompts on a split of a task.

    python launch/evaluate.py --prompt=runs/quickstart/prompt --task=mini:sentiment --split=test --output=scores.json

Several prompts, separated by commas, are scored one after the other; with --ensemble also by majority vote, in which
the first listed of those with most votes decide ties, so the best should stand first. The model is the one that a
prompt was trained on, unless --model says where that now stands; a prompt is never used with another model than its
own. It is spread over all devices, of all processes where there are several.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from jaxprompt.cli import no_arguments, session

PROMPT = flags.DEFINE_list("prompt", None, "Directories of saved prompts, separated by commas.")
TASK = flags.DEFINE_string("task", None, "Where the examples are: mini:NAME, tfds:NAME or jsonl:DIR.")
TASK_NAME = flags.DEFINE_string("task_name", "", "The task's format, where the source does not tell.")
TEMPLATE = flags.DEFINE_string("template", "", "The input, where the prompt does not say or should be asked otherwise.")
MAX_INPUT = flags.DEFINE_integer("max_input_length", 0, "Tokens of text kept; 0: the task's.", lower_bound=0)
MAX_TARGET = flags.DEFINE_integer("max_target_length", 0, "Tokens of an answer; 0: the task's.", lower_bound=0)
METRICS = flags.DEFINE_list("metrics", [], "Names of metrics, separated by commas; none: the task's.")
VOCABULARY = flags.DEFINE_string("vocabulary", "", "For --method=token: a file of words, if not the task's.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared TFDS data stands.")
SPLIT = flags.DEFINE_string("split", "validation", "The split to score.")
MODEL = flags.DEFINE_string("model", "", "The model's directory or hub name, if not the one the prompt names.")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "Where the tokenizer is, if not with the model.")
MESH_MODEL = flags.DEFINE_integer("mesh_model", 1, "Parts that the model is split into, as mesh.model.", lower_bound=1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of weights and computation.")
QUANTIZE = flags.DEFINE_enum("quantize", "", ["", "int8"], "Hold the layers' matrices as integers; empty: in --dtype.")
METHOD = flags.DEFINE_enum(
    "method", "", ["", "greedy", "beam", "rank", "token"],
    "Decode answers, rank the labels, or take one word; empty: one word for tasks scored by P@1, else greedy.",
)  # fmt: skip
NUM_BEAMS = flags.DEFINE_integer("num_beams", 5, "For --method=beam.", lower_bound=2)
LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 1.0, "For --method=beam: exponent of the length.")
ENSEMBLE = flags.DEFINE_bool("ensemble", False, "Score the prompts' majority vote, too.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Rows at once.", lower_bound=1)
MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "Score only the first so many.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the scores.")
PREDICTIONS = flags.DEFINE_string("predictions", "", "A directory for predictions: 0.jsonl for the first prompt, …")
CACHE = flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs for the next start (XDG_CACHE_HOME).")
TRACEBACK = flags.DEFINE_bool("traceback", False, "On an error, show where it was raised.")


def main(arguments: Sequence[str]) -> None:
    """Loads prompts and task, scores, prints, writes."""
    no_arguments(arguments)
    with session(traceback=TRACEBACK.value, compilation_cache=CACHE.value) as speaks:
        import jax

        import jaxprompt as jp
        from jaxprompt.evaluation.eval_set import EvalSet
        from jaxprompt.evaluation.evaluate import score_predictions
        from jaxprompt.evaluation.probing import restrict
        from jaxprompt.experiment import Experiment
        from jaxprompt.prompts.store import check_prompt
        from jaxprompt.sharding import make_mesh
        from jaxprompt.training.run import open_task
        from jaxprompt.training.workdir import write_json

        section = {
            "source": TASK.value, "name": TASK_NAME.value, "data_dir": DATA_DIR.value, "metrics": METRICS.value,
            "max_input_length": MAX_INPUT.value, "max_target_length": MAX_TARGET.value, "vocabulary": VOCABULARY.value,
        }  # fmt: skip
        task = open_task(Experiment.from_dict({"task": section}))
        method = METHOD.value or ("token" if "p_at_1" in task.format.metrics else "greedy")
        models, answers, mesh = {}, [], make_mesh(model=MESH_MODEL.value)
        report = {"task": TASK.value, "split": SPLIT.value, "method": method, "prompts": {}}
        for number, directory in enumerate(PROMPT.value):
            injection, meta = jp.load_prompt(directory)
            name = MODEL.value or meta.base_model.name
            if name not in models:
                models[name] = jp.load_model(
                    name,
                    dtype=DTYPE.value,
                    tokenizer=TOKENIZER.value or True,
                    mesh=mesh,
                    quantize=QUANTIZE.value,
                )
            check_prompt(injection, meta, models[name])
            template = TEMPLATE.value or meta.template or task.format.input
            model = jp.patch(models[name], jp.ExportedPrompt(injection), template)
            asked = restrict(task, model)[0] if method == "token" else task
            predictions = Path(PREDICTIONS.value) / f"{number}.jsonl" if speaks and PREDICTIONS.value else None
            scores = jp.evaluate(
                model,
                model.init_params(jax.random.key(0)),
                asked,
                SPLIT.value,
                batch_size=BATCH_SIZE.value,
                method=method,
                search={"num_beams": NUM_BEAMS.value, "length_penalty": LENGTH_PENALTY.value},
                max_examples=MAX_EXAMPLES.value,
                predictions_path=predictions,
            )
            answers.append(scores.predictions)
            report["prompts"][directory] = {"num_examples": scores.num_examples, **scores.values}
            if speaks:
                print(directory, json.dumps(report["prompts"][directory]))
        if ENSEMBLE.value:
            examples = asked.examples(SPLIT.value, for_training=False)[: MAX_EXAMPLES.value]
            voted = score_predictions(jp.ensemble_vote(answers), EvalSet(examples, [], asked.format))
            report["ensemble"] = {"num_examples": voted.num_examples, **voted.values}
            if speaks:
                print("ensemble", json.dumps(report["ensemble"]))
        if OUTPUT.value:
            write_json(OUTPUT.value, report)


if __name__ == "__main__":
    flags.mark_flags_as_required(["prompt", "task"])
    app.run(main)
