"""Settings: precedence, every bad value named with its source, strictness."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core import Settings, SettingsError


def test_precedence_is_argument_then_environment_then_file_then_default(tmp_path: Path) -> None:
    file = tmp_path / "aiobs.toml"
    file.write_text('[aiobs]\nconsole = "tree"\nqueue_size = 100\nsemconv = "latest"\n')
    environ = {"AIOBS_CONFIG_FILE": str(file), "AIOBS_CONSOLE": "summary", "AIOBS_QUEUE_SIZE": "200"}
    settings = Settings.load(environ, {"queue_size": 300})
    assert (settings.queue_size, settings.console, settings.semconv) == (300, "summary", "latest")
    assert settings.max_open_runs == 10_000


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "AIOBS_CONSOLE",
            "loud",
            "AIOBS_CONSOLE: expected one of auto, off, summary, tree, got 'loud' (environment)",
        ),
        ("AIOBS_GRACE_S", "soon", "AIOBS_GRACE_S: expected a number of seconds from 0 to 600, got 'soon'"),
        ("AIOBS_GRACE_S", "nan", "AIOBS_GRACE_S: expected a number of seconds from 0 to 600, got 'nan'"),
        (
            "AIOBS_MAX_OPEN_RUNS",
            "0",
            "AIOBS_MAX_OPEN_RUNS: expected a whole number from 1 to 10000000, got '0'",
        ),
        ("OBSERVABILITY_ENABLED", "maybe", "OBSERVABILITY_ENABLED: expected true or false, got 'maybe'"),
        (
            "AIOBS_DIALECTS",
            "gen_ai,esperanto",
            "AIOBS_DIALECTS: expected any of ai_agent, gen_ai, openinference",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL: expected one of"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted_its_source_and_what_is_used(
    variable: str, value: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load({variable: value}, strict=True)
    assert message in str(error.value)
    assert "; using " in str(error.value)
    with caplog.at_level(logging.WARNING, "aiobs"):
        Settings.load({variable: value})
        Settings.load({variable: value})
    assert sum(message in record.getMessage() for record in caplog.records) <= 1


def test_the_next_source_is_used_when_one_is_wrong() -> None:
    assert Settings.load({"AIOBS_ENABLED": "perhaps", "OBSERVABILITY_ENABLED": "false"}).enabled is False


@pytest.mark.parametrize("name", ["AIOBS_ENABLED", "OBSERVABILITY_ENABLED"])
def test_the_master_switch_has_two_names_and_the_sdks_wins(name: str) -> None:
    assert Settings.load({name: "false"}).enabled is False
    assert Settings.load({name: "true", "OTEL_SDK_DISABLED": "true"}).enabled is False


def test_unknown_names_and_unreadable_files_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "aiobs.toml"
    file.write_text("[aiobs]\nconsol = 'tree'\n")
    with pytest.raises(SettingsError, match="consol: no such setting"):
        Settings.load({"AIOBS_CONFIG_FILE": str(file)}, strict=True)
    file.write_text("not = [toml")
    with pytest.raises(SettingsError, match="AIOBS_CONFIG_FILE: cannot read"):
        Settings.load({"AIOBS_CONFIG_FILE": str(file)}, strict=True)
    with pytest.raises(SettingsError, match="colour: no such setting"):
        Settings.load({}, {"colour": "blue"}, strict=True)
    file.write_text("aiobs = 3\n")
    with pytest.raises(SettingsError, match="expected a table"):
        Settings.load({"AIOBS_CONFIG_FILE": str(file)}, strict=True)


def test_settings_are_immutable_and_each_field_is_documented() -> None:
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.console = "tree"  # type: ignore[misc]
    for item in dataclasses.fields(Settings):
        assert item.metadata["help"].endswith(".")
        assert item.metadata["variables"]


@given(
    st.dictionaries(
        st.sampled_from([v for f in dataclasses.fields(Settings) for v in f.metadata["variables"]]), st.text()
    )
)
def test_no_environment_breaks_the_loading(environ: dict[str, str]) -> None:
    assert isinstance(Settings.load(environ), Settings)
