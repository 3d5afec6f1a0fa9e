"""What operators work with, beside the service: nothing here is in the way of a record, and nothing prints."""
