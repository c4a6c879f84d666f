"""The table at the end of scripts/test_gpu.sh."""

import pytest

RESULTS = """<testsuites><testsuite>
<testcase name="test_a[1]" time="1.5"><properties><property name="figure" value="3 us a step"/></properties></testcase>
<testcase name="test_a[2]" time="0.5">{outcome}</testcase>
<testcase name="test_b" time="0"><skipped message="no CUDA device here"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("outcome", "checks", "code"),
    [("", "memcheck\tclean\n", 0), ("<failure/>", "memcheck\tclean\n", 1), ("", "memcheck\tFAILED: 3 errors\n", 1)],
)
def test_table_of_results(tmp_path, capsys, outcome, checks, code):
    import gpu_table  # of scripts/, which conftest.py has put on the path

    results, sanitizer = tmp_path / "tests.xml", tmp_path / "sanitizer.txt"
    results.write_text(RESULTS.format(outcome=outcome))
    sanitizer.write_text(checks)
    assert gpu_table.main(str(results), str(sanitizer)) == code
    lines = capsys.readouterr().out.splitlines()
    failed = 1 if outcome else 0
    assert [line.split() for line in lines if line.startswith("test_a")] == [
        ["test_a", str(2 - failed), str(failed), "0", "2.0"]
    ]
    assert "3 us a step" in lines and "skipped 1: no CUDA device here" in lines
    assert checks.replace("\t", ": ").strip() in lines
    results.write_text("<testsuites/>")
    assert gpu_table.main(str(results), str(sanitizer)) == 1  # nothing ran: that is no success
    assert gpu_table.main(str(tmp_path / "none.xml"), str(sanitizer)) == 1
