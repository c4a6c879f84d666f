"""Words of messages: a value as the user types it, a rejected value in brief, "did you mean"."""

import re
from collections.abc import Iterable
from typing import Any

OTHER_NAMES = {  # a setting -> what other programs call it
    "T": "time-steps num-steps steps time-window",
    "b": "batch-size batch train-batch-size bs",
    "lr": "learning-rate",
    "j": "workers num-workers threads num-threads jobs",
    "epochs": "epoch num-epochs max-epochs",
    "opt": "optimizer optim",
    "schedule": "scheduler lr-scheduler",
    "surrogate": "surrogate-function surrogate-gradient spike-grad",
    "v_threshold": "threshold v-th",
    "neuron": "model node",
    "amp": "fp16 bf16 mixed-precision",
    "device": "gpu cuda",
    "data_dir": "data data-path root",
    "out_dir": "output-dir log-dir save-dir",
    "name": "run-name experiment exp-name run-dir",
    "resume": "checkpoint ckpt load",
    "seed": "random-seed manual-seed",
}


def fold(word: str) -> str:
    """Words with the same fold count as equal: 'SoftSign' and 'soft_sign', 'batch-size' and 'batch_size'."""
    return re.sub("[-_]", "", word).lower()


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant: the most similar, or the one that other programs call so."""
    import difflib

    known = {fold(name): name for name in words}
    others = {fold(other): known[fold(name)] for name, names in OTHER_NAMES.items() if fold(name) in known
              for other in names.split()}  # fmt: skip
    candidates = others | known
    found = difflib.get_close_matches(fold(word[:100]), candidates, n=1, cutoff=0.6)
    return candidates[found[0]] if found else None


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(show(item) for item in value)
    return str(value)


def brief(value: Any) -> str:
    """A rejected value for an error message: one line, never long, whatever it is."""
    if value is None:
        return "(no value)"
    if not isinstance(value, bool | int | float | str | list | tuple):
        return f"of type {type(value).__name__}"
    try:
        text = value if isinstance(value, str) and value.isprintable() and value.strip() else repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits has no repr
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
