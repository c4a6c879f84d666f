"""Hook of hatchling: README.md for the package's metadata, where a relative link or picture would lead nowhere."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

URL = ""  # where the project's files can be read, with a slash at the end; once there is one, links lead there


class Readme(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": standalone(text)}


def standalone(text: str, url: str = URL) -> str:
    """The text with relative links made absolute; without a URL only the words of links inside lines stay."""
    relative = r"\((?![a-z]+:|#)([^)]+)\)"
    if url:
        return re.sub(rf"\]{relative}", rf"]({url}\1)", text)
    return re.sub(
        rf"\[([^\]]+)\]{relative}", r"\1", re.sub(rf"^!?\[[^\]]*\]{relative}\n+", "", text, flags=re.MULTILINE)
    )
