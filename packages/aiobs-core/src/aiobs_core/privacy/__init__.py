"""Privacy: policies, keyed hashes, masking, and the audit log.

```python
from aiobs_core.privacy import MaskingSpanExporter

provider.add_span_processor(BatchSpanProcessor(MaskingSpanExporter(OTLPSpanExporter())))
```
"""

from importlib import import_module
from typing import TYPE_CHECKING

from aiobs_core.privacy.policy import PRESETS, Policy
from aiobs_core.privacy.policy_file import policy_of, read_policy

if TYPE_CHECKING:
    from aiobs_core.privacy.audit import AuditLog, verify
    from aiobs_core.privacy.hashing import Hasher
    from aiobs_core.privacy.masker import Masker
    from aiobs_core.privacy.processors import (
        MaskingLogRecordProcessor,
        MaskingSpanExporter,
        MaskingSpanProcessor,
    )

__all__ = [
    "PRESETS",
    "AuditLog",
    "Hasher",
    "Masker",
    "MaskingLogRecordProcessor",
    "MaskingSpanExporter",
    "MaskingSpanProcessor",
    "Policy",
    "policy_of",
    "read_policy",
    "verify",
]
# The detectors take 60 ms to import, which `import aiobs_core` must not: it reads policies, and masks nothing.
_LAZY = {
    "AuditLog": "audit",
    "Hasher": "hashing",
    "Masker": "masker",
    "MaskingLogRecordProcessor": "processors",
    "MaskingSpanExporter": "processors",
    "MaskingSpanProcessor": "processors",
    "verify": "audit",
}


def __getattr__(name: str) -> object:
    # Not `adapter.lazy_names`: the adapter imports the settings, which import this package.
    if name in _LAZY:
        found: object = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
