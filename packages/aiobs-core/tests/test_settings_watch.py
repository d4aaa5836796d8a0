"""The settings file is followed while the process runs, and a bad one changes nothing for the worse."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aiobs_core._settings_watch import SettingsWatch

NEEDS_FORK = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="no fork on this system: run it on Linux or macOS"
)


class Watched:
    """A file, who follows it, and what was told."""

    def __init__(self, path: Path, **arguments: object) -> None:
        self.told: list[Mapping[str, object]] = []
        self.watch = SettingsWatch(str(path), self.told.append)
        self.settings = self.watch.load(arguments)

    def look(self) -> Mapping[str, object]:
        """What is told once the file has stood still."""
        self.told.clear()
        self.watch.look()
        self.watch.look()
        assert len(self.told) <= 1
        return self.told[0] if self.told else {}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("aiobs_core._setting_sources._warned", set())
    path = tmp_path / "aiobs.toml"
    path.write_text("[aiobs]\n")
    monkeypatch.setenv("AIOBS_CONFIG_FILE", str(path))
    return path


def replace(path: Path, text: str) -> None:
    """As whoever is careful does it."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- what is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [replace, Path.write_text])
def test_what_changes_in_the_file_is_told_and_nothing_else(file: Path, write: Any) -> None:
    one = Watched(file)
    assert one.look() == {}
    write(file, "[aiobs]\nenabled = false\n")
    assert one.look() == {"enabled": False}
    write(file, "[aiobs]\nenabled = false\ntraces = false\nqueue_size = 100\n")
    assert one.look() == {"traces": False, "queue_size": 100}
    write(file, "# all back\n")
    assert one.look() == {"enabled": True, "traces": True, "queue_size": 16_384}
    assert one.look() == {}


def test_arguments_and_environment_win(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBSERVABILITY_ENABLED", "true")
    one = Watched(file, metrics=False)
    replace(file, "enabled = false\nmetrics = true\nlogs = false\n")
    assert one.look() == {"logs": False}


def test_a_mounted_config_map_is_followed_through_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kubelet updates one: file -> ..data/file, ..data -> a folder; the link ..data is what is replaced."""
    mount = tmp_path / "config"
    mount.mkdir()

    def publish(version: str, text: str) -> None:
        folder = mount / f"..{version}"
        folder.mkdir()
        (folder / "aiobs.toml").write_text(text)
        (mount / "..data_tmp").symlink_to(folder.name)
        (mount / "..data_tmp").replace(mount / "..data")

    publish("1", "enabled = true\n")
    (mount / "aiobs.toml").symlink_to(Path("..data") / "aiobs.toml")
    monkeypatch.setenv("AIOBS_CONFIG_FILE", str(mount / "aiobs.toml"))
    one = Watched(mount / "aiobs.toml")
    publish("2", "enabled = false\n")
    os.utime(mount / "..2" / "aiobs.toml", ns=(1, 1))  # the time does not have to be a newer one
    assert one.look() == {"enabled": False}


def test_a_file_is_read_once_it_stands_still(file: Path) -> None:
    one = Watched(file)
    file.write_text("traces = false\n")
    one.watch.look()
    file.write_text("traces = false\nmetrics = false\n")
    one.watch.look()
    assert one.told == []
    one.watch.look()
    assert one.told == [{"traces": False, "metrics": False}]


def test_what_was_written_while_the_first_reading_went_on_is_seen(file: Path) -> None:
    one = Watched(file)
    file.write_text("traces = false\n")
    one.watch.load({"metrics": False})
    assert one.look() == {}
    file.write_text("traces = true\n")
    assert one.look() == {"traces": True}


# --- what is not ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("enabled = false\n")
    one = Watched(file)
    file.unlink()
    assert one.look() == {}
    assert one.look() == {}
    assert warnings(caplog) == [f"AIOBS_CONFIG_FILE: {str(file)!r} is gone; the settings stay as they are."]
    file.write_text("enabled = true\n")
    assert one.look() == {"enabled": True}


@pytest.mark.parametrize("text", ["[aiobs]\nenabled = tr", "", "aiobs = 3\n", "\0", "[aiobs\n"])
def test_half_a_file_changes_nothing_and_is_told_of_once(
    file: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    file.write_text("[aiobs]\nenabled = false\ncontent = 'none'\n")
    one = Watched(file)
    for _ in range(3):
        replace(file, text)
        assert one.look() == {}
    (warning,) = warnings(caplog)
    assert "AIOBS_CONFIG_FILE" in warning
    assert "settings stay as they are" in warning or "ignoring the file" in warning
    replace(file, "[aiobs]\nenabled = true\ncontent = 'none'\n")
    assert one.look() == {"enabled": True}


def test_distinct_problems_are_told_each(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = Watched(file)
    for text in ("a = [", "b = tr", "a = ["):
        replace(file, text)
        assert one.look() == {}
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("text", ["sampling = 'prodution'", "[aiobs.sampling]\nrules = [{ keeep = 1 }]"])
def test_a_wrong_policy_leaves_the_one_in_force(
    file: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    replace(file, "[aiobs]\nsampling = 'production'\n")
    watched = Watched(file)
    replace(file, f"[aiobs]\n{text}\n" if text.startswith("s") else f"{text}\n")
    assert watched.look() == {}
    (warning,) = warnings(caplog)
    assert warning.endswith("what is in force stays.")


def test_a_wrong_value_leaves_the_one_in_force(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("enabled = false\nqueue_size = 100\n")
    one = Watched(file)
    replace(file, "enabled = 'perhaps'\nqueue_size = 200\n")
    assert one.look() == {"queue_size": 200}
    replace(file, "enabeld = false\nqueue_size = 200\n")
    assert one.look() == {}
    first, second = warnings(caplog)
    assert "expected true or false, got 'perhaps'" in first
    assert "using False" in first
    assert "enabeld: no such setting" in second


@pytest.mark.parametrize("text", ["content = 'fulll'", "conten = 'none'", "privacy_policy = 'none.toml'"])
def test_privacy_closes_where_the_new_file_is_wrong_about_it(file: Path, text: str) -> None:
    file.write_text("content = 'full'\nprivacy_policy = 'debug'\n")
    one = Watched(file)
    assert one.settings.privacy_policy.name == "debug"
    replace(file, text)
    told = one.look()
    assert told
    now = {"content": one.settings.content, "privacy_policy": one.settings.privacy_policy, **told}
    assert ("prompts", "none") in now["content"] or now["privacy_policy"].name == "closed"


def test_a_failing_change_is_tried_again_with_the_next_one(file: Path) -> None:
    told: list[Any] = []

    def refuse(changes: Any) -> None:
        told.append(changes)
        if len(told) == 1:
            raise RuntimeError

    watch = SettingsWatch(str(file), refuse)
    watch.load({})
    file.write_text("traces = false\n")
    watch.look()
    with pytest.raises(RuntimeError):
        watch.look()
    file.write_text("traces = false\nlogs = false\n")
    watch.look()
    watch.look()
    assert told == [{"traces": False}, {"traces": False, "logs": False}]


# --- a whole process --------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, threading, time
from pathlib import Path
import aiobs_core
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

file = Path(os.environ["AIOBS_CONFIG_FILE"])
memory = InMemorySpanExporter()

def write(text):
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)

def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, aiobs_core.get_recorder().settings
        time.sleep(0.05)

def ours():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("aiobs"))

def is_on():
    with aiobs_core.span("probe") as span:
        return span.is_recording()
"""


def run(script: str, file: Path, **variables: str) -> None:
    environ = {**os.environ, "AIOBS_STORE": "off", "AIOBS_CONSOLE": "off", **variables}
    environ["AIOBS_CONFIG_FILE"] = str(file)
    program = SCRIPT + textwrap.dedent(script)
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120, env=environ)


