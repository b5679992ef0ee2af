"""The code in docs and README runs, and what they quote and list is in the sources."""

from __future__ import annotations

import ast
import configparser
import functools
import inspect
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import certifi
import pytest
from airflow.configuration import conf
from airflow.providers.common.compat.sdk import DAG

from datatile_provider.api import errors, parsing, rejections, states
from datatile_provider.api.models import Action, OnUnknown, ServerConfig, Upload
from datatile_provider.api.options import Options
from datatile_provider.api.responses import Response
from datatile_provider.api.states import JobState
from datatile_provider.failure_policy import Accepted, decide, failure_of
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.wave_check import DatatileWaveCheckOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from datatile_provider.survey.rules import RULES
from tests.support.airflow import free_port
from tests.support.dags import DagOutcome, dag_folder, run_dag
from tests.support.fixtures import connect, plain_environment
from tests.support.messages import is_long, matches, messages, sentences
from tests.support.pages import Block, Shell, blocks, texts

__all__ = ["connect", "dag_folder", "plain_environment", "run_dag"]

log = logging.getLogger(__name__)
pytestmark = pytest.mark.needs_airflow(">=3.3")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
TROUBLESHOOTING = DOCS / "troubleshooting.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
FOR_MAINTAINERS = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", DOCS / "design.md"]
MARKDOWN = sorted({*PAGES, *ROOT.glob("*.md"), *DOCS.glob("*/*.md")})
LINE_LENGTH = 120
WAVES = ROOT / "example_dags" / "data"
#: The number of blocks that are not run, by page.
NOT_RUN = {"README.md": 1, "quickstart.md": 1, "recipes.md": 1, "reliability.md": 2, "troubleshooting.md": 1}


#: The server of a page, as options of a sandbox. The page about a real server has one that differs from the defaults.
SERVERS: dict[str, dict[str, Any]] = {
    "day-one": {
        "processing_seconds": 1,
        "job_id_field": "result.ticket",
        "status_field": "result.phase",
        "state_words": {
            "QUEUED": "in line",
            "RUNNING": "importing",
            "SUCCEEDED": "imported",
            "FAILED": "broken",
            "CANCELLED": "withdrawn",
        },
    }
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    page = request.node.callspec.params["page"].stem if hasattr(request.node, "callspec") else ""
    options = {"processing_seconds": 0.1, "folder": "7c1e5d0a9b3f4826", **SERVERS.get(page, {})}
    with Sandbox(**options) as sandbox:
        yield sandbox


class Reader:
    """
    Follows a page block by block, as a reader would.

    :param real: replacements for the examples' servers, tokens, hashes and folders.
    :param run_dag: runs a DAG.
    """

    def __init__(self, shell: Shell, real: dict[str, str], run_dag: Callable[[DAG], DagOutcome]) -> None:
        self._shell = shell
        self._real = real
        self._run_dag = run_dag
        self._names: dict[str, Any] = {"__name__": "page"}

    def follow(self, block: Block) -> None:
        text = block.text
        for example, real in self._real.items():
            text = text.replace(example, real)
        if block.file:
            path = self._shell.folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        else:
            {"python": self._python, "bash": self._bash, "json": self._json, "ini": self._ini, "text": self._text}[
                block.language
            ](text)

    def _python(self, text: str) -> None:
        entered: list[DAG] = []
        enter = DAG.__enter__

        def record(dag: DAG) -> DAG:
            entered.append(dag)
            return enter(dag)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DAG, "__enter__", record)
            exec(compile(text, "page", "exec"), self._names)
        for dag in entered:
            assert self._run_dag(dag).state == "success", dag.dag_id

    def _bash(self, text: str) -> None:
        for requirement in re.findall(r"^\s*pip install (.+)$", text, re.MULTILINE):
            for extra in re.findall(r"airflow-provider-datatile\[(\w+)\]", requirement):
                assert extra in (metadata("airflow-provider-datatile").get_all("Provides-Extra") or [])
        for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        self._shell.run(text)

    def _json(self, text: str) -> None:
        value = json.loads(text)
        if isinstance(value, dict) and ("conn_type" in value or set(value) <= set(Options.model_fields)):
            host = {"conn_type": "datatile", "host": "datatile.example.com", "password": "token"}
            connection = value if "conn_type" in value else {**host, "extra": value}
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("AIRFLOW_CONN_PAGE", json.dumps(connection))
                DatatileHook("page").get_conn()
        else:
            upload = Upload(Action.APPEND, "0f3a9c2b7d4e5f61", "wave.zsav", 1)
            response = Response(200, text.encode())
            assert parsing.read_upload(ServerConfig("https://datatile.example.com"), upload, response).id == "4711"

    def _ini(self, text: str) -> None:
        settings = configparser.ConfigParser(interpolation=None)
        settings.read_string(text)
        for section in settings.sections():
            for option in settings[section]:
                assert conf.get(section, option, fallback="none") != "none", (section, option)

    def _text(self, text: str) -> None:
        for line in text.splitlines():
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert re.search(pattern, self._shell.printed), line


