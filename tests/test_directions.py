"""Who may import whom: the directions of dependence that keep the parts apart, read off the source."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "jaxprompt").rglob("*.py"))
}

# Leaves ← models ← prompts ← data ← patching ← evaluation ← training ← cli, and nothing goes back.
LEAVES = {"types", "trees", "paths", "config_values", "sharding", "processes"}
BELOW = {leaf: set() for leaf in LEAVES}
BELOW["models"] = LEAVES
BELOW["prompts"] = BELOW["models"] | {"models"}
BELOW["data"] = BELOW["prompts"] | {"prompts"}
BELOW["patching"] = BELOW["data"] | {"data"}
BELOW["evaluation"] = BELOW["patching"] | {"patching"}
# An experiment as typed data is above the settings of loss and optimiser, and below the loop that reads it. That there
# is no way round within the two is what the test of circles holds.
BELOW["training"] = BELOW["evaluation"] | {"evaluation", "experiment"}
BELOW["experiment"] = BELOW["data"] | {"data", "evaluation", "training"}
BELOW["planning"] = BELOW["training"] | {"training"}
BELOW["sweeps"] = BELOW["planning"] | {"planning"}
BELOW["figures"] = BELOW["planning"] | {"planning", "sweeps"}
BELOW["interpretation"] = BELOW["training"] | {"training"}
BELOW["serving"] = BELOW["evaluation"] | {"evaluation"}
BELOW["cloud"] = set()
BELOW["cli"] = BELOW["training"] | {"training"}

# Third parties that are kept in one place.
CONFINED = {
    "flax.linen": ("jaxprompt.models.", "jaxprompt.prompts."),
    "orbax": ("jaxprompt.training.checkpoint", "jaxprompt.prompts.store"),
    "optax": ("jaxprompt.training.",),
    "grain": ("jaxprompt.data.pipeline",),
    "tensorflow": ("jaxprompt.data.tfds_source",),
    "tensorflow_datasets": ("jaxprompt.data.tfds_source",),
    "transformers": ("jaxprompt.models.load",),
    "huggingface_hub": ("jaxprompt.models.hub",),
    "ml_collections": ("jaxprompt.experiment", "jaxprompt.config_values"),
    "matplotlib": ("jaxprompt.evaluation.curves", "jaxprompt.figures.drawing"),
    "sklearn": ("jaxprompt.evaluation.metrics",),
    "tqdm": ("jaxprompt.training.progress", "jaxprompt.serving.throughput"),
    "tensorboardX": ("jaxprompt.training.metric_writers",),
    "wandb": ("jaxprompt.training.metric_writers",),
    "sacrebleu": ("jaxprompt.evaluation.text_metrics",),
    "rouge_score": ("jaxprompt.evaluation.text_metrics",),
    "pycocoevalcap": ("jaxprompt.evaluation.text_metrics",),
    "nltk": ("jaxprompt.evaluation.text_metrics",),
    "qwix": ("jaxprompt.models.quantization", "jaxprompt.models.quantized_load"),
    "fsspec": ("jaxprompt.models.bucket", "jaxprompt.paths"),
}
# Of these there is a better name today, or none that is public; torch is a reference for tests.
BANNED = ("jax._src", "jax.experimental.pjit", "jax.experimental.maps", "torch", "peft", "configs", "launch", "tests")

SLOW = ["tensorflow", "tensorflow_datasets", "transformers", "torch", "matplotlib", "sklearn", "grain",
        "ml_collections", "sacrebleu", "rouge_score", "nltk", "tensorboardX",
        "wandb", "qwix", "gcsfs"]  # fmt: skip


def imported(path, *, when_loaded=False):
    """Full names that a file imports anywhere in it, or only those of its outermost statements."""
    tree, names = ast.parse(path.read_text()), set()
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; this project writes full names"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_within(name, part):
    return name == part or name.startswith(part + ".")


IMPORTED = {module: imported(path) for module, path in SOURCES.items()}


def own_modules(module, names):
    """The package's other modules that the names stand for or lie in."""
    found = set()
    for name in names:
        while name not in SOURCES and "." in name:
            name = name.rpartition(".")[0]
        found |= {name} & SOURCES.keys()
    return found - {module}


def part_of(module):
    """`jaxprompt.models.t5` -> `models`; the package itself has none."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("part", sorted({part_of(module) for module in SOURCES} - {""}))
def test_dependence_goes_one_way(part):
    assert part in BELOW, f"say in this test what {part} may import"
    allowed = BELOW[part] | {part}
    for module in SOURCES:
        if part_of(module) == part:
            above = {name for name in own_modules(module, IMPORTED[module]) if part_of(name) not in allowed}
            assert not above, f"{module} imports {above}"


def test_no_circles():
    remaining = {module: own_modules(module, imported(path, when_loaded=True)) for module, path in SOURCES.items()}
    while leaves := {module for module, needs in remaining.items() if not needs & remaining.keys()}:
        remaining = {module: needs for module, needs in remaining.items() if module not in leaves}
    assert not remaining, f"these modules import each other: {sorted(remaining)}"


@pytest.mark.parametrize("library", CONFINED)
def test_libraries_keep_to_their_place(library):
    users = {module for module, names in IMPORTED.items() if any(is_within(name, library) for name in names)}
    assert users, f"nothing imports {library} any more; take it out of this list"
    assert not {user for user in users if not user.startswith(CONFINED[library])}


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_that_is_private_old_or_outside(module):
    assert not {name for name in IMPORTED[module] for part in BANNED if is_within(name, part)}


def test_configs_know_the_experiment_alone():
    for path in sorted((ROOT / "configs").glob("*.py")):
        ours = {name for name in imported(path) if is_within(name, "jaxprompt")}
        assert ours <= {"jaxprompt.experiment.Experiment"}, path.name


def test_importing_the_package_is_light():
    program = f"import json, sys, jaxprompt; print(json.dumps([m for m in {SLOW} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == []
    assert done.stderr == ""
