"""LM adaptation of T5 1.1: continued pre-training that Prompt Tuning starts from (Lester et al. 2021, section 3.2).

    python launch/train.py --config=configs/lm_adaptation.py:size=base --workdir=runs/lm-base \
        --config.corpus.data_dir=DIR
    python launch/plan.py --config=configs/lm_adaptation.py:size=xl --topology=v5p-64

The arguments are `size`, of small, base, large, xl and xxl, and `steps` (100,000); either may be left out. DIR holds C4
(`c4/en:3.0.1`) as TFDS prepares it, best as ArrayRecord files; `--config.corpus.source=jsonl:DIR
--config.corpus.validation_split=validation` reads the JSON lines that are published as `allenai/c4`, unpacked. The
result is `model/`, the best by validation loss, and for the paper's figure 3(d) `model-10000/`, `model-50000/` and
`model-100000/`, each a Hugging Face directory; its 0 steps are `google/t5-v1_1-SIZE` itself.

What the authors did, as far as it is known: T5's task `prefix_lm` on C4 with T5's own lengths (B. Lester in
github.com/kipgparker/soft-prompt-tuning/issues/1): a text is split at a random point, the encoder reads what stands
before it, and the decoder is to write the rest; texts are cut to pieces of 512, not run together. 100,000 steps read
about 100 billion tokens (Sanh et al. 2021), which makes 2^20 a step: 2,048 rows of 512. Adafactor goes on at T5's rate,
1/sqrt(step), 1.0e-3 to 0.95e-3 from pre-training's step 1.0 M on; here it is 1e-3 throughout, so that one run holds all
the steps of figure 3(d). Of this the following is our choice, for nothing is published: no dropout, as in T5 1.1's
pre-training; four documents offered to a row, of which it keeps those that fit; and statistics of the optimiser that
start anew, for the published checkpoints hold none.

Weights and optimiser are kept in fp32 and split over all devices; the model computes in bf16, and exports are in bf16.
It has not been run at full size by this project. By the TPU compiler's estimate a step of XL takes 23 of 96 GiB a chip
and 7.9 s on a v5p-64 (32 chips, mesh 32 x 1), one of XXL 22 GiB and 6.0 s on a v5p-128 (64 chips, mesh 64 x 1); 100,000
steps are then 7,000 and 10,700 chip-hours.
"""

from jaxprompt.experiment import Experiment

SIZES = ("small", "base", "large", "xl", "xxl")
EXPORTS = (10_000, 50_000, 100_000)


def get_config(argument: str = ""):
    """The experiment; the argument is `size=…,steps=…`."""
    given = dict(part.partition("=")[::2] for part in argument.split(",") if part)
    chosen = {"size": "small", "steps": "100000"} | given
    if chosen["size"] not in SIZES:
        raise ValueError(f"configs/lm_adaptation.py knows size={'|'.join(SIZES)}, not {chosen['size']!r}")
    if not chosen["steps"].isdigit():
        raise ValueError(f"configs/lm_adaptation.py takes steps=NUMBER, not {chosen['steps']!r}")
    if extra := chosen.keys() - {"size", "steps"}:
        raise ValueError(f"configs/lm_adaptation.py takes size=… and steps=…, not {sorted(extra)}")
    steps = int(chosen["steps"])
    return Experiment().to_config(
        model={"path": f"google/t5-v1_1-{chosen['size']}", "dtype": "bfloat16", "remat": "full", "shard_data": True},
        prompt={"method": "model_tuning"},
        corpus={"objective": "prefix_lm", "source": "tfds:c4/en:3.0.1", "validation_split": "validation",
                "max_length": 511, "documents_per_row": 4, "row_length": 512, "row_targets": 512,
                "export_steps": tuple(step for step in EXPORTS if step <= steps)},
        train={"steps": steps, "batch_size": 2048, "dropout": False, "normalization": "tokens", "z_loss": 1e-4,
               "log_every": 100, "checkpoint_every": 1000},
        optim={"name": "adafactor", "learning_rate": 1e-3, "multiply_by_parameter_scale": True},
        eval={"every": 5000, "batch_size": 128},
    )  # fmt: skip
