"""The level of log lines is switched while the process runs: by settings, by a signal, by a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from aiobs_core import Settings, SettingsError
from aiobs_core.logs import level as level_module
from aiobs_core.logs import switch_level_on
from aiobs_core.logs.level import LiveLevel

needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no such signal on this system")

SCRIPT = """
import os, signal, sys
import aiobs_core

def request(name):
    with aiobs_core.span(name):
        with aiobs_core.span("inside"):
            pass
    aiobs_core.flush()

settings = dict(log=sys.argv[1], store="off", console="off", exporters=[])
"""


def names_after(script: str, path, **variables: str) -> list[str]:
    environ = {**os.environ, **variables}
    command = [sys.executable, "-c", SCRIPT + script, str(path)]
    subprocess.run(command, check=True, timeout=60, env=environ)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [f"{line['level']} {line['name']}" for line in found if line["event"] != "ai.agent.run.start"]


@pytest.fixture
def switch(monkeypatch):
    """The state of the signal, and its handler, as before when the test is over."""
    fresh = level_module._Switch()
    monkeypatch.setattr(level_module, "_switch", fresh)
    before = signal.getsignal(signal.SIGUSR2)
    yield fresh
    signal.signal(signal.SIGUSR2, before)


def live(path="", **given: object) -> LiveLevel:
    return LiveLevel(Settings.load({}, {"log_level_file": str(path), **given}, strict=True))


# --- settings -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["AIOBS_LOG_LEVEL", "OBS_LOG_LEVEL"])
@pytest.mark.parametrize(
    ("given", "level"), [("debug", "DEBUG"), ("Warning", "WARN"), ("WARN", "WARN"), ("error", "ERROR")]
)
def test_the_level_is_read_from_either_variable(name, given, level):
    assert Settings.load({name: given}).log_level == level


def test_a_level_that_is_none_is_told_with_those_that_are():
    with pytest.raises(SettingsError, match="DEBUG, INFO, WARN or ERROR, got 'verbose'"):
        Settings.load({}, {"log_level": "verbose"}, strict=True)


def test_configure_switches_the_level_without_a_restart(tmp_path):
    script = """
aiobs_core.configure(**settings)
request("first")
aiobs_core.configure(**settings, log_level="DEBUG")
request("second")
aiobs_core.configure(**settings, log_level="ERROR")
request("third")
"""
    assert names_after(script, tmp_path / "x.log") == ["INFO first", "DEBUG inside", "INFO second"]


def test_a_level_applied_to_a_running_stage_holds_from_the_next_run_on():
    one = live()
    one.apply(Settings.load({}, {"log_level": "ERROR"}))
    assert one.now() == 40


# --- the signal ---------------------------------------------------------------------------------------------------
@needs_signals
def test_a_signal_switches_to_debug_and_back(tmp_path):
    script = """
aiobs_core.configure(**settings)
request("first")
os.kill(os.getpid(), signal.SIGUSR2)
request("second")
os.kill(os.getpid(), signal.SIGUSR2)
request("third")
"""
    found = names_after(script, tmp_path / "x.log", AIOBS_LOG_SIGNAL="USR2")
    assert found == ["INFO first", "DEBUG inside", "INFO second", "INFO third"]


@needs_signals
def test_a_handler_of_the_applications_is_called_too(switch):
    calls: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    one = live(log_level="WARN", log_signal="SIGUSR2")
    live(log_signal="SIGUSR2")  # opened again: still once
    os.kill(os.getpid(), signal.SIGUSR2)
    assert (calls, one.now()) == ([signal.SIGUSR2], 10)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert (len(calls), one.now()) == (2, 30)


@needs_signals
def test_without_the_setting_no_signal_is_touched(switch):
    before = signal.getsignal(signal.SIGUSR2)
    live()
    assert signal.getsignal(signal.SIGUSR2) is before


@needs_signals
def test_outside_of_the_main_thread_a_warning_says_what_to_do(switch, caplog, monkeypatch):
    monkeypatch.setattr("aiobs_core._setting_sources._warned", set())
    thread = threading.Thread(target=lambda: live(log_signal="SIGUSR2"))
    thread.start()
    thread.join()
    (record,) = caplog.records
    assert "switch_level_on('SIGUSR2') in the main thread" in record.getMessage()
    assert switch_level_on("SIGUSR2")
    assert not switch_level_on("SIGNONE")


@pytest.mark.parametrize("given", ["SIGKILL", "SIGTERM", "nothing"])
def test_signals_that_mean_something_else_are_refused(given):
    with pytest.raises(SettingsError, match="SIGUSR1, SIGUSR2 or SIGHUP"):
        Settings.load({}, {"log_signal": given}, strict=True)


# --- the file -----------------------------------------------------------------------------------------------------
@pytest.fixture
def soon(monkeypatch):
    """Looks into the file whenever it is asked, not every other second."""
    monkeypatch.setattr(level_module, "_CHECK_EVERY_S", 0.0)
    monkeypatch.setattr("aiobs_core._setting_sources._warned", set())


def test_a_change_of_the_settings_file_is_followed(tmp_path):
    file = tmp_path / "aiobs.toml"
    file.write_text('[aiobs]\nlog_level = "INFO"\n')
    script = f"""
import time
aiobs_core.configure(**settings)
request("first")
open({str(file)!r}, "w").write('[aiobs]\\nlog_level = "DEBUG"\\n')
time.sleep(2.2)
request("second")
"""
    found = names_after(script, tmp_path / "x.log", AIOBS_CONFIG_FILE=str(file))
    assert found == ["INFO first", "DEBUG inside", "INFO second"]


def test_the_file_is_asked_for_at_most_every_other_second(tmp_path):
    file = tmp_path / "level.toml"
    file.write_text('log_level = "INFO"')
    one = live(file)
    file.write_text('log_level = "DEBUG"')
    assert one.now() == 20


def test_only_a_change_counts_so_that_the_environment_wins_at_first(tmp_path, soon):
    file = tmp_path / "level.toml"
    file.write_text('log_level = "ERROR"')
    one = live(file, log_level="DEBUG")
    assert one.now() == 10
    file.write_text('log_level = "WARN"')
    assert one.now() == 30
    file.write_text("")
    assert one.now() == 10


def test_what_code_applies_later_wins_over_the_file(tmp_path, soon):
    file = tmp_path / "level.toml"
    one = live(file)
    file.write_text('log_level = "DEBUG"')
    assert one.now() == 10
    one.apply(Settings.load({}, {"log_level": "ERROR"}))
    assert one.now() == 40


@pytest.mark.parametrize("text", ['log_level = "loud"', "log_level = 7", "not toml ["])
def test_nonsense_in_the_file_is_told_once_and_the_level_stays(tmp_path, soon, caplog, text):
    file = tmp_path / "level.toml"
    one = live(file)
    file.write_text('log_level = "WARN"')
    assert one.now() == 30
    for spaces in range(3):
        file.write_text(text + " " * spaces)
        assert one.now() == 30
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_file_that_is_gone_leaves_the_level(tmp_path, soon):
    file = tmp_path / "level.toml"
    one = live(file)
    file.write_text('log_level = "WARN"')
    assert one.now() == 30
    file.unlink()
    assert one.now() == 30
    assert live("\0").now() == 20
