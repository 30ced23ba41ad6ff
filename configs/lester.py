"""Lester, Al-Rfou and Constant (2021), "The Power of Scale": T5 with a prompt, its ablations and its baselines.

    python launch/train.py --config=configs/lester.py:size=base,task=rte --workdir=runs/lester-base-rte
    python launch/train.py --config=configs/lester.py:size=xl,task=cb,length=20,init=random --workdir=runs/ablation
    python launch/train.py --config=configs/lester.py:size=base,task=superglue,method=model_tuning --workdir=runs/multi
    python launch/plan.py --config=configs/lester.py:size=xxl,task=boolq --topology=v5e-16

The arguments, all of which may be left out; the first of each is the default:

    size       small, base, large, xl, xxl
    task       boolq, cb, copa, multirc, record, rte, wic, wsc: SuperGLUE; superglue: all of them mixed; sst2, mrpc,
               qqp, glue_rte: GLUE; squad
    method     prompt_tuning, model_tuning, prompt_design, prefix_tuning, p_tuning
    preset     lester2021, modern: the optimiser of prompt tuning and model tuning
    length     virtual tokens; 100, for P-tuning 20. The ablation of figure 3(a): 1, 5, 20, 100, 150
    init       class_labels, sampled_vocab, random: figure 3(b). SQuAD has neither labels nor words for them, and starts
               from sampled_vocab
    objective  lm_adaptation, span_corruption, span_corruption_sentinel: figure 3(c); model tuning: span_corruption
    lm_steps   100000, 50000, 10000, 0: LM adaptation of figure 3(d). Those between are exports of
               configs/lm_adaptation.py, run with --workdir=runs/lm-SIZE; --config.model.path names others

Prompt tuning (sections 2 and 3): 100 virtual tokens, 30,000 steps of 32 examples, Adafactor at a constant 0.3 that goes
on from pre-training's step 1,100,000, weight decay 1e-5, scores every 1,000 steps by greedy decoding, the best of them
kept. The model computes in bf16, the prompt in fp32. The paper's numbers are means of three seeds.

Model tuning (3.1): T5's defaults, Adafactor at a constant 1e-3 of each parameter's own scale, on the public T5 1.1
without LM adaptation; 2^16 tokens a batch, which are 128 rows of 512, or 2^20 for the mixture, 2,048 rows; a row is one
example here, where T5 packs several. The authors restore pre-training's optimiser statistics, which no published
checkpoint in Hugging Face's form holds, so here they start anew. How many steps they took is not said (their searches:
10,000 to 30,000); here 30,000. On `superglue` texts begin with their task's name, and Definite Pronoun Resolution is
mixed in for WSC's sake; the best checkpoint is that of the best mean over the tasks.

Prompt design: solved training examples in the text, then the question, on the frozen model; the best of 0 to 32
examples, as far as they fit into 512 tokens. The paper takes GPT-3's own scores, and says that T5's were far lower.

Prefix-Tuning and P-tuning, which the paper discusses and does not run, have the optimisers of their own papers: AdamW
at 5e-5 that falls linearly, without decay or dropout, through an MLP of 512 (Li and Liang 2021, Table 5); AdamW at 1e-4
that falls linearly, decay 0.1, wide LSTMs (Liu et al. 2021, on SuperGLUE; half of the prompt before the text, half
behind). Lengths, steps and batches are ours, those of prompt tuning, and so is that the model stays frozen under
P-tuning. None of it is tuned for T5.

`squad` is then tried on MRQA's six other domains, `qqp` on MRPC and `mrpc` on QQP, without training (section 5); not
by prompt design, whose text has one set's examples, nor the latter two by P-tuning, whose template names its fields.

Hardware: XXL's step fits a v5e-16 for all methods that leave the model frozen; `launch/plan.py` says on which mesh, and
how fast it should be. The authors took 4 TPU v2 chips up to base and 16 TPU v3 chips above it. Small and base also run
on one accelerator of 16 GB. Examples come from TFDS; `--config.task.source=jsonl:DIR` reads the benchmark's own files.

Expected, as published; none of it has been measured with this project. SuperGLUE dev, mean over tasks (by size in Vu
et al. 2022, Table 4, for the runs in the paper's figure 1):

    prompt design (GPT-3's sizes)  40.6  43.4  45.1  47.8  52.8
    prompt tuning                  59.8  63.1  74.5  79.2  88.8
    model tuning                   62.8  73.7  81.3  83.1  89.9

XXL by task, prompt tuning, mean of five (Table 3): BoolQ 91.1; CB accuracy 99.3, F1 99.0; COPA 98.8; MultiRC EM 65.7,
F1 88.7; ReCoRD EM 92.7, F1 93.4; RTE 92.6; WiC 76.2; WSC 95.8. F1 of SQuAD and MRQA, model tuning and prompt tuning
(Table 1): SQuAD 94.9, 94.8; TextbookQA 54.3, 66.8; BioASQ 77.9, 79.1; RACE 59.8, 60.7; RE 88.4, 88.8; DuoRC 68.9, 67.7;
DROP 68.9, 67.1. Accuracy and F1, model tuning and prompt tuning (Table 2): QQP to MRPC 73.1, 81.2 and 76.3, 84.3; MRPC
to QQP 74.9, 70.9 and 75.4, 69.7.
"""

