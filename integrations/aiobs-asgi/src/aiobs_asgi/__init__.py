"""aiobs for web servers: the request around the agents that answer it, for ASGI and WSGI.

from aiobs_asgi import AiObsMiddleware

app.add_middleware(AiObsMiddleware)
"""

from aiobs_asgi._asgi import AiObsMiddleware
from aiobs_asgi._incoming import Incoming
from aiobs_asgi._wsgi import AiObsWsgiMiddleware

__all__ = ["AiObsMiddleware", "AiObsWsgiMiddleware", "Incoming"]
