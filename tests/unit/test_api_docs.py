"""What the page of the API says of priorities is what there is."""

import re
from pathlib import Path

import pytest

from modelmora.spec import Priority

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
MEANINGS = {"CRITICAL": "SLA", "HIGH": "interactive", "NORMAL": "batch", "LOW": "background"}


@pytest.mark.req("REQ-QUEUE-001b", "RM-2.1a")
def test_the_page_says_what_each_priority_is_for() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Priorities\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \((\d)\).*?\| (.+) \|$", section, re.MULTILINE)
    assert {name: int(number) for name, number, _ in rows} == {priority.name: priority for priority in Priority}
    assert [name for name, _, meaning in rows if MEANINGS[name] not in meaning] == []
