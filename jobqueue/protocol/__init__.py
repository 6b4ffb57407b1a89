"""What stands in Redis and how it changes: keys, names and bounds, Lua scripts, and the one module that runs them."""
