"""The number of threads follows the machine, the results do not."""

from pathlib import Path

import pytest
import torch

from snn_mnist.kernels.cpu import jit
from snn_mnist.network.device import Runtime
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.training import loop as trainer
from snn_mnist.training import threads as thread_tuner
from snn_mnist.training.interruption import Interruption
from snn_mnist.training.threads import PATIENCE, WINDOW, ThreadTuner

QUIET = {4: 1.0, 3: 1.3, 2: 1.9, 1: 3.6}
CROWDED = {4: 8.0, 3: 1.4, 2: 2.0, 1: 3.6}


def after(chosen: ThreadTuner, times: dict[int, float], windows: int) -> int:
    for _ in range(windows * WINDOW):
        chosen.note(times[chosen.count])
    return chosen.count


def test_it_takes_the_fastest_and_follows_the_machine():
    used: list[int] = []
    chosen = ThreadTuner(4, used.append)
    assert chosen.choices == [4, 3, 2, 1]
    assert after(chosen, QUIET, 3) == 1 and not chosen.reduced  # in a trial
    assert after(chosen, QUIET, 1) == 4 and used == [4, 3, 2, 1, 4] and not chosen.reduced
    assert after(chosen, QUIET, 10 * PATIENCE) == 4 and len(used) == 5  # no trial while all is well
    assert after(chosen, CROWDED, PATIENCE + 8) == 3 and chosen.reduced
    assert after(chosen, QUIET, 2 * PATIENCE + 8) == 4  # the other program has ended


def test_a_single_slow_step_changes_nothing():
    used: list[int] = []
    chosen = ThreadTuner(2, used.append)
    after(chosen, {2: 1.0, 1: 1.8}, 2 + PATIENCE)
    chosen.note(5.0)
    assert after(chosen, {2: 1.0, 1: 1.8}, 3 * PATIENCE) == 2 and used == [2, 1, 2]


@pytest.mark.skipif(jit.numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_results_do_not_depend_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Threads that change with almost every step, against one thread throughout."""
    settings = {"dataset": "digits", "T": 20, "b": 64, "epochs": 2, "figures": False}
    before, used = jit.numba.get_num_threads(), []
    try:
        trainer.train(Config(**settings, j=1, out_dir=str(tmp_path / "one")), Interruption())
        monkeypatch.setattr("snn_mnist.network.compiled_steps.CHUNK_WORK", 1)  # a step a chunk
        monkeypatch.setattr(thread_tuner, "WINDOW", 2)
        monkeypatch.setattr(thread_tuner, "PATIENCE", 1)
        monkeypatch.setattr(jit, "set_threads", lambda n, real=jit.set_threads: used.append(real(n)) or used[-1])
        monkeypatch.setattr(thread_tuner.ThreadTuner, "_judge", lambda self, _: self._set(3 - self.count))
        trainer.train(Config(**settings, out_dir=str(tmp_path / "many")), Interruption())
    finally:
        jit.set_threads(before)
    assert used.count(1) > 5 and used.count(2) > 5
    one, many = (checkpoint.load(next((tmp_path / name).iterdir())) for name in ("one", "many"))
    assert torch.equal(one["net"][checkpoint.WEIGHT], many["net"][checkpoint.WEIGHT])
    assert one["max_test_acc"] == many["max_test_acc"]


def test_an_explicit_number_is_a_limit():
    for backend, threads, choices in (("numba", 3, [3, 2, 1]), ("numba", 1, [1]), ("torch", 3, [1])):
        runtime = Runtime(torch.device("cpu"), backend, "for a test", threads)
        assert thread_tuner.thread_tuner(runtime).choices == choices


def test_a_trial_runs_few_steps_together():
    """A number of threads that is tried may be slow; once one is chosen, chunks may be long."""
    tuner = ThreadTuner(2, lambda threads: None)
    assert tuner.most_steps == WINDOW // 2
    after(tuner, {2: 1.0, 1: 2.0}, 2)
    assert tuner.most_steps > 1e6
    assert ThreadTuner(1, lambda threads: None).most_steps > 1e6  # no choice: graphs are replayed whole


def test_a_change_is_announced_once():
    tuner = ThreadTuner(2, lambda threads: None)
    assert tuner.announcement() == ""
    after(tuner, {2: 4.0, 1: 1.0}, 2)
    assert tuner.announcement() == "now using 1 of 2 threads, which is faster" and tuner.announcement() == ""
