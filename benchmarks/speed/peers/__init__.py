"""What each library does in a cell, one module a library."""
