"""One guard for every address that somebody else named: JWKS, introspection, subscribers."""
