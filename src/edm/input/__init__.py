"""Input: listeners, one reader per connection, capture files, and the blocks they fill."""
