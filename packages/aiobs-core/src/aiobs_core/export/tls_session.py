"""HTTP over the TLS of `ClientTls`, and headers that may change, in a `requests.Session`."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url, get_environ_proxies, select_proxy

from aiobs_core.export.tls_refusal import Refusal, TlsRefused, refusal_in_answer

if TYPE_CHECKING:
    from aiobs_core.export.headers import HeaderSource
    from aiobs_core.export.tls import ClientTls


_MAX_PAGE_BYTES: Final = 65_536


class ConnectionRefused(requests.exceptions.SSLError):
    """TLS was refused by either side, for a reason that is known; to others an error of requests as any."""

    def __init__(self, error: requests.ConnectionError, refusal: Refusal) -> None:
        super().__init__(*error.args, request=error.request)
        self.refusal = refusal


class TlsAdapter(HTTPAdapter):
    """Connections under the certificates of now: those of older ones are closed when they change."""

    def __init__(self, tls: ClientTls) -> None:
        self._tls = tls
        self._context: ssl.SSLContext = tls.context()
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the connection as the context makes it: requests would add the authorities known publicly."""

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send, whatever `verify` and `cert` of the session say; say why it was refused."""
        context = self._tls.context()
        if context is not self._context:
            self._context = context
            self.close()  # the pools; with what is kept alive under the old certificates
            self.proxy_manager.clear()
            self.init_poolmanager(self._pool_connections, self._pool_maxsize, block=self._pool_block)
        options.update(verify=True, cert=None)
        try:
            response = super().send(request, *args, **options)
        except requests.ConnectionError as error:  # errors of TLS are some of them
            url = urlsplit(request.url)
            if url.hostname and not select_proxy(request.url, options.get("proxies")):
                refused = self._tls.explain(error, host=url.hostname, port=url.port or 443)
                if refused is not None:
                    raise ConnectionRefused(error, refused.refusal) from error
            raise
        size = response.headers.get("Content-Length", "")
        if (
            response.status_code == requests.codes.bad_request
            and size.isdigit()
            and int(size) <= _MAX_PAGE_BYTES
        ):
            refusal = refusal_in_answer(response.content)
            if refusal is not None:
                self._tls.tell(TlsRefused(refusal))
        return response


class FreshHeaders(AuthBase):
    """Sets the headers of now on each request, over the name and password of its URL."""

    def __init__(self, source: HeaderSource, basic: HTTPBasicAuth | None) -> None:
        self._source = source
        self._basic = basic

    def __call__(self, request: Any) -> Any:
        if self._basic is not None:
            self._basic(request)
        request.headers.update(self._source.headers())
        return request


def open_session(url: str, tls: ClientTls | None, source: HeaderSource) -> requests.Session:
    """A session for one receiver; its environment's proxies are used, and nothing else of the environment.

    With `trust_env`, requests would let REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE win over the CA, and ~/.netrc over headers.
    """
    session = requests.Session()
    session.trust_env = False
    # Secrets in headers would go along, to whatever host. Newer official exporters follow no redirect either.
    session.max_redirects = 0
    session.proxies.update(get_environ_proxies(url))  # NO_PROXY is applied here, to the one host we call
    name, password = get_auth_from_url(url)
    session.auth = FreshHeaders(source, HTTPBasicAuth(name, password) if name or password else None)
    if tls is not None:
        session.mount("https://", tls.session_adapter())
    return session
