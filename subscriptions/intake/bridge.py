"""The archive bridge: what changes in the archive becomes `PUT ImagingStudy/{uuid5(uid)}`.

The archive's change feed (or, without one, QIDO polling) only marks studies; a stored quiet
timer per study decides when it is announced. Nothing depends on a notice that could be
lost: cursor, marks and timers are in our database, and at start every study's count is
compared with what was bridged.
"""

from __future__ import annotations

from fhir_ext.logs import get_logger

log = get_logger(__name__)
