"""What was sent and what came, for the report.

Owns: :class:`Transcript`, every exchange of a run in order, and :class:`RecordingHttp`, which makes requests and keeps
them there. Also what must be so of every answer, whatever the request was: :meth:`Transcript.oddities`.
"""

# Twisted's HTTP client has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

from tests.end_to_end.raw_http import Answer, RawHttp

_SHOWN_BYTES = 1500


@attrs.define(slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        came: whether the target made the request.
        url: method and address, or, of what came, method and target.
        headers: the request's, without those that HTTP itself needs.
        status: of the answer; ``None`` while there is none.
        note: why there is no answer.
    """

    came: bool
    url: str
    headers: Mapping[str, Sequence[str]]
    body: bytes | None
    status: int | None = None
    answer: bytes = b""
    note: str = ""

    def lines(self) -> Iterator[str]:
        """It as text, with long bodies cut."""
        yield f"{'<= came' if self.came else '=> sent'}: {self.url}"
        for name, values in self.headers.items():
            for value in values:
                yield f"     {name}: {value[:300]}"
        if self.body is not None:
            yield f"     {_shown(self.body)}"
        yield f"   answered: {self.status if self.status is not None else self.note or 'nothing yet'}"
        if self.answer:
            yield f"     {_shown(self.answer)}"


class Transcript:
    """The exchanges of a run."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.answered = 0
        self._oddities: dict[str, list[str]] = {}

    def add(self, exchange: Exchange) -> Exchange:
        """Keep an exchange, and give it back."""
        self.exchanges.append(exchange)
        return exchange

    def mark(self) -> int:
        """Where the transcript is now, for :meth:`since`."""
        return len(self.exchanges)

    def since(self, mark: int) -> list[Exchange]:
        """What was exchanged since."""
        return self.exchanges[mark:]

    def judge(self, exchange: Exchange, answer: Answer) -> None:
        """Look at an answer of the target's federation API for what no answer may be."""
        self.answered += 1
        for kind in _oddities(answer):
            if kind == "500" and "/invite/" in exchange.url:
                # It may be another server's, handed on.
                continue
            self._oddities.setdefault(kind, []).append(f"{exchange.url} → {answer.status} {answer.body[:120]!r}")

    def oddities(self, kind: str) -> Sequence[str]:
        """The answers that were odd in one way: ``"content type"``, ``"UTF-8"``, ``"error object"``, ``"not JSON"``,
        ``"bad JSON"``, ``"500"``.
        """
        return self._oddities.get(kind, ())


class RecordingHttp(RawHttp):
    """Makes requests, and keeps them.

    Args:
        reactor: Twisted's.
        transcript: where they are kept.
        insecure: take whatever certificate a server shows.
        judged: base URLs whose answers are looked at as the target's.
    """

    def __init__(self, reactor: Any, transcript: Transcript, *, insecure: bool, judged: Sequence[str]) -> None:
        super().__init__(reactor)
        if not insecure:
            self._agent = Agent(reactor, BrowserLikePolicyForHTTPS(), connectTimeout=10, pool=self._pool)
        self._transcript = transcript
        self._judged = tuple(judged)

    async def request(
        self,
        method: str,
        base_url: str,
        target: str,
        *,
        headers: Mapping[str, Sequence[str]] | None = None,
        body: bytes | None = None,
        seconds: float = 60.0,
    ) -> Answer:
        """See :meth:`RawHttp.request`."""
        shown = {name: values for name, values in (headers or {}).items() if name != "Host"}
        exchange = self._transcript.add(Exchange(False, f"{method} {base_url}{target}", shown, body))
        try:
            answer = await super().request(method, base_url, target, headers=headers, body=body, seconds=seconds)
        except Exception as error:
            exchange.note = f"{type(error).__name__}: {error}"
            raise
        exchange.status, exchange.answer = answer.status, answer.body
        if base_url in self._judged:
            self._transcript.judge(exchange, answer)
        return answer


def _oddities(answer: Answer) -> Iterator[str]:
    content_type = (answer.headers.getRawHeaders("content-type") or [""])[0]
    if content_type.partition(";")[0].strip().lower() != "application/json":
        yield "content type"
    try:
        answer.body.decode("utf-8")
    except UnicodeDecodeError:
        yield "UTF-8"
    if answer.status == 500:
        # 502 and 504 are somebody else's fault.
        yield "500"
    if answer.status == 200:
        return
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    errcode = found.get("errcode") if isinstance(found, dict) else None
    if not isinstance(errcode, str) or not isinstance(found.get("error", ""), str):
        yield "error object"
    if errcode == "M_NOT_JSON" and answer.status != 400:
        yield "not JSON"
    if errcode == "M_BAD_JSON" and answer.status != 400:
        yield "bad JSON"


def _shown(body: bytes) -> str:
    text = body[:_SHOWN_BYTES].decode("utf-8", errors="replace")
    return text + (f"… ({len(body)} bytes)" if len(body) > _SHOWN_BYTES else "")
