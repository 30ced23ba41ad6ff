"""Looks into prompts: words near them, norms, how alike they are, and which one a new task had best start from.

    python launch/interpret.py --prompt=runs/quickstart --output=report.html
    python launch/interpret.py --prompt=runs/boolq,runs/rte,sst2.npy --model=google/t5-base-lm-adapt --json=report.json
    python launch/interpret.py --prompt=runs/new --sources=runs/boolq,runs/rte

A prompt is a directory that holds one, a run's directory, or an array file of the original release. Its model is the
one it was trained on, unless --model says where that now stands; without a model, norms and similarities come out.
The last command orders the sources by their similarity and prints the flags with which to start from the closest.
"""

from collections.abc import Sequence

from absl import app, flags

from jaxprompt.cli import clear_errors, no_arguments, use_compilation_cache

PROMPT = flags.DEFINE_list("prompt", None, "Prompts or runs: directories or .npy files, separated by commas.")
SOURCES = flags.DEFINE_list("sources", [], "Prompts of other tasks, of which the closest is to be found.")
MODEL = flags.DEFINE_string("model", "", "The model's directory or hub name, if not the one that the prompt names.")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "Where the tokenizer is, if not with the model.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the model's weights.")
INIT = flags.DEFINE_list("init", [], "How each prompt started, where its run's config.json does not say.")
LABELS = flags.DEFINE_list("labels", [], "Label words to look for, where the prompts do not name their task's.")
MEASURE = flags.DEFINE_enum("measure", "per_token", ["per_token", "average_tokens"], "What orders the sources.")
K = flags.DEFINE_integer("k", 10, "Neighbours of each token.", lower_bound=1)
DRAWS = flags.DEFINE_integer("draws", 500, "Random vectors of each kind to compare with.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the random vectors.")
OUTPUT = flags.DEFINE_string("output", "", "An HTML file for the report.")
JSON = flags.DEFINE_string("json", "", "A JSON file for all numbers of the report.")
CACHE = flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs for the next start (XDG_CACHE_HOME).")
TRACEBACK = flags.DEFINE_bool("traceback", False, "On an error, show where it was raised.")


def main(arguments: Sequence[str]) -> None:
    """Opens, compares, prints, writes."""
    no_arguments(arguments)
    with clear_errors(TRACEBACK.value):
        from jaxprompt.interpretation.opened import Models, open_prompts
        from jaxprompt.interpretation.page import to_html
        from jaxprompt.interpretation.report import interpret
        from jaxprompt.interpretation.summary import to_text
        from jaxprompt.paths import as_path
        from jaxprompt.training.workdir import write_json

        if CACHE.value:
            use_compilation_cache()
        report = interpret(
            open_prompts(PROMPT.value, INIT.value, LABELS.value),
            Models(MODEL.value, DTYPE.value, TOKENIZER.value),
            sources=open_prompts(SOURCES.value),
            measure=MEASURE.value,
            k=K.value,
            draws=DRAWS.value,
            seed=SEED.value,
        )
        print(to_text(report))
        if JSON.value:
            write_json(JSON.value, report)
        if OUTPUT.value:
            as_path(OUTPUT.value).write_text(
                to_html(report, f"Prompts: {', '.join(report['similarity']['names'][:5])}")
            )
            print(f"\nreport: {OUTPUT.value}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["prompt"])
    app.run(main)
