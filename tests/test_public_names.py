import importlib
import inspect
import pkgutil

import pytest

import jaxprompt as jp

# What outsiders rely on; it grows, and nothing leaves it.
STABLE = {
    "Batch", "EvalConfig", "ExportedPrompt", "GenerationConfig", "Injection", "ModelTuning", "OptimConfig",
    "PTuning", "PatchedModel", "PrefixTuning", "PromptBank", "PromptTuning", "TrainConfig", "ensemble_vote", "evaluate",
    "generate", "generate_scored", "load_model", "load_peft", "load_prompt", "load_task", "nearest_tokens", "patch",
    "rank_choices", "save_hf", "save_peft", "save_prompt", "train",
}  # fmt: skip
MODULES = ["jaxprompt", *(info.name for info in pkgutil.walk_packages(jp.__path__, "jaxprompt."))]


def test_names_are_there_and_sorted():
    assert set(jp.__all__) >= STABLE
    assert list(jp.__all__) == sorted(jp.__all__)
    for name in jp.__all__:
        assert getattr(jp, name).__module__.startswith("jaxprompt."), name


def test_nothing_else_is_offered():
    submodules = {name.split(".")[1] for name in MODULES if "." in name}
    offered = {name for name in vars(jp) if not name.startswith("_")} - submodules
    # `train` and `evaluate` are functions, and no submodule may take their names.
    assert offered == set(jp.__all__)
    assert not submodules & set(jp.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(module):
    module = importlib.import_module(module)
    assert module.__doc__
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        # A dataclass's own docstring is its signature; ours says more.
        assert value.__doc__, f"{module.__name__}.{name}"
        assert not value.__doc__.startswith(f"{name}("), f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", sorted(STABLE))
def test_public_functions_say_what_they_take(name):
    value = getattr(jp, name)
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters.values()
        for parameter in parameters:
            assert parameter.annotation is not parameter.empty, f"{name}({parameter.name})"
            if len(parameters) > 1:  # then an `Args` section tells them apart
                assert f"{parameter.name}:" in value.__doc__, f"{name}({parameter.name})"
        assert inspect.signature(value).return_annotation is not inspect.Signature.empty, name
