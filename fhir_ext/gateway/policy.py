"""The policy: which interaction is open to whom, read from `policy.yaml`. Deny by default."""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """What a cell of the table says, from least to most."""

    #: Not named by any rule: 403.
    DENY = "deny"
    #: Only the compartment of the patient in the launch context.
    COMPARTMENT = "compartment"
    #: Only patients that are members of the user's programs.
    PROGRAMS = "programs"
    #: Whatever the scopes name.
    OPEN = "open"
