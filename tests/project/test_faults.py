"""The table of single faults, scripts/faults.toml, fits the code and the tests; running it takes half an hour."""

import faults  # of scripts/, which conftest.py has put on the path


def test_every_fault_can_be_put_in():
    table = faults.read(faults.TABLE)
    assert faults.outdated(table) == [] and len(table) > 100
    assert all(fault.old != fault.new for fault in table)


def test_what_no_longer_fits_is_named(tmp_path):
    for folder in ("snn_mnist", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "snn_mnist" / "a.py").write_text("x = 1\ny = 1\n")
    (tmp_path / "tests" / "test_a.py").write_text("class TestA:\n    def test_b(self):\n        pass\n")
    found = [
        faults.Fault("a.py", "x = 1", "x = 2", "test_a.py::TestA::test_b[1::2]"),
        faults.Fault("a.py", "= 1", "= 2", "test_a.py test_a.py::test_c"),
    ]
    assert faults.outdated(found, tmp_path) == ["'= 1' stands 2 times in a.py", "test_a.py has no test_c"]
