"""Captures: reading them, replaying them, looking into them, minimising them."""
