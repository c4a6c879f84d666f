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
    from snn_mnist.settings.config import Config

ADDITION, MULTIPLY_ACCUMULATE = 0.0009, 0.0046  # nJ in 32-bit floats at 45 nm (M. Horowitz, ISSCC 2014)


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
    from snn_mnist.network.engine import choose_runtime
    from snn_mnist.network.poisson import SpikeKey, Stream
    from snn_mnist.network.scoring import default_readout_steps, score_split

    loaded = open_checkpoint(options)
    config = loaded.config
    runtime = choose_runtime(options.device, options.backend, options.j, config)
    data = load_dataset(config.dataset, config.data_dir)
    repeats = options.repeats if config.encoding == "poisson" else 1
    keys = [SpikeKey(config.seed, Stream.EVAL, n) for n in range(repeats)]
    steps = default_readout_steps(config.T)
    with progress_bar("testing", len(data.test) * len(keys)) as meter:
        scores, seconds = score_split(loaded.net, data.test, runtime, steps, keys, after_each=meter.update)
    result = summarise(scores, data.class_names, config)
    result |= {"checkpoint": str(loaded.path), "epochs": loaded.epochs, "dataset": data.name, "seed": config.seed}
    result |= {"trained_on": loaded.trained_on, "backend": runtime.backend, "device": str(runtime.device)}
    result["images_per_s"] = len(data.test) * len(keys) / seconds
    if not loaded.has_settings:
        result["assumed"] = {"tau": config.tau, "T": config.T}
    publish(options.json, result, describe(result, str(runtime)))
    return 0


def summarise(scores: list[Score], class_names: Sequence[str], config: Config) -> dict[str, Any]:
    """Return all results of the encodings of one split, as plain numbers. Accuracies are shares of 1."""
    import torch

    from snn_mnist.network.network import CLASSES, PIXELS
    from snn_mnist.network.training_steps import Loss

    confusion = torch.stack([each.confusion() for each in scores]).sum(0)
    labels, steps, votes = scores[0].labels, scores[0].readout_steps[-1], scores[0].votes
    own = torch.nn.functional.one_hot(labels, CLASSES).double()  # [N, 10]
    class_scores = torch.stack([own.T @ each.rates().double() for each in scores]).mean(0)
    neuron_counts = torch.stack([each.neuron_counts.double().mean(0) for each in scores]).mean(0)
    accuracy, n, loss = spread([each.accuracy() for each in scores]), len(labels), Loss(config.loss, config.scale)
    inputs = statistics.fmean(each.input_spikes.double().mean().item() for each in scores)
    operations, dense = inputs * CLASSES * votes, PIXELS * CLASSES * votes
    energy = operations * (MULTIPLY_ACCUMULATE if config.encoding == "constant" else ADDITION)
    costs = {"synaptic_operations_per_image": operations, "dense_multiply_accumulates_per_image": dense}
    costs |= {"energy_nJ_per_image": energy, "dense_energy_nJ_per_image": dense * MULTIPLY_ACCUMULATE}
    return {
        "images": n,
        "encodings": len(scores),
        "T": steps,
        "votes": votes,
        "encoding": config.encoding,
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy["mean"] * (1 - accuracy["mean"]) / n),
        "loss": spread([each.loss(loss) for each in scores]),
        "class_names": list(class_names),
        "class_accuracy": (confusion.diagonal().double() / confusion.sum(1).clamp(min=1)).tolist(),
        "class_scores": (class_scores / own.sum(0).clamp(min=1)[:, None]).tolist(),  # of the images of each label
        "neuron_rates": (neuron_counts / steps).view(CLASSES, votes).tolist(),
        "confusion": confusion.tolist(),
        "accuracy_against_T": accuracy_against_T(scores),
        "output": "spikes" if all(torch.equal(each.counts, each.counts.round()) for each in scores) else "output",
        "spikes_per_neuron_and_image": neuron_counts.mean().item(),
        "silent_neurons": int((neuron_counts == 0).sum()),
        "silent_images": statistics.fmean((each.counts[:, -1].sum(1) == 0).double().mean().item() for each in scores),
        "input_spikes_per_image": inputs,
        **(costs if config.net is None else {}),  # those of another network are not known
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
        lines.append(f"no neuron fires for {percent([silent])} of the images; their prediction is class {first}")
    neurons, never, fired = 10 * result["votes"], result["silent_neurons"], result["spikes_per_neuron_and_image"]
    never_fire = f" ({never:,} of {neurons:,} neurons never fire)" if never and neurons > 10 else ""
    constant = result["encoding"] == "constant"
    inputs, kind = ("active pixels", "multiply-accumulates") if constant else ("input spikes", "additions")
    lines += [
        "",
        f"{result['output']} per neuron and image {fired:.2f} in {result['T']} steps{never_fire}",
        f"{f'{inputs} per image':27} {result['input_spikes_per_image']:,.0f}",
    ]
    if "energy_nJ_per_image" in result:
        energy, of_dense = result["energy_nJ_per_image"], result["dense_energy_nJ_per_image"]
        lines += [
            f"synaptic operations         {result['synaptic_operations_per_image']:,.0f} {kind} per image",
            f"{'':28}({result['dense_multiply_accumulates_per_image']:,} multiply-accumulates in a dense layer)",
            f"their energy, an estimate   {energy:,.1f} nJ per image ({of_dense:,.1f} nJ in a dense layer)",
            f"{'':28}0.9 pJ an addition, 4.6 pJ a multiply-accumulate",
            f"{'':28}(45 nm, M. Horowitz, ISSCC 2014; without memory)",
        ]
    lines += [
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
