"""Why an order is not carried out, as an answer."""

import json
from collections.abc import Mapping

from aiohttp import hdrs, web

from sidecar.web.api import JSON


class Refusal(Exception):
    """Why nothing is done: an HTTP status, one word, one sentence, and headers that go with it."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers or {}

    def answer(self) -> web.Response:
        """It as an error of the API."""
        body = {"status": "error", "errorType": self.reason, "error": str(self)}
        return web.Response(status=self.status, text=json.dumps(body), content_type=JSON, headers=self.headers)


def again_in(seconds: float) -> dict[str, str]:
    """The header that says when to come back."""
    return {hdrs.RETRY_AFTER: str(max(1, round(seconds)))}
