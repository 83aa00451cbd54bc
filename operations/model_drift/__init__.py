"""Whether model versions still see and say what they did; not an operation over HTTP."""
