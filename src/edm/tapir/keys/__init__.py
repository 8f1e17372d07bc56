"""Keys and certificates: reading, signing, making."""
