"""A canary request through a live service, and whether its trace, metrics, log line and masking are in order.

Example:
    >>> found = verify("http://127.0.0.1:9/chat", timeout_s=1)
    >>> [check.name for check in found.failed]
    ['answer']
"""

from aiobs_ops.verify.canary import Hop
from aiobs_ops.verify.result import Check, Verification
from aiobs_ops.verify.run import verify

__all__ = ["Check", "Hop", "Verification", "verify"]
