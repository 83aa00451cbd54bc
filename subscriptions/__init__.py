"""Events and durability: hooks, sweeps, the durable workflow. No clinical logic."""
