"""Files for hardware: integer weights for Verilog and C, golden vectors for a test bench, a C99 reference, a report.

docs/interop.md lists the files; fixed_point.py holds the arithmetic.
"""

from __future__ import annotations

import contextlib
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_mnist import __version__
from snn_mnist.data.datasets import Dataset, load_dataset
from snn_mnist.errors import UsageError
from snn_mnist.export.fixed_point import FixedPoint, quantise, signed_bits, spike_counts
from snn_mnist.network.engine import choose_runtime
from snn_mnist.network.network import CLASSES, PIXELS, SavedNetwork
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.network.scoring import score_split
from snn_mnist.settings.config import cores
from snn_mnist.storage.atomic_files import make_directory, write_file

GOLDEN_IMAGES = 16
REPORTED_BITS = (16, 8, 6, 4)


def export_hardware(
    saved: SavedNetwork,
    out: Path,
    bits: int = 8,
    scale: str = "tensor",
    fraction: int | None = None,
    report: bool = True,
) -> str:
    """Write all files into the directory `out`; return the text of report.md.

    scale: 'tensor' or 'neuron', one scale for all weights or one for each neuron; fraction: bits of a potential after
    the binary point; report: whether to measure the accuracy for several weight widths on the whole test set.
    """
    config = saved.config
    fixed = quantise(saved.net, config, bits, scale == "neuron", fraction)
    make_directory(out, "-out")
    data, spike_key = load_dataset(config.dataset, config.data_dir), SpikeKey(config.seed, Stream.EVAL, 0)
    results = describe(fixed, scale, spike_key)
    if report:
        results |= measure(saved, fixed, data, spike_key, scale)
    constants = {name: getattr(fixed, name) for name in ("bits", "fraction", "multiplier", "shift", "soft", "steps")}
    weight, text = fixed.weight.astype(np.int16), as_markdown(results)
    contents: dict[str, str | bytes] = {
        "weights.mem": mem(f"{bits}-bit weights, a line per pixel, neuron 0 in the lowest bits", fixed.weight.T, bits),
        "snn_weights.h": header(fixed, saved),
        "weights.npz": npz(weight=weight, scale=fixed.scale, threshold=fixed.threshold, **constants),
        "snn_infer.c": resources.files("snn_mnist.export").joinpath("snn_infer.c").read_bytes(),
        **golden(fixed, data, spike_key),
        "report.json": json.dumps(results, indent=2) + "\n",
        "report.md": text,
    }
    for name, content in contents.items():
        write_file(out / name, content, "-out")
    return text


