"""The development issuer: tokens for people who try things out, on loopback only."""
