"""`$risk-score`: published risk models over the chart."""
