"""The findings as one HTML file that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from datatile_provider.survey.findings import Finding, Result
from datatile_provider.survey.rules import RULES, Severity

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin: 2rem 0 0; font-size: 1.15rem; }}
h2 span {{ padding: 0 .5em; border-radius: .3em; color: #fff; font-size: .85em; }}
.error {{ background: #b3261e; }}
.warning {{ background: #8a5a00; }}
p {{ margin: .2rem 0; }}
table {{ border-collapse: collapse; width: 100%; margin-top: .5rem; }}
th, td {{ border-bottom: 1px solid #8886; padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top; }}
td {{ overflow-wrap: anywhere; width: 37%; }}
td:first-child {{ width: 26%; font-family: ui-monospace, monospace; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def html(result: Result) -> str:
    """Return the report. All that comes from a file is escaped."""
    parts = [_text(f"{result.summary.capitalize()}.")]
    if result.rows is not None:
        parts.append(_text(f"{result.rows:,} interviews."))
    if result.references:
        parts.append(_text(f"Compared with {', '.join(result.references)}."))
    parts += map(_text, result.notes)
    for (severity, name), findings in result.by_rule().items():
        parts += _rule(severity, name, findings)
    return _PAGE.format(title=escape(f"Wave check of {result.source}"), body="\n".join(parts))


def _rule(severity: Severity, name: str, findings: Iterable[Finding]) -> Iterable[str]:
    rule = RULES[name]
    yield f'<h2><span class="{severity.value}">{severity.value}</span> {escape(name)}: {escape(rule.what)}</h2>'
    yield _text(f"{rule.reason} {rule.hint}")
    yield "<table><tr><th>variable</th><th>before</th><th>in this wave</th></tr>"
    for finding in findings:
        cells = (finding.variable, finding.before, finding.after)
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _text(text: str) -> str:
    return f"<p>{escape(text)}</p>"
