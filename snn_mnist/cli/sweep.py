"""Verb `sweep`: many trainings with settings that vary, as one study of Optuna; on one machine or many.

python -m snn_mnist sweep -tau 1.1,1.3,2 -lr 1e-3:1e-2:log -T 50,100,200 -trials 40 -epochs 10 -val 5000
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from snn_mnist.errors import SNNError, UsageError
from snn_mnist.search.space import SWEPT, Range, corners, varying
from snn_mnist.settings.config import FILE_NAME, Config, file_name, train_option
from snn_mnist.settings.options import Option, Options, option, options_of

if TYPE_CHECKING:
    from snn_mnist.search.study import Plan

EPILOG = """\
A setting of Network, Training and -limit-batches has one value, several, as in
-tau 1.1,1.3,2, or a range, as in -T 50:200 and -lr 1e-3:1e-2:log; in a YAML
file of -config too. The same command continues a study that was interrupted
or killed. More commands join with the same -study and -storage; those on other
machines need a database such as postgresql://user@host/database."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """Settings of `sweep` that are not those of a training run."""

    trials: int | None = option(None, "Study", "trials of the study", low=1, high=1_000_000, shown="40; of a grid all")
    sampler: str = option("tpe", "Study", "how Optuna draws the settings of a trial", choices=("tpe", "random", "grid"))
    seeds: int = train_option("seeds", group="Study", help="runs per trial, from -seed up; their mean counts")
    prune: bool = option(True, "Study", "stop a trial that falls below the median of the others")
    repeats: int = option(10, "Study", "encodings of the test images in the winner's test", low=1, high=100_000)
    study: str = option("sweep", "Study", "its name and directory", read=file_name, wanted=FILE_NAME)
    storage: str | None = option(
        None, "Study", "SQLite file or database URL", metavar="PATH_OR_URL", shown="OUT_DIR/STUDY/study.db"
    )
    workers: int | None = option(None, "Study", "processes here", low=1, high=10_000, shown="one per core; 1 on a GPU")


def _train_setting(each: Option) -> tuple[str, Any, Any]:
    """Return a setting of `train` as one of a sweep: those of SWEPT may vary."""
    if each.name in SWEPT:
        return each.name, Any, train_option(each.name, **varying(each))
    changes: dict[str, dict[str, Any]] = {
        "out_dir": {"help": "where the directory of the study is created"},
        "j": {"help": "the most threads, all workers together"},
        "config": {"help": "YAML file of settings, lists and ranges; or sweep_best; flags win over it"},
        "val": {"help": "training images held out; trials are judged on them", "shown": "required"},
    }
    return each.name, get_type_hints(Config)[each.name], train_option(each.name, **changes.get(each.name, {}))


OWN = {each.name for each in options_of(StudyOptions)} | {"resume", "force", "figures", "test", "name"}
SweepOptions: Any = dataclasses.make_dataclass(
    "SweepOptions",
    [_train_setting(each) for each in options_of(Config) if each.name not in OWN],
    bases=(StudyOptions,),
    frozen=True,
    kw_only=True,
)
"""Settings of `sweep`."""


def run(options: Any) -> int:
    plan, workers = make_plan(options)
    from snn_mnist.data.datasets import load_dataset
    from snn_mnist.network.engine import choose_runtime
    from snn_mnist.search.report import write_report
    from snn_mnist.search.study import finished, open_study, run_workers, storage_errors, trials_of, work
    from snn_mnist.training.console import Interruption

    mode = Config(step_mode=options.step_mode)
    choose_runtime(options.device, options.backend, plan.fixed["j"], mode)  # or else each trial would fail
    dataset = load_dataset(options.dataset, options.data_dir)
    plan.check(len(dataset.train))
    interruption = Interruption()
    with storage_errors(plan.storage):
        study = open_study(plan)
        count = len(trials_of(study))
        here = f"{workers} worker{'s' if workers > 1 else ''}"
        print(f"study {plan.study}: {finished(study)} of {count} trials finished, {here}, in {plan.folder}", flush=True)
        if workers == 1:
            work(plan, dataset, interruption)
        elif finished(study) < count:
            run_workers(plan, workers, interruption)
        if (done := finished(study)) < count:
            state = f"with {done} of {count} trials finished; the same command continues the study"
            if not interruption.requested:
                raise SNNError(f"all workers have ended {state} once their errors above are mended")
            print(f"interrupted {state}")
            return interruption.exit_code
        write_report(study, plan, dataset, options.repeats, options.j)
    return 0


def make_plan(options: Any) -> tuple[Plan, int]:
    """Return the plan, and the number of workers here; UsageError where the settings make no study."""
    if not options.val:
        raise UsageError("-val is missing: held-out training images choose the trials; give e.g. -val 5000 of MNIST's")
    names = [each.name for each in options_of(Config) if each.saved and hasattr(options, each.name)]
    fixed = {name: getattr(options, name) for name in names if name not in ("out_dir", "seeds")}
    space = {name: fixed.pop(name) for name in names if isinstance(fixed.get(name), tuple | Range)}
    if not space:
        raise UsageError("no setting varies; give one several values (-tau 1.1,1.3,2) or a range (-lr 1e-3:1e-2:log)")
    trials = options.trials or 40
    if options.sampler == "grid":
        if ranges := [f"{name} {value}" for name, value in space.items() if isinstance(value, Range)]:
            raise UsageError(f"{ranges[0]} is a range, which has no grid; give values as a,b,c or another -sampler")
        points = len(list(corners(space)))
        trials = min(options.trials or points, points)
    import torch  # what needs no seconds of imports was refused above

    from snn_mnist.search.study import Plan

    gpu = options.device.startswith("cuda") or (options.device == "auto" and torch.cuda.is_available())
    workers = min(options.workers or (1 if gpu else options.j), trials)
    fixed |= {"j": max(1, options.j // workers), "test": False, "figures": False}
    folder = Path(options.out_dir) / options.study
    storage = options.storage or str(folder / "study.db")
    same: Any = {name: getattr(options, name) for name in ("study", "sampler", "seeds", "prune")}
    return Plan(**same, folder=folder, storage=storage, space=space, fixed=fixed, trials=trials), workers
