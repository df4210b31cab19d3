"""How the service is: health, metrics, and checks from end to end."""
