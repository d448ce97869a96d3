"""What the operator does by hand: one module per command of `pharmacy-bi`."""
