"""`-config best`: a bare name is a recipe of the program; anything else is a path."""

from pathlib import Path

import pytest

from snn_mnist.cli.main import main
from snn_mnist.settings import recipes
from tests.conftest import ROOT


def test_a_bare_name_is_a_recipe_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.recipe_path("best") == str(ROOT / "configs" / "best.yaml")
    assert recipes.recipe_path("sweep_best") == str(ROOT / "configs" / "sweep_best.yaml")
    files = {file.stem for file in (ROOT / "configs").iterdir()}
    assert recipes.recipe_names() == sorted(files - {"sweep_best"}), "a study is nothing that `train` can run"


def test_a_wrong_name_gets_all_the_right_ones(capsys: pytest.CaptureFixture):
    assert main(["sweep", "-config", "nope", "-val", "9"]) == 2
    assert "a recipe: best, digits, quick, tutorial; for sweep sweep_best" in capsys.readouterr().err
    assert main(["train", "-config", "sweep_best"]) == 2
    assert capsys.readouterr().err.endswith("sweep_best is a study: use sweep -config sweep_best\n")


def test_a_path_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for text in ("best.yaml", "./best", "configs/best", "/no/best.yaml", "nothing", ""):
        assert recipes.recipe_path(text) == text
    (tmp_path / "best").write_text("T: 3\n")
    assert recipes.recipe_path("best") == "best", "a file of the user's comes first"


def test_the_copy_in_a_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "best.yaml").write_text("T: 3\n")
    monkeypatch.setattr(recipes, "FOLDERS", (tmp_path, *recipes.FOLDERS))
    assert recipes.recipe_path("best") == str(tmp_path / "best.yaml")
    assert recipes.recipe_path("quick") == str(ROOT / "configs" / "quick.yaml")
