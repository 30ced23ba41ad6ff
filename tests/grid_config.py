"""A config file for tests of sweeps."""

CONFIG = '''
from jaxprompt.experiment import Experiment


def get_config(argument=""):
    """As configs/lester.py takes its arguments, cut down."""
    chosen = {"size": "small", "task": "rte", "method": "prompt_tuning", "model": ""}
    chosen |= dict(part.partition("=")[::2] for part in argument.split(",") if part)
    if extra := chosen.keys() - {"size", "task", "method", "model"}:
        raise ValueError(f"no argument {sorted(extra)}")
    return Experiment().to_config(
        model={"path": chosen["model"] or f"google/t5-{chosen['size']}-lm-adapt"},
        prompt={"method": chosen["method"], "length": 100, "init": "class_labels"},
        task={"name": chosen["task"], "source": f"tfds:super_glue/{chosen['task']}"},
    )
'''
ALONE = CONFIG.replace('argument=""', 'task="rte"').replace("argument.split", '"".split')


def write_config(directory):
    """The path of the file, written there."""
    (directory / "grid.py").write_text(CONFIG)
    return str(directory / "grid.py")


def names(runs):
    return [run.name for run in runs]
