"""A model card in the page: readable, and nothing in it that could run, be fetched or lead away."""

from __future__ import annotations

import re

from manta_ui.models.card import card_html

CARD = """---
library_name: transformers
---

# desk

Gives texts one of 2 labels.

| what | value |
| --- | --- |
| labels | `a`, `b` |

- It reads the first 16 tokens.

```python
classify("<text>")
```
"""


def test_headings_tables_lists_and_code_are_shown_and_the_metadata_is_not() -> None:
    shown = card_html(CARD)
    assert "library_name" not in shown
    assert "<h3>desk</h3>" in shown  # below the page's and the tab's own headings
    assert "<th>what</th>" in shown
    assert "<li>It reads the first 16 tokens.</li>" in shown
    assert "classify(&quot;&lt;text&gt;&quot;)" in shown


def test_nothing_runs_is_fetched_or_leads_away() -> None:
    evil = [
        "<script>alert(1)</script>",
        "<img src=http://elsewhere/x.png onerror=alert(1)>",
        "![x](http://elsewhere/x.png)",
        "[x](javascript:alert(1))",
        "<http://elsewhere/>",
        "[x]: http://elsewhere/",
        "[x]",
        "`</code><script>alert(1)</script>`",
    ]
    shown = card_html("\n\n".join([*evil, f"| a |\n| --- |\n| {evil[1]} {evil[2]} |"]))
    assert set(re.findall(r"<(\w+)", shown)) == {"div", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "![x](http://elsewhere/x.png)" in shown
