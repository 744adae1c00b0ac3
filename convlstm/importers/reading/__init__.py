"""Foreign checkpoint files, read without trust and without executing anything in them."""
