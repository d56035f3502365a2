"""News to somebody's webhook: one POST of JSON, one try, and the reason where nobody took it."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import NamedTuple

TIMEOUT = 5.0  # seconds that a server may be silent


class News(NamedTuple):
    """What happened ("run failed", "gate closed", "gate opened" or "data ready"), to what, and all of it in a sentence."""

    event: str
    subject: str
    text: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST arrives as a GET without its news: it counts as refused."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def post(url: str, news: Sequence[News]) -> str:
    """Hand news over as {"text": one line each, as chats show it, "events": [the same in parts]}.

    Returns "" once the server took them, else why it did not. Never raises, and never repeats the URL, for whoever knows
    it may post.
    """
    if not url.startswith(("http://", "https://")):
        return "it is no http(s) URL"
    body = {"text": "\n".join(one.text for one in news), "events": [one._asdict() for one in news]}
    headers = {"Content-Type": "application/json", "User-Agent": "defect-pipeline"}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        with _opener.open(request, timeout=TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}"
    except urllib.error.URLError as error:
        return type(error.reason).__name__
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__
