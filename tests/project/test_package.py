"""What wheel and sdist hold, built by hatchling itself."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("hatchling", reason="the extra dev is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "--directory", folder], cwd=ROOT, check=True)
    return folder


def sources(*folders: str) -> set[str]:
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_is_the_package_with_its_recipes(built: Path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    assert files == sources("snn_mnist") | {f"snn_mnist/{name}" for name in sources("configs")}
    assert {"snn_mnist/py.typed", "snn_mnist/configs/best.yaml", "snn_mnist/data/digits.csv.gz"} <= files
    assert "Classifier: Private :: Do Not Upload" in metadata, "its name on an index is not ours"
    header, _, readme = metadata.partition("\n\n")
    assert readme.startswith("# snn_mnist\n") and "Requires-Dist: torch>=2.6" in header
    headings = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in re.findall(r"(?m)^#+ (.*)", readme)}
    targets = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert targets and all(t.startswith("https://") or t.removeprefix("#") in headings for t in targets)


def test_links_lead_to_the_projects_url_once_there_is_one():
    from package_readme import standalone  # scripts/ is on the path, see conftest.py

    text = "[Chinese](c.md)\n\n![a picture](docs/a.png), [docs](docs/b.md#c), [here](#here), [there](https://x.org/y)\n"
    assert standalone(text, "https://p.org/") == (
        "[Chinese](https://p.org/c.md)\n\n![a picture](https://p.org/docs/a.png), "
        "[docs](https://p.org/docs/b.md#c), [here](#here), [there](https://x.org/y)\n"
    )


def test_the_sdist_has_what_its_own_tests_need(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        files = {name.partition("/")[2] for name in sdist.getnames()}
    folders = (".ci", "configs", "docs", "examples", "scripts", "snn_mnist", "tests")
    pages = {page.name for page in ROOT.glob("*.md")}
    others = {"LICENSE", "constraints.txt", "pyproject.toml"}
    assert files - {"PKG-INFO", ".gitignore"} == sources(*folders) | pages | others
