"""The recipes that come with the program, the files of configs/, found by their bare name: `-config best`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")  # where a wheel puts them; in a checkout


def recipe_path(name: str) -> str:
    """The path of the recipe of this bare name, as 'best'; any other text unchanged, as the path that it is."""
    if Path(name).name != name or Path(name).suffix or Path(name).exists():
        return name
    return next((str(file) for folder in FOLDERS if (file := folder / f"{name}.yaml").is_file()), name)


def recipe_names() -> list[str]:
    """The bare names for help and messages of `train`, without the studies of `sweep`."""
    return sorted(name for name in _names() if not name.startswith("sweep_"))


def study_names() -> list[str]:
    """The bare names of the studies of `sweep`."""
    return sorted(name for name in _names() if name.startswith("sweep_"))


def _names() -> set[str]:
    return {file.stem for folder in FOLDERS for file in folder.glob("*.yaml")}
