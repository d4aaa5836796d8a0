"""`aiobs prices`: what it prints, what it says of an unknown model, and what it installs."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import threading

import pytest

from aiobs_core._errors import AiobsError
from aiobs_core.pricing import location
from aiobs_core.pricing.commands import add_commands
from aiobs_core.pricing.table import BUNDLED, read_table

NEWER = {
    "format": 1,
    "as_of": "2999-01-01",
    "providers": [
        {
            "id": "acme",
            "api": "https://acme\\.example",
            "models": [
                {
                    "id": "m",
                    "match": "m",
                    "prices": [{"input_mtok": 1}],
                    "source": "https://x.example",
                    "date": "2999-01-01",
                }
            ],
        }
    ],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AIOBS_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*argv):
        parser = argparse.ArgumentParser()
        add_commands(parser.add_subparsers(required=True))
        arguments = parser.parse_args(["prices", *argv])
        code = arguments.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def newer(folder):
    path = folder / "newer.json"
    path.write_text(json.dumps(NEWER), encoding="utf-8")
    return path


def test_list_shows_models_and_their_prices_of_today(run):
    code, out, _ = run("list", "--provider", "anthropic", "haiku-4-5")
    assert code == 0
    assert out.splitlines()[0].split() == [
        "PROVIDER",
        "MODEL",
        "INPUT",
        "CACHED",
        "WRITTEN",
        "OUTPUT",
        "DATE",
    ]
    assert out.splitlines()[1].split()[:6] == ["anthropic", "claude-haiku-4-5", "1", "0.1", "1.25", "5"]
    code, out, _ = run("list", "--provider", "openai", "--json", "gpt-4o-mini")
    prices = {row["model"]: row["prices"] for row in json.loads(out)}
    assert prices["gpt-4o-mini"]["input_mtok"] == {"base": "0.15"}


@pytest.mark.parametrize("arguments", [("--provider", "nobody"), ("no such model",)])
def test_list_says_what_there_is_not(run, arguments):
    with pytest.raises(AiobsError):
        run("list", *arguments)


def test_explain_says_which_row_why_and_what_it_costs(run):
    code, out, _ = run(
        "explain", "arn:aws:bedrock:us-east-1:1:inference-profile/eu.amazon.nova-lite-v1:0", "--provider", "aws.bedrock",
        "--input", "1000000", "--cache-read", "400000", "--output", "0",
    )  # fmt: skip
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "aws amazon.nova-lite-v1:0"
    assert "source https://aws.amazon.com/bedrock/pricing/" in lines
    assert "cache_read_mtok 0.015" in lines
    assert "cost of input_tokens=1000000, cache_read_tokens=400000" in lines
    assert "total_usd 0.042" in lines


def test_explain_at_a_day_in_a_tier_as_json(run):
    code, out, _ = run(
        "explain", "gpt-5", "--tier", "flex", "--at", "2026-10-20", "--json", "--input", "1000000"
    )
    facts = json.loads(out)
    assert code == 0
    assert (facts["cost"]["total_usd"], facts["valid_from"], facts["from"]) == (
        "0.625",
        "2026-10-12",
        "table",
    )
    assert json.loads(run("explain", "o3", "--at", "2025-01-01", "--json")[1])["prices"]["input_mtok"] == {
        "base": "10"
    }


def test_explain_reads_a_price_file(run, folder):
    path = folder / "prices.toml"
    path.write_text('[[price]]\nmodel = "m"\nfree = true\nsource = "ours"', encoding="utf-8")
    code, out, _ = run("explain", "m", "--price-file", str(path))
    assert code == 0
    assert "the price file" in out
    assert "ours" in out
    path.write_text("[[price]]\n[[price]]\ninput = -1", encoding="utf-8")
    code, _, err = run("explain", "m", "--price-file", str(path))
    assert code == 1
    assert "price 1, model: got nothing" in err.splitlines()[0]
    assert sum("price 2" in line for line in err.splitlines()) > 1  # a line for each mistake


def test_explain_tells_near_names_and_how_to_add_a_price(run):
    code, _, err = run("explain", "gpt-4o-minni", "--provider", "openai")
    assert code == 1
    assert "Did you mean openai/gpt-4o-mini" in err
    assert 'model = "gpt-4o-minni"' in err
    code, _, err = run("explain", "gpt-4o", "--endpoint", "http://localhost:8000/v1")
    assert code == 1
    assert "localhost:8000/v1 is no provider's address" in err
    code, out, _ = run("explain", "gpt-4o-minni", "--json")
    assert (code, json.loads(out)["cost"]) == (1, None)


def test_a_name_from_outside_cannot_steer_the_terminal(run):
    _, out, err = run("explain", "evil\x1b[2J")
    assert "\x1b" not in out + err


def test_update_says_how_old_the_table_is_and_touches_nothing(run):
    code, out, _ = run("update")
    assert code == 0
    assert read_table(BUNDLED).as_of in out
    assert not location.installed_file().exists()


def test_update_installs_a_newer_table_and_only_that(run, newer):
    assert run("update", "--from", str(newer))[0] == 0
    assert location.newest_table().as_of == "2999-01-01"
    assert run("explain", "m", "--provider", "acme")[0] == 0
    with pytest.raises(AiobsError, match="not newer"):
        run("update", "--from", str(newer))


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 2}', '{"format": 1, "as_of": "2999-01-01"}'])
def test_update_refuses_what_is_no_table(run, folder, content):
    path = folder / "wrong.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(AiobsError, match="nothing was installed"):
        run("update", "--from", str(path))
    assert not location.installed_file().exists()


def test_update_fetches_from_the_address_that_is_given(run, newer):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert run("update", "--url", f"http://127.0.0.1:{server.server_port}/{newer.name}")[0] == 0
        finally:
            server.shutdown()
            thread.join()
    assert location.newest_table().as_of == "2999-01-01"


@pytest.mark.parametrize("url", ["http://prices.example/prices.json", "file:///etc/passwd", "prices.json"])
def test_update_fetches_over_https_only(run, url):
    with pytest.raises(AiobsError, match="expected an address that begins with https://"):
        run("update", "--url", url)
