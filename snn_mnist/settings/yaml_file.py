"""A YAML file of settings: one flat mapping of names to values, read for `-config` and written as config.yaml.

The recipes that come with the program, the files of configs/, are found by their bare name: `-config best`.
"""

import os
import re
import types
from pathlib import Path
from typing import Any

import yaml

from snn_mnist import __version__
from snn_mnist.errors import UsageError
from snn_mnist.settings.words import brief, closest

PACKAGE = Path(__file__).resolve().parents[1]
RECIPES = {  # in a checkout, and where a wheel puts them
    file.stem: file
    for folder in (PACKAGE.parent / "configs", PACKAGE / "configs")
    for file in sorted(folder.glob("*.yaml"))
}
REMEDY = f"name a YAML file of settings, or a recipe: {', '.join(RECIPES)} (sweep_… are for sweep)"
LAYOUT = "write one `name: value` a line"
MAX_BYTES = 1 << 20  # a settings file has a few hundred bytes


class TextLoader(yaml.SafeLoader):
    """`yaml.safe_load` that leaves numbers and words as text, which the check of each setting reads as on the command
    line; YAML 1.1 itself would read 10:50, a range of `sweep`, as 650 and 1e-3 as a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, value in node.value:
            problem = "a name is nested" if not isinstance(key, yaml.ScalarNode) else ""
            problem = problem or (f"{brief(key.value)} is set twice" if key.value in seen else "")
            problem = problem or (
                "" if isinstance(value, yaml.ScalarNode) else f"{brief(key.value)} has a nested value"
            )
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


TextLoader.yaml_implicit_resolvers = {}
TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""])


def read_yaml(name: str | os.PathLike[str]) -> dict[Any, Any]:
    """Return the mapping in a file or recipe, its values as text or None; UsageError for anything else."""
    file = Path(name).expanduser()
    file = file if file.exists() else RECIPES.get(os.fspath(name), file)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{file}: larger than {MAX_BYTES:,} bytes; a settings file has a few hundred")
        settings = yaml.load(data.decode("utf-8-sig"), TextLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        guess = closest(file.stem, RECIPES)
        remedy = f"did you mean {guess}? {REMEDY}" if guess else REMEDY
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}; {remedy}") from None
    except RecursionError:
        raise UsageError(f"{file}: nested too deeply; {LAYOUT}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        parts = [getattr(error, name, None) for name in ("context", "problem", "reason")]
        what = ", ".join(" ".join(part.split()) for part in parts if part)
        raise UsageError(f"{file}:{line} {what}; {LAYOUT}") from None
    if not isinstance(settings, dict | types.NoneType):
        raise UsageError(f"{file}: not a mapping of names to values; {LAYOUT}")
    return settings or {}


def yaml_text(settings: dict[str, Any], verb: str = "train") -> str:
    """Return the file that `read_yaml` reads as these settings; its first line says how `verb` repeats the run."""
    head = f"# snn_mnist {__version__}; to repeat the run: python -m snn_mnist {verb} -config THIS_FILE\n"
    # YAML has three more line breaks than \n; inside quotes they read back as \n, unless they are escaped.
    breaks = {"\x85", "\u2028", "\u2029"} & {letter for value in settings.values() for letter in str(value)}
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=not breaks)
