"""Structured logs: a line for each request, and trace ids on the application's own lines.

This module has what applications use; the stage that writes the lines is `aiobs_core.logs.stage`.
"""

from aiobs_core.logs.json_line import JsonFormatter
from aiobs_core.logs.level import switch_level_on
from aiobs_core.logs.trace_ids import add_trace_ids, trace_ids, trace_ids_processor

__all__ = ["JsonFormatter", "add_trace_ids", "switch_level_on", "trace_ids", "trace_ids_processor"]