def mem(what: str, values: np.ndarray, bits: int) -> str:
    """Return a file for $readmemh: a line per row of values [..., n], as one number in hex.

    Value 0 is in the lowest bits; each has `bits` bits, two's complement.
    """
    rows = values.reshape(-1, values.shape[-1], 1) >> np.arange(bits, dtype=values.dtype) & 1  # [rows, n, bits]
    packed = np.packbits(rows.reshape(len(rows), -1).astype(np.uint8), axis=1, bitorder="little")
    digits = -(-bits * values.shape[-1] // 4)
    lines = [f"{int.from_bytes(row.tobytes(), 'little'):0{digits}x}" for row in packed]
    return f"// {what}\n" + "\n".join(lines) + "\n"


def header(fixed: FixedPoint, saved: SavedNetwork) -> str:
    """Return snn_weights.h."""
    config, storage = saved.config, "int8_t" if fixed.bits <= 8 else "int16_t"
    rows = ",\n".join("    {" + ", ".join(f"{w:d}" for w in column) + "}" for column in fixed.weight.T)
    ranges = "\n".join(
        f" *   {name}: {low} .. {high}, {signed_bits(low, high)} bits" for name, (low, high) in fixed.ranges().items()
    )
    return f"""\
/* Weights of a spiking network for snn_infer.c, written by snn_mnist {__version__}.
 *
 * {config.neuron.upper()} neurons, tau {config.tau:g} steps, V_threshold {config.v_threshold:g}, \
{"soft reset" if fixed.soft else f"V_reset {config.v_reset:g}"}, T {fixed.steps}
 * Ranges that no input exceeds:
{ranges}
 */
#ifndef SNN_WEIGHTS_H
#define SNN_WEIGHTS_H

#include <stdint.h>

#define SNN_INPUTS {PIXELS}
#define SNN_CLASSES {CLASSES}
#define SNN_VOTES {fixed.votes} /* neurons per class, which are neighbours; the class with the most spikes wins */
#define SNN_NEURONS {len(fixed.weight)}
#define SNN_CONSTANT {int(fixed.encoding == "constant")} /* 1: at every step a pixel's input is its value, 0 .. 255 */
#define SNN_LATENCY {int(fixed.encoding == "latency")} /* 1: a pixel fires once, the brighter the earlier */
#define SNN_T {fixed.steps} /* time steps per image */
#define SNN_BITS {fixed.bits} /* of a weight */
#define SNN_FRACTION {fixed.fraction} /* fraction bits of a potential */
#define SNN_LEAKY {int(fixed.leaky)} /* 0: the neurons integrate and fire without a leak */
#define SNN_MULTIPLIER {fixed.multiplier} /* 1 / tau = SNN_MULTIPLIER / 2^SNN_SHIFT */
#define SNN_SHIFT {fixed.shift}
#define SNN_SOFT_RESET {int(fixed.soft)} /* 1: the threshold is subtracted; 0: v becomes 0 */

/* In units of a weight / 2^SNN_FRACTION; a neuron fires at or above it. */
static const int32_t snn_threshold[SNN_NEURONS] = {{{", ".join(str(int(x)) for x in fixed.threshold)}}};

static const {storage} snn_weight[SNN_INPUTS][SNN_NEURONS] = {{
{rows}
}};

#endif
"""


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def golden(fixed: FixedPoint, data: Dataset, spike_key: SpikeKey) -> dict[str, str | bytes]:
    """Return the input and the expected output of a test bench, for the first 16 test images."""
    images, labels = data.test.images[:GOLDEN_IMAGES], data.test.labels[:GOLDEN_IMAGES].numpy()
    index = torch.arange(len(images))
    given = fixed.input(images, index, spike_key).numpy().astype(np.uint8)  # [T or 1, 16, 784]
    fired, potential = fixed.run(np.einsum("tnp,cp->tnc", given, fixed.weight, optimize=True))
    counts, neurons = fixed.count(fired), len(fixed.weight)
    given, output, potential = (each.swapaxes(0, 1) for each in (given, fired.astype(np.uint8), potential))
    rows = f"{len(images)} images x {fixed.steps} steps, a line per step,"
    about = f"{len(images)} images, a line each, 8-bit pixels" if fixed.top > 1 else f"{rows} {PIXELS} input spikes"
    arrays = {"input": given, "spikes": output, "v": potential.astype(np.int32), "index": index.numpy()}
    arrays |= {"labels": labels, "counts": counts, "verdicts": counts.argmax(1)}
    key = {"seed": spike_key.seed, "stream": int(spike_key.stream), "epoch": spike_key.epoch}
    return {
        "golden_input.mem": mem(f"{about}, pixel 0 the lowest bit", given, fixed.top.bit_length()),
        "golden_spikes.mem": mem(f"{rows} {neurons} output spikes, neuron 0 the lowest bit", output, 1),
        "golden_v.mem": mem(f"{rows} potentials after the reset, neuron 0 in the lowest 32 bits", potential, 32),
        "golden_counts.mem": mem(f"{len(images)} images, spikes by class, class 0 the lowest 32 bits", counts, 32),
        "golden.npz": npz(**arrays, **key),
    }


def describe(fixed: FixedPoint, scale: str, spike_key: SpikeKey) -> dict[str, Any]:
    """Return the part of the report that needs no data."""
    widths, neurons = fixed.widths(), len(fixed.weight)
    memory = {
        "weights": fixed.weight.size * fixed.bits,
        "thresholds": (neurons if scale == "neuron" else 1) * signed_bits(0, int(fixed.threshold.max())),
        "potentials": neurons * widths["potential h"],
        "input sums": neurons * widths["input sum x"],
    }
    each = 6 + (fixed.multiplier > 1) if fixed.leaky else 3
    if fixed.votes > 1:
        memory["vote counters"] = CLASSES * (fixed.votes * fixed.steps).bit_length()
        each += 1  # a spike is added to the counter
    return {
        "program": f"snn_mnist {__version__}",
        "votes": fixed.votes,
        "encoding": fixed.encoding,
        "bits": fixed.bits,
        "scale": scale,
        "fraction_bits": fixed.fraction,
        "threshold": fixed.threshold.tolist(),
        "one_over_tau": f"{fixed.multiplier} / 2^{fixed.shift}" if fixed.leaky else "no leak",
        "reset": "soft" if fixed.soft else "hard",
        "T": fixed.steps,
        "seed": spike_key.seed,
        "ranges": {name: list(limits) for name, limits in fixed.ranges().items()},
        "widths_bits": widths,
        "memory_bits": memory | {"total": sum(memory.values())},
        "neuron_operations_per_image": each * neurons * fixed.steps,
        "dense_multiply_accumulates_per_image": fixed.weight.size * fixed.steps,
    }


def measure(saved: SavedNetwork, fixed: FixedPoint, data: Dataset, spike_key: SpikeKey, scale: str) -> dict[str, Any]:
    """Return the accuracy of the float network and of several weight widths on the same spikes of all test images."""
    labels, runtime = data.test.labels.numpy(), choose_runtime("cpu", "auto", cores())
    (exact,), _ = score_split(saved.net, data.test, runtime, [fixed.steps], [spike_key])
    variants = [fixed]
    for bits in set(REPORTED_BITS) - {fixed.bits}:
        with contextlib.suppress(UsageError):  # its registers would be too wide
            variants.append(quantise(saved.net, saved.config, bits, scale == "neuron"))
    variants.sort(key=lambda each: -each.bits)
    counts, inputs, reached = spike_counts(variants, data.test.images, spike_key)
    predictions = counts.argmax(2)  # [V, N]
    rows = [
        {
            "bits": each.bits,
            "fraction_bits": each.fraction,
            "accuracy": float((predicted == labels).mean()),
            "verdicts_as_float": float((predicted == exact.counts[:, -1].argmax(1).numpy()).mean()),
            "input_sum_bits": each.widths()["input sum x"],
            "accumulator_bits": each.widths()["potential h"],
            "accumulator_bits_used": signed_bits(*limits),
            "weight_bytes": each.weight.size * each.bits // 8,
        }
        for each, predicted, limits in zip(variants, predictions, reached, strict=True)
    ]
    return {
        "dataset": data.name,
        "images": len(labels),
        "float_accuracy": exact.accuracy(),
        "accuracy_against_bits": rows,
        "input_spikes_per_image": inputs,
        "synaptic_additions_per_image": inputs * len(fixed.weight),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """Return report.md."""
    scale, levels = "each neuron" if report["scale"] == "neuron" else "all weights", sorted(set(report["threshold"]))
    threshold = f"threshold {levels[0]}{f' to {levels[-1]}' if levels[1:] else ''}"
    registers = [[name, *limits, report["widths_bits"][name]] for name, limits in report["ranges"].items()]
    added, given, same = "additions", "input spikes", f"all on the same spikes (seed {report['seed']})"
    if report["encoding"] == "constant":
        added, given, same = "multiply-adds", "pixels that are not 0, once per image", "by a constant current"
    text = f"""\
# {report["bits"]}-bit network, written by {report["program"]}

One scale for {scale}, {report["fraction_bits"]} fraction bits, {threshold}, 1/τ {report["one_over_tau"]}, \
{report["reset"]} reset, T {report["T"]}, votes {report["votes"]}, {report["encoding"]} encoding.

{table("register, least, greatest, bits", registers)}
Memory in bits: {", ".join(f"{name} {bits:,}" for name, bits in report["memory_bits"].items())}.
"""
    if "float_accuracy" not in report:
        return text
    rows = []
    for row in report["accuracy_against_bits"]:
        shares = [f"{row[name]:.2%}" for name in ("accuracy", "verdicts_as_float")]
        accumulator = f"{row['accumulator_bits']} ({row['accumulator_bits_used']})"
        rows.append([row["bits"], *shares, accumulator, row["input_sum_bits"], row["weight_bytes"]])
    return f"""\
{text}Operations per image: {report["synaptic_additions_per_image"]:,.0f} {added} of a weight \
({report["input_spikes_per_image"]:,.0f} {given}) and {report["neuron_operations_per_image"]:,} in the neurons; \
a dense layer at every step would need {report["dense_multiply_accumulates_per_image"]:,} multiply-accumulates.

Accuracy on the {report["images"]:,} test images of {report["dataset"]}, {same}; \
the float network: {report["float_accuracy"]:.2%}.

{table("bits, accuracy, as float, accumulator (used), input sum, bytes", rows)}"""


def table(head: str, rows: list[list[Any]]) -> str:
    """Return a table of Markdown; whole numbers have commas."""
    names = head.split(", ")
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in [names, ["---"] * len(names), *cells])
