"""What is told to people: texts to their targets, and which verdicts are news."""
