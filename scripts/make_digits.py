"""Write snn_mnist/data/digits.csv.gz, the table of the data set `digits`, from scikit-learn's copy.

    python scripts/make_digits.py

A row is an image: 64 pixels of 0 to 16, then the label; 1,797 rows. scikit-learn is needed here only
(pip install scikit-learn). The rows are the same from any version of it.
"""

import gzip
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parents[1] / "snn_mnist" / "data" / "digits.csv.gz"


def table() -> bytes:
    digits = load_digits()
    rows = np.column_stack([digits.data, digits.target]).astype(np.int64)
    return "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()).encode()


if __name__ == "__main__":
    TARGET.write_bytes(gzip.compress(table(), compresslevel=9, mtime=0))
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")
