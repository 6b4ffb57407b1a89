"""What `jobq demo`, `bench`, `compare` and `chaos` share: a store, a site, processes of their own, cleaned up."""
