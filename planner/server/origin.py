"""Whether a request was sent by a page of this server, or by a program: browsers send those of other pages as well.

A page of elsewhere may send a request to a server that only its visitor can reach, or give that server's address a name
of its own and then read the answers too. The headers that a browser adds tell.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers

HERE = ("localhost", "127.0.0.1", "[::1]")
"""Hosts that are this machine to whoever names them."""
READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


def known_host(headers: Headers, hosts: tuple[str, ...]) -> bool:
    """Whether the header Host names this server.

    Args:
        headers: of the request.
        hosts: names and addresses of this server, beside those of this machine alone.
    """
    return _host(headers.get("host", "")) in {name.lower() for name in (*HERE, *hosts)}


def of_another_site(method: str, headers: Headers, hosts: tuple[str, ...]) -> bool:
    """Whether a page of another site had a request sent that may change something.

    Args:
        method: of the request.
        headers: of the request.
        hosts: as of `known_host`; pages from there are no other site, also where a proxy rewrites the header Host.
    """
    if method in READING:
        return False
    if headers.get("sec-fetch-site", "").lower() == "cross-site":
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        authority = urlsplit(origin).netloc.lower()
    except ValueError:
        return True
    return authority != headers.get("host", "").lower() and _host(authority) not in {name.lower() for name in hosts}


def _host(authority: str) -> str:
    """An authority without its port."""
    name, _, port = authority.lower().rpartition(":")
    return name if name and port.isdigit() else authority.lower()
