"""The program: `python -m snn_mnist VERB …`, which is installed as `snn_mnist` too."""

import gc
import sys

from snn_mnist.cli.main import main


def program() -> int:
    """Run `main` with few garbage collections: among PyTorch's objects they take a second of its start and end."""
    gc.set_threshold(50_000, 20, 20)
    code = main()
    if "triton" not in sys.modules:  # its bindings print what is not collected
        gc.freeze()  # so the interpreter, which collects as it ends, looks at none
    return code


if __name__ == "__main__":
    sys.exit(program())
