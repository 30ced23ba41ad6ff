"""Training that starts from another task's prompt (Vu et al. 2022), by every method that can."""

import dataclasses

import jax
import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt.interpretation.opened import Models, open_prompts
from jaxprompt.interpretation.report import interpret
from jaxprompt.prompts.store import BaseModel, PromptMeta
from jaxprompt.training.run import run

METHODS = {
    "prompt_tuning": {"length": 4},
    "p_tuning": {"length": 4, "encoder": "none"},
    "prefix_tuning": {"length": 4, "reparametrization": "flat"},
}


def arrays(injection):
    tokens = {} if injection.tokens is None else {"tokens": injection.tokens}
    kv = {f"{stack} {number}": array for stack, pair in injection.kv.items() for number, array in enumerate(pair)}
    return {name: np.asarray(array) for name, array in (tokens | kv).items()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A run's directory with a prompt of another task in it, for each method."""
    root, lm, rng = tmp_path_factory.mktemp("sources"), nano.language_model(), np.random.default_rng(0)
    tokens = jp.Injection(tokens=rng.normal(size=(4, lm.config.d_model)).astype(np.float32))
    shape = (2, lm.config.num_layers, 4, lm.config.num_heads, lm.config.d_kv)
    prefix = jp.Injection(
        kv={stack: tuple(rng.normal(size=shape).astype(np.float32)) for stack in ("encoder", "decoder", "cross")}
    )
    meta = PromptMeta("prompt_tuning", BaseModel.of(lm), task="entailment")
    jp.save_prompt(root / "tokens" / "prompt", tokens, meta)
    jp.save_prompt(root / "prefix" / "prompt", prefix, dataclasses.replace(meta, method="prefix_tuning"))
    return {method: root / ("prefix" if method == "prefix_tuning" else "tokens") for method in METHODS}


def method_of(name, run_directory, **changes):
    prompt = METHODS[name] | {"method": name, "init": "saved", "path": str(run_directory / "prompt")} | changes
    return nano.experiment(prompt=prompt).prompt.build()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_starts_at_the_sources_prompt(name, sources):
    lm, method = nano.language_model(), method_of(name, sources[name])
    found = arrays(method.export(method.init_params(jax.random.key(0), lm), lm))
    wanted = arrays(jp.load_prompt(sources[name] / "prompt")[0])
    assert found.keys() == wanted.keys()
    for part, array in wanted.items():
        np.testing.assert_array_equal(found[part], array)


def test_a_run_on_one_task_from_the_prompt_of_another(sources, tmp_path):
    source = sources["prompt_tuning"]
    (tmp_path / "target").mkdir()
    other = jp.Injection(tokens=np.random.default_rng(3).normal(size=(4, 32)).astype(np.float32))
    jp.save_prompt(tmp_path / "other", other, jp.load_prompt(source / "prompt")[1])
    experiment = nano.experiment(
        prompt={"init": "saved", "path": str(source / "prompt")},
        train={"steps": 3},
        eval={"every": 3},
        optim={"learning_rate": 0.01, "weight_decay": 0.0},
    )
    run(experiment, tmp_path / "target", progress=False)
    injection, meta = jp.load_prompt(tmp_path / "target" / "prompt")
    moved = np.abs(np.asarray(injection.tokens) - np.asarray(jp.load_prompt(source / "prompt")[0].tokens))
    # Adafactor's updates have an RMS of 1 or less, so that three steps of 0.01 move the prompt by no more than this.
    assert 0 < np.sqrt(np.square(moved).mean()) <= 0.03
    assert meta.task == "sentiment"
    closest = interpret(
        open_prompts([str(tmp_path / "target")]),
        Models(),
        sources=open_prompts([str(tmp_path / "other"), str(source)]),
        k=3,
        draws=5,
    )["closest"]["target"]
    assert [found["name"] for found in closest] == ["tokens", "other"]
    assert closest[0]["flags"].startswith(f"--config.prompt.init=saved --config.prompt.path={source / 'prompt'} ")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("prompt_tuning", {"length": 5}, r"has shape \(4, 32\), this run needs \(5, 32\); set prompt.length=4"),
        ("p_tuning", {"length": 5}, r"has shape \(4, 32\), this run needs \(5, 32\); set prompt.length=4"),
        ("prefix_tuning", {"length": 5}, "this run needs .*'encoder': .*; set prompt.length, prompt.stacks"),
        ("p_tuning", {"encoder": "mlp"}, "cannot start a prompt encoder"),
        ("prefix_tuning", {"reparametrization": "mlp"}, "set prompt.reparametrization='flat'"),
        ("prompt_tuning", {"path": "{run}"}, "is not a saved prompt.*that of a run is in .*tokens/prompt"),
    ],
)
def test_what_cannot_be_a_start_is_told(name, changes, message, sources):
    changes = {key: value.format(run=sources[name]) if key == "path" else value for key, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        method_of(name, sources[name], **changes).init_params(jax.random.key(0), nano.language_model())
