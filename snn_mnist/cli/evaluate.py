"""Verb `eval`: the accuracy of a checkpoint, its spread over encodings and the standard error of the test set.

python -m snn_mnist eval -resume last
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.shared import SavedNetworkOptions, json_option, open_checkpoint, publish, saved_option, spread
from snn_mnist.settings.config import train_option
from snn_mnist.settings.options import option
from snn_mnist.storage.metrics import percent
from snn_mnist.terminal import progress_bar, wrapped

if TYPE_CHECKING:
    from snn_mnist.network.scoring import Score


@dataclass(frozen=True, kw_only=True)
class EvalOptions(SavedNetworkOptions):
    """Settings of `eval`."""

    repeats: int = option(10, "Test", "encodings of the test images; gives the ± of the accuracy", low=1, high=100_000)
    json: str | None = json_option()
    dataset: str | None = saved_option("dataset", help="what to test on")
    device: str = train_option("device")
    backend: str = train_option("backend")
    j: int = train_option("j")


def run(options: EvalOptions) -> int:
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.network.device import choose_runtime
    from snn_mnist.network.poisson import SpikeKey, Stream
    from snn_mnist.network.scoring import default_readout_steps, score_split

    runtime = choose_runtime(options.device, options.backend, options.j)
    loaded = open_checkpoint(options)
    config = loaded.config
    data = load_dataset(config.dataset, config.data_dir)
    keys = [SpikeKey(config.seed, Stream.EVAL, n) for n in range(options.repeats)]
    steps = default_readout_steps(config.T)
    with progress_bar("testing", len(data.test) * len(keys)) as meter:
        scores, seconds = score_split(loaded.net, data.test, runtime, steps, keys, after_each=meter.update)
    result = summarise(scores, data.class_names)
    result |= {"checkpoint": str(loaded.path), "epochs": loaded.epochs, "dataset": data.name, "seed": config.seed}
    result |= {"trained_on": loaded.trained_on, "backend": runtime.backend, "device": str(runtime.device)}
    result["images_per_s"] = len(data.test) * options.repeats / seconds
    if not loaded.has_settings:
        result["assumed"] = {"tau": config.tau, "T": config.T}
    publish(options.json, result, describe(result, str(runtime)))
    return 0


def summarise(scores: list[Score], class_names: Sequence[str]) -> dict[str, Any]:
    """Return all results of the encodings of one split, as plain numbers. Accuracies are shares of 1."""
    import torch

    from snn_mnist.network.network import CLASSES, PIXELS

    confusion = torch.stack([each.confusion() for each in scores]).sum(0)
    spikes = [each.counts[:, -1].double() for each in scores]  # [N, 10]
    accuracy, n = spread([each.accuracy() for each in scores]), len(scores[0].labels)
    inputs = statistics.fmean(each.input_spikes.double().mean().item() for each in scores)
    return {
        "images": n,
        "encodings": len(scores),
        "T": scores[0].readout_steps[-1],
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy["mean"] * (1 - accuracy["mean"]) / n),
        "loss": spread([each.loss() for each in scores]),
        "class_names": list(class_names),
        "class_accuracy": (confusion.diagonal().double() / confusion.sum(1).clamp(min=1)).tolist(),
        "confusion": confusion.tolist(),
        "accuracy_against_T": accuracy_against_T(scores),
        "spikes_per_neuron_and_image": statistics.fmean(each.mean().item() for each in spikes),
        "silent_images": statistics.fmean((each.sum(1) == 0).double().mean().item() for each in spikes),
        "input_spikes_per_image": inputs,
        "synaptic_operations_per_image": inputs * CLASSES,
        "dense_multiply_accumulates_per_image": PIXELS * CLASSES,
    }


def accuracy_against_T(scores: list[Score]) -> dict[str, Any]:
    """Return the spread of the accuracy over encodings at each readout step."""
    return {str(step): spread([each.accuracy(m) for each in scores]) for m, step in enumerate(scores[0].readout_steps)}


def describe(result: dict[str, Any], runtime: str) -> str:
    """Return the report as text."""
    accuracy, loss, encodings, silent = (result[name] for name in ("accuracy", "loss", "encodings", "silent_images"))
    several = f" (mean ± std of {encodings} encodings)" if encodings > 1 else ""
    against_T = [f"{T:>7}: {at['mean']:7.2%}" for T, at in result["accuracy_against_T"].items()]
    lines = [
        f"{result['images']:,} test images of {result['dataset']}, {runtime}",
        f"accuracy  {percent(accuracy['values'])}{several}",
        f"          ± {100 * result['standard_error']:.2f} % standard error of a test set of this size",
        f"loss      {loss['mean']:.5f}" + (f" ± {loss['std']:.5f}" if several else ""),
    ]
    if silent:
        first = result["class_names"][0]
        lines.append(f"silent    all neurons for {silent:.2%} of the images, which count as {first}")
    lines += [
        "",
        f"spikes per neuron and image {result['spikes_per_neuron_and_image']:.2f} in {result['T']} steps",
        f"input spikes per image      {result['input_spikes_per_image']:,.0f}",
        f"synaptic operations         {result['synaptic_operations_per_image']:,.0f} additions per image",
        f"{'':28}({result['dense_multiply_accumulates_per_image']:,} multiply-accumulates in a dense layer)",
        "",
        "accuracy against T",
        *("".join(against_T[first : first + 5]) for first in range(0, len(against_T), 5)),
        "",
        *confusion_table(result),
        "",
        f"{result['images_per_s']:,.0f} images/s",
    ]
    return wrapped("\n".join(lines))


def confusion_table(result: dict[str, Any]) -> list[str]:
    """Return accuracy by class and the confusion matrix, the mean of all encodings; the JSON has their sum."""
    names, encodings = result["class_names"], result["encodings"]
    rows = [[round(value / encodings) for value in row] for row in result["confusion"]]
    width, largest = max(map(len, names)), len(str(max(map(max, rows))))
    mean = f", mean of {encodings} encodings" if encodings > 1 else ""
    head = f"confusion matrix{mean} (row: label, column: prediction)"
    return [head, f"{'class':>{width}} accuracy"] + [
        f"{name:>{width}} {share:7.2%}  " + " ".join(f"{value:>{largest}}" for value in row)
        for name, share, row in zip(names, result["class_accuracy"], rows, strict=True)
    ]
