"""The spiking core against SpikingJelly, where an interpreter that has it is named."""

import os
import subprocess
from pathlib import Path

import pytest

VARIABLE = "SNN_MNIST_SPIKINGJELLY_PYTHON"
SCRIPT = Path(__file__).with_name("oracle_spikingjelly.py")


@pytest.mark.oracle
@pytest.mark.skipif(
    VARIABLE not in os.environ,
    reason=f"{VARIABLE} names no Python with SpikingJelly; see tests/core/oracle_spikingjelly.py",
)
def test_agrees_with_spikingjelly():
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])}
    command = [os.environ[VARIABLE], str(SCRIPT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, "\n".join(
        line for line in (done.stdout + done.stderr[-2000:]).splitlines() if not line.startswith("ok")
    )
    assert "0 above their bound" in done.stdout
