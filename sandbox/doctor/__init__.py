"""Whether a host is fit for rehearsals."""
