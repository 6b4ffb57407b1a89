"""What the demo, `jobq compare` and `jobq chaos` share: a store, a site and processes of their own, cleaned up."""
