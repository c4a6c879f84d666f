"""What a resumed run goes on with: whose settings count, and in which directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from snn_mnist import checkpoint
from snn_mnist.config import Config
from snn_mnist.errors import UsageError


def resolve(config: Config, state: dict[str, Any]) -> Config:
    """The settings of the run: of a resumed one its own, and what the user gave now on top."""
    if not state:
        return config
    if "config" in state:
        source = str(config.resume)
        resolved = config.on_top_of(state["config"], source)
        changed = resolved.changed_mathematics(state["config"])
        if changed and not config.force:
            raise UsageError(
                f"{source} can't go on with other mathematics: {', '.join(changed)}; "
                "leave that out, start a new run, or insist with -force"
            )
        return resolved
    groups = state.get("optimizer", {}).get("param_groups") or [{}]
    known = {
        name: groups[0][name] for name in ("lr", "momentum") if name in groups[0] and name not in config.given
    }
    print(f"{config.resume} says nothing of T, tau, b or the data: using {config.T}, {config.tau}, {config.b}, "
          f"{config.dataset}; give the flags if it was trained otherwise")  # fmt: skip
    return replace(
        config, opt="sgd" if "momentum" in groups[0] else "adam" if groups[0] else config.opt, **known
    )


def directory_to_continue(config: Config) -> Path | None:
    if config.resume is None:
        return None
    path = checkpoint.find(config.resume)
    return path.parent if path.name == checkpoint.LATEST and (path.parent / "config.yaml").is_file() else None