from jaxprompt.experiment import Experiment

MIXTURE = "superglue"
SUPERGLUE = {
    "boolq": "passage: {passage} question: {question}",
    "cb": "hypothesis: {hypothesis} premise: {premise}",
    "copa": "choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
    "multirc": "question: {question} answer: {answer} paragraph: {paragraph}",
    "record": "query: {query} entities: {entities} passage: {passage}",
    "rte": "hypothesis: {hypothesis} premise: {premise}",
    "wic": "sentence1: {sentence1} sentence2: {sentence2} word: {word}",
    "wsc": "{text}",
}
OTHERS = {
    MIXTURE: "{input}",
    "sst2": "sentence: {sentence}",
    "mrpc": "sentence1: {sentence1} sentence2: {sentence2}",
    "qqp": "question1: {question1} question2: {question2}",
    "glue_rte": "sentence1: {sentence1} sentence2: {sentence2}",
    "squad": "question: {question} context: {context}",
}
INPUTS = SUPERGLUE | OTHERS
"""The tasks and their own inputs, which P-tuning's template stands around."""

SOURCES = {
    **{name: f"super_glue/{name}" for name in SUPERGLUE},
    "wsc": "super_glue/wsc.fixed",
    **{name: f"glue/{name}" for name in ("sst2", "mrpc", "qqp")},
    "glue_rte": "glue/rte",
    "squad": "squad/v1.1",
}
"""What TFDS calls them."""

MRQA = {"bioasq": "bio_asq", "drop": "drop", "duorc": "duo_rc", "race": "race",
        "relation_extraction": "relation_extraction", "textbookqa": "textbook_qa"}  # fmt: skip
TRANSFER = {
    "squad": tuple(f"mrqa_{name}=tfds:mrqa/{place}@test" for name, place in MRQA.items()),
    "qqp": ("mrpc=tfds:glue/mrpc",),
    "mrpc": ("qqp=tfds:glue/qqp",),
}
"""What a model of one task is tried on."""

KNOWN = {
    "size": ("small", "base", "large", "xl", "xxl"),
    "task": tuple(INPUTS),
    "method": ("prompt_tuning", "model_tuning", "prompt_design", "prefix_tuning", "p_tuning"),
    "preset": ("lester2021", "modern"),
    "init": ("class_labels", "sampled_vocab", "random"),
    "objective": ("lm_adaptation", "span_corruption", "span_corruption_sentinel"),
    "lm_steps": ("100000", "50000", "10000", "0"),
}  # fmt: skip
"""The values of the arguments; `length` is a number."""

METHODS: dict[str, dict[str, dict]] = {
    "prompt_tuning": {
        "train": {"normalization": "sum", "z_loss": 1e-4},
    },
    "model_tuning": {
        "model": {"remat": "full", "shard_data": True},
        "train": {"batch_size": 128, "normalization": "sum", "z_loss": 1e-4},
    },
    "prompt_design": {
        "prompt": {"shots": (0, 1, 4, 16, 32)},
    },
    "prefix_tuning": {
        "prompt": {"length": 100, "reparametrization": "mlp", "hidden_size": 512},
        "train": {"normalization": "examples", "z_loss": 0.0, "dropout": False},
        "optim": {"name": "adamw", "learning_rate": 5e-5, "schedule": "linear", "clip_norm": 1.0},
    },
    "p_tuning": {
        "prompt": {"length": 20, "encoder": "wide_bilstm"},
        "train": {"normalization": "tokens", "z_loss": 0.0},
        "optim": {"name": "adamw", "learning_rate": 1e-4, "schedule": "linear", "weight_decay": 0.1, "clip_norm": 1.0},
    },
}
"""What each method has of its own."""

OPTIMISERS = {
    ("prompt_tuning", "lester2021"): {"name": "adafactor", "learning_rate": 0.3, "weight_decay": 1e-5,
                                      "start_step": 1_100_000},
    ("prompt_tuning", "modern"): {"name": "adamw", "learning_rate": 0.3, "schedule": "cosine", "warmup_steps": 100,
                                  "weight_decay": 1e-5, "clip_norm": 1.0},
    ("model_tuning", "lester2021"): {"name": "adafactor", "learning_rate": 1e-3, "multiply_by_parameter_scale": True},
    ("model_tuning", "modern"): {"name": "adamw", "learning_rate": 1e-4, "schedule": "cosine", "warmup_steps": 100,
                                 "weight_decay": 1e-5, "clip_norm": 1.0},
}  # fmt: skip
"""By method and preset; the modern rate of model tuning is ours."""

