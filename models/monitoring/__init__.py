"""Statistics of what model versions say: shares, distributions, pairs. numpy and scipy only."""
