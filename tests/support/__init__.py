"""What tests share, one helper of a kind; stands on no test."""
