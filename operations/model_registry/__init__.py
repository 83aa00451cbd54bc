"""Which model versions are installed, where they stand, and who may change that."""
