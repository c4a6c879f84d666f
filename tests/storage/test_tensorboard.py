"""TensorBoard's events of runs, read back by TensorBoard's own code."""

import os

import pytest
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import backend_context

from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config
from snn_mnist.storage import metrics
from snn_mnist.storage.metrics import TensorBoard, hyperparameters
from tests.support.runs import train_run

CHECKED_AT_FIRST = 5  # TensorBoard's page ticks so many hyperparameters and metrics


def hparams_page(logs):
    """The experiment of TensorBoard's HParams over a directory: names of settings with 'differs', names of metrics; and
    the run of each session with its settings."""
    events = plugin_event_multiplexer.EventMultiplexer()
    events.AddRunsFromDirectory(str(logs))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(logs))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = context.RequestContext()
    metadata = backend.hparams_metadata(request, "")
    experiment = backend.experiment_from_metadata(request, "", True, metadata, [], 1000)
    settings = [(info.name, info.differs) for info in experiment.hparam_infos]
    metrics = [info.name.tag for info in experiment.metric_infos]
    return settings, metrics, {run: set(tags) for run, tags in metadata.items()}


def test_hparams_show_first_what_differs(tmp_path):
    short = {"T": 5, "limit_batches": 2}
    train_run(tmp_path, epochs=1, tau=1.1, **short)
    train_run(tmp_path, epochs=2, surrogate="sigmoid", seed=3, **short)
    settings, metrics, sessions = hparams_page(tmp_path)
    assert settings[:5] == [("epochs", True), ("seed", True), ("surrogate", True), ("tau", True), ("T", False)]
    assert not any(differs for _, differs in settings[4:])
    assert not {name for name, _ in settings} & {"data_dir", "out_dir", "figures", "device", "backend", "j", "seeds"}
    assert metrics[:CHECKED_AT_FIRST] == ["max_test_acc", "test_acc", "test_loss", "train_acc", "train_loss"]
    assert all("_hparams_/session_start_info" in found for found in sessions.values())
    assert not any("_hparams_/experiment" in found for found in sessions.values())


def test_a_run_is_there_before_its_first_epoch_ends(tmp_path):
    (tmp_path / "run").mkdir()
    board = TensorBoard(tmp_path / "run", 0)
    board.begin(Config(tau=3))
    settings, _, sessions = hparams_page(tmp_path)
    assert ("tau", False) in settings and sessions == {"run": {"_hparams_/session_start_info"}}
    board.close()


@pytest.mark.parametrize("pids", [(99, 5, 30), (5, 99, 7)])
def test_event_files_of_one_second_are_read_in_the_order_of_their_making(tmp_path, monkeypatch, pids):
    """Resumed after 3 and after 1 epochs, each time with other losses; the clock stands, then is set back."""
    monkeypatch.setattr(metrics.time, "time", iter([50.0, *[50.5] * 20, *[40.0] * 20]).__next__)
    for run, (pid, done) in enumerate(zip(pids, (0, 3, 1), strict=True)):
        monkeypatch.setattr(metrics.os, "getpid", lambda pid=pid: pid)
        board = TensorBoard(tmp_path, done)
        for epochs in range(done + 1, 5):
            board.write({"epochs": epochs, "train_loss": run})
        board.close()
    losses = EventAccumulator(str(tmp_path)).Reload().Scalars("train_loss")
    assert [(event.step, event.value) for event in losses] == [(1, 0), (2, 2), (3, 2), (4, 2)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_the_addition(tmp_path, monkeypatch):
    board = TensorBoard(tmp_path, 0)
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), board._records._writer.fileno())
    with pytest.raises(SNNError, match=f"{tmp_path} can't be written .No space left on device.; free space"):
        board.write({"epochs": 1, "train_loss": 1.0})
    board.close()


def test_only_settings_with_an_effect_are_listed():
    found = hyperparameters(Config())
    assert {"tau": 2.0, "v_reset": 0.0, "neuron": "lif", "val": 0}.items() <= found.items()
    assert not {"momentum", "alpha", "amp", "ema", "limit_batches"} & set(found)
    found = hyperparameters(Config(neuron="if", v_reset=None, amp=True, opt="sgd", alpha=3, ema=0.5))
    assert {"v_reset": "none", "amp": "on", "momentum": 0.9, "alpha": 3.0, "ema": 0.5}.items() <= found.items()
    assert "tau" not in found
