"""How work comes in: hooks, the sweep behind them, and the archive bridge."""
