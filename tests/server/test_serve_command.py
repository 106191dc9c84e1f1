"""What `cleave serve` refuses before it serves."""

import importlib.util
import socket
from pathlib import Path

import pytest

from planner.cli import main
from planner.server.database import without_secrets


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", "--port", "0", *arguments]) == 2
    return capsys.readouterr().err


def test_stores_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "postgresql://" in refused(capsys, "--store", "mysql://localhost/jobs")
    assert "--store" in refused(capsys, "--store", f"sqlite:///{tmp_path}")
    (tmp_path / "text").write_text("no database, and long enough to be taken for a damaged one" * 20)
    assert "cannot be opened" in refused(capsys, "--store", f"sqlite:///{tmp_path}/text")
    pytest.importorskip("psycopg")
    said = refused(capsys, "--store", f"postgresql://me:secret@/jobs?host={tmp_path}")
    assert "cannot connect" in said
    assert "secret" not in said


def test_an_address_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused(capsys, "--port", str(taken.getsockname()[1]), "--store", "sqlite://")
    assert "free port" in said
    assert "--host" in refused(capsys, "--host", "no.such.host.invalid", "--store", "sqlite://")


@pytest.mark.parametrize("token", ["", " x", "é", "a\nb"])
def test_tokens_that_no_header_holds(capsys: pytest.CaptureFixture[str], token: str) -> None:
    assert "--token" in refused(capsys, "--token", token)


def test_an_empty_variable_is_no_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAVE_TOKEN", "")
    assert "CLEAVE_TOKEN: must not be empty" in refused(capsys, "--store", "sqlite://")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/a@b?c.db", "sqlite:////var/lib/a@b?c.db"),
        ("postgresql://me:secret@host:5432/jobs?password=secret", "postgresql://host:5432/jobs"),
        ("postgresql:///jobs?host=/run&password=secret", "postgresql:///jobs"),
        ("postgresql://me:se@cret@host/jobs", "postgresql://host/jobs"),
        ("host=here password=secret", "..."),
    ],
)
def test_no_secret_of_a_store_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_refused_store_keeps_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    urls = ["mysql://me:secret@host/jobs", "password=secret"]
    if importlib.util.find_spec("psycopg"):
        urls += ["postgresql://me:secret%zz@host/jobs", "postgresql://me:secret word@host/jobs"]
    for url in urls:
        assert "secret" not in refused(capsys, "--store", url)


def test_no_token_for_everybody_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = ("--host", "0.0.0.0", "--store", "mysql://x")
    said = refused(capsys, *everywhere)
    assert "whoever reaches" in said
    assert "no --allow-host" in said
    assert "no --allow-host" not in refused(capsys, *everywhere, "--allow-host", "plans.example")


def test_the_extra_is_named_where_it_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("planner.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "cleave[api]" in refused(capsys, "--store", "sqlite://")
