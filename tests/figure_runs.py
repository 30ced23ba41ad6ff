"""Run directories that tests of figures gather."""

import csv
import json
import statistics

from etils import epath

from jaxprompt.figures.gather import gather

NANO, T5_SMALL = 300_000, 76_961_152


class Runs:
    """Makes run directories; `.gathered()` is what is found in them."""

    def __init__(self, directory):
        self.root = epath.Path(directory)

    def add(self, name, axes=None, config=None, *, frozen=NANO, trainable=640, seconds=1.5, **summary):
        directory = self.root / name
        directory.mkdir(parents=True)
        for file, values in (("axes.json", axes), ("config.json", config)):
            if values is not None:
                (directory / file).write_text(json.dumps(values))
        counts = {"num_trainable": trainable, "num_frozen": frozen, "seconds": seconds, "device": "1 x cpu"}
        shared = {"step": 9, "best": {"step": 8, "selection": 0.5, "values": {}}, "split": "test"}
        (directory / "summary.json").write_text(json.dumps(counts | shared | summary))

    def tuned(self, name, scores, *, size="300k", task="mini:topic", method="prompt_tuning", rates=None, **axes):
        """Prompts with seeds 0, 1, … and these accuracies."""
        members = [
            {"seed": seed, "learning_rate": (rates or [0.3] * len(scores))[seed],
             "best": {"step": seed, "selection": score, "values": {}}, "scores": {"accuracy": score}}
            for seed, score in enumerate(scores)
        ]  # fmt: skip
        mean = {"accuracy": statistics.fmean(scores)}
        best = {"accuracy": max(scores)}
        rows = {"trained prompt": best, "best": best, "average": mean, "ensemble": {"accuracy": 0.875}}
        axes = {"size": size, "task": task, "method": method, "seeds": [0], "stage": name} | axes
        self.add(name, axes, scores=rows, members=members)

    def gathered(self):
        return gather([self.root])


def one(accuracy):
    return {"trained prompt": {"accuracy": accuracy}}


def table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))
