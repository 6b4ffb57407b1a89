"""Define the data in Redis and its changes: keys, names and bounds, Lua scripts, and the one module that runs them."""
