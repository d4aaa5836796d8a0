"""What the corridor writes into the audit log: the policy it works under, and from period to period what it masked."""

from __future__ import annotations

import hmac
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.privacy.modes import modes_in_force
from aiobs_core.privacy.reads import audit_path

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.privacy.hashing import HashKeys
    from aiobs_core.privacy.policy import Policy

_PERIOD_S: Final = 60.0
Masked = Counter[tuple[str, str]]
"""Number of values by policy and `<field>:<detector>`."""


class Trail:
    """Keeps the audit log of one process. Used by the worker only; never raises.

    Writes `configuration` with the first batch, and `masked` at most once a minute, at a flush and at the end, if
    anything was masked since.
    """

    def __init__(self, settings: Settings, health: Health, store_folder: Path | None) -> None:
        self._settings = settings
        self._health = health
        self._path = self._chosen_path(store_folder)
        self._keys: HashKeys | None = None
        self._since_s = 0.0
        self.counts: Masked = Counter()

    def _chosen_path(self, store_folder: Path | None) -> Path | None:
        try:
            return audit_path(self._settings, store_folder)
        except RuntimeError as error:  # `~name` of nobody
            self._health.problem(
                "audit.no_path", f"aiobs: AIOBS_AUDIT names no file ({error}); no audit log is kept."
            )
            return None

    def begin(self, keys: HashKeys, key_id: str | None) -> None:
        """Note the configuration, once there is a key to seal the record with."""
        if self._path is None or self._keys is not None:
            return
        self._keys = keys
        self._since_s = time.monotonic()
        if not keys.keys:
            self._health.problem(
                "audit.no_key",
                f"aiobs: no audit log is kept in {self._path}: there is no key to seal it with.",
            )
            return
        self._report_rotation(self._path, keys)
        policies = (self._settings.privacy_policy, *self._settings.privacy_policies)
        facts = {"hash_key": key_id, "policies": [self._described(policy) for policy in policies]}
        self._append("configuration", facts)

    def note_policy(self, policy: Policy) -> None:
        """Note a policy that a request has chosen, once for each."""
        self._append("policy", self._described(policy))

    def _described(self, policy: Policy) -> dict[str, Any]:
        return {
            "name": policy.name,
            "version": policy.version,
            "fingerprint": policy.fingerprint,
            "spans": dict(modes_in_force(policy, self._settings, "spans")),
            "logs": dict(modes_in_force(policy, self._settings, "logs")),
        }

    def _report_rotation(self, path: Path, keys: HashKeys) -> None:
        try:
            known = json.loads(path.with_name(f"{path.name}.head").read_text(encoding="ascii"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # none yet; `aiobs audit verify` judges a damaged one
        ids = [hmac.digest(key, b"aiobs audit key id", "sha256").hex()[:6] for key in keys.keys]
        if known == ids[0]:
            return
        kept = "the older key is still known" if known in ids else "the older key is not known any more"
        self._health.problem(
            "privacy.key_rotated",
            f"aiobs: the hash key is another than the one that {path} was written with; hashes before and after do not "
            f"match, and {kept}. Keep older keys below the first line of AIOBS_HASH_KEY_FILE, so that `aiobs erase "
            "--user-id` and `aiobs audit verify` recognise what they made.",
        )

    def keep(self) -> None:
        """Write what was masked, if the period is over."""
        if self.counts and time.monotonic() - self._since_s >= _PERIOD_S:
            self.note()

    def note(self) -> None:
        """Write what was masked since the last record."""
        if self._path is None:
            self.counts.clear()
        elif self.counts:
            duration_s, self._since_s = time.monotonic() - self._since_s, time.monotonic()
            counts, self.counts = self.counts, Counter()
            self._append("masked", {"duration_s": round(duration_s, 3), "values": _by_policy(counts)})

    def _append(self, kind: str, facts: Mapping[str, object]) -> None:
        from aiobs_core.privacy.audit import AuditLog

        if self._path is None or self._keys is None or not self._keys.keys:
            return
        try:
            AuditLog(self._path, self._keys.keys[0]).append(kind, facts)
        except (OSError, ValueError) as error:
            self._health.problem(
                "audit.unwritable",
                f"aiobs: {self._path}: a record of the audit log cannot be written ({type(error).__name__}: {error}); "
                "spans are masked and delivered all the same. AIOBS_AUDIT names another file, or `off`.",
            )


def _by_policy(counts: Masked) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (policy, what), count in sorted(counts.items()):
        found.setdefault(policy, {})[what] = count
    return found