@pytest.fixture
def reader(
    server: Sandbox,
    run_dag: Callable[[DAG], DagOutcome],
    connect: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reader]:
    data = tmp_path / "data"
    today = datetime.now(timezone.utc)
    # The date may change during the test.
    for day in (f"{today:%Y-%m-%d}", f"{today + timedelta(days=1):%Y-%m-%d}"):
        (data / day).mkdir(parents=True)
        shutil.copy(WAVES / "wave1.zsav", data / f"{day}.zsav")
        shutil.copy(WAVES / "wave1.zsav", data / day / "wave.zsav")
    (data / "new").mkdir()
    for wave in WAVES.glob("*.zsav"):
        shutil.copy(wave, data)
        shutil.copy(wave, data / "new")
    database = server.add_database("Tracker")
    real = {
        "https://datatile.example.com:8443": server.url,
        "https://datatile.example.com": server.url,
        "datatile.example.com": server.url,
        "<token>": server.token,
        "0f3a9c2b7d4e5f61": database,
        "/data/": f"{data}/",
        "s3://aws_default@surveys/": f"file://{data}/",
        "/etc/ssl/certs/ca-certificates.crt": certifi.where(),
        "8400": str(free_port()),
    }
    home = tmp_path / "home"
    home.mkdir()
    # The width of the tables in the pages.
    shell = Shell(home, {**os.environ, "NO_PROXY": "127.0.0.1", "COLUMNS": "118"})
    connect(server)
    monkeypatch.setenv("AIRFLOW_VAR_TRACKER_DATABASE", database)
    yield Reader(shell, real, run_dag)
    shell.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.stem)
def test_every_block_of_a_page_works(reader: Reader, page: Path) -> None:
    for block in blocks(page):
        log.info("%s, line %s", page.name, block.line)
        if not block.not_run:
            reader.follow(block)


def test_the_number_of_blocks_that_are_not_run() -> None:
    found = {page.name: sum(bool(block.not_run) for block in blocks(page)) for page in PAGES}
    assert {name: number for name, number in found.items() if number} == NOT_RUN


def _pieces(node: ast.expr) -> list[str]:
    """Return the constant parts of a string or f-string."""
    parts = [node] if isinstance(node, ast.Constant) else node.values if isinstance(node, ast.JoinedStr) else []
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _sources() -> Iterator[ast.AST]:
    for path in sorted((ROOT / "datatile_provider").rglob("*.py")):
        if "sandbox" not in path.parts:
            yield from ast.walk(ast.parse(path.read_text()))