def test_an_idle_process_that_is_off_is_switched_on_by_the_file(file: Path) -> None:
    file.write_text("enabled = false\n")
    run(
        """
        aiobs_core.configure(exporters=[memory])
        assert not is_on()
        assert ours() == ["aiobs-settings"]   # no worker: nothing to do
        write("enabled = true\\n")
        until(is_on)
        write("enabled = true\\nchain_spans = false\\n")   # a heavy one
        until(lambda: not aiobs_core.get_recorder().settings.chain_spans)
        with aiobs_core.span("after"):
            pass
        assert aiobs_core.flush(10)
        assert [span.name for span in memory.get_finished_spans()][-1].endswith("after")
        write("enabled = false\\nchain_spans = false\\n")   # a light one: the worker stays
        until(lambda: not is_on())
        assert ours() == ["aiobs-settings", "aiobs-worker"], ours()
        """,
        file,
    )


def test_a_handler_alone_follows_the_file_too_and_no_file_means_no_thread(file: Path) -> None:
    run(
        """
        assert is_on()
        write("[aiobs]\\ntraces = false\\nmetrics = false\\nlogs = false\\n")
        until(lambda: not is_on())
        del os.environ["AIOBS_CONFIG_FILE"]
        aiobs_core.configure()
        assert is_on()
        until(lambda: "aiobs-settings" not in ours())
        """,
        file,
    )


def test_what_code_has_switched_stays_until_the_file_speaks_of_it(file: Path) -> None:
    run(
        """
        recorder = aiobs_core.configure(exporters=[memory], log_level="WARN")
        recorder.apply({"traces": False})
        write("metrics = false\\nlog_level = 'DEBUG'\\n")
        until(lambda: not recorder.settings.metrics)
        assert (recorder.settings.traces, recorder.settings.log_level) == (False, "WARN")
        write("metrics = true\\ntraces = false\\n")
        until(lambda: recorder.settings.metrics)
        write("metrics = true\\ntraces = true\\n")
        until(lambda: recorder.settings.traces)
        """,
        file,
    )


@NEEDS_FORK
def test_a_forked_child_follows_the_file(file: Path) -> None:
    file.write_text("enabled = false\n")
    run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)   # of Python 3.12: this process has two threads
        aiobs_core.configure(exporters=[memory])
        child = os.fork()
        if not child:
            try:
                assert ours() == ["aiobs-settings"]
                write("enabled = true\\n")
                until(is_on)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        until(is_on)
        """,
        file,
    )
