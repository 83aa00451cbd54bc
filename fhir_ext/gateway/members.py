"""Members of programs: which patients the Groups of a grant hold, remembered for seconds."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from fhir_ext.gateway.upstream import Upstream

Members = frozenset[str]

#: Groups remembered at most.
MOST_GROUPS = 1000


class Membership:
    """Patients of Groups, read from the FHIR server.

    Args:
        upstream: where the Groups are.
        lifetime: how long an answer is used; a patient who leaves a program is seen no
            longer than this.
    """

    def __init__(self, upstream: Upstream, lifetime: timedelta) -> None:
        self._upstream, self._lifetime = upstream, lifetime.total_seconds()
        self._known: dict[str, tuple[float, asyncio.Task[Members]]] = {}

    async def of(self, programs: frozenset[str]) -> Members:
        """Ids of the Patients that are active members of any of the Groups.

        A Group that does not exist has no members.

        Raises:
            UpstreamError: the FHIR server fails.
        """
        groups = [await self._group(program) for program in sorted(programs)]
        if len(groups) == 1:
            return groups[0]
        return frozenset().union(*groups)

    async def _group(self, program: str) -> Members:
        now = time.monotonic()
        known = self._known.get(program)
        if known is None or now - known[0] > self._lifetime or _failed(known[1]):
            # One read for all requests that wait for it.
            self._known.pop(program, None)
            if len(self._known) >= MOST_GROUPS:
                del self._known[next(iter(self._known))]
            known = (now, asyncio.ensure_future(self._read(program)))
            self._known[program] = known
        return await asyncio.shield(known[1])

    async def _read(self, program: str) -> Members:
        group = await self._upstream.get_json(f"/Group/{program}")
        return frozenset(
            member["entity"]["reference"].removeprefix("Patient/").partition("/")[0]
            for member in (group or {}).get("member", [])
            if not member.get("inactive")
            and member.get("entity", {}).get("reference", "").startswith("Patient/")
        )


def _failed(task: asyncio.Task[Members]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
