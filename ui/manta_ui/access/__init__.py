"""Who may use the page: accounts, who is logged in, and the layer in front of it."""
