"""Humans have the last word on what a machine wrote: `$review`, `$claim`, `$release`."""
