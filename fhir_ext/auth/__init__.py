"""Who a caller is and what the token grants: verification, scopes, personas."""
