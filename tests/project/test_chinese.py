"""README.zh-CN.md has the code, tables, numbers and links of README.md, section by section."""

import re
from collections import Counter
from itertools import zip_longest

import pytest

from tests.conftest import ROOT

PAGES = [(ROOT / name).read_text(encoding="utf-8").replace("zh-CN.", "") for name in ("README.md", "README.zh-CN.md")]
SECTIONS = [*zip_longest(*(re.split("(?m)^## ", page) for page in PAGES), fillvalue="")]
DEFAULTS = {"on": "开", "off": "关", "none": "无", "all": "全部", "all cores": "全部核心"}
DEFAULTS |= {"the surrogate's own": "由替代函数决定", "$SNN_MNIST_DATA, else ./data": "$SNN_MNIST_DATA，否则 ./data"}
DEFAULTS |= {"made of the settings": "由各项设置组成", "the single layer": "单层网络"}


def facts(section, number=r"(?<![A-Za-z_\d.,])\d(?:[\d.,]*\d)?"):
    """The lines of code without comments and the numbers of each row, in order; all numbers, code and links."""
    code = "\n".join(re.findall(r"(?ms)^```\w+\n(.*?)^```", section))
    yield "code", [re.sub(r"(^|\s+)#.*", "", line) for line in code.splitlines()]
    yield "tables", [" | ".join(re.findall(number, row)) for row in re.findall(r"(?m)^\|.*", section)]
    yield "code, links or numbers", sorted(re.findall(rf"`[^`\n]+`|\]\([^)\s]+\)|{number}", section))


@pytest.mark.parametrize("english, chinese", SECTIONS, ids=[heading.partition("\n")[0] for heading, _ in SECTIONS])
def test_a_section_has_the_same_facts_in_chinese(english, chinese):
    for (kind, ours), (_, theirs) in zip(facts(english), facts(chinese), strict=True):
        lacks, has = [*(Counter(ours) - Counter(theirs))], [*(Counter(theirs) - Counter(ours))]
        assert ours == theirs, f"{kind}: README.zh-CN.md lacks {lacks}, and has {has} instead (or another order)"


def test_flags_have_their_defaults_and_values_in_chinese():
    row = r"(?m)^\| `(-[\w-]+)` \| (.*?) \| .*?(?:[:：] ?(\w+(?:(?:, |、)\w+)+))? \|$"
    ours, theirs = (re.findall(row, page) for page in PAGES)
    assert len(ours) > 30 and sum(bool(values) for _, _, values in ours) > 5, "the table of flags has another form"
    for (flag, default, values), chinese in zip_longest(ours, theirs, fillvalue=("", "", "")):
        wanted = (flag, DEFAULTS.get(default, default), values.replace(", ", "、"))
        assert wanted == chinese, f"README.zh-CN.md has {chinese} instead of {wanted}"
