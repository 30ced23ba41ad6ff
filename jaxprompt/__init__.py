"""Soft prompts for frozen T5 and GPT-2 models, in JAX: the public names."""

from jaxprompt.data.tasks import load_task
from jaxprompt.evaluation.decode import generate, generate_scored
from jaxprompt.evaluation.ensemble import ensemble_vote
from jaxprompt.evaluation.evaluate import evaluate
from jaxprompt.evaluation.generation_config import GenerationConfig
from jaxprompt.evaluation.ranking import rank_choices
from jaxprompt.experiment import EvalConfig, TrainConfig
from jaxprompt.interpretation.nearest import nearest_tokens
from jaxprompt.models.load import load_model
from jaxprompt.models.save import save_hf
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.prompts.exported import ExportedPrompt
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.prompts.p_tuning import PTuning
from jaxprompt.prompts.peft import load_peft, save_peft
from jaxprompt.prompts.prefix_tuning import PrefixTuning
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.prompts.store import load_prompt, save_prompt
from jaxprompt.serving.bank import PromptBank
from jaxprompt.training.optim import OptimConfig
from jaxprompt.training.train import train
from jaxprompt.types import Batch, Injection

__all__ = [
    "Batch",
    "EvalConfig",
    "ExportedPrompt",
    "GenerationConfig",
    "Injection",
    "ModelTuning",
    "OptimConfig",
    "PTuning",
    "PatchedModel",
    "PrefixTuning",
    "PromptBank",
    "PromptTuning",
    "TrainConfig",
    "ensemble_vote",
    "evaluate",
    "generate",
    "generate_scored",
    "load_model",
    "load_peft",
    "load_prompt",
    "load_task",
    "nearest_tokens",
    "patch",
    "rank_choices",
    "save_hf",
    "save_peft",
    "save_prompt",
    "train",
]
