"""Networks saved, loaded, named, downloaded, and their weights in networks of another shape."""
