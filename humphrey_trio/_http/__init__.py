"""HTTP values: what a request, a response and their parts are. No I/O, no trio, no h11."""
