"""Which settings a resumed run may change, and the text of `train --help` about it."""

import textwrap
from collections.abc import Iterable

from snn_mnist.settings.config import Config
from snn_mnist.settings.fields import options_of

FIXED_ON_RESUME = tuple(each.name for each in options_of(Config) if each.fixed)
"""Another value of these gives another result, which is neither the old run's nor a new one's."""

CHANGEABLE_ON_RESUME = ("epochs", "lr", "schedule")
"""These may change besides, as the settings of the machine and of files do."""

DECIDING = tuple(
    each.name for each in options_of(Config) if each.name in FIXED_ON_RESUME or each.name in CHANGEABLE_ON_RESUME
)
"""The settings that decide the result, in the order of their declaration."""


def _flags(names: Iterable[str]) -> str:
    return ", ".join("-" + name.replace("_", "-") for name in names)


def _paragraph(text: str, indent: int = 2) -> str:
    space = " " * indent
    return textwrap.fill(text, 78, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


RESUME_RULES = "\n".join([
    "Resuming (-resume FILE_OR_DIRECTORY):",
    _paragraph("The run continues in its own directory with its own settings, exactly as if it had never stopped. "
               f"A flag given now replaces the saved setting: {_flags(CHANGEABLE_ON_RESUME)} and the settings of the "
               "machine may change. These may not, because the result would belong neither to the old run nor to a "
               "new one, unless -force is given:"),
    _paragraph(_flags(FIXED_ON_RESUME), 4),
    _paragraph("With -force and such a change, with another -out-dir, or from a file other than a run's "
               "checkpoint_latest.pth, it continues in a new directory, with a metrics.csv and a "
               "checkpoint_max.pth of its own. A finished run has nothing to do; extend it with a larger -epochs."),
    _paragraph("Of a directory made by -seeds all unfinished runs continue, one after another; a larger -seeds adds "
               "runs. -lr and -schedule, and with a cosine -epochs, may not change there."),
])  # fmt: skip
