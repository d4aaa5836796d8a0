"""aiobs for message queues: one trace and one request across producers and consumers.

from aiobs_messaging import consuming, producing

with producing("orders", headers, system="kafka"):
    producer.produce("orders", value, headers=headers)
...
with consuming("orders", message, system="kafka"):
    handle(message)
"""

from aiobs_messaging._carriers import inject_headers
from aiobs_messaging._consuming import consuming
from aiobs_messaging._producing import producing

__all__ = ["consuming", "inject_headers", "producing"]
