"""What speaks HTTP: the API, the pages, and who may ask."""
