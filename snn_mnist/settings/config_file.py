"""A YAML file of settings: one flat mapping of names to values, read for `-config` and written as config.yaml."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from snn_mnist import __version__
from snn_mnist.errors import UsageError
from snn_mnist.settings.recipes import recipe_names, recipe_path, study_names
from snn_mnist.settings.words import brief, closest

REMEDY = f"name a YAML file of settings, or a recipe: {', '.join(recipe_names())}; for sweep {', '.join(study_names())}"
MAX_BYTES = 1 << 20  # a settings file has a few hundred bytes


class NotFlat(yaml.MarkedYAMLError):
    """Valid YAML that is not a flat mapping of scalars."""


class FlatLoader(yaml.SafeLoader):
    """`yaml.safe_load` for one flat mapping of scalars: a key given twice, anchors, tags and nesting are errors."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        scalar = isinstance(event, yaml.ScalarEvent)
        empty = isinstance(event, yaml.ScalarEvent) and not event.value and event.implicit[0]
        problem = ""
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            problem = "anchors and aliases are not read"
        elif event.tag:
            problem = f"the tag {brief(event.tag)} is not read"
        elif parent is None and not isinstance(event, yaml.MappingStartEvent) and not empty:
            problem = "not a mapping of names to values"
        elif parent is not None and not scalar:
            problem = f"{brief(index.value)} has a nested value" if index else "a name is nested"
        if problem:
            raise NotFlat(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise NotFlat(problem=f"{brief(key.value)} is set twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and ":" in node.value:
            return node.value  # YAML 1.1 reads 10:50, a range of `sweep`, as 10 · 60 + 50
        try:
            return super().construct_object(node, deep)
        except ValueError:  # 10,000 digits, the 45th of May: as text, which the check of the setting names
            return node.value


def read_yaml(name: str | os.PathLike[str]) -> dict[Any, Any]:
    """The mapping in a file or recipe, its values as YAML reads them; UsageError for one that holds something else."""
    file = recipe_path(os.fspath(name))
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{file}: larger than {MAX_BYTES:,} bytes; a settings file has a few hundred")
        return yaml.load(data.decode("utf-8-sig"), FlatLoader) or {}
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        guess = closest(Path(file).stem, [*recipe_names(), *study_names()])
        remedy = f"did you mean {guess}? {REMEDY}" if guess else REMEDY
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}; {remedy}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        parts = [getattr(error, name, None) for name in ("context", "problem", "reason")]
        what = ", ".join(" ".join(part.split()) for part in parts if part)
        if not isinstance(error, NotFlat):
            what = f"not valid YAML ({what})"
        raise UsageError(f"{file}:{line} {what}; write one `name: value` a line") from None


def yaml_text(settings: dict[str, Any], verb: str = "train") -> str:
    """The file that `read_yaml` reads as these settings; its first line says how `verb` repeats the run."""
    head = f"# snn_mnist {__version__}; to repeat the run: python -m snn_mnist {verb} -config THIS_FILE\n"
    # YAML has three more line breaks than \n; inside quotes they read back as \n, unless they are escaped.
    breaks = {"\x85", "\u2028", "\u2029"} & {letter for value in settings.values() for letter in str(value)}
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=not breaks)
