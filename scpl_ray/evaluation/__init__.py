"""The measurements of a policy: one record per metric, and the formulas behind them."""
