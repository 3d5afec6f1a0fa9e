"""What a member counts and tells of itself: metrics, status, last failures, and what its library knows."""
