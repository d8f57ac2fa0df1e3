"""Architecture search: decisions, choices, strategies, spaces, deriving."""