@functools.cache
def _sections() -> dict[str, str]:
    """Return the text below each heading of the page on troubleshooting."""
    _, *parts = re.split(r"^#{2,} (.+)$", TROUBLESHOOTING.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _quotes(*headings: str) -> set[str]:
    """Return the sentences that sections quote: the code at the start of their list items and table rows."""
    text = "\n".join(_sections()[heading] for heading in headings)
    quoted = re.findall(r"^ *(?:- |\| )`([^`]+)`", text, re.MULTILINE)
    return {sentence for quote in quoted for sentence in sentences(" ".join(quote.split()))}


def _verdict(code: str) -> str:
    return errors.BY_CODE[code]("").title


def test_each_code_of_an_error_is_a_heading_of_the_troubleshooting() -> None:
    headings = texts(TROUBLESHOOTING, "heading")
    assert sorted(filter(str.isupper, headings)) == sorted(map(_verdict, errors.BY_CODE))
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert set(errors.BY_CODE) <= set(anchors)
    table = re.findall(r"^\| `([\w-]+)` \| `(\w+Error)` \|$", (DOCS / "formats.md").read_text("utf-8"), re.MULTILINE)
    assert dict(table) == {code: error.__name__ for code, error in errors.BY_CODE.items()}
    # The second of two equal headings would have another anchor.
    assert len(anchors) == len(set(anchors))


def test_each_section_about_an_error_has_its_kind_and_the_next_steps() -> None:
    kinds = {
        errors.InvalidInputError: "invalid input",
        errors.TransientError: "transient",
        errors.PermanentError: "permanent",
        errors.OutcomeUnknownError: "unknown outcome",
        errors.UploadInterruptedError: "interrupted",
        errors.JobError: "job error",
        errors.DatatileError: "none of the above",
    }
    for code, error in errors.BY_CODE.items():
        kind = next(name for base, name in kinds.items() if issubclass(error, base))
        section = _sections()[_verdict(code)]
        assert section.startswith(f"\n\nKind: {kind}. Tasks: "), code
        assert re.search(r"^1\. ", section, re.MULTILINE), code
    assert set(kinds.values()) <= {*texts(TROUBLESHOOTING, "td"), "none of the above"}


def test_the_error_in_the_troubleshooting_is_what_the_package_writes() -> None:
    upload = Upload(Action.APPEND, "48245753705f6061", "wave2.sav", 586)
    response = Response(401, b'{"error": "Invalid token"}')
    with pytest.raises(errors.TokenRefusedError) as rejected:
        parsing.read_upload(ServerConfig("https://datatile.example.com"), upload, response)
    (example,) = (block.text for block in blocks(TROUBLESHOOTING) if block.language == "text")
    rule = decide(failure_of(rejected.value), Accepted.MAYBE, store=True, on_unknown=OnUnknown.FAIL)
    assert example == f"{rejected.value.report(steps=rule.next_steps(rejected.value))}\n"


def test_the_error_in_the_readme_is_what_the_package_writes() -> None:
    upload = Upload(Action.APPEND, "0f3a9c2b7d4e5f61", "wave.zsav", 7606)
    response = Response(504, b"<h1>Gateway Timeout</h1>", at=datetime(2026, 1, 5, 6, 3, 10, tzinfo=timezone.utc))
    with pytest.raises(errors.OutcomeUnknownError) as unknown:
        parsing.read_upload(ServerConfig("https://datatile.example.com"), upload, response)
    assert [block.text for block in blocks(README) if block.language == "text"] == [f"{unknown.value}\n"]


def _unquoted(found: Iterable[str], quotes: set[str]) -> list[str]:
    """Return the sentences that a person may search for, and that no quote is of."""
    return [text for text in found if is_long(text) and not any(matches(quote, text) for quote in quotes)]


def test_what_the_troubleshooting_quotes_is_in_the_sources() -> None:
    quotes, written = _quotes(*_sections()), {text for message in messages() for text in message.sentences}
    assert len(quotes) > 150
    assert [quote for quote in quotes if not any(matches(quote, text) for text in written)] == []


def test_every_message_is_in_the_troubleshooting() -> None:
    written = {text for message in messages() for text in message.sentences if is_long(text)}
    assert len(written) > 130
    assert _unquoted(written, _quotes(*_sections())) == []


def test_every_error_is_in_the_section_of_its_code() -> None:
    raised = {(code, text) for message in messages() for code in message.codes for text in message.sentences}
    assert len(raised) > 55
    assert [(code, text) for code, text in raised if _unquoted([text], _quotes(_verdict(code)))] == []


def test_every_rejection_is_in_the_section_of_its_error() -> None:
    values = [[value, *(value.values() if isinstance(value, dict) else ())] for value in vars(rejections).values()]
    found = [value for group in values for value in group if isinstance(value, rejections.Rejection)]
    assert len(found) > 15
    for rejection in found:
        assert sentences(rejection.what) <= _quotes(_verdict(rejection.kind.code)), rejection


def test_every_line_of_a_log_is_in_the_troubleshooting() -> None:
    logged = {text for message in messages() if message.is_logged for text in message.sentences}
    assert len(logged) > 25
    headings = texts(TROUBLESHOOTING, "heading")
    assert _unquoted(logged, _quotes(*headings[headings.index("Messages in the log") :])) == []


def test_the_tables_of_options_are_as_declared(request: pytest.FixtureRequest) -> None:
    def declared(row: re.Match[str]) -> str:
        field = Options.model_fields[row[1]]
        text, _, default = str(field.description).rstrip(".").partition(" Empty: ")
        default = default or f"`{field.default if isinstance(field.default, str) else json.dumps(field.default)}`"
        return f"| `{row[1]}` | {default} | {text.partition('. ')[0].rstrip('.')} |"

    page = DOCS / "connection.md"
    row = re.compile(r"^\| `(\w+)` \|.*$", re.MULTILINE)
    found = page.read_text("utf-8")
    if request.config.getoption("--write-tables"):
        page.write_text(row.sub(declared, found), "utf-8")
    assert sorted(row.findall(found)) == sorted(Options.model_fields)
    assert page.read_text("utf-8") == row.sub(declared, found)


def test_the_tables_list_every_parameter() -> None:
    def first_cells(page: str) -> set[str]:
        return {name for cell in texts(DOCS / page, "td") for name in re.findall(r"^`(\w+)`", cell)}

    def own(operator: type) -> set[str]:
        return {name for name in inspect.signature(operator).parameters if name != "kwargs"}

    assert own(DatatileUploadOperator) <= first_cells("uploads.md")
    assert own(DatatileJobSensor) <= first_cells("waits.md")
    assert own(DatatileWaveCheckOperator) <= first_cells("wave-check.md")


def test_the_contract_lists_every_field_name_and_status_word() -> None:
    page = (DOCS / "contract.md").read_text()
    names = (*states.JOB_IDS, *states._STATUSES)
    assert [name for name in names if f"`{name}`" not in page] == []
    rows = re.findall(r"^\| `([A-Z]+)` \| ([^|`]+) \|$", page, re.MULTILINE)
    listed = {states.folded(word): JobState(state) for state, words in rows for word in words.split(",")}
    assert listed == states._STATES


def test_the_page_lists_every_metric() -> None:
    emitted = {
        piece
        for node in _sources()
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_emit"
        for piece in _pieces(node.args[1])
    }
    assert len(emitted) > 5
    page = (DOCS / "metrics.md").read_text()
    assert [name for name in emitted if f"datatile.{name}" not in page] == []


def test_every_benchmark_is_shown() -> None:
    page = (DOCS / "performance.md").read_text() + (DOCS / "scaling.md").read_text()
    benchmarks = re.search(r"^BENCHMARKS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert benchmarks
    # It takes too long for `make bench`.
    names = sorted([*benchmarks[1].split(), "soak"])
    assert sorted(path.stem for path in (DOCS / "benchmarks").glob("*.json")) == names
    assert sorted(re.findall(r"\{benchmark\} (\w+)", page)) == names
    assert sorted(re.findall(r"benchmarks/(\w+)\.svg", page)) == names


@pytest.mark.parametrize("of", [README, *FOR_MAINTAINERS], ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(of: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", of.read_text())
    assert links
    for path, anchor in links:
        page = of.parent / path if path else of
        assert page.exists(), path
        if anchor:
            headings = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts(page, "heading")]
            assert anchor in headings, anchor


@pytest.mark.parametrize("page", FOR_MAINTAINERS, ids=lambda page: page.stem)
def test_the_files_and_names_that_a_page_for_maintainers_gives_exist(page: Path) -> None:
    code = "\n".join(re.findall(r"```.+?```|`[^`\n]+`", page.read_text("utf-8"), re.DOTALL))
    paths = set(re.findall(r"[\w./-]+\.(?:md|py)\b", code))
    package = ROOT / "datatile_provider"
    folders = (ROOT, package, package / "sandbox", DOCS, ROOT / "tests")
    assert paths
    assert [path for path in paths if not any((folder / path).exists() for folder in folders)] == []
    sources = "\n".join(path.read_text("utf-8") for path in [*package.rglob("*.py"), ROOT / "pyproject.toml"])
    names = set(re.findall(r"\b_?[A-Z][a-z]+[A-Z]\w*|\b_?[a-z]+(?:_[a-z0-9]+)+\b", code))
    names -= {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert [name for name in names if not re.search(rf"\b{name}\b", sources)] == []


def test_no_line_of_a_page_is_too_long() -> None:
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in MARKDOWN
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        # A row of a table can't be wrapped.
        if len(line) > LINE_LENGTH and not line.startswith("|")
    ]
    assert long == []


def test_every_picture_is_shown() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    shown = set(re.findall(r"!\[[^]]+\]\([\w/]*images/(\S+)\)", pages))
    assert shown
    assert shown == {path.name for path in (DOCS / "images").iterdir()}


def test_the_quick_start_has_the_connection_that_the_sandbox_prints() -> None:
    page = (DOCS / "quickstart.md").read_text()
    command = re.search(r"python -m datatile_provider.sandbox (.+)", page)
    connection = re.search(r"AIRFLOW_CONN_DATATILE_DEFAULT='([^']+)'", page)
    assert command
    assert connection
    words = command[1].split()
    options: dict[str, Any] = dict(zip((word.strip("-") for word in words[::2]), words[1::2], strict=True))
    port = free_port()
    with Sandbox(**{**options, "port": port}) as sandbox:
        assert json.loads(connection[1].replace(options["port"], str(port))) == sandbox.connection


def test_the_mail_of_the_recipe_has_all_links(
    reader: Reader, server: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    sent: list[str] = []
    # Airflow renders the notifier's templates before it calls this.
    monkeypatch.setattr(SmtpNotifier, "notify", lambda self, context: sent.append(self.html_content))
    python = [block for block in blocks(DOCS / "recipes.md") if block.language == "python"]
    imports = next(block for block in python if "weekly_tracker" in block.text)
    mail = next(block for block in python if "with_mail" in block.text)
    reader.follow(imports)
    (tmp_path / "data" / "wave2.zsav").write_text("not a survey file")
    with pytest.raises(AssertionError, match="with_mail"):
        reader.follow(mail)
    (job,) = (job["job_id"] for job in server.jobs() if job["state"] == "FAILED")
    (text,) = sent
    assert re.search(r"<pre>.*cannot be read.*</pre>", text, re.DOTALL)
    log, run, *datatile = re.findall(r'href="([^"]+)"', text)
    assert re.search(r"/dags/with_mail/runs/[^/]+$", run)
    assert log.startswith(f"{run}/tasks/append")
    assert datatile == [f"{server.url}/processing-log/", f"{server.url}/processing-log/{job}"]


def test_the_table_of_rules_is_as_declared(request: pytest.FixtureRequest) -> None:
    page = DOCS / "wave-check.md"
    rows = [
        f"| `{name}` | {rule.severity.value} | {rule.origin.value} | {rule.what} | {rule.reason} {rule.hint} |\n"
        for name, rule in RULES.items()
    ]
    head = "| rule | default | whose | what is wrong | why it matters, and what to do |\n|---|---|---|---|---|\n"
    table = re.compile(r"^\| rule .*\n(\|.*\n)*", re.MULTILINE)
    found = page.read_text("utf-8")
    written = table.sub(lambda _: head + "".join(rows), found)
    if request.config.getoption("--write-tables"):
        page.write_text(written, "utf-8")
    assert page.read_text("utf-8") == written
    assert len(table.findall(found)) == 1
