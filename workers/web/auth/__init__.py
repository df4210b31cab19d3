"""Who asks: tokens of the API, sessions of the pages."""
