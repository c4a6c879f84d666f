"""Reads the files that torch.save writes: torch's own safe loader, behind the checks that it does not make."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

MAX_BYTES = 256 << 20  # of the file, and of all that is unpacked


class Unreadable(ValueError):
    """The file is damaged, or holds something else than plain values and tensors."""


def read(path: Path) -> Any:
    """The value in a file of torch.save, its tensors on the CPU. Raises Unreadable, OSError.

    torch.load(weights_only=True) runs nothing of the file, but compares no checksums and unpacks what it is given.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise Unreadable(f"it has {size:,} bytes")
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise Unreadable(f"it unpacks to {size:,} bytes")
            if broken := archive.testzip():
                raise Unreadable(f"the checksum of {broken!r:.80} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (Unreadable, OSError):
        raise
    except pickle.UnpicklingError as fault:
        raise Unreadable("it holds more than plain values and tensors") from fault
    except zipfile.BadZipFile as fault:
        raise Unreadable(f"it is no archive of torch.save, or was cut short: {fault}") from fault
    except Exception as fault:  # bytes that mean nothing can fail anywhere in the unpickler
        raise Unreadable(f"{type(fault).__name__}: {fault}") from fault
