"""Who may do what with a router, and how much of it."""