TAKES = {
    "preset": ("prompt_tuning", "model_tuning"),
    "length": ("prompt_tuning", "prefix_tuning", "p_tuning"),
    "init": ("prompt_tuning",),
}
"""The methods that know an argument, where not all do."""


def get_config(argument: str = ""):
    """The experiment; the argument is `size=…,task=…,…`."""
    given = dict(part.partition("=")[::2] for part in argument.split(",") if part)
    chosen = {name: values[0] for name, values in KNOWN.items()} | {"length": "100"} | given
    _check(given, chosen)
    task, method = chosen["task"], chosen["method"]
    path, sentinel = _checkpoint(given, chosen)
    own = METHODS[method]
    prompt = {"method": method} | own.get("prompt", {})
    if method in TAKES["length"] and ("length" in given or "length" not in prompt):
        prompt["length"] = int(chosen["length"])
    if method == "prompt_tuning":
        prompt["init"] = chosen["init"] if task != "squad" or "init" in given else "sampled_vocab"
    if method == "p_tuning":
        before = (prompt["length"] + 1) // 2
        behind = prompt["length"] - before
        slots = f" {{soft:{behind}}}" if behind else ""
        prompt["template"] = f"{{soft:{before}}} {INPUTS[task]}{slots} {{target}}"
    sections = {
        "model": {"path": path, "dtype": "bfloat16", "remat": "dots"},
        "prompt": prompt,
        "task": _task(task),
        "train": {"steps": 30_000, "batch_size": 32, "log_every": 100, "checkpoint_every": 1000},
        "optim": OPTIMISERS.get((method, chosen["preset"]), {}),
        "eval": {"every": 1000, "batch_size": 32, "transfer": TRANSFER.get(task, ())},
    }
    if method == "prompt_design" or (method == "p_tuning" and task in ("qqp", "mrpc")):
        sections["eval"]["transfer"] = ()  # the text, or the template's fields, are those of the one task
    for name in ("model", "train", "optim"):
        sections[name] = sections[name] | own.get(name, {})
    if sentinel:
        sections["task"]["target_sentinel"] = True
    if task == "squad":
        sections["eval"]["metric"] = "f1"  # by which its checkpoints are chosen, and table 1 compares
    if task == MIXTURE and method == "model_tuning":
        sections["train"]["batch_size"] = 2048
    return Experiment().to_config(**sections)


def _task(task):
    """The section `task`."""
    if task != MIXTURE:
        return {"name": task, "source": f"tfds:{SOURCES[task]}", "max_input_length": 512}
    odd = {"wsc": "wsc=tfds:super_glue/wsc.fixed"}
    names = [odd.get(name, name) for name in SUPERGLUE] + ["dpr=tfds:definite_pronoun_resolution@"]
    return {"mixture": tuple(names), "source": "tfds:super_glue/{name}", "max_input_length": 512}


def _checkpoint(given, chosen):
    """Where the model is, and whether targets begin with a sentinel."""
    size = chosen["size"]
    adapted = "lm_adaptation" if "lm_steps" in given and given["lm_steps"] != "0" else "span_corruption"
    objective = given.get("objective", adapted if chosen["method"] == "model_tuning" else "lm_adaptation")
    steps = chosen["lm_steps"] if objective == "lm_adaptation" else given.get("lm_steps", "0")
    if objective != "lm_adaptation" and steps != "0":
        raise ValueError(
            f"configs/lester.py: objective={objective} has no LM adaptation, so lm_steps is 0, not {steps}"
        )
    paths = {"0": f"google/t5-v1_1-{size}", "100000": f"google/t5-{size}-lm-adapt"}
    return paths.get(steps, f"runs/lm-{size}/model-{steps}"), objective == "span_corruption_sentinel"


def _check(given, chosen):
    """Refuses what the arguments cannot be."""
    if extra := given.keys() - KNOWN.keys() - {"length"}:
        raise ValueError(
            f"configs/lester.py takes {', '.join(f'{name}=…' for name in KNOWN)} and length=…, not {sorted(extra)}"
        )
    for name, known in KNOWN.items():
        if chosen[name] not in known:
            raise ValueError(f"configs/lester.py knows {name}={'|'.join(known)}, not {chosen[name]!r}")
    if not chosen["length"].isdigit() or chosen["length"] == "0":
        raise ValueError(f"configs/lester.py takes length=NUMBER from 1 on, not {chosen['length']!r}")
    for name, methods in TAKES.items():
        if name in given and chosen["method"] not in methods:
            raise ValueError(
                f"configs/lester.py takes {name}=… with method={'|'.join(methods)}, not {chosen['method']}"
            )
    if chosen["method"] == "prompt_design" and chosen["task"] == MIXTURE:
        raise ValueError(f"configs/lester.py: a text prompt is one task's; name a task in place of {MIXTURE}")
