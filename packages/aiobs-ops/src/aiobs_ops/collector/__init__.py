"""The OpenTelemetry Collector with the rules of an aiobs sampling policy, for traces that cross processes.

Example:
    >>> from aiobs_core.sampling.policy import PRESETS
    >>> config = collector_config(PRESETS["all"], CollectorOptions(endpoint="tempo:4317"))
    >>> [policy["name"] for policy in config["processors"]["tail_sampling"]["policies"]]
    ['forced', 'all']
"""

from aiobs_ops.collector.config import CollectorOptions, Tier, collector_config, collector_yaml
from aiobs_ops.collector.policies import NotExpressibleError, tail_sampling_policies

__all__ = [
    "CollectorOptions",
    "NotExpressibleError",
    "Tier",
    "collector_config",
    "collector_yaml",
    "tail_sampling_policies",
]
